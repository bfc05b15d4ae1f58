"""The plants along a drawn street: foliage, hedges and trees."""

import math
from collections.abc import Sequence

import numpy as np

from selftrain.scenery.canvas import (
    NEAR,
    Canvas,
    Color,
    Label,
    between,
    dim,
    disc,
    hsv,
)
from selftrain.scenery.planes import along, facing
from selftrain.scenery.style import Rng, Trees

LEAFY: Color = (0.0, 0.5, -0.86)  # foliage takes light from above and from the camera's side


def foliage(
    canvas: Canvas,
    rng: Rng,
    centers: Sequence[tuple[float, float]],
    z: float,
    radii: tuple[float, float],
    color: Color,
    clumps: int = 5,
) -> None:
    """Paint ragged lobes around the `centers` (x, y), with shaded and sunlit clumps on each.

    Args:
        canvas: What to paint on.
        rng: The scene's generator.
        centers: Of the lobes, which are painted in this order.
        z: Distance of all of them.
        radii: Half the width and half the height of a lobe, metres.
        color: RGB before light.
        clumps: In the shade, and as many in the sun, on each lobe.
    """
    count = len(centers)
    # All lobes at once: on so few points a call of numpy takes as long as on three times as many.
    draws = rng.random((count, 18 + 6 * clumps))
    reach = 1.2 * radii[0]
    if not canvas.shows(min(centers)[0] - reach, max(centers)[0] + reach, z):
        return
    middles, scale = np.array(centers)[:, None], np.array(radii)
    outlines = np.full((count, 18, 3), z)
    outlines[:, :, :2] = disc(18) * (0.82 + 0.3 * draws[:, :18, None]) * scale + middles
    np.maximum(outlines[:, :, 1], 0.0, out=outlines[:, :, 1])
    light = canvas.light
    seen = light.on(color, LEAFY, z)
    if clumps == 0:
        for outline in outlines:
            canvas.record(outline, seen, Label.VEGETATION)
        return
    # The lower half lies in the shade; what looks to the sun is brighter.
    spots = draws[:, 18:].reshape(count, 2, clumps, 1, 3)
    shifts = _CLUMP_SHIFTS if light.direction[0] > 0 else _CLUMP_SHIFTS * (-1.0, 1.0)
    patches = (spots[..., :2] - 0.5 + shifts) + disc(6) * (0.16 + 0.18 * spots[..., 2:])
    world = np.full((count, 2, clumps, 6, 3), z)
    world[..., :2] = patches * scale + middles[:, :, None, None]
    np.maximum(world[..., 1], 0.05, out=world[..., 1])
    shaded, sunlit = (light.on(dim(color, shade), LEAFY, z) for shade in (0.62, 1.3))
    for outline, (low, high) in zip(outlines, world, strict=True):
        canvas.record(outline, seen, Label.VEGETATION)
        canvas.record_many(low, shaded)
        canvas.record_many(high, sunlit)


_CLUMP_SHIFTS = np.array([[-0.3, -0.3], [0.3, 0.3]]).reshape(2, 1, 1, 2)
"""Mean places (right, up) of the clumps in the shade and in a sun from the right, in radii."""


def hedge(
    canvas: Canvas,
    rng: Rng,
    side: int,
    x: float,
    near: float,
    far: float,
    height: float,
    color: Color,
) -> None:
    """Paint a hedge along the street: a ragged top, clumps of light and shade, a dark foot."""
    near = max(near, NEAR)
    inward: Color = (-0.7 * side, 0.3, -0.6)
    z = np.linspace(near, far, 16)
    outline = np.full((18, 3), x)
    outline[:16, 1] = height * (0.85 + 0.25 * rng.random(16))
    outline[:16, 2] = z
    outline[16:, 1] = 0.0
    outline[16:, 2] = (far, near)
    end = facing(near, [(x, x + side * 1.1, 0.0, height * 0.92)])
    canvas.paint(end[0], dim(color, 0.85), Label.VEGETATION)
    canvas.paint(outline, color, Label.VEGETATION, inward)
    canvas.decorate(along(x, [(near, far, 0.0, 0.2)]), dim(color, 0.5), inward)
    if near > 45:
        return
    lobes = disc(6)
    for shade, low in ((0.65, 0.2), (1.3, 0.55)):
        spots = rng.random((9, 3))
        clumps = np.full((9, 6, 3), x)
        clumps[:, :, 2] = np.linspace(near, far - 1.0, 9)[:, None] + (
            spots[:, :1] + (0.2 + 0.3 * spots[:, 1:2]) * lobes[:, 0]
        )
        clumps[:, :, 1] = height * (low + 0.25 * spots[:, 2:] + 0.16 * lobes[:, 1])
        canvas.decorate(clumps, dim(color, shade), inward)


