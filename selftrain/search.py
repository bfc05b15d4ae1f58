"""The search of a sweep: trials are begun, carried out, given up by the dead and begun again.

Several workers run `search` on one study at once. What they decide they decide under one lock, so
that no trial is begun twice and not one more is begun than was asked for. A worker may die at any
line: what it worked on is found to be lost, and its parameters are tried again.
"""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, TrialPruned, UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from selftrain import progress
from selftrain.errors import InputError, Terminated, Unavailable
from selftrain.knobs import Scalar
from selftrain.space import Cases, Choice, LogUniform, Option, Space, Whole
from selftrain.sweep_storage import SharedStudy

REASON = "reason"
"""Attribute of a trial: why its parameters cannot be trained."""
RETRY_OF = "retry of"
"""Attribute of a trial: the numbers of those that were lost before it."""
REPORTED = "reported"
"""Attribute of a retried trial: {step: value} that the lost one had reported."""
DRAWN = "drawn"
"""Attribute of a trial: whether its whole point is drawn."""
STOPS = "stops"
"""Attribute of a trial: how many of its workers, those of lost ones included, were asked to end."""
MOST_RETRIES = 3
"""A trial that has killed so many workers (out of memory, say) is left alone."""
_STARTUP = 5
"""Trials drawn at random before TPE has something to learn from; Hyperband counts by bracket."""

Objective = Callable[[Trial], float | Sequence[float]]


def draw(space: Space, trial: Trial) -> dict[str, Scalar]:
    """Let a trial choose a point of a space.

    Returns:
        Dotted path -> value of every knob that the point sets.
    """
    trial.set_user_attr(DRAWN, False)
    drawn = _draw(space, trial)
    trial.set_user_attr(DRAWN, True)
    return drawn


def _draw(space: Space, trial: Trial) -> dict[str, Scalar]:
    drawn: dict[str, Scalar] = {}
    for name, values in space.items():
        value: Option
        if isinstance(values, Choice | Cases):
            options: list[Any] = list(values.options)  # Optuna's type asks for one kind of them
            value = trial.suggest_categorical(name, options)
        elif isinstance(values, Whole):
            value = trial.suggest_int(name, values.low, values.high)
        else:
            log = isinstance(values, LogUniform)
            value = trial.suggest_float(name, values.low, values.high, log=log)
        if "." in name:
            drawn[name] = value
        if isinstance(values, Cases):
            drawn |= _draw(values.options[value], trial)
    return drawn


@dataclass(frozen=True)
class Counts:
    """How far a study is."""

    finished: int
    """Trials that are complete, pruned, or cannot be trained."""
    running: int


def count(study: Study) -> Counts:
    """Count a study's trials; one that is lost and retried counts once."""
    trials = study.get_trials(deepcopy=False)
    return Counts(
        finished=sum(_is_finished(trial) for trial in trials),
        running=sum(trial.state == TrialState.RUNNING for trial in trials),
    )


def search(
    shared: SharedStudy,
    objective: Objective,
    *,
    trials: int,
    seed: int,
    timeout: float = 0.0,
    on_lost: Callable[[FrozenTrial], None] = lambda trial: None,
    poll: float = 5.0,
) -> None:
    """Carry out trials until the study has as many as asked for.

    A trial that raises TrialPruned ends as PRUNED, one that raises InputError as FAIL with its
    sentence as the reason. Whatever else is raised ends this worker, and the trial is retried.

    Args:
        shared: The study, which other workers may carry out at the same time.
        objective: Returns the value of a trial, or its values.
        trials: Of all workers, from all times, together.
        seed: Decides, with the trials that there are, what is drawn.
        timeout: Seconds after which this worker begins no trial; 0 is no limit.
        on_lost: Is told of a trial whose worker is dead, maybe more than once, before its retry.
        poll: Seconds between two looks at the last trials, of other workers; if one dies, this
            worker takes its trial over.
    """
    stop_at = time.monotonic() + timeout if timeout else math.inf
    is_waiting = False
    while True:
        with shared.lock("trials"):
            _retry_lost(shared, on_lost)
            counts = count(shared.study)
            if counts.finished >= trials or time.monotonic() >= stop_at:
                return
            is_free = counts.finished + counts.running < trials
            trial = _begin(shared, seed) if is_free else None
        if trial is not None:
            with shared.at_work(trial):
                _carry_out(shared.study, trial, objective)
            continue
        if not is_waiting:
            progress.say(f"waiting for trials of other workers: {counts.running}")
        is_waiting = True
        time.sleep(poll)


