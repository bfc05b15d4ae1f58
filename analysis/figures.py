"""Figures of the tables: dots, curves and bars, with every seed to be seen.

Colours are told apart by every kind of colour vision; in print the marks tell series apart. Figures
are drawn without pyplot.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.measured import Measured
from analysis.spread import summarise
from selftrain.pictures import SERIES

COLORS = SERIES
MARKS = ("o", "s", "^", "D", "v", "P")
DPI = 120
_GREY = "0.6"

Values = Mapping[int, float]
"""Seed -> value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Values over seeds along an axis."""

    name: str
    points: Sequence[tuple[float, Values]]
    """(x, values); a point without values is left out."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def encode_svg(figure: Figure) -> bytes:
    """Return a figure as an SVG file, the same bytes for the same figure; texts stay texts."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "selftrain", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def draw_arms(measured: Measured, paper_data: str) -> Figure:
    """Draw the mIoU of every arm, and beside it, on an axis of its own, what the paper prints.

    Args:
        measured: The arms.
        paper_data: What the paper measured on.
    """
    arms = list(measured.arms)
    printed = {arm: it.paper for arm, it in measured.arms.items() if it.paper is not None}
    figure = new_figure(9.2 if printed else 6.4, 0.9 + 0.3 * len(arms))
    panels = figure.subplots(1, 2 if printed else 1, sharey=True, squeeze=False)[0]
    ours = panels[0]
    for row, arm in enumerate(arms):
        _draw_seeds(ours, row, measured.scores(arm), 0)
    ours.set_yticks(range(len(arms)), arms)
    ours.set_ylim(len(arms) - 0.5, -0.5)
    ours.set_xlabel(f"mIoU, {measured.data}")
    if printed:
        rows = [arms.index(arm) for arm in printed]
        panels[1].plot(list(printed.values()), rows, "x", color="black")
        panels[1].set_xlabel(f"mIoU, paper, {paper_data}")
    for panel in panels:
        panel.grid(axis="x", color="0.92")
    return figure


def _draw_seeds(axes: Axes, row: float, values: Values, series: int) -> None:
    """Draw a mean with its deviation, and every seed in grey, on a horizontal line."""
    if not values:
        return
    spread = summarise(list(values.values()))
    axes.plot(list(values.values()), [row] * len(values), ".", color=_GREY, zorder=1)
    error = None if np.isnan(spread.deviation) else spread.deviation
    color, mark = COLORS[series], MARKS[series]
    axes.errorbar(spread.mean, row, xerr=error, fmt=mark, color=color, capsize=3, zorder=2)


def draw_curves(
    panels: Sequence[tuple[str, Sequence[Curve]]],
    *,
    across: str,
    ticks: Sequence[tuple[float, str]],
    is_log: bool = False,
) -> Figure:
    """Draw panels of curves side by side, each with its own scale of mIoU.

    Args:
        panels: (label of the vertical axis, curves).
        across: Label of the horizontal axis.
        ticks: (place, text) on it.
        is_log: Whether it is logarithmic.
    """
    figure = new_figure(4.9 * len(panels), 3.7)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, curves) in zip(all_axes, panels, strict=True):
        for curve, color, mark in zip(curves, cycle(COLORS), cycle(MARKS), strict=False):
            _draw_curve(axes, curve, color, mark)
        if is_log:
            axes.set_xscale("log", base=2)
        axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
        axes.minorticks_off()
        axes.set_xlabel(across)
        axes.set_ylabel(title)
        axes.grid(color="0.92")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    return figure


def _draw_curve(axes: Axes, curve: Curve, color: str, mark: str) -> None:
    known = [(x, summarise(list(values.values()))) for x, values in curve.points if values]
    if not known:
        return
    places = [x for x, _ in known]
    means = [spread.mean for _, spread in known]
    axes.errorbar(
        places,
        means,
        yerr=[np.nan_to_num(spread.deviation) for _, spread in known],
        fmt=f"-{mark}",
        color=color,
        capsize=3,
        label=curve.name,
    )


def draw_groups(
    groups: Sequence[str], series: Mapping[str, Sequence[Values]], *, label: str, is_wide: bool
) -> Figure:
    """Draw groups of bars, with the deviation over seeds and every seed as a dot.

    Args:
        groups: Names along the axis.
        series: Name -> values of each group; without values there is no bar.
        label: Of the axis of values.
        is_wide: Whether names are long or many, and so written slanting.
    """
    bars = len(groups) * (len(series) + 1)
    figure = new_figure(max(5.6, min(11.0, 1.4 + 0.24 * bars), 0.3 * len(groups)), 3.9)
    axes = figure.add_subplot()
    width = 0.8 / len(series)
    for place, (name, values) in enumerate(series.items()):
        lefts = np.arange(len(groups)) + (place - (len(series) - 1) / 2) * width
        spreads = [summarise(list(some.values())) for some in values]
        axes.bar(
            lefts,
            [np.nan_to_num(spread.mean) for spread in spreads],
            0.92 * width,
            yerr=[np.nan_to_num(spread.deviation) for spread in spreads],
            color=COLORS[place],
            error_kw={"elinewidth": 1, "ecolor": "0.2"},
            label=name,
        )
        for left, some in zip(lefts, values, strict=True):
            axes.plot([left] * len(some), list(some.values()), ".", color="0.2", markersize=2)
    if is_wide:
        axes.set_xticks(range(len(groups)), groups, rotation=40, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(label)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=len(series), frameon=False, fontsize=9)
    return figure
