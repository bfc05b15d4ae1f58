"""Agreement between a pseudo label and other answers, against the plain formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from selftrain.data.agreement import measure_agreement
from selftrain.labels import IGNORE_INDEX

SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int, *, num_classes: int, judges: int) -> tuple[NDArray[np.uint8], ...]:
    """Return a label with ignored pixels and what judges say, mostly the same."""
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(1, 9)), int(rng.integers(1, 9))
    label = rng.integers(0, num_classes, shape, dtype=np.uint8)
    other = rng.integers(0, num_classes, (judges, *shape), dtype=np.uint8)
    answers = np.where(rng.random((judges, *shape)) < 0.7, label, other).astype(np.uint8)
    label[rng.random(shape) < 0.2] = IGNORE_INDEX
    return label, answers


def plain_miou(label: NDArray[np.uint8], judge: NDArray[np.uint8], num_classes: int) -> float:
    asked = label != IGNORE_INDEX
    ious = []
    for class_id in range(num_classes):
        one, other = (label == class_id) & asked, (judge == class_id) & asked
        if (one | other).any():
            ious.append((one & other).sum() / (one | other).sum())
    return float(np.mean(ious)) if ious else 0.0


@given(SEEDS, st.integers(1, 6), st.integers(1, 3))
def test_agreement_is_the_mean_of_the_judges_mean_ious(
    seed: int, num_classes: int, judges: int
) -> None:
    label, answers = draw(seed, num_classes=num_classes, judges=judges)
    measured, agreed = measure_agreement(label, answers, num_classes=num_classes)
    expected = np.mean([plain_miou(label, judge, num_classes) for judge in answers])
    assert measured == pytest.approx(expected)
    for place in np.ndindex(label.shape):
        everyone = label[place] != IGNORE_INDEX and (answers[(..., *place)] == label[place]).all()
        assert agreed[place] == everyone


@given(SEEDS)
def test_judges_that_say_the_same_agree_fully(seed: int) -> None:
    _, answers = draw(seed, num_classes=4, judges=1)
    measured, agreed = measure_agreement(answers[0], np.repeat(answers, 2, axis=0), num_classes=4)
    assert measured == 1
    assert agreed.all()


@given(SEEDS)
def test_what_is_said_of_ignored_pixels_does_not_matter(seed: int) -> None:
    label, answers = draw(seed, num_classes=4, judges=2)
    other = np.where(label == IGNORE_INDEX, 3 - answers, answers).astype(np.uint8)
    first, second = (measure_agreement(label, it, num_classes=4) for it in (answers, other))
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])


def test_nobody_agrees_where_nothing_is_labelled() -> None:
    label = np.full((2, 3), IGNORE_INDEX, dtype=np.uint8)
    measured, agreed = measure_agreement(label, np.zeros((1, 2, 3), dtype=np.uint8), num_classes=2)
    assert measured == 0
    assert not agreed.any()