def tree(
    canvas: Canvas, rng: Rng, x: float, z: float, height: float, color: Color, trees: Trees
) -> None:
    """Paint a tree; trunk and crown are both vegetation, as in Cityscapes."""
    lean, wide, kind = between(rng, -0.2, 0.2), height * between(rng, 0.22, 0.34), rng.random()
    if trees.conifers <= kind < trees.conifers + trees.palms:
        _palm(canvas, rng, (x, x + 2 * lean), z, height)
        return
    trunk = np.array([[x, 0.0, z], [x + lean, height * 0.6, z]])
    canvas.line(trunk, height * 0.04 + 0.08, (82, 66, 52), Label.VEGETATION)
    if kind < trees.conifers:
        _conifer(canvas, rng, x, z, wide * 0.8, height, dim(color, 0.7))
        return
    if z > 20:
        radii = (wide * 1.1, height * 0.3)
        foliage(canvas, rng, [(x, height * 0.72)], z, radii, color, 4 if z < 45 else 0)
        return
    lobes = ((-0.45, -0.1), (0.45, -0.05), (0.0, 0.12))
    centers = [(x + dx * wide, height * (0.7 + dy)) for dx, dy in lobes]
    foliage(canvas, rng, centers, z, (wide * 0.75, height * 0.22), color)


def _conifer(
    canvas: Canvas, rng: Rng, x: float, z: float, wide: float, height: float, color: Color
) -> None:
    """Paint tiers of boughs, each darker at its hem."""
    tiers = np.linspace(0.1, 0.8, 6 if z < 18 else 3) * height
    for low in tiers.tolist():
        half = wide * (1.05 - low / height) * between(rng, 0.85, 1.15)
        hem = np.linspace(-half, half, 7)
        tier = np.full((8, 3), z)
        tier[:7, 0] = x + hem
        tier[:7, 1] = low + height * 0.05 * rng.random(7)
        tier[7, :2] = (x, low + 1.3 / len(tiers) * height)
        canvas.paint(tier, color, Label.VEGETATION, LEAFY)
        hem_shade = np.concatenate([tier[:7], tier[6::-1] + np.array([0.0, 0.05 * height, 0.0])])
        canvas.decorate(hem_shade[None], dim(color, 0.62), LEAFY)


def _palm(canvas: Canvas, rng: Rng, x: tuple[float, float], z: float, height: float) -> None:
    """Paint a long trunk from x[0] to x[1] and fronds that hang over at their ends."""
    top = (x[1], height)
    trunk = np.array([[x[0], 0.0, z], [*top, z]])
    canvas.line(trunk, 0.24, (132, 112, 90), Label.VEGETATION)
    color = hsv(between(rng, 0.19, 0.33), between(rng, 0.35, 0.65), between(rng, 0.25, 0.5))
    count = 9 if z < 30 else 6
    angle = np.linspace(-0.5, math.pi + 0.5, count) + 0.25 * (rng.random(count) - 0.5)
    long = height * 0.14 + 1.0 + 0.5 * rng.random(count)
    for i, (way, reach) in enumerate(zip(angle.tolist(), long.tolist(), strict=True)):
        right, up = math.cos(way) * reach, math.sin(way) * reach * 0.5
        drop = 0.3 * reach
        blade = [
            top,
            (top[0] + 0.5 * right - 0.16, top[1] + up + 0.16),
            (top[0] + right, top[1] + up - drop),
            (top[0] + 0.5 * right + 0.1, top[1] + up - 0.22),
        ]
        frond = np.full((4, 3), z)
        frond[:, :2] = blade
        canvas.paint(frond, dim(color, (0.75, 1.0, 1.2)[i % 3]), Label.VEGETATION, LEAFY)
