import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from selftrain.data.histogram import count_values

SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)


@given(data=st.data(), shape=SHAPES)
def test_pixels_are_counted_by_their_pair_of_values_where_they_count(
    data: st.DataObject, shape: tuple[int, int]
) -> None:
    first, second = (data.draw(arrays.arrays(np.uint8, shape)) for _ in range(2))
    where = data.draw(arrays.arrays(np.bool_, shape))

    counts = count_values([first, second], [3, 250], where)

    expected = np.zeros((256, 256), np.int64)
    np.add.at(expected, (first[where], second[where]), 1)
    assert (counts == expected[:3, :250]).all()


def test_more_pixels_than_float32_counts_are_counted_exactly() -> None:
    map_ = np.full((4099, 4099), 7, np.uint16)  # more than 2**24
    map_[0, 0] = 300

    counts = count_values([map_], [500])

    assert counts[7] == 4099 * 4099 - 1
    assert counts[300] == 1
