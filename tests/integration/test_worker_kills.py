"""Eight workers on one search, one of them killed every few seconds and replaced.

Real commands on a real PostgreSQL, which holds the trials and the tracking store. Workers are
killed wherever they are: while they draw, train, log, wait for a lock or look for the dead.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import optuna
import psycopg
import pytest
from killing import KillServer, Place, require_one_run_each
from mlflow.entities import Run
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from postgres import started_postgres
from reliability import Survived

from selftrain.knobs import Scalar
from selftrain.search import MOST_RETRIES, RETRY_OF, count

WORKERS = 8
TRIALS = 40
BETWEEN = (2.0, 6.0)
"""Seconds between two kills, at first."""
GRACE = 30
"""Seconds without a sign of life, after which a worker is dead: with 8 on 2 processors, not few."""
MINUTES = 60
"""After which the search counts as hung."""


@pytest.fixture
def database() -> Iterator[str]:
    """The URI of an empty database; beside it another one is there, named store."""
    with started_postgres() as uri:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("create database store")
        yield uri


@dataclass
class Workers:
    """As many commands at once as there should be."""

    place: Place
    rng: random.Random
    has_all_trials: Callable[[], bool]
    """Then no worker is killed any more: they draw what was found."""
    alive: list[int] = field(default_factory=list)
    kills: int = 0

    def keep_killing(self) -> None:
        """Kill and replace workers until all say that the search is done."""
        server = self.place.server
        self.alive += [self._start() for _ in range(WORKERS)]
        stop_at, kill_at = time.monotonic() + 60 * MINUTES, self._next()
        while self.alive:
            assert time.monotonic() < stop_at, self.place.output.read_text()[-4000:]
            for pid in tuple(self.alive):
                code = server.wait(pid, 0.05)
                if code is not None:
                    assert code == 0, self.place.output.read_text()[-4000:]
                    self.alive.remove(pid)
            if self.alive and time.monotonic() >= kill_at and not self.has_all_trials():
                self._kill(self.rng.choice(self.alive))
                kill_at = self._next()

    def _kill(self, pid: int) -> None:
        (os.kill if self.rng.random() < 0.5 else os.killpg)(pid, signal.SIGKILL)
        code = self.place.server.wait(pid, 60)
        self.alive.remove(pid)
        if code == -signal.SIGKILL:  # else it was done just before
            self.kills += 1
            self.alive.append(self._start())

    def _start(self) -> int:
        return self.place.start("sweep", grace=GRACE)

    def _next(self) -> float:
        # Ever later: on a slow machine none would live long enough to end a trial.
        return time.monotonic() + self.rng.uniform(*BETWEEN) * (1 + self.kills / 50)


@pytest.mark.torture
def test_no_trial_is_lost_and_none_counts_twice_while_workers_are_killed(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: Survived
) -> None:
    place = begin(database, tmp_path, monkeypatch)
    try:
        place.run("pseudo_label")
        workers = Workers(
            place, random.Random(0), lambda: count(open_trials(database)).finished >= TRIALS
        )
        workers.keep_killing()
    finally:
        place.server.close()
    trials = open_trials(database).trials
    lost = sum(trial.state == TrialState.FAIL for trial in trials)
    survived(
        f"{WORKERS} workers of a sweep on one PostgreSQL, killed by SIGKILL and replaced",
        tried=f"{workers.kills} kills, at first every {BETWEEN[0]:.0f} to {BETWEEN[1]:.0f} s",
        found=f"{len(trials) - lost} of {TRIALS} trials ended, each once; {lost} were lost and "
        "tried again",
    )
    require_each_ended_once(trials)
    require_agreement(trials, place.runs())
    require_one_run_each(place)
    assert workers.kills > 0


def begin(database: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Make the tracking store, which several commands at once must not, and return the place."""
    uri = database.replace("postgresql:", "postgresql+psycopg:").replace("/postgres?", "/store?")
    monkeypatch.chdir(folder)
    mlflow.MlflowClient(uri).create_experiment("selftrain", str(folder / "artifacts"))
    values: dict[str, Scalar] = {
        "sweep.storage": database,
        "sweep.trials": TRIALS,
        "sweep.retrain": 0,
        "student.epochs": 2,
    }
    return Place(KillServer(), folder, values, tracking_uri=uri)


def open_trials(database: str) -> Study:
    """Open the only study."""
    uri = database.replace("postgresql:", "postgresql+psycopg:")
    (name,) = optuna.get_all_study_names(uri)
    return optuna.load_study(study_name=name, storage=uri)


def require_each_ended_once(trials: list[FrozenTrial]) -> None:
    """Require of each trial that it or one retry of it has ended, and that nothing goes on."""
    ended = [it for it in trials if it.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    failed = [it for it in trials if it.state == TrialState.FAIL]
    assert len(ended) + len(failed) == len(trials)
    first = [it for it in trials if RETRY_OF not in it.user_attrs]
    assert len(first) == TRIALS
    retried = Counter(number for it in trials for number in it.user_attrs.get(RETRY_OF, ())[-1:])
    assert set(retried.values()) <= {1}
    given_up = [it for it in failed if len(it.user_attrs.get(RETRY_OF, ())) >= MOST_RETRIES]
    assert set(retried) == {it.number for it in failed} - {it.number for it in given_up}
    assert len(ended) == TRIALS - len(given_up)
    assert len({tuple(it.params.items()) for it in ended}) == len(ended)


def require_agreement(trials: list[FrozenTrial], runs: list[Run]) -> None:
    """Require that the tracking store says of each trial what the study says."""
    of_trials = [run for run in runs if run.data.tags.get("selftrain.stage") == "trial"]
    assert Counter(run.info.status for run in of_trials)["RUNNING"] == 0
    assert not [
        it for it in runs if "selftrain.key" in it.data.tags and it.info.status == "RUNNING"
    ]
    finished = {
        int(run.data.tags["selftrain.trial"]): run.data.metrics["dev/mIoU"]
        for run in of_trials
        if run.info.status == "FINISHED"
    }
    complete = {it.number: it.value for it in trials if it.state == TrialState.COMPLETE}
    assert finished == complete
    pruned = {it.number for it in trials if it.state == TrialState.PRUNED}
    said = {
        int(run.data.tags["selftrain.trial"])
        for run in of_trials
        if run.data.tags.get("selftrain.state") == "PRUNED"
    }
    assert said == pruned
