"""A chain as a figure: the oldest on top, arrows towards what was made from it."""

import io
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from selftrain.lineage import Made, amount, data_of, each, facts

ARROWS = {
    "teacher": "labels the pool",
    "pseudo_labels": "are learned",
    "start": "is gone on from",
    "backbone_weights": "gives its backbone",
    "model": "is measured",
}
"""What a source is to what was made from it, by the name of its tag."""
FORMATS = ("png", "svg", "pdf")
_DPI = 150
# Inches.
_WIDTH, _LINE, _PAD, _GAP, _ROW_GAP, _MARGIN, _LANE = 3.7, 0.175, 0.12, 0.35, 0.55, 0.3, 0.4
# Of Okabe and Ito, which are told apart by every kind of colour vision; letters say the same.
_DATA_COLORS = ("#0072B2", "#B34700", "#00785A", "#A0508A", "#2F7FB5", "#8A6100", "#000000")
_STAGES = {"train": ("#E3EFF8", "#0072B2"), "pseudo_label": ("#FDF1DA", "#B87A00")}
"""Stage -> the fill and the edge of its boxes."""
_OTHER = ("#F0F0F0", "0.35")
_GONE = ("#FFFFFF", "0.35")
_INK = "0.25"


@dataclass
class _Place:
    """A station's box, or the lane by which an arrow passes a row."""

    made: Made | None
    lines: Sequence[tuple[str, str]] = ()
    """(kind of the line, its text): title, id, fact, or the letter of a data set."""
    x: float = 0.0
    top: float = 0.0
    height: float = 0.0

    @property
    def width(self) -> float:
        return _WIDTH if self.made else _LANE

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass
class _Arrow:
    path: list[_Place]
    """Box, lanes, box."""
    text: str


def draw(made: Made) -> Figure:
    """Draw a chain, from the networks and data that came first down to the product."""
    rows, arrows = _arrange(made)
    widths = [sum(it.width for it in row) + _GAP * (len(row) - 1) for row in rows]
    heights = [max(it.height for it in row) for row in rows]
    width = max(widths) + 2 * _MARGIN
    height = sum(heights) + _ROW_GAP * (len(rows) - 1) + 2 * _MARGIN + _LINE
    y = _MARGIN
    for row, row_width, row_height in zip(rows, widths, heights, strict=True):
        x = (width - row_width) / 2
        for place in row:
            place.height = place.height or row_height  # a lane's
            place.x, place.top = x, y + (row_height - place.height) / 2
            x += place.width + _GAP
        y += row_height + _ROW_GAP
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    for arrow in arrows:
        _draw_arrow(axes, arrow)
    for place in (it for row in rows for it in row if it.made):
        _draw_box(axes, place)
    note = "The same letter is the same data, by its digest."
    axes.text(_MARGIN, height - _MARGIN, note, fontsize=7, color=_INK, va="center")
    return figure


def encode(figure: Figure, format: str) -> bytes:
    """Return a figure as the bytes of a file of one of `FORMATS`."""
    file = io.BytesIO()
    figure.savefig(file, format=format)
    return file.getvalue()


def _arrange(made: Made) -> tuple[list[list[_Place]], list[_Arrow]]:
    """Return the rows, the oldest first, and the arrows between their places."""
    levels: dict[str, int] = {}
    _set_levels(made, 0, levels)
    letters = _letters(made)
    rows: list[list[_Place]] = [[] for _ in range(max(levels.values()) + 1)]
    places: dict[str, _Place] = {}
    for station in each(made):
        lines = list(_lines(station, letters))
        place = _Place(station, lines, height=len(lines) * _LINE + 2 * _PAD)
        places[station.run_id] = place
        rows[levels[station.run_id]].append(place)
    arrows: list[_Arrow] = []
    for station in each(made):
        words: dict[str, list[str]] = {}
        for source in station.sources:
            words.setdefault(source.run_id, []).append(ARROWS.get(source.link, source.link))
        for run_id, said in words.items():
            lanes = []
            for level in range(levels[run_id] - 1, levels[station.run_id], -1):
                lanes.append(_Place(None))
                rows[level].append(lanes[-1])
            path = [places[run_id], *lanes, places[station.run_id]]
            arrows.append(_Arrow(path, " and ".join(said)))
    return rows[::-1], arrows


