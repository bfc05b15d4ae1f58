"""Several workers on one search: none of its trials is lost and none is carried out twice.

The database is a real PostgreSQL. Trials cost nothing here: what is tested is who does which;
test_worker_kills.py has real ones.
"""

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pytest
from optuna.pruners import NopPruner
from optuna.trial import Trial, TrialState
from postgres import started_postgres

from selftrain.search import RETRY_OF, count, search
from selftrain.sweep_storage import SharedStudy, open_study

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["selftrain.search", "psycopg"])
SECONDS = 300
"""After which a worker counts as hung."""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URI of an empty database."""
    with started_postgres() as uri:
        yield uri


@pytest.fixture(params=["journal", "database"])
def storage(request: pytest.FixtureRequest) -> str:
    """Both kinds."""
    return "journal" if request.param == "journal" else str(request.getfixturevalue("database"))


def shared_study(storage: str, folder: Path) -> SharedStudy:
    """Open the study of a test, which the folder names."""
    return open_study(
        storage,
        folder.name,
        folder,
        directions=["maximize"],
        pruner=NopPruner(),
        interval=1,
        grace=4,
    )


def work(storage: str, folder: Path, trials: int, deadly: set[int], start: Barrier) -> None:
    """Be a worker; it is killed in the middle of the first try of any deadly trial."""

    def objective(trial: Trial) -> float:
        with (folder / "begun").open("a") as file:
            file.write(f"{trial.number}\n")
        x = trial.suggest_float("x", 0.0, 1.0)
        time.sleep(0.02)
        if trial.number in deadly and RETRY_OF not in trial.user_attrs:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    start.wait()
    search(shared_study(storage, folder), objective, trials=trials, seed=0, poll=0.2)


def hold(storage: str, folder: Path, is_held: Event) -> None:
    """Hold a lock until killed."""
    with shared_study(storage, folder).lock("training"):
        is_held.set()
        time.sleep(SECONDS)


def started(target: Callable[..., None], *args: object) -> ForkServerProcess:
    """Start a process."""
    process = CONTEXT.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def test_of_64_trials_of_8_workers_3_of_them_killed_none_is_lost_and_none_done_twice(
    storage: str, tmp_path: Path
) -> None:
    deadly = {5, 20, 40}
    start = CONTEXT.Barrier(8)  # the study, and the database's tables, are made by 8 at once
    workers = [started(work, storage, tmp_path, 64, deadly, start) for _ in range(8)]
    for worker in workers:
        worker.join(SECONDS)
    assert Counter(worker.exitcode for worker in workers) == {0: 5, -signal.SIGKILL: 3}

    study = shared_study(storage, tmp_path).study
    trials = study.trials
    assert count(study).finished == 64
    assert Counter(trial.state for trial in trials) == {
        TrialState.COMPLETE: 64,
        TrialState.FAIL: 3,
    }
    # Each was begun once, and the lost ones once more, with their parameters, as new trials.
    begun = [int(line) for line in (tmp_path / "begun").read_text().split()]
    assert sorted(begun) == list(range(67))
    retried = {lost: trial for trial in trials for lost in trial.user_attrs.get(RETRY_OF, [])}
    assert set(retried) == deadly
    assert all(trials[lost].params == trial.params for lost, trial in retried.items())
    # Workers share a seed, and still no two draw alike.
    complete = [trial.params["x"] for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(set(complete)) == 64


def test_a_lock_excludes_other_workers_until_its_holder_dies(storage: str, tmp_path: Path) -> None:
    is_held = CONTEXT.Event()
    holder = started(hold, storage, tmp_path, is_held)
    assert is_held.wait(SECONDS)
    shared = shared_study(storage, tmp_path)
    with shared.lock("training", wait=False) as taken:
        assert not taken
    with shared.lock("evaluation", wait=False) as taken:
        assert taken
    holder.kill()
    with shared.lock("training") as taken:
        assert taken
