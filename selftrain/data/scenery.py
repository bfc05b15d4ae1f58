"""What stands along a drawn street: houses, walls, fences, trees, poles, lights and signs.

`side` is -1 for the left and 1 for the right of the street; things grow away from it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from selftrain.data.scenery_canvas import (
    NEAR,
    TOWARDS,
    UP,
    VOID,
    Canvas,
    Color,
    Floats,
    Label,
    between,
    dim,
    disc,
    hsv,
    pick,
)

Rng = np.random.Generator
LIT: Color = (255, 214, 140)
LEAFY: Color = (0.0, 0.5, -0.86)  # foliage takes light from above and from the camera's side


Rectangles = Sequence[tuple[float, float, float, float]] | Floats


def _along(x: float, rectangles: Rectangles) -> Floats:
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


def _facing(z: float, rectangles: Rectangles) -> Floats:
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


def _upright(z: float, points: Floats) -> Floats:
    """Stand points (N, 2) = (x, y) at distance `z`; returns (N, 3)."""
    world = np.full((len(points), 3), z)
    world[:, :2] = points
    return world


def _row(starts: Floats, wide: float, low: float, high: float) -> Floats:
    """Lay out equal rectangles (M, 4) = (start, start + wide, low, high)."""
    row = np.empty((len(starts), 4))
    row[:, 0] = starts
    row[:, 1] = starts + wide
    row[:, 2], row[:, 3] = low, high
    return row


def _grid(
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


def facade_color(rng: Rng, spread: float) -> Color:
    """Draw the colour of a wall of a house: plaster, brick, stone or, by `spread`, anything."""
    if rng.random() < spread:
        return hsv(rng.random(), between(rng, 0.1, 0.6), between(rng, 0.3, 0.9))
    hue = between(rng, 0.0, 0.13)
    return hsv(hue, between(rng, 0.03, 0.5), between(rng, 0.35, 0.92))


def building(
    canvas: Canvas,
    rng: Rng,
    side: int,
    x: float,
    near: float,
    far: float,
    height: float,
    color: Color,
) -> None:
    """Paint a house between `near` and `far` metres ahead, its front in the plane at `x`."""
    near = max(near, NEAR)
    depth = between(rng, 7.0, 11.0)
    outer = x + side * depth
    inward: Color = (-float(side), 0.0, 0.0)
    roof_color = hsv(between(rng, 0.0, 0.1), between(rng, 0.1, 0.6), between(rng, 0.25, 0.5))
    pitched = height < 11 and rng.random() < 0.75
    if pitched:
        ridge = height + between(rng, 2.0, 3.5)
        middle = x + side * depth / 2
        slope = np.array(
            [[x, height, near], [x, height, far], [middle, ridge, far], [middle, ridge, near]]
        )
        canvas.paint(slope, roof_color, Label.BUILDING, (-0.6 * side, 0.8, 0.0))
        gable = np.array([[x, height, near], [middle, ridge, near], [outer, height, near]])
        canvas.paint(gable, color, Label.BUILDING)
    canvas.paint(_facing(near, [(x, outer, 0.0, height)])[0], color, Label.BUILDING)
    canvas.paint(_along(x, [(near, far, 0.0, height)])[0], color, Label.BUILDING, inward)

    if near > 70:
        return  # windows there would be smaller than a pixel
    style = _draw_style(rng, height, color)
    # What lies beside and behind the camera is never seen.
    visible = far - math.floor((far - max(near, 2.0)) / style.step) * style.step
    _fit_out(canvas, rng, partial(_along, x), visible, far, height, style, inward, near > 36)
    if near > NEAR:
        left, right = min(x, outer), max(x, outer)
        _fit_out(
            canvas, rng, partial(_facing, near), left, right, height, style, TOWARDS, near > 36
        )


@dataclass(frozen=True, slots=True)
class _Style:
    """How the windows of one house look; lengths in metres."""

    wide: float
    high: float
    step: float
    floors: list[float]
    """Height of the window sills."""
    shop: bool
    glass: Color
    frame: Color
    door: Color
    awning: Color


def _draw_style(rng: Rng, height: float, color: Color) -> _Style:
    wide, floor, shop = between(rng, 0.8, 1.7), between(rng, 2.9, 3.5), rng.random() < 0.5
    floors = [1.0 + floor * i for i in range(int((height - 0.8) / floor))]
    return _Style(
        wide=wide,
        high=between(rng, 1.3, 2.0),
        step=wide + between(rng, 0.7, 1.7),
        floors=floors[1:] if shop else floors,
        shop=shop,
        glass=hsv(between(rng, 0.5, 0.65), between(rng, 0.05, 0.4), between(rng, 0.15, 0.55)),
        frame=dim(color, pick(rng, (0.7, 1.25))),
        door=dim(color, 0.45),
        awning=hsv(rng.random(), 0.6, 0.7),
    )


_RIM = np.array([-0.12, 0.12, -0.15, 0.12])
"""How far a window's frame reaches beyond the glass, metres."""


