"""Windows cover an axis, and what they are weighted with adds up to one."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from selftrain.windows import add_window, row_chunks, window_starts, window_taps

CPU = torch.device("cpu")
LENGTHS = st.integers(1, 300)
SIDES = st.integers(1, 200)
OVERLAPS = st.floats(0, 0.99)


@given(LENGTHS, SIDES, OVERLAPS)
def test_windows_cover_the_axis_and_stay_on_it(length: int, side: int, overlap: float) -> None:
    starts = window_starts(length, side, overlap)
    side = min(side, length)
    covered = {place for start in starts for place in range(start, start + side)}
    assert covered == set(range(length))
    assert starts == sorted(set(starts))


@given(LENGTHS, SIDES, OVERLAPS)
def test_neighbours_share_what_they_should_or_more(length: int, side: int, overlap: float) -> None:
    starts = window_starts(length, side, overlap)
    for one, other in pairwise(starts):
        assert one + side - other >= min(side - 1, side * overlap - 0.5)


@pytest.mark.parametrize(
    ("length", "side", "overlap", "expected"),
    [
        (100, 100, 0.5, [0]),
        (99, 100, 0.5, [0]),
        (101, 100, 0.5, [0, 1]),
        (2048, 800, 1 / 3, [0, 533, 1066, 1248]),
        (200, 100, 0.0, [0, 100]),
        (250, 100, 0.0, [0, 100, 150]),
        (35, 32, 0.999, [0, 1, 2, 3]),
    ],
)
def test_the_last_window_is_shifted_in(
    length: int, side: int, overlap: float, expected: list[int]
) -> None:
    assert window_starts(length, side, overlap) == expected


@given(LENGTHS, SIDES, OVERLAPS, st.integers(1, 300))
def test_a_constant_map_stays_constant_through_any_windows(
    length: int, side: int, overlap: float, target: int
) -> None:
    starts = window_starts(length, side, overlap)
    side = min(side, length)
    total = torch.zeros(1, 1, 1, target)
    once = window_taps([0], 1, length=1, target=1, device=CPU)[0]
    for columns in window_taps(starts, side, length=length, target=target, device=CPU):
        add_window(total, torch.ones(1, 1, 1, side), once, columns)
    torch.testing.assert_close(total, torch.ones_like(total))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), OVERLAPS)
def test_windows_that_agree_give_the_resized_map(
    length: int, target: int, side: int, overlap: float
) -> None:
    whole = torch.rand(2, 3, 5, length, generator=torch.Generator().manual_seed(0))
    side = min(side, length)
    starts = window_starts(length, side, overlap)
    total = torch.zeros(2, 3, 5, target)
    rows = window_taps([0], 5, length=5, target=5, device=CPU)[0]
    taps = window_taps(starts, side, length=length, target=target, device=CPU)
    for start, columns in zip(starts, taps, strict=True):
        add_window(total, whole[..., start : start + side], rows, columns)
    expected = F.interpolate(whole, size=(5, target), mode="bilinear")
    torch.testing.assert_close(total, expected, atol=1e-5, rtol=0)


def test_chunks_cover_the_rows_and_stay_small() -> None:
    chunks = list(row_chunks(1, 19, 2048, 4096))
    assert [row for chunk in chunks for row in range(2048)[chunk]] == list(range(2048))
    assert max(chunk.stop - chunk.start for chunk in chunks) * 19 * 4096 <= 2**23
    assert list(row_chunks(8, 1000, 2, 4096)) == [slice(0, 1), slice(1, 2)]