def _begin(shared: SharedStudy, seed: int) -> Trial:
    """Take a trial that waits for its retry, else make a new one."""
    study = shared.study
    trials = study.get_trials(deepcopy=False)
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    first = [*_retries(waiting[0]), waiting[0].number][0] if waiting else len(trials)
    # A retry counts as what it retries: so a kill changes nothing in what is drawn.
    number = sum(not _retries(trial) for trial in trials[:first])
    with warnings.catch_warnings():
        # Of `group`, and that heartbeats are for Study.optimize: ours beat in SharedStudy.at_work.
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
        # Seeded by the trial: workers with one seed would otherwise draw alike.
        state = np.random.SeedSequence([seed, number]).generate_state(1)
        study.sampler = TPESampler(
            seed=int(state[0]), n_startup_trials=_STARTUP, multivariate=True, group=True
        )
        trial = study.ask()
    shared.claim(trial)
    return trial


def _carry_out(study: Study, trial: Trial, objective: Objective) -> None:
    values: float | Sequence[float] | None = None
    try:
        try:
            values = objective(trial)
            state = TrialState.COMPLETE
        except TrialPruned:
            state = TrialState.PRUNED
        except Unavailable:  # not the fault of the trial's knobs: it is tried again
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise
        except InputError as error:
            progress.say(f"trial {trial.number} failed: {error}")
            trial.set_user_attr(REASON, str(error))
            state = TrialState.FAIL
        except Terminated:
            trial.set_user_attr(STOPS, trial.user_attrs.get(STOPS, 0) + 1)
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)  # retried at once
            raise
        is_mine = study.tell(trial, values, state, skip_if_finished=True).state == state
    except UpdateFinishedTrialError:
        is_mine = False
    if not is_mine:
        progress.say(
            f"trial {trial.number} was taken for dead, as this worker gave no sign of life for too "
            "long: its retry counts, and this result is dropped"
        )


def _retry_lost(shared: SharedStudy, on_lost: Callable[[FrozenTrial], None]) -> None:
    """Put what the dead have left back into the queue; may itself be killed at any line."""
    shared.fail_dead()
    trials = shared.study.get_trials(deepcopy=False)
    retried = {number for trial in trials for number in _retries(trial)}
    for trial in trials:
        is_lost = trial.state == TrialState.FAIL and not _is_finished(trial)
        if not is_lost or trial.number in retried:
            continue
        progress.say(f"trial {trial.number} has lost its worker and is tried again")
        on_lost(trial)
        # Not Optuna's own callback: it would copy the rungs of Hyperband's bracket, and the
        # retry, with a number of its own, may stand in another.
        values = {**reported(trial), **trial.intermediate_values}
        # What has drawn half of its point has trained nothing: it is drawn anew, and alike.
        is_whole = trial.user_attrs.get(DRAWN, True)
        retry = optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params if is_whole else {},
            distributions=trial.distributions if is_whole else {},
            user_attrs={
                RETRY_OF: [*_retries(trial), trial.number],
                STOPS: trial.user_attrs.get(STOPS, 0),
                REPORTED: {str(step): value for step, value in values.items()},
            },
        )
        shared.study.add_trial(retry)


def reported(trial: Trial | FrozenTrial) -> dict[int, float]:
    """Return {step: value} of what the lost trial, whose retry this one is, had reported."""
    found: dict[str, float] = trial.user_attrs.get(REPORTED, {})
    return {int(step): value for step, value in found.items()}


def _deaths(trial: FrozenTrial) -> int:
    """Return how many workers had died of a trial before this one took it up."""
    stops: int = trial.user_attrs.get(STOPS, 0)
    return len(_retries(trial)) - stops


def _retries(trial: FrozenTrial) -> list[int]:
    found: list[int] = trial.user_attrs.get(RETRY_OF, [])
    return found


def _is_finished(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.FAIL:
        return REASON in trial.user_attrs or _deaths(trial) >= MOST_RETRIES
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