def _fit_out(
    canvas: Canvas,
    rng: Rng,
    place: Callable[[Rectangles], Floats],
    start: float,
    end: float,
    height: float,
    style: _Style,
    normal: Color,
    coarse: bool,
) -> None:
    """Paint windows, shops and a cornice on one front; `coarse` leaves out the small parts."""
    windows = _grid(start, end, style.step, style.wide, style.floors, style.high)
    if not coarse:
        rim = windows + _RIM
        canvas.decorate(place(rim), style.frame, normal)
        canvas.decorate(place([(start, end, height - 0.35, height)]), style.frame, normal)
    canvas.decorate(place(windows), style.glass, normal)
    if canvas.light.lamps and len(windows):
        lit = windows[rng.random(len(windows)) < 0.35]
        canvas.decorate(place(lit), LIT, normal, glow=True)
    if style.shop:
        panes = _grid(start, end, 3.2, 2.6, [0.5], 2.0)
        canvas.decorate(place(panes), dim(style.glass, 0.8), normal)
        awning = _grid(start, end, 3.2, 2.9, [2.6], 0.5)
        canvas.decorate(place(awning), style.awning, normal)
    elif not coarse:
        canvas.decorate(place([(end - 2.6, end - 1.5, 0.0, 2.2)]), style.door, normal)


def wall(
    canvas: Canvas,
    rng: Rng,
    side: int,
    x: float,
    near: float,
    far: float,
    height: float,
    color: Color,
) -> None:
    """Paint a free-standing wall along the street: courses, pillars, a coping, no windows."""
    near = max(near, NEAR)
    inward: Color = (-float(side), 0.0, 0.0)
    end = (x, x + side * 0.35, 0.0, height)
    canvas.paint(_facing(near, [end])[0], color, Label.WALL)
    canvas.paint(_along(x, [(near, far, 0.0, height)])[0], color, Label.WALL, inward)
    courses = [(near, far, y, y + 0.05) for y in np.arange(0.4, height - 0.2, 0.4).tolist()]
    canvas.decorate(_along(x, courses), dim(color, 0.68), inward)
    joints = _row(np.arange(math.ceil(near / 3) * 3, far - 0.3, 3.0), 0.35, 0.0, height)
    canvas.decorate(_along(x, joints), dim(color, 0.86), inward)
    canvas.decorate(_along(x, [(near, far, height - 0.16, height)]), dim(color, 1.25), inward)
    if rng.random() < 0.3 and far - near > 4:
        z = between(rng, max(near, 3.0), max(far - 3.0, 3.1))
        tag = _along(x, [(z, z + 2.0, 0.5, 1.2)])
        tag[0, :, 1] += rng.uniform(-0.2, 0.2, 4)
        canvas.decorate(tag, hsv(rng.random(), 0.7, 0.8), inward)


