"""Counts of the values in maps."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.uint8] | NDArray[np.uint16]

_EXACT = 2**24
"""Pixels that OpenCV's histogram counts exactly."""


def count_values(
    maps: Sequence[Map], sizes: Sequence[int], where: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Count pixels by their values in maps of one shape.

    Args:
        maps: (H, W) each, of one type.
        sizes: For each map, how many values are counted, from 0; larger ones are left out.
        where: (H, W), the pixels that count; None: all.

    Returns:
        As many axes as maps, of these sizes.
    """
    # OpenCV counts in a fifth of np.bincount's time and without the interpreter's lock, but into
    # float32, which is exact up to 2^24: in strips.
    height, width = maps[0].shape
    ranges = [edge for size in sizes for edge in (0, size)]
    total = np.zeros(sizes, dtype=np.int64)
    rows = max(1, _EXACT // max(width, 1))
    for top in range(0, height, rows):
        strips = [array[top : top + rows] for array in maps]
        mask = None if where is None else where[top : top + rows].view(np.uint8)
        counts = cv2.calcHist(strips, list(range(len(maps))), mask, list(sizes), ranges)
        total += counts.reshape(sizes).astype(np.int64)
    return total
