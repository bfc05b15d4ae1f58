import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from selftrain.pictures import (
    colorize,
    confidence_figure,
    confusion_figure,
    encode_jpeg,
    encode_png,
    legend,
    overlay,
    reliability_figure,
    risk_coverage_figure,
    rows_figure,
    shrink,
    side_by_side,
)

COLORS = ((10, 20, 30), (200, 100, 0))
LABEL = np.array([[0, 1], [255, 1]], dtype=np.uint8)
NAMES = [f"class_{i}" for i in range(19)]


def test_ids_have_their_colours_and_255_is_black() -> None:
    assert colorize(LABEL, COLORS).tolist() == [
        [[10, 20, 30], [200, 100, 0]],
        [[0, 0, 0], [200, 100, 0]],
    ]


def test_an_overlay_shows_the_image_where_there_is_no_label() -> None:
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    mixed = overlay(image, LABEL, COLORS, alpha=0.5)
    assert mixed[1, 0].tolist() == [100, 100, 100]
    assert mixed[0, 1].tolist() == [150, 100, 50]
    assert (image == 100).all()


def test_an_overlay_needs_one_size() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(2, 2\)"):
        overlay(np.zeros((3, 2, 3), dtype=np.uint8), LABEL, COLORS)


def test_a_png_holds_rgb_and_gray_as_they_are() -> None:
    picture = colorize(LABEL, COLORS)
    for original in (picture, LABEL):
        data = np.frombuffer(encode_png(original), dtype=np.uint8)
        read = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))
        np.testing.assert_array_equal(read[..., ::-1] if read.ndim == 3 else read, original)


def test_pictures_of_any_size_stand_in_a_row() -> None:
    small = np.zeros((20, 40, 3), dtype=np.uint8)
    large = np.full((40, 60, 3), 7, dtype=np.uint8)
    joined = side_by_side({"small": small, "a title that is far too long": large}, gap=4)
    assert joined.shape == (14 + 40, 80 + 4 + 60, 3)
    assert (joined[14:, :80] == 0).all()
    assert (joined[14:, 80:84] == 255).all()
    assert (joined[14:, 84:] == 7).all()
    assert (joined[:14, 84:] < 128).any()


@pytest.mark.parametrize("classes", [1, 11, 19])
def test_figures_of_any_number_of_classes_can_be_drawn(classes: int) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 10**9, (classes, classes))
    matrix[0] = 0  # a class that the split does not hold
    histogram = rng.integers(0, 10**9, (classes, 32))
    histogram[0] = 0
    names, colors = NAMES[:classes], [COLORS[0]] * classes
    for figure in (
        confusion_figure(matrix, names),
        confidence_figure(histogram, range(0, 256, 8), names),
        legend(names, colors),
    ):
        assert encode_png(figure).startswith(b"\x89PNG")


def test_a_confusion_matrix_shows_percent_of_the_true_class() -> None:
    figure = confusion_figure(np.array([[30, 10], [0, 0]]), ["sky", "road"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["75", "25"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["sky", "road"]


def test_confidences_are_drawn_as_densities() -> None:
    """Bins of 128, 64 and 64 levels with as many pixels each: the first is half as dense."""
    histogram = np.array([[40, 40, 20], [0, 0, 0]])
    figure = confidence_figure(histogram, [0, 128, 192], ["sky", "road"])
    (shown,) = figure.axes[0].images
    densities: NDArray[np.float64] = np.asarray(np.ma.getdata(np.ma.asarray(shown.get_array())))
    np.testing.assert_allclose(densities[0], [40 / 128, 40 / 64, 20 / 64])
    assert np.isnan(densities[1]).all()
    (right,) = figure.axes[0].child_axes
    mean = 0.4 * 64 / 256 + 0.4 * 160 / 256 + 0.2 * 224 / 256
    assert [tick.get_text() for tick in right.get_yticklabels()] == [f"{mean:.2f}", "none"]


def test_a_class_that_was_never_predicted_leaves_a_figure() -> None:
    figure = confidence_figure(np.zeros((1, 2), dtype=np.int64), [0, 128], ["sky"])
    assert encode_png(figure).startswith(b"\x89PNG")


def test_the_reliability_diagram_has_a_bar_for_each_bin() -> None:
    confidence, accuracy = np.array([0.2, np.nan]), np.array([0.4, np.nan])
    upper, lower = reliability_figure(confidence, accuracy, np.array([3, 0])).axes
    boxes = [
        [bar.get_extents().transformed(axes.transData.inverted()) for bar in axes.patches]
        for axes in (upper, lower)
    ]
    np.testing.assert_allclose([box.height for box in boxes[0]], [0.4, 0])
    np.testing.assert_allclose([box.x0 for box in boxes[0]], [0, 0.5])
    np.testing.assert_allclose([box.height for box in boxes[1]], [100, 0])


def test_the_risk_is_drawn_against_what_is_kept_in_percent() -> None:
    coverage, risk = np.array([0.25, 1.0]), np.array([0.0, 0.5])
    (axes,) = risk_coverage_figure(coverage, risk, [("0.9", 0.25, 0.0)]).axes
    x, y = (np.asarray(values).tolist() for values in axes.lines[0].get_data())
    assert (x, y) == ([25, 100], [0, 50])
    assert [text.get_text() for text in axes.texts] == ["0.9"]


def test_pictures_are_made_as_narrow_as_asked_and_never_wider() -> None:
    assert shrink(np.zeros((50, 101, 3), dtype=np.uint8), 40).shape == (20, 40, 3)
    label = np.array([[0, 0, 9, 9]], dtype=np.uint8)
    assert shrink(label, 2).tolist() == [[0, 9]]
    assert shrink(label, 5) is label


def test_a_jpeg_holds_rgb() -> None:
    picture = np.full((8, 8, 3), (200, 30, 60), dtype=np.uint8)
    data = np.frombuffer(encode_jpeg(picture, quality=95), dtype=np.uint8)
    read = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1]
    np.testing.assert_allclose(read, picture, atol=6)


def test_equal_figures_are_equal_files() -> None:
    first, second = (
        encode_png(confusion_figure(np.eye(3, dtype=np.int64), NAMES[:3])) for _ in "ab"
    )
    assert first == second


def test_rows_of_pictures_may_differ_in_length() -> None:
    picture = np.zeros((20, 30, 3), dtype=np.uint8)
    rows = [
        ("teacher", [("image", picture), ("truth", picture)]),
        ("student", [("image", picture)]),
    ]
    figure = rows_figure(rows, legends=[(["a", "b"], COLORS)])
    assert [axes.get_title() for axes in figure.axes] == ["image", "truth", "image", ""]
    assert encode_png(figure).startswith(b"\x89PNG")