def fence(
    canvas: Canvas,
    rng: Rng,
    x: float,
    near: float,
    far: float,
    height: float,
    color: Color,
    style: str,
) -> None:
    """Paint a fence along the street; what lies behind it shows between its bars.

    Args:
        canvas: What to paint on.
        rng: The scene's generator; it shifts the bars by up to a centimetre.
        x: Plane of the fence.
        near: Metres ahead where it begins.
        far: Metres ahead where it ends.
        height: Metres.
        color: RGB before light.
        style: "pickets" (broad boards), "rods" (thin bars) or "rail" (a crash barrier).
    """
    near = max(near, NEAR)
    side: Color = (-math.copysign(1.0, x), 0.0, 0.0)
    if style == "rail":
        canvas.mark(_along(x, [(near, far, 0.0, 0.85)])[0], Label.FENCE)
        canvas.decorate(_along(x, [(near, far, 0.42, 0.85)]), color, side)
        canvas.decorate(_along(x, [(near, far, 0.58, 0.68)]), dim(color, 0.6), side)
        posts = _row(np.arange(math.ceil(near), far, 2.0), 0.15, 0.0, 0.5)
        canvas.decorate(_along(x, posts), dim(color, 0.7), side)
        return
    canvas.mark(_along(x, [(near, far, 0.0, height)])[0], Label.FENCE)
    wide, step = (0.16, 0.27) if style == "pickets" else (0.06, 0.24)
    first = math.ceil(max(near, 1.6) / step) * step
    starts = np.arange(first, far - wide, step) + between(rng, 0.0, 0.01)
    # Bars beyond this are thinner than a pixel of the largest picture and only cost time.
    starts = starts[starts < 32]
    canvas.decorate(_along(x, _row(starts, wide, 0.0, height)), color, side)
    if far > 32:
        canvas.decorate(_along(x, [(max(near, 32), far, 0.0, height)]), dim(color, 0.9), side)
    rails = [
        (near, far, height * 0.2, height * 0.2 + 0.09),
        (near, far, height * 0.85, height * 0.93),
    ]
    canvas.decorate(_along(x, rails), dim(color, 0.82), side)


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
    end = _facing(near, [(x, x + side * 1.1, 0.0, height * 0.92)])
    canvas.paint(end[0], dim(color, 0.85), Label.VEGETATION)
    canvas.paint(outline, color, Label.VEGETATION, inward)
    canvas.decorate(_along(x, [(near, far, 0.0, 0.2)]), dim(color, 0.5), inward)
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


def tree(canvas: Canvas, rng: Rng, x: float, z: float, height: float, color: Color) -> None:
    """Paint a tree; trunk and crown are both vegetation, as in Cityscapes."""
    trunk = np.array([[x, 0.0, z], [x + between(rng, -0.2, 0.2), height * 0.6, z]])
    canvas.line(trunk, height * 0.04 + 0.08, (82, 66, 52), Label.VEGETATION)
    wide = height * between(rng, 0.22, 0.34)
    if rng.random() < 0.15:
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


def lamp_post(canvas: Canvas, rng: Rng, x: float, z: float, arm: float) -> None:
    """Paint a street lamp with its arm `arm` metres over the road (signed)."""
    height = between(rng, 6.0, 8.5)
    color = hsv(0.4, between(rng, 0.0, 0.25), between(rng, 0.2, 0.6))
    canvas.line(np.array([[x, 0.0, z], [x, height, z]]), 0.22, color, Label.POLE)
    canvas.line(np.array([[x, height, z], [x + arm, height + 0.3, z]]), 0.1, color, Label.POLE)
    head = _facing(z, [(x + arm - 0.35, x + arm + 0.35, height + 0.15, height + 0.4)])
    canvas.paint(head[0], (200, 200, 190), Label.POLE)
    if canvas.light.lamps:
        canvas.decorate(head, LIT, glow=True)


