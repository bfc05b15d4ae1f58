"""One worker at a time, on a journal; several at once are in integration/test_sweep_workers.py."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, Trial, TrialState

from selftrain.errors import InputError, Terminated, Unavailable
from selftrain.search import DRAWN, MOST_RETRIES, REASON, RETRY_OF, count, draw, reported, search
from selftrain.space import Space, Uniform
from selftrain.sweep_storage import SharedStudy, open_study

Open = Callable[[], SharedStudy]


class Crash(Exception):
    """Stands for whatever ends a worker."""


@pytest.fixture
def worker(tmp_path: Path) -> Open:
    """A function that starts a worker of one study; those started before count as dead."""
    return lambda: open_study(
        "journal", "study", tmp_path, directions=["maximize"], pruner=NopPruner()
    )


def objective(trial: Trial) -> float:
    """Have one highest point."""
    return -((trial.suggest_float("x", 0.0, 1.0) - 0.3) ** 2)


def states(shared: SharedStudy) -> list[str]:
    """Return the states of the trials by their numbers."""
    return [trial.state.name for trial in shared.study.trials]


def drawn(shared: SharedStudy) -> list[float]:
    """Return what was drawn, by number."""
    return [trial.params["x"] for trial in shared.study.trials]


def test_a_search_ends_when_the_study_has_as_many_trials_as_asked_for(worker: Open) -> None:
    search(worker(), objective, trials=3, seed=0)
    search(worker(), objective, trials=5, seed=0)
    shared = worker()
    search(shared, objective, trials=5, seed=0)
    assert states(shared) == ["COMPLETE"] * 5


def test_the_seed_decides_what_is_drawn_and_no_two_trials_draw_alike(tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate([0, 0, 1]):
        folder = tmp_path / str(number)
        shared = open_study("journal", "s", folder, directions=["maximize"], pruner=NopPruner())
        search(shared, objective, trials=12, seed=seed)
        found.append(drawn(shared))
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert len(set(found[0])) == 12


def test_a_search_in_two_starts_draws_what_one_start_draws(tmp_path: Path) -> None:
    found = []
    for name, ends in {"once": [9], "twice": [7, 9]}.items():
        for trials in ends:
            shared = open_study(
                "journal", "s", tmp_path / name, directions=["maximize"], pruner=NopPruner()
            )
            search(shared, objective, trials=trials, seed=0)
        found.append(drawn(shared))
    assert found[0] == found[1]


def test_what_cannot_be_trained_fails_with_its_reason_and_is_not_tried_again(worker: Open) -> None:
    def objective(trial: Trial) -> float:
        if trial.number == 1:
            raise InputError("The loss is not finite: lower optim.lr.")
        return trial.suggest_float("x", 0.0, 1.0)

    shared = worker()
    search(shared, objective, trials=3, seed=0)
    assert states(shared) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert shared.study.trials[1].user_attrs[REASON] == "The loss is not finite: lower optim.lr."


def test_what_the_machine_lacks_ends_the_search_and_its_trial_is_tried_again(worker: Open) -> None:
    def full(trial: Trial) -> float:
        trial.suggest_float("x", 0.0, 1.0)
        raise Unavailable("checkpoint.pt cannot be written: free some space.")

    shared = worker()
    with pytest.raises(Unavailable, match="free some space"):
        search(shared, full, trials=3, seed=0)
    assert states(shared) == ["FAIL"]
    search(shared, objective, trials=3, seed=0)
    assert states(shared) == ["FAIL", *["COMPLETE"] * 3]
    first, retry, *_ = shared.study.trials
    assert first.params == retry.params


def test_a_stopped_trial_counts_and_keeps_its_last_value(worker: Open) -> None:
    def objective(trial: Trial) -> float:
        trial.report(0.25, 3)
        raise optuna.TrialPruned

    shared = worker()
    search(shared, objective, trials=2, seed=0)
    assert states(shared) == ["PRUNED", "PRUNED"]
    assert shared.study.trials[0].value == 0.25


def test_the_trial_of_a_dead_worker_is_tried_again_with_its_parameters(worker: Open) -> None:
    def dying(trial: Trial) -> float:
        value = objective(trial)
        if trial.number == 1:
            trial.report(0.5, 2)
            raise Crash
        return value

    lost: list[FrozenTrial] = []
    with pytest.raises(Crash):
        search(worker(), dying, trials=4, seed=0)
    shared = worker()
    search(shared, objective, trials=4, seed=0, on_lost=lost.append)
    assert states(shared) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert count(shared.study).finished == 4
    retried = shared.study.trials[2]
    assert retried.params == shared.study.trials[1].params
    assert retried.user_attrs[RETRY_OF] == [1]
    assert reported(retried) == {2: 0.5}
    assert [trial.number for trial in lost] == [1]


@pytest.mark.parametrize("dies_after", ["x", "draw"])
def test_a_death_changes_nothing_in_what_one_worker_draws(tmp_path: Path, dies_after: str) -> None:
    space: Space = {"x": Uniform(0.0, 1.0), "y": Uniform(0.0, 1.0)}
    found = []
    for name, deadly in (("whole", ()), ("killed", (1, 8))):

        def score(trial: Trial, deadly: tuple[int, ...] = deadly) -> float:
            if trial.number in deadly and dies_after == "x":
                trial.set_user_attr(DRAWN, False)
                trial.suggest_float("x", 0.0, 1.0)
                raise Crash
            draw(space, trial)
            if trial.number in deadly:
                raise Crash
            return float(-((trial.params["x"] - 0.3) ** 2) - trial.params["y"])

        shared = open_study("journal", name, tmp_path, directions=["maximize"], pruner=NopPruner())
        for _ in deadly:
            with pytest.raises(Crash):
                search(shared, score, trials=12, seed=0)
            shared = open_study(
                "journal", name, tmp_path, directions=["maximize"], pruner=NopPruner()
            )
        search(shared, score, trials=12, seed=0)
        found.append([t.params for t in shared.study.trials if t.state == TrialState.COMPLETE])
    assert found[0] == found[1]
    assert len(found[0]) == 12  # enough for TPE to have learnt from the first


def test_a_worker_that_dies_while_it_retries_the_dead_loses_no_trial_and_doubles_none(
    worker: Open,
) -> None:
    def dying(trial: Trial) -> float:
        raise Crash

    def dies_too(trial: FrozenTrial) -> None:
        raise Crash

    with pytest.raises(Crash):
        search(worker(), dying, trials=2, seed=0)
    for _ in range(3):
        with pytest.raises(Crash):
            search(worker(), objective, trials=2, seed=0, on_lost=dies_too)
    shared = worker()
    search(shared, objective, trials=2, seed=0)
    assert states(shared) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_trial_that_nobody_has_claimed_is_tried_again(worker: Open) -> None:
    worker().study.ask()  # as if killed before the next line
    shared = worker()
    search(shared, objective, trials=1, seed=0)
    assert states(shared) == ["FAIL", "COMPLETE"]


def test_a_trial_that_ends_every_worker_is_left_alone_in_the_end(worker: Open) -> None:
    def dying(trial: Trial) -> float:
        if trial.suggest_float("x", 0.0, 1.0) == first:
            raise Crash
        return 0.0

    first = worker().study.ask().suggest_float("x", 0.0, 1.0)
    for _ in range(MOST_RETRIES):
        with pytest.raises(Crash):
            search(worker(), dying, trials=2, seed=0)
    shared = worker()
    search(shared, dying, trials=2, seed=0)
    assert states(shared) == ["FAIL"] * (1 + MOST_RETRIES) + ["COMPLETE"]


def test_a_trial_whose_worker_was_asked_to_end_is_retried_however_often(worker: Open) -> None:
    def stopped(trial: Trial) -> float:
        trial.suggest_float("x", 0.0, 1.0)
        raise Terminated(signal.SIGTERM)

    shared = worker()
    stops = MOST_RETRIES + 2
    for _ in range(stops):
        with pytest.raises(Terminated):
            search(shared, stopped, trials=1, seed=0)
        assert states(shared)[-1] == "FAIL"  # told at once: nobody waits for a sign of life
    search(shared, objective, trials=1, seed=0)
    assert states(shared) == ["FAIL"] * stops + ["COMPLETE"]
    assert len({trial.params["x"] for trial in shared.study.trials}) == 1


def test_the_result_of_a_worker_that_was_taken_for_dead_is_dropped(
    worker: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(trial: Trial) -> float:
        if trial.number == 0:
            shared.study.tell(0, state=TrialState.FAIL)  # by another worker
        return 1.0

    shared = worker()
    search(shared, slow, trials=1, seed=0)
    assert states(shared) == ["FAIL", "COMPLETE"]
    assert "trial 0 was taken for dead" in capsys.readouterr().out


def test_after_the_timeout_no_trial_is_begun(worker: Open) -> None:
    def slow(trial: Trial) -> float:
        time.sleep(0.2)
        return 0.0

    shared = worker()
    search(shared, slow, trials=1000, seed=0, timeout=0.3)
    assert 1 <= len(shared.study.trials) <= 3
    assert set(states(shared)) == {"COMPLETE"}


def test_half_a_line_at_the_end_of_a_journal_is_cut_off(worker: Open, tmp_path: Path) -> None:
    search(worker(), objective, trials=3, seed=0)
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"worker')
    shared = worker()
    search(shared, objective, trials=4, seed=0)
    assert states(worker()) == ["COMPLETE"] * 4
    assert journal.read_bytes().startswith(whole)


def test_a_storage_of_another_kind_is_refused_with_the_two_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sqlite:///x.db .* journal, or .* postgresql://"):
        open_study("sqlite:///x.db", "s", tmp_path, directions=["maximize"], pruner=NopPruner())


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    uri = "postgresql://me:secret@127.0.0.1:1/nothing"
    with pytest.raises(InputError, match=r"sweep\.storage .* refused.* start it") as caught:
        open_study(uri, "s", tmp_path, directions=["maximize"], pruner=NopPruner())
    assert "secret" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.*set machine\.outputs"):
        open_study("journal", "s", tmp_path / "file", directions=["maximize"], pruner=NopPruner())
