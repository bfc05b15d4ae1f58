"""Calibration error, reliability and risk against closed cases and slow references."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from selftrain.audit.calibration import (
    ECE_BINS,
    LEVELS,
    LevelCounts,
    area_under_risk,
    level_confidence,
    reliability,
    risk_coverage,
)

Counts = NDArray[np.int64]
NOTHING = np.zeros(LEVELS, dtype=np.int64)

counts = st_numpy.arrays(np.int64, LEVELS, elements=st.integers(0, 9), fill=st.just(0))


def at(level: int, pixels: int) -> Counts:
    """Return so many pixels at one level."""
    found = NOTHING.copy()
    found[level] = pixels
    return found


def maps(**values: list[int]) -> list[NDArray[np.uint8]]:
    """Return maps of one row."""
    return [np.array([row], dtype=np.uint8) for row in values.values()]


def test_a_perfectly_calibrated_map_has_no_error() -> None:
    pixels = 1000 * 510
    confidence = level_confidence()
    right = np.rint(pixels * confidence).astype(np.int64)
    found = reliability(right, pixels - right)
    assert found.error() == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(found.accuracy, found.confidence)


def test_a_confidence_of_0_9_that_is_right_half_the_time_is_0_4_off() -> None:
    level = math.floor(0.9 * 255)  # as the labelling rounds
    assert reliability(at(level, 50), at(level, 50)).error() == pytest.approx(0.4)


def test_gaps_of_both_signs_do_not_cancel() -> None:
    """Half the pixels are 0.1 too sure and half 0.1 not sure enough: on average they are right."""
    right = at(229, 80) + at(178, 80)  # 0.9 and 0.7
    wrong = at(229, 20) + at(178, 20)
    assert reliability(right, wrong).error() == pytest.approx(0.1)


def test_bins_are_equal_and_the_last_has_full_confidence_too() -> None:
    found = reliability(np.ones(LEVELS, dtype=np.int64), NOTHING)
    assert found.pixels.tolist() == [17] * (ECE_BINS - 1) + [18]
    middles = (np.arange(ECE_BINS) + 0.5) / ECE_BINS
    np.testing.assert_allclose(found.confidence[:-1], middles[:-1])
    assert middles[-1] < found.confidence[-1] < 1
    assert level_confidence()[[0, 255]].tolist() == [pytest.approx(0.5 / 255), 1.0]


@settings(max_examples=50, deadline=None)
@given(counts, counts)
def test_the_error_equals_the_slow_reference(right: Counts, wrong: Counts) -> None:
    bins: dict[int, list[tuple[float, int]]] = {}
    for level in range(LEVELS):
        confidence = min((level + 0.5) / 255, 1.0)
        pixels = [(confidence, 1)] * int(right[level]) + [(confidence, 0)] * int(wrong[level])
        bins.setdefault(min(int(confidence * 15), 14), []).extend(pixels)
    total = sum(map(len, bins.values()))
    gaps = [abs(sum(c for c, _ in some) - sum(r for _, r in some)) for some in bins.values()]
    expected = sum(gaps) / total if total else math.nan
    assert reliability(right, wrong).error() == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(counts, counts)
def test_the_area_is_the_mean_risk_among_those_at_least_as_confident(
    right: Counts, wrong: Counts
) -> None:
    pixels = [(level, 0) for level in range(LEVELS) for _ in range(int(right[level]))]
    pixels += [(level, 1) for level in range(LEVELS) for _ in range(int(wrong[level]))]
    risks = {}
    for level in {level for level, _ in pixels}:
        kept = [is_wrong for other, is_wrong in pixels if other >= level]
        risks[level] = sum(kept) / len(kept)
    expected = sum(risks[level] for level, _ in pixels) / len(pixels) if pixels else math.nan
    area = area_under_risk(*risk_coverage(right, wrong))
    assert area == pytest.approx(expected, nan_ok=True)


@given(counts, counts)
def test_coverage_rises_to_everything_and_the_last_risk_is_the_error(
    right: Counts, wrong: Counts
) -> None:
    coverage, risk = risk_coverage(right, wrong)
    total = int((right + wrong).sum())
    assert len(coverage) == len(risk) == np.count_nonzero(right + wrong)
    assert (np.diff(coverage) > 0).all()
    if total:
        assert coverage[-1] == 1
        assert risk[-1] == pytest.approx(wrong.sum() / total)


def test_a_confidence_that_says_nothing_has_the_error_as_its_area() -> None:
    level = np.arange(LEVELS)
    assert area_under_risk(*risk_coverage(3 * (level + 1), level + 1)) == pytest.approx(0.25)


def test_a_confidence_that_tells_right_from_wrong_has_the_least_area() -> None:
    sorted_out = area_under_risk(*risk_coverage(at(200, 75), at(100, 25)))
    turned_round = area_under_risk(*risk_coverage(at(100, 75), at(200, 25)))
    assert sorted_out == pytest.approx(0.25 * 0.25)
    assert turned_round == pytest.approx(0.25 * 1 + 0.75 * 0.25)


def test_nothing_has_neither_calibration_nor_risk() -> None:
    assert math.isnan(reliability(NOTHING, NOTHING).error())
    assert math.isnan(area_under_risk(*risk_coverage(NOTHING, NOTHING)))


def test_pixels_are_counted_under_the_class_they_were_called() -> None:
    levels = LevelCounts(2)
    levels.update(*maps(truth=[0, 1, 1, 0], label=[0, 0, 1, 1], confidence=[9, 9, 255, 0]))
    assert levels.right[0, 9] == levels.wrong[0, 9] == 1
    assert levels.right[1, 255] == levels.wrong[1, 0] == 1
    assert levels.right.sum() + levels.wrong.sum() == 4


@pytest.mark.parametrize("classes", [1, 2, 255])
def test_pixels_that_a_map_ignores_are_not_counted(classes: int) -> None:
    levels = LevelCounts(classes)
    last = classes - 1
    levels.update(
        *maps(truth=[255, last, 255, last], label=[last, 255, 255, last], confidence=[7] * 4)
    )
    assert levels.right.sum() == levels.right[last, 7] == 1
    assert levels.wrong.sum() == 0


def test_counts_of_two_halves_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    truth, label, confidence = rng.integers(0, 3, (3, 30, 40), dtype=np.uint8)
    whole, halves = LevelCounts(3), LevelCounts(3)
    whole.update(truth, label, confidence)
    for rows in (slice(0, 13), slice(13, 30)):
        half = LevelCounts(3)
        half.update(truth[rows], label[rows], confidence[rows])
        halves.merge(half)
    np.testing.assert_array_equal(halves.right, whole.right)
    np.testing.assert_array_equal(halves.wrong, whole.wrong)


def test_a_threshold_for_each_class_keeps_its_levels_and_those_above() -> None:
    levels = LevelCounts(2)
    levels.right[0] = at(100, 3) + at(99, 5)
    levels.wrong[1] = at(255, 2) + at(0, 4)
    assert levels.kept((0, 0)) == (8, 6)
    assert levels.kept((100, 1)) == (3, 2)
    assert levels.kept((256, 256)) == (0, 0)


@given(st.integers(0, 256), st.integers(0, 256), counts, counts)
def test_a_higher_threshold_never_keeps_more(
    one: int, other: int, right: Counts, wrong: Counts
) -> None:
    levels = LevelCounts(1)
    levels.right[0], levels.wrong[0] = right, wrong
    low, high = sorted((one, other))
    more, less = levels.kept((low,)), levels.kept((high,))
    assert more[0] >= less[0]
    assert more[1] >= less[1]