def traffic_light(canvas: Canvas, rng: Rng, x: float, z: float, reach: float) -> None:
    """Paint a pole with dark housings of three lamps; `reach` hangs one over the road."""
    grey = (96.0, 98.0, 100.0)
    canvas.line(np.array([[x, 0.0, z], [x, 3.6 if reach == 0 else 5.6, z]]), 0.16, grey, Label.POLE)
    spots = [(x, 2.3)]
    if reach:
        canvas.line(np.array([[x, 5.5, z], [x + reach, 5.5, z]]), 0.13, grey, Label.POLE)
        spots.append((x + reach, 4.7))
    lit = int(rng.random() * 3)
    lamps = ((80, 245, 130), (255, 190, 40), (250, 50, 40))
    for at, low in spots:
        housing = _facing(z, [(at - 0.28, at + 0.28, low, low + 1.3)])[0]
        canvas.paint(housing, (28, 30, 30), Label.TRAFFIC_LIGHT)
        for i in range(3):
            lamp = _upright(z, disc(8) * 0.17 + (at, low + 0.22 + i * 0.38))
            color: Color = lamps[i] if i == lit else (62, 58, 54)
            canvas.decorate(lamp[None], color, glow=i == lit)


_TRIANGLE = np.array([[-1.0, -0.75], [1.0, -0.75], [0.0, 1.0]])
_SQUARE = np.array([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]])
_ARROW = np.array([[-1.5, -0.55], [1.2, -0.55], [1.7, 0.0], [1.2, 0.55], [-1.5, 0.55]])
_RED: Color = (205, 28, 36)
_WHITE: Color = (242, 242, 240)
_BLUE: Color = (28, 84, 178)
_YELLOW: Color = (246, 200, 30)
SIGNS: tuple[tuple[Floats, Color, Color], ...] = (  # shape, border, centre
    (_TRIANGLE, _RED, _WHITE),
    (-_TRIANGLE, _RED, _WHITE),
    (disc(12), _RED, _WHITE),
    (disc(12), _WHITE, _BLUE),
    (disc(12), _WHITE, _RED),
    (_SQUARE, _WHITE, _BLUE),
    (_SQUARE[:, ::-1] @ np.array([[0.75, -0.75], [0.75, 0.75]]), _WHITE, _YELLOW),
    (_ARROW, (30, 30, 30), _YELLOW),
    (_ARROW, _WHITE, (24, 120, 70)),
)


def sign(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """Paint one or two road signs on a thin post."""
    top = between(rng, 2.3, 3.2)
    canvas.line(np.array([[x, 0.0, z], [x, top, z]]), 0.09, (128, 130, 132), Label.POLE)
    size = between(rng, 0.38, 0.55)
    for low in (top, top - 1.15)[: 1 + (rng.random() < 0.35)]:
        shape, border, middle = pick(rng, SIGNS)
        outer = _upright(z, shape * size + (x, low))
        canvas.paint(outer, border, Label.TRAFFIC_SIGN)
        center = outer.mean(axis=0)
        inner = center + (outer - center) * 0.66
        canvas.decorate(inner[None], middle)
        mark = _facing(z, [(x - size * 0.3, x + size * 0.3, low - size * 0.12, low + size * 0.12)])
        canvas.decorate(mark, (40, 40, 44))


def clutter(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """Paint something that has no class: a bin, a box, a bollard. Its label is void."""
    wide, high = between(rng, 0.25, 0.6), between(rng, 0.6, 1.2)
    color = hsv(rng.random(), between(rng, 0.1, 0.8), between(rng, 0.2, 0.7))
    canvas.paint(_facing(z, [(x - wide / 2, x + wide / 2, 0.0, high)])[0], color, VOID)
    lid = _facing(z, [(x - wide / 2, x + wide / 2, high * 0.82, high)])
    canvas.decorate(lid, dim(color, 0.6), UP)
