"""Sheets of pictures, and networks compared with the truth."""

from itertools import combinations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from selftrain.data.sample import ClassTable
from selftrain.panels import (
    BROKEN,
    CHANGES,
    REPAIRED,
    RIGHT,
    WRONG,
    Compared,
    comparison_figure,
    contact_sheet,
    find_changes,
    spread_evenly,
)
from selftrain.pictures import SERIES, UNLABELLED, rasterize

CLASSES = ClassTable(("road", "car"), ((10, 20, 30), (200, 100, 0)))
# What a dichromat sees of linear RGB, after Viénot, Brettel and Mollon (1999); for the few who
# lack blue cones a plane of the same kind.
COLOUR_VISION: dict[str, list[list[float]]] = {
    "usual": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red cones": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "no green cones": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    "no blue cones": [[1, 0.14461, -0.14461], [0, 0.85924, 0.14076], [0, 0.85924, 0.14076]],
}


def seen(colors: NDArray[np.float64], how: str) -> NDArray[np.float64]:
    """Return CIELAB of colours (n, 3), 0..1, as somebody with this vision sees them."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    changed = np.clip(linear @ np.array(COLOUR_VISION[how]).T, 0, 1)
    back = np.where(changed <= 0.0031308, 12.92 * changed, 1.055 * changed ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(back[None].astype(np.float32), cv2.COLOR_RGB2Lab)[0]
    return np.asarray(lab, dtype=np.float64)


@pytest.mark.parametrize("how", COLOUR_VISION)
def test_what_a_comparison_comes_to_is_told_apart_by_every_kind_of_colour_vision(how: str) -> None:
    lab = seen(np.array([*CHANGES, UNLABELLED]) / 255, how)
    for one, other in combinations(lab, 2):
        assert np.linalg.norm(one - other) > 20  # 2 is what an eye can just tell apart


@pytest.mark.parametrize("how", COLOUR_VISION)
def test_the_first_three_series_of_a_plot_are_told_apart_by_every_kind_of_colour_vision(
    how: str,
) -> None:
    rgb = np.array([[int(it[at : at + 2], 16) for at in (1, 3, 5)] for it in SERIES[:3]]) / 255
    for one, other in combinations(seen(rgb, how), 2):
        assert np.linalg.norm(one - other) > 8  # they have marks of their own besides


def test_changes_are_what_the_second_network_makes_of_the_first() -> None:
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    before = np.array([[0, 1, 1, 0, 0]], np.uint8)
    after = np.array([[0, 0, 0, 0, 0]], np.uint8)
    assert find_changes(truth, before, after).tolist() == [[RIGHT, REPAIRED, BROKEN, WRONG, 255]]


def compared(title: str) -> Compared:
    truth = np.zeros((32, 64), np.uint8)
    before = truth.copy()
    before[:, :32] = 1
    return Compared(
        title=title,
        image=np.full((32, 64, 3), 7, np.uint8),
        truth=truth,
        labels={"teacher": before, "student": truth},
    )


def test_a_comparison_has_titles_two_legends_and_the_palette_of_the_data() -> None:
    figure = comparison_figure(
        [compared("a $x^$ b"), compared("second")], CLASSES, before="teacher", after="student"
    )
    *panels, classes, changes = figure.axes
    titles = [axes.get_title() for axes in panels]
    others = ["teacher", "student", "truth", "student against teacher"]
    assert titles == ["a $x^$ b", *others, "second", *others]
    assert [text.get_text() for text in classes.texts] == ["road", "car"]
    marks = ["both right", "student repairs", "student breaks", "both wrong", "no true label"]
    assert [text.get_text() for text in changes.texts] == marks
    shown = [np.asarray(axes.images[0].get_array()) for axes in panels[:5]]
    assert shown[1][0, 0].tolist() == list(CLASSES.colors[1])
    assert shown[3][0, 0].tolist() == list(CLASSES.colors[0])
    assert shown[4][0, 0].tolist() == list(CHANGES[REPAIRED])
    assert shown[4][0, -1].tolist() == list(CHANGES[RIGHT])
    assert rasterize(figure).std() > 1


def test_a_sheet_has_every_picture_under_its_name_and_the_legend() -> None:
    shapes = [(20, 40), (90, 30), (2000, 1000), (30, 40), (1, 1)]
    pictures = [
        (f"folder/straße {at}", np.full((*shape, 3), 50 * at, np.uint8))
        for at, shape in enumerate(shapes)
    ]
    figure = contact_sheet(iter(pictures), CLASSES)
    *panels, legend = figure.axes
    assert [axes.get_title() for axes in panels] == [name for name, _ in pictures]
    assert [text.get_text() for text in legend.texts] == ["road", "car"]
    assert max(np.asarray(axes.images[0].get_array()).shape[1] for axes in panels) <= 384


def test_a_long_name_is_shown_by_its_end_and_what_no_font_has_as_question_marks() -> None:
    name = "x" * 200 + "\x1b/the end"
    figure = contact_sheet([(name, np.zeros((20, 40, 3), np.uint8))], CLASSES)
    assert figure.axes[0].get_title().endswith("x?/the end")
    assert len(figure.axes[0].get_title()) < 60
    assert rasterize(figure).ndim == 3


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(1, 4, [0]), (3, 4, [0, 1, 2]), (4, 4, [0, 1, 2, 3]), (10, 4, [0, 3, 6, 9])],
)
def test_positions_are_spread_evenly_from_first_to_last(
    count: int, most: int, expected: list[int]
) -> None:
    assert spread_evenly(count, most) == expected
