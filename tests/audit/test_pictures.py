"""Images of an audit are chosen by a rule and drawn as they are."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import write_picture

from selftrain.audit.pictures import (
    OF_A_KIND,
    choose_by_confidence,
    confidence_colors,
    draw_errors,
    draw_labels,
)
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample

READER = Reader(ClassTable(("road", "car"), ((0, 255, 0), (0, 0, 255))))


def flat(value: int | tuple[int, int, int]) -> np.ndarray:
    """Return a picture of one colour, so that JPEG keeps it."""
    return np.full((16, 32) if isinstance(value, int) else (16, 32, 3), value, dtype=np.uint8)


def decode(jpeg: bytes) -> np.ndarray:
    """Return a picture as RGB."""
    bgr = cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(bgr)[..., ::-1]


def pixel(jpeg: bytes) -> list[int]:
    """Return the RGB of a pixel in the middle."""
    return [int(channel) for channel in decode(jpeg)[8, 16]]


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    write_picture(tmp_path / "image.png", flat((100, 100, 100)))
    write_picture(tmp_path / "label.png", flat(1))
    write_picture(tmp_path / "confidence.png", flat(255))
    label, confidence = Blob(tmp_path / "label.png"), Blob(tmp_path / "confidence.png")
    return Sample("a", tmp_path / "image.png", label, confidence, is_pseudo=True)


@given(st.lists(st.floats(0, 1), min_size=3 * OF_A_KIND + 1, max_size=60))
def test_lowest_middle_and_highest_are_shown_once_each(confidence: list[float]) -> None:
    chosen = choose_by_confidence(confidence)
    assert [len(some) for some in chosen.values()] == [OF_A_KIND] * 3
    lowest, middle, highest = chosen.values()
    positions = [*lowest, *middle, *highest]
    assert len(set(positions)) == len(positions)
    values = [confidence[at] for at in positions]
    assert values == sorted(values)
    order = sorted(range(len(confidence)), key=lambda at: (confidence[at], at))
    assert positions[:OF_A_KIND] == order[:OF_A_KIND]
    assert positions[-OF_A_KIND:] == order[-OF_A_KIND:]
    below = order.index(middle[0])
    above = len(order) - 1 - order.index(middle[-1])
    assert abs(below - above) <= 1


def test_of_a_few_images_all_are_shown() -> None:
    (some,) = choose_by_confidence([0.9, 0.5, float("nan"), 0.7]).values()
    assert some == [2, 1, 3, 0]


def test_an_image_is_drawn_with_its_label_and_confidence(sample: Sample) -> None:
    shown = draw_labels(sample, READER, "a: confidence 1.000")
    assert shown.caption == "a: confidence 1.000"
    titles, jpegs = zip(*shown.panels, strict=True)
    assert titles == ("image", "pseudo label", "confidence")
    np.testing.assert_allclose(pixel(jpegs[0]), [100, 100, 100], atol=4)
    np.testing.assert_allclose(pixel(jpegs[1]), [50, 50, 178], atol=4)
    np.testing.assert_allclose(pixel(jpegs[2]), confidence_colors()[-1], atol=4)


def test_confidence_is_black_where_there_is_no_label(sample: Sample, tmp_path: Path) -> None:
    write_picture(tmp_path / "label.png", flat(255))
    _, jpeg = draw_labels(sample, READER, "a").panels[2]
    np.testing.assert_allclose(pixel(jpeg), [0, 0, 0], atol=4)


@pytest.mark.parametrize(
    ("true", "expected"), [(1, [100, 100, 100]), (0, [173, 96, 35]), (255, [30, 30, 30])]
)
def test_errors_are_orange_and_missing_labels_dark(
    true: int, expected: list[int], sample: Sample, tmp_path: Path
) -> None:
    write_picture(tmp_path / "true.png", flat(true))
    truth = Sample("a", sample.image, Blob(tmp_path / "true.png"))
    titles, jpegs = zip(*draw_errors(sample, truth, READER, "a").panels, strict=True)
    assert titles == ("image", "pseudo label", "truth", "wrong")
    np.testing.assert_allclose(pixel(jpegs[3]), expected, atol=6)


def test_large_images_are_made_small_for_the_page(sample: Sample, tmp_path: Path) -> None:
    large = {"image": np.zeros((512, 1024, 3)), "label": np.zeros((512, 1024))}
    for name, array in {**large, "confidence": large["label"]}.items():
        write_picture(tmp_path / f"{name}.png", array.astype(np.uint8))
    for _, jpeg in draw_labels(sample, READER, "a").panels:
        assert decode(jpeg).shape == (180, 360, 3)


def test_colours_run_from_no_confidence_to_full() -> None:
    colors = confidence_colors(3)
    assert colors == [(68, 1, 84), (33, 144, 141), (253, 231, 37)]
