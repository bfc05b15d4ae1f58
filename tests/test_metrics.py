import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from selftrain.metrics import EXACT_IN_FLOAT32, ConfusionMatrix

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@st.composite
def pairs(draw: st.DrawFn, num_classes: int) -> Pair:
    shape = draw(st_numpy.array_shapes(min_dims=1, max_dims=3, max_side=6))
    classes = st.integers(0, num_classes - 1)
    labels = draw(st_numpy.arrays(np.uint8, shape, elements=classes | st.just(255)))
    return labels, draw(st_numpy.arrays(np.uint8, shape, elements=classes))


def draw_frame() -> Pair:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 19, (60, 80), dtype=np.uint8)
    predictions = np.where(rng.random(labels.shape) < 0.2, rng.integers(0, 19), labels)
    labels[50:] = 255
    return labels, predictions.astype(np.uint8)


def count_slowly(
    num_classes: int, labels: NDArray[np.uint8], predictions: NDArray[np.uint8]
) -> list[list[int]]:
    counts = [[0] * num_classes for _ in range(num_classes)]
    for label, prediction in zip(
        labels.ravel().tolist(), predictions.ravel().tolist(), strict=True
    ):
        if label != 255:
            counts[label][prediction] += 1
    return counts


def miou_slowly(counts: list[list[int]]) -> float:
    ious = []
    for k, row in enumerate(counts):
        union = sum(row) + sum(other[k] for other in counts) - row[k]
        if union:
            ious.append(row[k] / union)
    return sum(ious) / len(ious) if ious else math.nan


def count(num_classes: int, *updates: Pair) -> ConfusionMatrix:
    confusion = ConfusionMatrix(num_classes)
    for labels, predictions in updates:
        confusion.update(labels, predictions)
    return confusion


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from([1, 2, 3, 19, 254, 255]))
def test_counts_and_miou_equal_the_slow_reference(data: st.DataObject, num_classes: int) -> None:
    pair = data.draw(pairs(num_classes))
    confusion = count(num_classes, pair)
    expected = count_slowly(num_classes, *pair)
    assert confusion.matrix.dtype == np.int64
    assert confusion.matrix.tolist() == expected
    assert confusion.miou() == pytest.approx(miou_slowly(expected), nan_ok=True)
    total = sum(map(sum, expected))
    right = sum(expected[k][k] for k in range(num_classes))
    assert confusion.accuracy() == pytest.approx(right / total if total else math.nan, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(pairs(4), pairs(4))
def test_merging_equals_counting_everything_at_once(first: Pair, second: Pair) -> None:
    together = count(4, first, second)
    merged = count(4, first)
    merged.merge(count(4, second))
    assert np.array_equal(merged.matrix, together.matrix)
    assert np.array_equal((count(4, first) + count(4, second)).matrix, together.matrix)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from([2, 19, 255]), st.sampled_from(["uint8", "int64", "int32"]))
def test_tensors_count_as_arrays_do(data: st.DataObject, num_classes: int, dtype: str) -> None:
    labels, predictions = data.draw(pairs(num_classes))
    confusion = ConfusionMatrix(num_classes)
    confusion.update(
        torch.from_numpy(labels).to(getattr(torch, dtype)),
        torch.from_numpy(predictions).to(getattr(torch, dtype)),
    )
    assert np.array_equal(confusion.matrix, count(num_classes, (labels, predictions)).matrix)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_counts_without_waiting() -> None:
    labels, predictions = draw_frame()
    on_device = torch.from_numpy(labels).cuda(), torch.from_numpy(predictions).cuda()
    confusion = ConfusionMatrix(19)
    torch.cuda.set_sync_debug_mode("error")
    try:
        confusion.update(*on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.array_equal(confusion.matrix, count(19, (labels, predictions)).matrix)


def test_counts_beyond_float32_are_exact() -> None:
    size = EXACT_IN_FLOAT32 + 3
    labels, predictions = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    labels[-1] = 1
    assert count(2, (labels, predictions)).matrix.tolist() == [[size - 1, 0], [1, 0]]


def test_counting_goes_on_outside_inference_mode() -> None:
    confusion, zeros = ConfusionMatrix(2), torch.zeros(3, dtype=torch.int64)
    with torch.inference_mode():
        confusion.update(zeros.clone(), zeros.clone())
    confusion.update(zeros, zeros)
    assert confusion.matrix.tolist() == [[6, 0], [0, 0]]


def test_strided_views_count_as_their_copies() -> None:
    labels, predictions = draw_frame()
    views = labels[::3, ::5], predictions[::3, ::5]
    copies = views[0].copy(), views[1].copy()
    assert np.array_equal(count(19, views).matrix, count(19, copies).matrix)


def test_inputs_are_not_changed() -> None:
    labels, predictions = np.array([[0, 255]], np.uint8), np.array([[1, 1]], np.uint8)
    count(2, (labels, predictions))
    assert labels.tolist() == [[0, 255]]
    assert predictions.tolist() == [[1, 1]]


def test_a_class_that_neither_occurs_nor_is_predicted_is_left_out() -> None:
    confusion = count(3, (np.array([0, 0, 1], np.uint8), np.array([0, 0, 0], np.uint8)))
    np.testing.assert_array_equal(confusion.iou(), [2 / 3, 0, np.nan])
    assert confusion.miou() == pytest.approx(1 / 3)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    confusion = count(2, (np.array([0, 0], np.uint8), np.array([0, 1], np.uint8)))
    np.testing.assert_array_equal(confusion.iou(), [0.5, 0])
    assert confusion.miou() == 0.25


def test_nothing_counted_has_no_score() -> None:
    confusion = count(3, (np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8)))
    assert math.isnan(confusion.miou())
    assert math.isnan(confusion.accuracy())
    assert np.isnan(confusion.iou()).all()


def test_the_matrix_survives_a_round_trip() -> None:
    confusion = count(19, draw_frame())
    confusion.matrix[:] = 0
    again = ConfusionMatrix.from_matrix(confusion.matrix)
    assert again.miou() == confusion.miou() > 0


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0, 3], "3"),
        ([0, 255], [0, 255], "255"),
        ([0, 7], [0, 1], "7"),
        ([0, 254], [0, 1], "254"),
    ],
)
def test_values_out_of_range_are_refused(
    labels: list[int], predictions: list[int], message: str
) -> None:
    confusion = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=message):
        confusion.update(np.array(labels, np.uint8), np.array(predictions, np.uint8))
    assert not confusion.matrix.any()
    confusion.update(torch.tensor(labels), torch.tensor(predictions))
    with pytest.raises(ValueError, match="1 pixels"):
        confusion.miou()


def test_negative_tensors_are_refused() -> None:
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([0, -1, 0]), torch.tensor([-1, 0, 0]))
    with pytest.raises(ValueError, match="2 pixels"):
        confusion.miou()


def test_mismatched_inputs_are_refused() -> None:
    confusion, zeros = ConfusionMatrix(3), np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="differ"):
        confusion.update(zeros, zeros[:1])
    with pytest.raises(ValueError, match="int64"):
        confusion.update(zeros.astype(np.int64), zeros)
    with pytest.raises(ValueError, match="both"):
        confusion.update(zeros, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="4 classes"):
        confusion.merge(ConfusionMatrix(4))
    with pytest.raises(ValueError, match="256"):
        ConfusionMatrix(256)
    with pytest.raises(ValueError, match="square"):
        ConfusionMatrix.from_matrix(np.zeros((2, 3), np.int64))
