"""Rectangles and figures in upright planes: along the street, or facing the camera."""

from collections.abc import Sequence

import numpy as np

from selftrain.scenery.canvas import Floats

Rectangles = Sequence[tuple[float, float, float, float]] | Floats


def along(x: float, rectangles: Rectangles) -> Floats:
    """Place rectangles (near, far, low, high) in the plane at `x`; returns (M, 4, 3)."""
    if isinstance(rectangles, np.ndarray):
        world = np.full((len(rectangles), 4, 3), x)
        world[:, :, 1:] = rectangles.take((2, 0, 2, 1, 3, 1, 3, 0), axis=1).reshape(-1, 4, 2)
        return world
    # Most are single: for few, lists are several times as fast as numpy's indexing.
    return np.array(
        [
            ((x, low, near), (x, low, far), (x, high, far), (x, high, near))
            for near, far, low, high in rectangles
        ]
    )


def facing(z: float, rectangles: Rectangles) -> Floats:
    """Place rectangles (left, right, low, high) at distance `z`; returns (M, 4, 3)."""
    if isinstance(rectangles, np.ndarray):
        world = np.full((len(rectangles), 4, 3), z)
        world[:, :, :2] = rectangles.take((0, 2, 1, 2, 1, 3, 0, 3), axis=1).reshape(-1, 4, 2)
        return world
    return np.array(
        [
            ((left, low, z), (right, low, z), (right, high, z), (left, high, z))
            for left, right, low, high in rectangles
        ]
    )


def upright(z: float, points: Floats) -> Floats:
    """Stand points (N, 2) = (x, y) at distance `z`; returns (N, 3)."""
    world = np.full((len(points), 3), z)
    world[:, :2] = points
    return world


def row(starts: Floats, wide: float, low: float, high: float) -> Floats:
    """Lay out equal rectangles (M, 4) = (start, start + wide, low, high)."""
    row = np.empty((len(starts), 4))
    row[:, 0] = starts
    row[:, 1] = starts + wide
    row[:, 2], row[:, 3] = low, high
    return row


def grid(
    start: float, end: float, step: float, wide: float, floors: Sequence[float], high: float
) -> Floats:
    """Lay out windows (M, 4) = (start, end, low, high), one row for each floor's height."""
    count = max(int((end - start) / step), 0)
    left = start + (end - start - count * step + step - wide) / 2 + step * np.arange(count)
    grid = np.empty((len(floors), count, 4))
    grid[:, :, 0] = left
    grid[:, :, 1] = left + wide
    grid[:, :, 2] = np.array(floors, np.float64)[:, None]
    grid[:, :, 3] = grid[:, :, 2] + high
    return grid.reshape(-1, 4)
