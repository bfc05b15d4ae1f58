"""Commands that may come next: what they hold, and that they can be given."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from selftrain.benchmarks import benchmark
from selftrain.command_line import parse
from selftrain.config import Config
from selftrain.knobs import Scalar, override
from selftrain.next_commands import write_commands
from selftrain.summary import Next, Summary


def written(
    stage: str,
    knobs: dict[str, Scalar],
    config: Config | None = None,
    *,
    by_mlflow: bool = False,
) -> str:
    """Return the command that is suggested after another."""
    following = [Next(why="", stage=stage, knobs=knobs)]
    summary = Summary(what="", following=following)
    found = write_commands(summary, config or benchmark("scenes"), by_mlflow=by_mlflow)
    (command,) = found.following
    return command.command


def test_a_plain_command_leads_to_a_plain_command() -> None:
    found = written("evaluate", {"evaluate.model": "abc"})
    assert found == "python -m selftrain evaluate --evaluate.model abc"


def test_what_the_user_has_changed_is_kept_where_it_is_read() -> None:
    changed: dict[str, Scalar] = {
        "data.labelled_fraction": 0.25,
        "teacher.epochs": 3,
        "student.optim.lr": 0.5,
        "sweep.trials": 3,
        "machine.outputs": Path("my outputs"),
        "pseudo_label.inference.flip": False,
    }
    config = override(benchmark("camvid_small"), changed)
    assert written("student", {}, config) == (
        "python -m selftrain student --benchmark camvid_small --data.labelled_fraction 0.25 "
        "--teacher.epochs 3 --pseudo_label.inference.flip false --student.optim.lr 0.5 "
        "--machine.outputs 'my outputs'"
    )
    # A model that is named is there, whatever it was made with; predict reads no data set.
    assert written("evaluate", {"evaluate.model": "abc"}, config) == (
        "python -m selftrain evaluate --benchmark camvid_small --data.labelled_fraction 0.25 "
        "--machine.outputs 'my outputs' --evaluate.model abc"
    )
    config = override(config, {"machine.data_root": Path("elsewhere")})
    assert written("predict", {"predict.model": "abc"}, config) == (
        "python -m selftrain predict --machine.outputs 'my outputs' --predict.model abc"
    )


def test_what_one_command_was_to_do_is_not_asked_of_the_next() -> None:
    changed: dict[str, Scalar] = {"pseudo_label.shard": "2/3", "rounds": 2, "machine.processes": 4}
    config = override(benchmark("scenes"), changed)
    assert written("student", {}, config) == (
        "python -m selftrain student --rounds 2 --machine.processes 4"
    )
    assert written("sweep", {}, config) == "python -m selftrain sweep"
    assert written("pseudo_label", {"pseudo_label.shard": "merge"}, config) == (
        "python -m selftrain pseudo_label --machine.processes 4 --pseudo_label.shard merge"
    )


def test_a_named_teacher_needs_no_recipe() -> None:
    config = override(benchmark("scenes"), {"teacher.epochs": 3})
    found = written("pseudo_label", {"pseudo_label.teacher": "abc"}, config)
    assert found == "python -m selftrain pseudo_label --pseudo_label.teacher abc"


@pytest.mark.parametrize("stage", ["student", "evaluate", "sweep", "main", "prepare"])
def test_a_suggested_command_means_the_same_config(stage: str) -> None:
    changed: dict[str, Scalar] = {
        "data.labelled_fraction": 0.3,
        "teacher.optim.weight_decay": 1e-05,
        "student.network.head_channels": 64,
        "machine.outputs": Path("it's here"),
        "machine.compile": True,
    }
    config = override(benchmark("camvid_small"), changed)
    python, m, program, *words = shlex.split(written(stage, {}, config))
    assert [python, m, program] == ["python", "-m", "selftrain"]
    name, found = parse(words, {stage: ""})
    assert name == stage
    reads = {"data", "machine"} | ({"teacher", "student"} if stage != "prepare" else set())
    for section in reads:
        assert getattr(found, section) == getattr(config, section)


def test_under_mlflow_run_parameters_have_the_names_that_mlproject_declares() -> None:
    config = override(benchmark("camvid_small"), {"machine.outputs": Path("my outputs")})
    assert written("evaluate", {"evaluate.model": "abc"}, config, by_mlflow=True) == (
        "mlflow run . -e evaluate --env-manager local -P benchmark=camvid_small "
        "-P 'machine.outputs=my outputs' -P model=abc"
    )
    assert written("report", {}, config, by_mlflow=True) == (
        "mlflow run . -e report --env-manager local -P benchmark=camvid_small"
    )
    assert written("report", {}, config) == "python -m analysis.report --benchmark camvid_small"


def test_a_command_that_is_written_already_stays() -> None:
    summary = Summary(what="", following=[Next(why="", command="make ui")])
    assert write_commands(summary, Config()) == replace(summary)
