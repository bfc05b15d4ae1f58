"""Commands as a script reads them: from one line of JSON to the next command."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from miniature import TINY, flags, write_picture
from mlflow.entities import Run

from selftrain.__main__ import main
from selftrain.errors import Terminated
from selftrain.knobs import Scalar

REPOSITORY = Path(__file__).parents[1]
Found = dict[str, Any]


class Scripts:
    """Gives commands and reads their JSON."""

    def __init__(
        self,
        values: dict[str, Scalar],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self._values, self._monkeypatch, self._capsys = values, monkeypatch, capsys
        self.said = ""
        """By the last one, on stderr."""

    def give(self, *words: str) -> Found:
        """Give a command with the tiny knobs."""
        return self.paste([words[0], *flags(self._values), *words[1:]])

    def paste(self, words: list[str]) -> Found:
        """Give a command as it is."""
        self._monkeypatch.setattr(sys, "argv", ["selftrain", *words, "--json"])
        self._capsys.readouterr()
        try:
            main()
        finally:
            out, self.said = self._capsys.readouterr()
        (line,) = out.splitlines()
        found: Found = json.loads(line)
        return found


@pytest.fixture
def scripts(
    store: str,
    scenes_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Scripts:
    places: dict[str, Scalar] = {
        "machine.data_root": scenes_root,
        "machine.outputs": tmp_path / "outputs",
    }
    return Scripts({**TINY, **places}, monkeypatch, capsys)


def words_of(command: str) -> list[str]:
    """Return the words of a suggested command behind the program's name."""
    python, m, program, *words = shlex.split(command)
    assert [python, m, program] == ["python", "-m", "selftrain"]
    return words


def runs() -> list[Run]:
    client = mlflow.MlflowClient()
    return list(client.search_runs([it.experiment_id for it in client.search_experiments()]))


def test_each_command_names_commands_that_can_be_given_next(
    scripts: Scripts, tmp_path: Path
) -> None:
    prepared = scripts.give("prepare")
    assert prepared["images"]["labelled"] == 4
    teacher = scripts.paste(words_of(prepared["next"][0]))
    assert (teacher["stage"], teacher["status"]) == ("teacher", "finished")
    assert [it["status"] for it in teacher["products"]] == ["made"]
    assert Path(teacher["folder"]).is_dir()
    assert 0 <= teacher["metrics"]["dev/mIoU"] <= 1
    assert mlflow.get_run(teacher["run"]).data.tags["selftrain.key"] == teacher["key"]

    labels = scripts.paste(words_of(teacher["next"][1]))
    assert (labels["stage"], labels["images"]) == ("pseudo_label", 4)
    student = scripts.paste(words_of(labels["next"][0]))
    assert [(it["title"], it["status"]) for it in student["products"]] == [
        ("pseudo labels", "found"),
        ("student", "made"),
    ]
    inspected = scripts.paste(words_of(labels["next"][1]))
    assert inspected["images"] == 4

    evaluated = scripts.paste(words_of(student["next"][0]))
    assert evaluated["model"] == student["run"]
    assert 0 <= evaluated["metrics"]["test/mIoU"] <= 1
    write_picture(tmp_path / "DIR" / "a.png", np.zeros((40, 60, 3), dtype=np.uint8))
    predicted = scripts.paste(words_of(evaluated["next"][0]))
    assert predicted["pictures"] == 1
    assert (Path(predicted["files"][0]) / "a.png").is_file()


def test_how_a_command_speaks_is_in_no_key_no_config_and_no_param(scripts: Scripts) -> None:
    quiet = scripts.give("teacher", "--quiet")
    assert scripts.said == ""
    loud = scripts.give("teacher")
    assert "teacher: found" in scripts.said
    assert (quiet["key"], quiet["run"]) == (loud["key"], loud["run"])
    assert [it["status"] for it in loud["products"]] == ["found"]
    for run in runs():
        assert not {"quiet", "json"} & set(run.data.params)
    config = mlflow.artifacts.load_dict(f"runs:/{loud['run']}/config.json")
    assert not {"quiet", "json"} & set(config)


def test_main_tells_what_the_three_networks_reach(scripts: Scripts) -> None:
    found = scripts.give("main")
    reached = {f"{name}/test/mIoU" for name in ("teacher", "control", "student")}
    assert set(found["metrics"]) == reached
    assert Path(found["files"][0]).name == "comparison.md"
    assert "| metric " in scripts.said  # the table: plain where there is no terminal


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["teacher", "--teacher.optim.lr", "fast"], "teacher.optim.lr = 'fast' is not a number"),
        (["export", "--model", "none such"], "none such"),
    ],
)
def test_a_mistake_is_told_to_scripts_too(
    words: list[str],
    sentence: str,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["selftrain", *words, "--json=true"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, str)  # which Python prints to stderr, and exits with 1
    assert ended.value.code.startswith("error: ")
    found = json.loads(capsys.readouterr().out)
    assert (found["stage"], found["status"]) == (words[0], "failed")
    assert sentence in found["error"]
    assert f"error: {found['error']}" == ended.value.code


def test_a_script_is_told_of_a_signal_and_of_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(words: object) -> None:
        raise Terminated(signal.SIGTERM, "the checkpoint of step 3 is written")

    def fail(words: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(sys, "argv", ["selftrain", "teacher", "--json"])
    monkeypatch.setattr("selftrain.__main__.run", stop)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 128 + signal.SIGTERM
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["status"] == "stopped"
    assert err == f"{found['error']}\n"
    assert "the same command goes on from it" in err

    monkeypatch.setattr("selftrain.__main__.run", fail)
    with pytest.raises(ZeroDivisionError):  # whose traceback goes to stderr
        main()
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["error"]) == ("failed", "ZeroDivisionError: division by zero")


def test_another_rank_says_nothing_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("selftrain.__main__.run", lambda words: None)
    monkeypatch.setattr(sys, "argv", ["selftrain", "teacher", "--json"])
    main()
    assert capsys.readouterr() == ("", "")


def test_a_command_in_a_pipe_writes_plain_lines_and_with_quiet_none(
    store: str, scenes_root: Path, tmp_path: Path
) -> None:
    values: dict[str, Scalar] = {**TINY, "machine.data_root": scenes_root}
    said = []
    for more in ([], ["--quiet"]):
        done = subprocess.run(
            [sys.executable, "-m", "selftrain", "teacher", *flags(values), *more],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        said.append(done.stdout)
    assert said[1] == ""
    assert "\x1b" not in said[0]
    first, *_ = said[0].splitlines()
    assert first.startswith("teacher: made outputs/train-")
    assert "\n    python -m selftrain evaluate " in said[0]
