"""Several processes ask for the same stage: one makes it, the others wait and find it."""

import multiprocessing
import os
import shutil
import signal
import time
from multiprocessing.context import ForkServerProcess
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from workspace import REPOSITORY, Workspace, role

from selftrain import tracking
from selftrain.errors import InputError
from selftrain.knobs import Scalar
from selftrain.stage import Stage, run_stage
from selftrain.tracking import Run

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["selftrain.stage"])
WORK = Stage("work", version=1)
IDENTITY = {"lr": 0.1}
SECONDS = 300
"""After which a process counts as hung."""


def work(folder: Path, uri: str, name: str, steps: int) -> None:
    """Ask for the stage as a command does, and note what it takes part in."""
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = uri

    def note(what: str) -> None:
        with (folder / "notes").open("a") as file:
            file.write(f"{what} {name}\n")

    def make(product: Path, run: Run) -> None:
        note("begins")
        done = len(list(product.glob("step-*")))  # of an owner that died
        for step in range(done, steps):
            time.sleep(0.1)
            (product / f"step-{step}").touch()
            run.log_metrics({"step": 1.0}, step=step)
        note("ends")

    tracking.connect(Path("outputs"))
    with tracking.parent_run(name):
        product = run_stage(WORK, IDENTITY, make, outputs=Path("outputs"), title="work")
    note("reuses" if product.is_reused else "has made")


def started(folder: Path, uri: str, name: str, steps: int) -> ForkServerProcess:
    """Start a process that asks for the stage."""
    process = CONTEXT.Process(target=work, args=(folder, uri, name, steps), daemon=True)
    process.start()
    return process


