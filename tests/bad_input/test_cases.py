"""Whatever is wrong with a command, its data or its store: one sentence with the cure."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from miniature import camvid_tree, truncate

from bad_input import (
    class_files,
    configs,
    data_sets,
    images,
    labels,
    networks,
    pseudo_label_sets,
    runs,
)
from bad_input.world import Case, World, fail
from selftrain.__main__ import main
from selftrain.knobs import Scalar
from selftrain.trained_runs import TRAIN

MODULES = (
    class_files,
    configs,
    data_sets,
    images,
    labels,
    networks,
    pseudo_label_sets,
    runs,
)
CASES: dict[str, Case] = {name: case for it in MODULES for name, case in it.CASES.items()}
NOTES = ("libpng ", "Corrupt JPEG data", "[ WARN:", "[ERROR:", "TIFF", "LZW")
"""What decoders print by themselves on the way to their refusal begins with these."""
WORK = (
    "outputs/cache/",
    "outputs/train-",
    "outputs/pseudo_label-",
    "outputs/prepare-",
)
"""Where a stage that fails may leave what it goes on from."""
WHOLE = ("product.json", "card.json", "model.json", "report.html")
"""Files that say that a product is whole."""


def finished_runs() -> int:
    """Count the finished runs of the store, which for mlflow takes longer than most cases do."""
    path = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as store:
        (count,) = store.execute("SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'").fetchone()
    return int(count)


def files(folder: Path) -> set[str]:
    """Return the files and folders of a folder; links are not followed."""
    return {
        str((Path(place) / name).relative_to(folder))
        for place, folders, names in os.walk(folder)
        for name in [*folders, *names]
    }


def half_written(new: set[str]) -> list[str]:
    """Return those of some new files that a command that has failed must not leave."""
    return sorted(
        name
        for name in new
        if name.endswith((".tmp", *WHOLE))
        or not (f"{name}/".startswith(WORK) or name.startswith(WORK) or name in ("outputs",))
    )


def test_there_are_at_least_sixty_cases_in_the_table() -> None:
    assert sum(len(it.CASES) for it in MODULES) == len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_ends_in_one_sentence_with_the_cure(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command, words = CASES[name](world)
    runs, before = finished_runs(), files(world.folder)
    capfd.readouterr()

    message = fail(command, monkeypatch)

    assert message.startswith("error: ")
    assert len(message.splitlines()) <= (2 if "\n" in command[-1] else 1)
    for word in words:
        assert word in message
    assert "Traceback" not in message
    printed = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert [line for line in printed if not line.startswith(NOTES)] == []
    assert len(printed) <= 2
    assert finished_runs() == runs
    assert half_written(files(world.folder) - before) == []


def test_the_process_exits_with_1_and_writes_one_line_to_stderr(own_world: World) -> None:
    name = own_world.picture("lost \x1b[1m.png")
    truncate(name)
    command = own_world.predict()
    ended = subprocess.run(
        [sys.executable, "-m", "selftrain", *command], capture_output=True, text=True
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert "lost \\x1b[1m.png is truncated" in line
    assert not (own_world.folder / "predictions").exists()


def test_a_mended_mistake_goes_on_where_it_failed(
    own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Scalar] = {
        "machine.data_root": own_world.own_scenes().parent,
        "pseudo_label.teacher": own_world.product(TRAIN, own_world.scenes_classes()),
    }
    path = next((own_world.folder / "scenes").rglob("train-8/images/00006.png"))
    whole = path.read_bytes()
    truncate(path)
    outputs = own_world.folder / "outputs"
    fail(own_world.scenes("pseudo_label", **values), monkeypatch)
    assert list(outputs.glob("pseudo_label-*/product.json")) == []
    path.write_bytes(whole)
    main()
    assert len(list(outputs.glob("pseudo_label-*/product.json"))) == 1


def test_without_a_mistake_the_commands_run(
    own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    camvid_tree(own_world.folder / "camvid")
    own_world.own_pictures()
    own_world.own_labels()
    own_world.picture()
    commands = [
        own_world.scenes("teacher"),
        own_world.camvid("prepare"),
        own_world.pictures("prepare"),
        own_world.inspect(),
        own_world.predict(),
    ]
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["selftrain", *command])
        main()
    assert finished_runs() == len(commands) + 3  # each command's own, and the stages of three
