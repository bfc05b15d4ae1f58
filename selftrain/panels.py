"""Pictures beside each other: a sheet of many, and networks compared with the truth."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selftrain.data.sample import ClassTable
from selftrain.labels import IGNORE_INDEX
from selftrain.pictures import UNLABELLED, Colors, Picture, colorize, rows_figure, shrink

MOST_ON_SHEET = 24
"""Pictures of a contact sheet."""
_ACROSS = 4
_WIDEST = 384  # pixels of a picture, about as many as a panel has
RIGHT, REPAIRED, BROKEN, WRONG = range(4)
"""What a comparison of two networks comes to at a pixel."""
CHANGES: Colors = ((229, 229, 229), (0, 114, 178), (213, 94, 0), (140, 140, 140))
"""Of these four. Blue and orange are told apart by every kind of colour vision, and both from the
grays; a pixel without a true label is black."""
Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """An image, its true label, and what networks make of it."""

    title: str
    """Stands above the image."""
    image: Picture
    truth: Labels
    labels: Mapping[str, Labels]
    """Network -> its labels."""


def spread_evenly(count: int, most: int) -> list[int]:
    """Return at most so many of `count` positions, evenly spread from the first to the last."""
    return [round(float(it)) for it in np.linspace(0, count - 1, min(count, most))]


def contact_sheet(pictures: Iterable[tuple[str, Picture]], classes: ClassTable) -> Figure:
    """Draw pictures in rows, each under its name, with the legend of the classes.

    Args:
        pictures: (name, picture), of any size; they are made small as they come.
        classes: Names and colours.
    """
    shown = [(name, shrink(picture, _WIDEST)) for name, picture in pictures]
    rows = [("", shown[first : first + _ACROSS]) for first in range(0, len(shown), _ACROSS)]
    return rows_figure(rows, legends=[(classes.names, classes.colors)])


def find_changes(truth: Labels, before: Labels, after: Labels) -> Labels:
    """Return for each pixel what comes of using another network.

    Args:
        truth: (H, W), true classes.
        before: (H, W), those of one network.
        after: (H, W), those of the other.

    Returns:
        (H, W): RIGHT where both are right, REPAIRED where only the other is, BROKEN where only the
        first is, WRONG where none is; IGNORE_INDEX where the truth is not known.
    """
    was_right, is_right = before == truth, after == truth
    changes = np.select(
        [was_right & is_right, is_right, was_right], [RIGHT, REPAIRED, BROKEN], WRONG
    )
    return np.where(truth == IGNORE_INDEX, IGNORE_INDEX, changes).astype(np.uint8)


def comparison_figure(
    rows: Sequence[Compared],
    classes: ClassTable,
    *,
    before: str,
    after: str,
    panel_width: float = 2.4,
) -> Figure:
    """Draw image | each network | truth | difference, a row for each image, with both legends.

    Args:
        rows: All with the same networks.
        classes: Names and colours.
        before: Of the two networks whose difference is drawn the one that is there already.
        after: The other.
        panel_width: Inches for each picture.
    """
    drawn = []
    for row in rows:
        panels = {row.title: shrink(row.image, _WIDEST)}
        for name, labels in {**row.labels, "truth": row.truth}.items():
            panels[name] = colorize(shrink(labels, _WIDEST), classes.colors)
        changes = find_changes(row.truth, row.labels[before], row.labels[after])
        panels[f"{after} against {before}"] = colorize(shrink(changes, _WIDEST), CHANGES)
        drawn.append(("", list(panels.items())))
    marks = ["both right", f"{after} repairs", f"{after} breaks", "both wrong", "no true label"]
    return rows_figure(
        drawn,
        legends=[(classes.names, classes.colors), (marks, [*CHANGES, UNLABELLED])],
        panel_width=panel_width,
    )