def notes(folder: Path) -> list[str]:
    """Return what the processes have noted."""
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(folder: Path, what: str) -> str:
    """Wait for a note, and return the name of the process that made it."""
    deadline = time.monotonic() + SECONDS
    while not (found := [it for it in notes(folder) if it.startswith(what)]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found[-1].rpartition(" ")[2]


def runs(stage: str) -> list[StoredRun]:
    """Return the runs of a stage, the oldest first."""
    client = MlflowClient()
    experiments = [found.experiment_id for found in client.search_experiments()]
    wanted = f"tags.`selftrain.stage` = '{stage}'"
    return list(client.search_runs(experiments, wanted, order_by=["attributes.start_time ASC"]))


def test_of_four_processes_one_makes_the_stage_and_the_others_find_it(
    store: str, tmp_path: Path
) -> None:
    tracking.connect()  # the experiment is made once
    processes = [started(tmp_path, store, f"p{i}", 5) for i in range(4)]
    for process in processes:
        process.join(SECONDS)
    assert [process.exitcode for process in processes] == [0] * 4
    said = notes(tmp_path)
    assert sum(it.startswith("begins") for it in said) == 1
    assert sum(it.startswith("has made") for it in said) == 1
    assert sum(it.startswith("reuses") for it in said) == 3
    (run,) = runs("work")
    assert run.info.status == "FINISHED"
    assert not list((tmp_path / "outputs").glob("*.lock"))


def test_when_the_owner_is_killed_the_one_that_waits_goes_on_from_what_it_has_left(
    store: str, tmp_path: Path
) -> None:
    tracking.connect()
    processes = {name: started(tmp_path, store, name, 8) for name in ("p0", "p1")}
    owner = wait_for(tmp_path, "begins")
    (folder,) = (path for path in (tmp_path / "outputs").iterdir() if path.is_dir())
    deadline = time.monotonic() + SECONDS
    while len(list(folder.glob("step-*"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    dead = processes.pop(owner)
    assert dead.pid is not None
    os.kill(dead.pid, signal.SIGKILL)
    dead.join()
    (waiting,) = processes.values()
    waiting.join(SECONDS)
    assert waiting.exitcode == 0
    first, second = runs("work")
    assert [first.info.status, second.info.status] == ["KILLED", "FINISHED"]
    assert sorted(run.info.status for run in runs("pipeline")) == ["FINISHED", "KILLED"]
    steps = set(tracking.metric_steps(second.info.run_id, "step"))
    assert steps < set(range(8))  # the first ones were there
    assert max(steps) == 7


def test_who_waits_says_once_for_whom(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking.connect(tmp_path / "outputs")
    process = started(tmp_path, store, "p0", 12)
    wait_for(tmp_path, "begins")

    def make(folder: Path, run: Run) -> None:
        raise AssertionError("made twice")

    product = run_stage(WORK, IDENTITY, make, outputs=tmp_path / "outputs", title="work")
    process.join(SECONDS)
    assert product.is_reused
    said = capsys.readouterr().out
    assert said.count("waiting until it is done") == 1
    assert f"process {process.pid} on" in said
    assert str(product.folder) in said


def test_a_stage_that_fails_gives_its_lock_back(store: str, tmp_path: Path) -> None:
    tracking.connect(tmp_path / "outputs")

    def fail(folder: Path, run: Run) -> None:
        assert list((tmp_path / "outputs").glob("*.lock"))
        raise InputError("no")

    for _ in range(2):
        with pytest.raises(InputError, match="no"):
            run_stage(WORK, IDENTITY, fail, outputs=tmp_path / "outputs", title="work")
    assert not list((tmp_path / "outputs").glob("*.lock"))
    assert [run.info.status for run in runs("work")] == ["FAILED", "FAILED"]


@pytest.mark.torture
def test_two_commands_for_one_teacher_train_it_once(scenes_root: Path, tmp_path: Path) -> None:
    values: dict[str, Scalar] = {"machine.data_root": scenes_root, "teacher.epochs": 8}
    workspace = Workspace(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", values)
    assert workspace.selftrain("prepare").code == 0  # the store is made once
    with ThreadPool(2) as pool:
        finished = pool.map(workspace.selftrain, ["teacher", "teacher"])
    assert [it.code for it in finished] == [0, 0], finished
    (run,) = (run for run in workspace.stages() if role(run) == "teacher")
    assert run.info.status == "FINISHED"
    assert sum("teacher: made" in it.output for it in finished) == 1
    assert sum("teacher: found" in it.output for it in finished) == 1


@pytest.mark.torture
def test_two_commands_for_one_study_measure_each_arm_once(
    scenes_root: Path, tmp_path: Path
) -> None:
    values: dict[str, Scalar] = {
        "machine.data_root": scenes_root,
        "study.name": "table1_self_training",
    }
    workspace = Workspace(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", values)
    shutil.copytree(REPOSITORY / "experiments", workspace.checkout / "experiments")
    assert workspace.selftrain("prepare").code == 0  # the store is made once
    with ThreadPool(2) as pool:
        finished = pool.map(workspace.selftrain, ["study", "study"])
    assert [it.code for it in finished] == [0, 0], finished
    keys = [run.data.tags["selftrain.key"] for run in workspace.stages()]
    assert len(keys) == len(set(keys))
    assert {run.info.status for run in workspace.runs()} == {"FINISHED"}
    assert sorted(role(run) for run in workspace.stages() if "arm" in run.data.tags.values()) == [
        "student s0",
        "teacher s0",
    ]
    assert not list(workspace.outputs.glob("*.lock"))


@pytest.mark.torture
def test_of_six_processes_whose_owners_are_killed_ten_times_the_last_one_finishes(
    store: str, tmp_path: Path
) -> None:
    tracking.connect()
    rng = np.random.default_rng(0)
    processes = {f"p{i}": started(tmp_path, store, f"p{i}", 100) for i in range(6)}
    seen = 0
    for kill in range(10):
        deadline = time.monotonic() + SECONDS
        while len(begun := [it for it in notes(tmp_path) if it.startswith("begins")]) <= seen:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        seen = len(begun)
        time.sleep(float(rng.uniform(0.0, 0.6)))
        owner = begun[-1].rpartition(" ")[2]
        processes[owner].kill()
        processes.pop(owner).join()
        name = f"q{kill}"
        processes[name] = started(tmp_path, store, name, 100)
    for process in processes.values():
        process.join(SECONDS)
        assert process.exitcode == 0
    said = notes(tmp_path)
    assert sum(it.startswith("ends") for it in said) == 1
    assert sum(it.startswith("reuses") for it in said) == 5
    states = [run.info.status for run in runs("work")]
    assert states == ["KILLED"] * 10 + ["FINISHED"]
    assert sum(run.info.status == "KILLED" for run in runs("pipeline")) == 10
    assert not [run for run in runs("pipeline") if run.info.status == "RUNNING"]