def _set_levels(made: Made, level: int, levels: dict[str, int]) -> None:
    """Let every station stand above all that was made from it."""
    if levels.get(made.run_id, -1) < level:
        levels[made.run_id] = level
        for source in made.sources:
            _set_levels(source, level + 1, levels)


def _letters(made: Made) -> dict[str, str]:
    """Return a letter for each digest, the oldest station's first."""
    digests = dict.fromkeys(
        it.digest
        for station in reversed(list(each(made)))
        if station.run is not None
        for it in data_of(station.run)
    )
    return {
        digest: string.ascii_uppercase[number % 26] + "'" * (number // 26)
        for number, digest in enumerate(digests)
    }


def _lines(made: Made, letters: dict[str, str]) -> Iterator[tuple[str, str]]:
    yield "title", made.title
    yield "id", made.run_id
    if made.run is None:
        yield "fact", made.lost
        return
    said = facts(made.run)
    yield "fact", ", ".join(said[:2])
    if said[2:]:
        yield "fact", ", ".join(said[2:])
    for data in data_of(made.run):
        yield letters[data.digest], f"{data.name}: {amount(data)}, {data.digest}"


def _draw_box(axes: Axes, place: _Place) -> None:
    run = place.made.run if place.made else None
    fill, edge = _GONE if run is None else _STAGES.get(run.stage, _OTHER)
    axes.add_patch(
        FancyBboxPatch(
            (place.x, place.top),
            place.width,
            place.height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=fill,
            edgecolor=edge,
            linewidth=1.4,
            linestyle="--" if run is None else "-",
        )
    )
    x = place.x + _PAD
    for number, (kind, text) in enumerate(place.lines):
        y = place.top + _PAD + (number + 0.5) * _LINE
        if kind == "title":
            axes.text(x, y, text, fontsize=9.5, fontweight="bold", va="center")
        elif kind == "id":
            axes.text(x, y, text, fontsize=7, family="monospace", va="center", color=_INK)
        elif kind == "fact":
            axes.text(x, y, text, fontsize=8, va="center")
        else:
            _draw_letter(axes, x + 0.07, y, kind)
            axes.text(x + 0.22, y, text, fontsize=7.5, va="center")


def _draw_letter(axes: Axes, x: float, y: float, letter: str) -> None:
    color = _DATA_COLORS[(ord(letter[0]) - ord("A")) % len(_DATA_COLORS)]
    chip = {"boxstyle": "square,pad=0.2", "facecolor": color, "edgecolor": "none"}
    axes.text(
        x,
        y,
        letter,
        fontsize=6,
        fontweight="bold",
        color="white",
        ha="center",
        va="center",
        bbox=chip,
    )


def _draw_arrow(axes: Axes, arrow: _Arrow) -> None:
    """Draw from the bottom of a box, along the lanes, to the top of another."""
    first, *lanes, last = arrow.path
    points = [(first.middle, first.top + first.height)]
    for lane in lanes:
        points += [(lane.middle, lane.top), (lane.middle, lane.top + lane.height)]
    for (x, y), (to_x, to_y) in pairwise(points):
        axes.plot([x, to_x], [y, to_y], color=_INK, linewidth=1.2)
    end = (last.middle, last.top)
    style = {"arrowstyle": "-|>", "color": _INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=points[-1], arrowprops=style)
    x, y = points[0]
    next_x, next_y = [*points, end][1]
    axes.text(
        (x + next_x) / 2,
        (y + next_y) / 2,
        arrow.text,
        fontsize=7.5,
        style="italic",
        ha="center",
        va="center",
        bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"},
    )
