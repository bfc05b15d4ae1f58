"""What a search has found, as pictures."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle

import optuna.visualization.matplotlib as optuna_plots
from matplotlib import pyplot
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from selftrain.pictures import SERIES

_DEV = "dev mIoU"


def draw_study(study: Study, front_of: str) -> Iterator[tuple[str, Figure]]:
    """Draw a study with at least one complete trial.

    Args:
        study: Searched for dev mIoU, or for dev mIoU and training time.
        front_of: Parameter that colours the trials in the picture of the two objectives.

    Yields:
        Name and figure, which is closed when the next one is asked for.
    """
    is_timed = len(study.directions) > 1
    # Of two objectives the first alone: Optuna's pictures of both together are hard to read.
    target = _dev if is_timed else None
    with _own_style():
        optuna_plots.plot_optimization_history(study, target=target, target_name=_DEV)
        yield "history", _fit(pyplot.gcf())
    if _can_compare(study):
        with _own_style():
            # What matters for low values is asked, whatever the direction, when there is a target.
            low = _minus_dev if is_timed else None
            optuna_plots.plot_param_importances(study, target=low, target_name=_DEV)
            yield "importances", _fit(pyplot.gcf())
        with _own_style():
            optuna_plots.plot_parallel_coordinate(study, target=target, target_name=_DEV)
            yield "parallel_coordinates", _fit(pyplot.gcf())
    if is_timed:
        with _own_style():
            yield "pareto_front", _draw_front(study, front_of)
    elif any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
        with _own_style():
            axes = optuna_plots.plot_intermediate_values(study)
            axes.set(xlabel="epochs", ylabel=_DEV)
            if legend := axes.get_legend():
                legend.remove()  # a line for each of many trials
            yield "intermediate_values", _fit(pyplot.gcf())


def _dev(trial: FrozenTrial) -> float:
    return float(trial.values[0])


def _minus_dev(trial: FrozenTrial) -> float:
    return -_dev(trial)


def _can_compare(study: Study) -> bool:
    """Say whether two trials are complete that differ in their values."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return len({trial.values[0] for trial in complete}) > 1


@contextmanager
def _own_style() -> Iterator[None]:
    """Keep Optuna's style, which it sets for all of matplotlib, from later pictures."""
    with warnings.catch_warnings(), pyplot.rc_context():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)  # that a few trials say little
        try:
            yield
        finally:
            pyplot.close("all")


def _fit(figure: Figure) -> Figure:
    figure.set_size_inches(12, 6)
    figure.set_dpi(100)
    figure.tight_layout()
    return figure


def _draw_front(study: Study, front_of: str) -> Figure:
    """Draw training time against dev mIoU, a colour and a mark for each value of a parameter."""
    figure, axes = pyplot.subplots()
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    groups = sorted({str(trial.params.get(front_of, "all")) for trial in complete})
    for group, color, mark in zip(groups, cycle(SERIES), cycle("os^DvP"), strict=False):
        points = [t.values for t in complete if str(t.params.get(front_of, "all")) == group]
        seconds, scores = [s for _, s in points], [100 * m for m, _ in points]
        axes.scatter(seconds, scores, label=group, color=color, marker=mark, zorder=2)
    front = sorted((seconds, 100 * miou) for miou, seconds in (t.values for t in study.best_trials))
    axes.step(*zip(*front, strict=True), where="post", color="0.5", linewidth=1, label="front")
    for trial in study.best_trials:
        axes.annotate(
            str(trial.number),
            (trial.values[1], 100 * trial.values[0]),
            xytext=(4, 4),
            textcoords="offset points",
        )
    axes.set(xlabel="seconds of training (without dev)", ylabel="dev mIoU in percent")
    axes.set_title(f"Dev mIoU against training time; numbers are trials; colour: {front_of}")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    return _fit(figure)
