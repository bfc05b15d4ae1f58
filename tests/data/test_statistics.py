"""Class frequencies in real and in pseudo labels."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.data.statistics import count_label, count_pixels, frequency_table

NAMES = ("road", "car", "bus")
READER = Reader(ClassTable(NAMES, ((1, 1, 1), (2, 2, 2), (3, 3, 3))))


def test_pixels_are_counted_over_all_samples_and_255_is_not(tmp_path: Path) -> None:
    samples = []
    for i, ids in enumerate([[[0, 0, 2], [255, 0, 2]], [[1, 0, 255]]]):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), np.array(ids, dtype=np.uint8))
        samples.append(Sample(str(i), tmp_path / "none.png", Blob(path)))
    assert count_pixels(samples, READER).tolist() == [4, 1, 2]
    assert count_pixels([], READER).tolist() == [0, 0, 0]


@given(
    st_numpy.arrays(np.uint8, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=40)),
    st.integers(1, 256),
)
def test_a_label_is_counted_class_by_class(label: NDArray[np.uint8], num_classes: int) -> None:
    expected = [(label == c).sum() for c in range(num_classes)]
    assert count_label(label, num_classes).tolist() == expected


def test_a_large_label_is_counted_to_the_pixel() -> None:
    label = np.zeros((4097, 4099), dtype=np.uint8)  # more than a float32 counts one by one
    label[0, 0] = 1
    assert count_label(label, 2).tolist() == [label.size - 1, 1]


def test_imbalance_counts_against_the_most_frequent_real_class() -> None:
    table = frequency_table(NAMES, np.array([360, 1, 0]), np.array([2000, 2, 1]))
    assert table["class"].tolist() == list(NAMES)
    assert table["real road:class"].tolist()[:2] == [1, 360]
    assert np.isnan(table["real road:class"].iloc[2])
    assert table["pseudo road:class"].tolist() == [1, 1000, 2000]


COUNTS = st_numpy.arrays(np.int64, 3, elements=st.integers(0, 10**12))


@given(real=COUNTS, pseudo=COUNTS)
def test_shares_are_percentages(real: NDArray[np.int64], pseudo: NDArray[np.int64]) -> None:
    table = frequency_table(NAMES, real, pseudo)
    for name, counts in [("real %", real), ("pseudo %", pseudo)]:
        assert table[name].sum() == pytest.approx(100 if counts.any() else 0)
