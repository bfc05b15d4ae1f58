"""Full and read-only disks: one sentence, and with room the same command makes the same product.

The disks are real ones of some megabytes, which the test mounts: that needs the rights of root.
"""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from miniature import TINY, flags, random_network, write_picture
from mlflow.entities import Run
from reliability import Survived

from analysis import report
from selftrain.__main__ import main
from selftrain.data.sample import ClassTable
from selftrain.errors import InputError
from selftrain.knobs import Scalar
from selftrain.train import train

CLASSES = ClassTable(("road", "car"), ((1, 2, 3), (4, 5, 6)))
REASONS = ("No space left on device", "Read-only file system", "File too large", "full", "readonly")
OwnStore = Callable[[Path], AbstractContextManager[str]]
Products = dict[str, bytes]


@dataclass(frozen=True)
class Disk:
    """A small file system, on which there is as much room as a test leaves."""

    folder: Path

    def leave(self, size: int) -> None:
        """Leave so many bytes free."""
        self.make_room()
        free = shutil.disk_usage(self.folder).free
        if free > size:
            with self._ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free - size)

    def make_room(self) -> None:
        """Take away what fills the disk."""
        self._ballast.unlink(missing_ok=True)

    def allow_writing(self, is_allowed: bool) -> None:
        """Make the disk read-only, or writable again."""
        mode = "rw" if is_allowed else "ro"
        subprocess.run(["mount", "-o", f"remount,{mode}", self.folder], check=True)

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 160 MiB at `tmp_path / "disk"`: a store wants 100 of them free."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode != 0:
        pytest.skip("file systems cannot be mounted here: it needs the rights of root")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def call(command: list[str], monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Run a command; return its sentence, or None if it ends well."""
    monkeypatch.setattr(sys, "argv", ["selftrain", *command])
    end = None
    try:
        main()
    except SystemExit as found:
        end = found
    finally:  # what the end of a process does
        while mlflow.active_run() is not None:
            mlflow.end_run("FAILED")
    if end is None:
        return None
    # A text as the exit code: Python prints it to stderr and exits with 1.
    assert isinstance(end.code, str), end.code
    assert end.code.startswith("error: ")
    assert len(end.code.splitlines()) == 1, end.code
    return end.code


def words(stage: str, data: Path, outputs: Path, **values: Scalar) -> list[str]:
    """Return a command on the tiny scenes."""
    places: dict[str, Scalar] = {"machine.data_root": data, "machine.outputs": outputs}
    knobs: dict[str, Scalar] = {"prepare.cache": "raw", "machine.tracking_patience": 0}
    return [stage, *flags({**TINY, **knobs, **places, **values})]


def products(outputs: Path) -> Products:
    """Return the files that a pipeline's products are, and what must not differ in them."""
    patterns = ("prepare-*/**/*", "pseudo_label-*/*", "train-*/weights.safetensors")
    found = [path for it in (*patterns, "cache/raw*/*") for path in outputs.glob(it)]
    return {
        str(path.relative_to(outputs)): path.read_bytes()
        for path in found
        if path.is_file() and path.name not in ("product.json", "jobs.lock")
    }


@pytest.fixture(scope="module")
def expected(
    own_store: OwnStore, scenes_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Products:
    """What the commands make where nothing fails."""
    folder = tmp_path_factory.mktemp("expected")
    with own_store(folder), pytest.MonkeyPatch.context() as patch:
        for stage in ("prepare", "pseudo_label"):
            assert call(words(stage, scenes_root, folder / "outputs"), patch) is None
    found = products(folder / "outputs")
    assert {Path(name).name for name in found} >= {
        *("images.u8", "summary.json", "index.html", "weights.safetensors"),
        *("shard-00000.zip", "manifest.parquet", "card.json"),
    }
    return found


MOMENTS: dict[str, tuple[int, ...]] = {
    "prepare": (0, 110_000),
    "teacher": (1_000_000, 10_000_000),
    "pseudo_label": (0, 20_480),
}
"""Bytes that are free when a command is called, and called again."""


def fail_and_go_on(
    command: list[str],
    disk: Disk,
    moments: tuple[int, ...],
    patch: pytest.MonkeyPatch,
    named: str,
) -> list[str]:
    """Call a command with so many bytes free, again with a few more, and at last with room.

    Args:
        command: Words.
        disk: That is full.
        moments: Bytes that are free each time.
        patch: Sets the words.
        named: What each sentence must name.

    Returns:
        What was said each time.
    """
    said = []
    for free in moments:
        disk.leave(free)
        sentence = call(command, patch)
        if sentence is not None:
            assert any(reason in sentence for reason in REASONS), sentence
            assert named in sentence
            said.append(sentence)
        assert not list(disk.folder.rglob("*.tmp"))
    disk.make_room()
    assert call(command, patch) is None
    return said


def require_expected(outputs: Path, expected: Products, stage: str) -> None:
    """Compare what was made with what is made where nothing fails, and let nothing be missing."""
    made = products(outputs)
    assert made.items() <= expected.items()
    kind = {"teacher": "train"}.get(stage, stage)
    assert [name for name in expected if name.startswith(kind) and name not in made] == []


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("stage", list(MOMENTS))
def test_products_on_a_disk_that_was_full_are_those_of_one_that_was_not(
    stage: str,
    disk: Disk,
    expected: Products,
    scenes_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = disk.folder / "outputs"
    command = words(stage, scenes_root, outputs)
    if stage == "pseudo_label":  # else the teacher would meet the full disk
        assert call(words("teacher", scenes_root, outputs), monkeypatch) is None
    said = fail_and_go_on(command, disk, MOMENTS[stage], monkeypatch, str(disk.folder))
    assert len(said) == len(MOMENTS[stage])
    require_expected(outputs, expected, stage)


@pytest.mark.torture
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("stage", list(MOMENTS))
def test_a_disk_that_becomes_full_at_many_moments_spoils_no_product(
    stage: str,
    disk: Disk,
    expected: Products,
    scenes_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    survived: Survived,
) -> None:
    outputs = disk.folder / "outputs"
    tried = 0
    for start in range(4):  # other moments each time, from nothing
        shutil.rmtree(outputs, ignore_errors=True)
        for run in mlflow.search_runs(search_all_experiments=True, output_format="list"):
            mlflow.delete_run(run.info.run_id)
        if stage == "pseudo_label":
            assert call(words("teacher", scenes_root, outputs), monkeypatch) is None
        step = MOMENTS[stage][-1] // 10
        moments = tuple(range(start * step // 4, MOMENTS[stage][-1], step))
        command = words(stage, scenes_root, outputs)
        said = fail_and_go_on(command, disk, moments, monkeypatch, str(disk.folder))
        assert said
        tried += len(said)
        require_expected(outputs, expected, stage)
    survived(
        f"Disk of the outputs full while {stage} works",
        tried=f"{tried} moments",
        found="one sentence each, then the bytes of an undisturbed run",
    )


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "stage",
    [
        "teacher",
        *(pytest.param(it, marks=pytest.mark.torture) for it in ("prepare", "pseudo_label")),
    ],
)
def test_read_only_outputs_are_named_and_when_they_are_writable_the_stage_is_made(
    stage: str,
    disk: Disk,
    expected: Products,
    scenes_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = disk.folder / "outputs"
    outputs.mkdir()
    if stage == "pseudo_label":
        elsewhere = tmp_path / "elsewhere"
        assert call(words("teacher", scenes_root, elsewhere), monkeypatch) is None
        (trained,) = elsewhere.glob("train-*")
        shutil.copytree(trained, outputs / trained.name)
    disk.allow_writing(False)
    command = words(stage, scenes_root, outputs)
    sentence = call(command, monkeypatch)
    assert sentence is not None
    assert str(outputs) in sentence
    assert any(reason in sentence for reason in REASONS), sentence
    disk.allow_writing(True)
    assert call(command, monkeypatch) is None
    require_expected(outputs, expected, stage)


@pytest.mark.usefixtures("store")
def test_scenes_on_a_disk_that_was_full_are_drawn_whole(
    disk: Disk, scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = words("prepare", disk.folder / "data", tmp_path / "outputs")
    said = fail_and_go_on(command, disk, (0, 20_480), monkeypatch, str(disk.folder))
    assert len(said) == 2
    drawn = files(disk.folder / "data")
    assert drawn
    assert drawn.items() <= files(scenes_root).items()


def fill_while_training(disk: Disk, free: int, patch: pytest.MonkeyPatch) -> None:
    """Let the disk become full when a training begins, once."""

    def fill_and_train(*positions: Any, **named: Any) -> None:
        patch.setattr("selftrain.pipeline.train", train)
        disk.leave(free)
        train(*positions, **named)

    patch.setattr("selftrain.pipeline.train", fill_and_train)


def finished_trainings() -> list[Run]:
    """Return the FINISHED runs of trainings in the store."""
    found = mlflow.search_runs(
        filter_string="tags.`selftrain.stage` = 'train' and attributes.status = 'FINISHED'",
        search_all_experiments=True,
        output_format="list",
    )
    return list(found)


@pytest.mark.parametrize("is_training", [True, pytest.param(False, marks=pytest.mark.torture)])
def test_a_full_disk_of_the_tracking_database_is_named_and_with_room_nothing_is_lost(
    is_training: bool,
    own_store: OwnStore,
    disk: Disk,
    expected: Products,
    scenes_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = tmp_path / "outputs"
    command = words("teacher", scenes_root, outputs)
    with own_store(disk.folder) as uri:
        if is_training:
            fill_while_training(disk, 0, monkeypatch)
        else:
            disk.leave(0)
        sentence = call(command, monkeypatch)
        assert sentence is not None
        assert uri in sentence
        assert any(reason in sentence for reason in REASONS), sentence
        disk.make_room()
        assert call(command, monkeypatch) is None
        require_expected(outputs, expected, "teacher")
        (run,) = finished_trainings()
        assert "train/seconds" in run.data.metrics
        assert "teacher.epochs" in run.data.params


@pytest.mark.parametrize("is_training", [True, pytest.param(False, marks=pytest.mark.torture)])
def test_a_full_disk_of_the_artifacts_is_named_and_with_room_the_model_is_there(
    is_training: bool,
    store: str,
    disk: Disk,
    expected: Products,
    scenes_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow.create_experiment("selftrain", artifact_location=str(disk.folder / "artifacts"))
    outputs = tmp_path / "outputs"
    command = words("teacher", scenes_root, outputs)
    if is_training:
        fill_while_training(disk, 1_000_000, monkeypatch)  # of a model of 4 MB
    else:
        disk.leave(0)
    sentence = call(command, monkeypatch)
    assert sentence is not None
    assert store in sentence
    assert str(disk.folder) in sentence
    disk.make_room()
    assert call(command, monkeypatch) is None
    require_expected(outputs, expected, "teacher")
    (run,) = finished_trainings()
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    assert model.predict(np.zeros((1, 32, 64, 3), np.uint8)).shape == (1, 32, 64)


@pytest.mark.usefixtures("store")
def test_masks_on_a_disk_that_was_full_are_those_of_one_that_was_not(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for name in "abcd":
        picture = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        write_picture(tmp_path / f"pictures/{name}.png", picture)
    places = {"predict.images": tmp_path / "pictures", "machine.outputs": tmp_path / "outputs"}
    model = random_network(tmp_path / "model", CLASSES)

    def command(output: Path) -> list[str]:
        knobs = {**TINY, **places, "predict.model": model, "predict.output": output}
        return ["predict", *flags(knobs)]

    assert call(command(tmp_path / "whole"), monkeypatch) is None
    output = disk.folder / "predictions"
    said = fail_and_go_on(command(output), disk, (0, 20_000), monkeypatch, str(output))
    assert len(said) == 2
    assert files(output) == files(tmp_path / "whole")


def files(folder: Path) -> Products:
    """Return the files of a folder."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.torture  # to trace a network takes seconds
@pytest.mark.usefixtures("store")
def test_a_network_exported_to_a_disk_that_was_full_is_whole_or_not_there(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = disk.folder / "exported"
    knobs: dict[str, Scalar] = {
        **TINY,
        "machine.outputs": tmp_path / "outputs",
        "export.model": random_network(tmp_path / "model", CLASSES),
        "export.output": output,
        "export.format": "torch_export",
        "export.height": 64,
        "export.width": 64,
    }
    disk.leave(1_000_000)
    sentence = call(["export", *flags(knobs)], monkeypatch)
    assert sentence is not None
    assert f"{output / 'network.pt2'} cannot be written" in sentence
    assert not files(output)
    disk.make_room()
    assert call(["export", *flags(knobs)], monkeypatch) is None
    assert set(files(output)) == {"network.pt2", "network.json"}


def test_a_report_on_a_full_disk_is_refused_and_with_room_it_is_written(
    store: str, disk: Disk
) -> None:
    words = ["--benchmark", "scenes", "--stores", store, "--results", str(disk.folder / "results")]
    for free in (0, 50_000):
        disk.leave(free)
        with pytest.raises(InputError, match=f"{disk.folder}.* cannot be written"):
            report.main(words)
        assert not (disk.folder / "results/scenes/report.html").exists()
    disk.make_room()
    report.main(words)
    assert (disk.folder / "results/scenes/report.html").is_file()


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as a full disk would: for machines where none is mounted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("store")
def test_a_checkpoint_that_is_too_large_to_be_written_is_named(
    expected: Products, scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = tmp_path / "outputs"
    command = words("teacher", scenes_root, outputs)
    with longest_file(2**21):  # the database is smaller, the network is not
        sentence = call(command, monkeypatch)
    assert sentence is not None
    assert "cannot be written (File too large)" in sentence
    assert str(outputs) in sentence
    assert call(command, monkeypatch) is None
    require_expected(outputs, expected, "teacher")
