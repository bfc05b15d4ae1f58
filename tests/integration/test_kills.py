"""Stages that are killed again and again end with the bytes of one that nobody disturbed.

Each is killed by SIGKILL at moments drawn by a seed: anywhere in time, and at single steps of
its writing (`dying`), where half a file may be on the disk. What is compared: every file below
machine.outputs and machine.data_root, and the finished runs of the tracking store.
"""

import csv
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import pytest
from killing import (
    Blow,
    KillServer,
    Place,
    Whole,
    contents,
    discard,
    kill_until_done,
    require_one_run_each,
)
from reliability import Survived

from selftrain.knobs import Scalar

MOMENTS = 50
"""Of each stage, in the long version."""
MOST = 6
"""Kills in a row, after which the stage is left in peace."""
INCIDENTAL = (
    "checkpoint*",  # holds the times of its epochs
    "digests.sqlite*",
    "scan-*/*.json",  # a file for each attempt
    "*.lock",
    "*.locks",
    "*.journal",
)
"""Files that tell of their making, or can be made again; only what they are named counts."""


@dataclass(frozen=True)
class Job:
    """A stage that is killed, and what it starts from."""

    stage: str
    values: Mapping[str, Scalar]
    begins: str = "blank"
    """The folder that it starts from: a stage that has been run there, or "blank"."""


JOBS = {
    "training": Job("teacher", {"teacher.epochs": 3, "teacher.snapshots": 1}),
    "labelling": Job("pseudo_label", {}, begins="teacher"),
    "prepare": Job("prepare", {"prepare.cache": "raw"}),
    "sweep": Job("sweep", {"sweep.trials": 2, "sweep.retrain": 1}, begins="pseudo_label"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[KillServer]:
    """What commands are started by."""
    started = KillServer()
    yield started
    started.close()


@pytest.fixture(scope="module")
def beginnings(server: KillServer, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders to start from: a store with nothing in it, and a trained teacher and its labels."""
    folders = {"blank": tmp_path_factory.mktemp("blank")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folders["blank"])
        mlflow.MlflowClient(f"sqlite:///{folders['blank'] / 'mlflow.db'}").search_experiments()
    before = folders["blank"]
    for stage in ("teacher", "pseudo_label"):
        folder = folders[stage] = tmp_path_factory.mktemp(stage)
        shutil.copytree(before, folder, dirs_exist_ok=True)
        Place(server, folder).run(stage)
        before = folder
    return folders


@dataclass(frozen=True)
class Trial:
    """A job with the folder of its undisturbed run."""

    job: Job
    beginning: Path
    undisturbed: Place
    whole: Whole

    @classmethod
    def of(cls, job: Job, beginning: Path, server: KillServer, folder: Path) -> "Trial":
        """Run the job once, undisturbed."""
        shutil.copytree(beginning, folder)
        place = Place(server, folder, job.values)
        whole = place.run(job.stage)
        return cls(job, beginning, place, whole)

    def harm(self, rng: random.Random, most: int) -> list[Blow]:
        """Kill the job until it is done, and require what an undisturbed one leaves."""
        seed = rng.getrandbits(32)
        folder = self.undisturbed.folder.with_name(f"seed-{seed}")
        shutil.copytree(self.beginning, folder)
        place = replace(self.undisturbed, folder=folder)
        blows = kill_until_done(place, self.job.stage, self.whole, random.Random(seed), most)
        done = "\n".join(map(str, blows))
        for wanted, found in (
            (self.undisturbed.outputs, place.outputs),
            (self.undisturbed.data, place.data),
        ):
            assert contents(found, INCIDENTAL) == contents(wanted, INCIDENTAL), done
            assert names(found) == names(wanted), done
        if self.job.stage == "sweep":
            assert table(place) == table(self.undisturbed), done
        require_one_run_each(place)
        discard(place)
        return blows


def names(folder: Path) -> set[str]:
    """Return the paths of all files but those of which each attempt may make its own."""
    paths = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {name for name in paths if "/scan-" not in name and "digests.sqlite" not in name}


def table(place: Place) -> list[list[str]]:
    """Return what a sweep's table says of the trials that count, without their numbers."""
    found = [run for run in place.runs() if run.data.tags.get("selftrain.sweep")]
    command = next(run for run in found if "best/trial" in run.data.metrics)
    path = place.client.download_artifacts(
        command.info.run_id, "trials.csv", str(place.folder / "temporary")
    )
    rows = list(csv.DictReader(Path(path).read_text().splitlines()))
    assert rows
    left_out = ("trial", "retry of", "train/seconds")
    counted = [row for row in rows if row["state"] != "FAIL"]
    return [[v for name, v in sorted(row.items()) if name not in left_out] for row in counted]


@pytest.mark.parametrize(
    ("name", "kills"), [("training", 3), ("labelling", 3), ("prepare", 3), ("sweep", 1)]
)
def test_a_stage_killed_a_few_times_leaves_what_an_undisturbed_one_leaves(
    name: str, kills: int, server: KillServer, beginnings: Mapping[str, Path], tmp_path: Path
) -> None:
    job = JOBS[name]
    if name == "sweep":
        job = replace(job, values={**job.values, "sweep.retrain": 0})
    trial = Trial.of(job, beginnings[job.begins], server, tmp_path / "undisturbed")
    assert trial.harm(random.Random(f"{name} 0"), kills)


@pytest.mark.torture
@pytest.mark.parametrize("name", JOBS)
def test_a_stage_killed_at_many_moments_leaves_what_an_undisturbed_one_leaves(
    name: str,
    server: KillServer,
    beginnings: Mapping[str, Path],
    tmp_path: Path,
    survived: Survived,
) -> None:
    job = JOBS[name]
    trial = Trial.of(job, beginnings[job.begins], server, tmp_path / "undisturbed")
    rng = random.Random(f"{name} 1")
    blows: list[Blow] = []
    restarts = 0
    while len(blows) < MOMENTS:
        blows += trial.harm(rng, MOST)
        restarts += 1
    inside = sum(blow.death.step > 0 for blow in blows)
    torn = sum(blow.death.tears for blow in blows)
    survived(
        f"{name} killed by SIGKILL and started again until done",
        tried=f"{len(blows)} kills, {inside} of them inside a write, {torn} with torn files",
        found=f"{restarts} of {restarts} products byte for byte those of an undisturbed run",
    )
