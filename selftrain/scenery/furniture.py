"""What people put up along a drawn street: walls, fences, lamps, lights and signs.

`side` is -1 for the left and 1 for the right of the street; things grow away from it.
"""

import math

import numpy as np

from selftrain.scenery.canvas import (
    NEAR,
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
from selftrain.scenery.planes import along, facing, row, upright
from selftrain.scenery.style import LIT, Rng


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
    canvas.paint(facing(near, [end])[0], color, Label.WALL)
    canvas.paint(along(x, [(near, far, 0.0, height)])[0], color, Label.WALL, inward)
    courses = [(near, far, y, y + 0.05) for y in np.arange(0.4, height - 0.2, 0.4).tolist()]
    canvas.decorate(along(x, courses), dim(color, 0.68), inward)
    joints = row(np.arange(math.ceil(near / 3) * 3, far - 0.3, 3.0), 0.35, 0.0, height)
    canvas.decorate(along(x, joints), dim(color, 0.86), inward)
    canvas.decorate(along(x, [(near, far, height - 0.16, height)]), dim(color, 1.25), inward)
    if rng.random() < 0.3 and far - near > 4:
        z = between(rng, max(near, 3.0), max(far - 3.0, 3.1))
        tag = along(x, [(z, z + 2.0, 0.5, 1.2)])
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
        canvas.mark(along(x, [(near, far, 0.0, 0.85)])[0], Label.FENCE)
        canvas.decorate(along(x, [(near, far, 0.42, 0.85)]), color, side)
        canvas.decorate(along(x, [(near, far, 0.58, 0.68)]), dim(color, 0.6), side)
        posts = row(np.arange(math.ceil(near), far, 2.0), 0.15, 0.0, 0.5)
        canvas.decorate(along(x, posts), dim(color, 0.7), side)
        return
    canvas.mark(along(x, [(near, far, 0.0, height)])[0], Label.FENCE)
    wide, step = (0.16, 0.27) if style == "pickets" else (0.06, 0.24)
    first = math.ceil(max(near, 1.6) / step) * step
    starts = np.arange(first, far - wide, step) + between(rng, 0.0, 0.01)
    # Bars beyond this are thinner than a pixel of the largest picture and only cost time.
    starts = starts[starts < 32]
    canvas.decorate(along(x, row(starts, wide, 0.0, height)), color, side)
    if far > 32:
        canvas.decorate(along(x, [(max(near, 32), far, 0.0, height)]), dim(color, 0.9), side)
    rails = [
        (near, far, height * 0.2, height * 0.2 + 0.09),
        (near, far, height * 0.85, height * 0.93),
    ]
    canvas.decorate(along(x, rails), dim(color, 0.82), side)


def lamp_post(canvas: Canvas, rng: Rng, x: float, z: float, arm: float) -> None:
    """Paint a street lamp with its arm `arm` metres over the road (signed)."""
    height = between(rng, 6.0, 8.5)
    color = hsv(0.4, between(rng, 0.0, 0.25), between(rng, 0.2, 0.6))
    canvas.line(np.array([[x, 0.0, z], [x, height, z]]), 0.22, color, Label.POLE)
    canvas.line(np.array([[x, height, z], [x + arm, height + 0.3, z]]), 0.1, color, Label.POLE)
    head = facing(z, [(x + arm - 0.35, x + arm + 0.35, height + 0.15, height + 0.4)])
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
        housing = facing(z, [(at - 0.28, at + 0.28, low, low + 1.3)])[0]
        canvas.paint(housing, (28, 30, 30), Label.TRAFFIC_LIGHT)
        for i in range(3):
            lamp = upright(z, disc(8) * 0.17 + (at, low + 0.22 + i * 0.38))
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
        outer = upright(z, shape * size + (x, low))
        canvas.paint(outer, border, Label.TRAFFIC_SIGN)
        center = outer.mean(axis=0)
        inner = center + (outer - center) * 0.66
        canvas.decorate(inner[None], middle)
        mark = facing(z, [(x - size * 0.3, x + size * 0.3, low - size * 0.12, low + size * 0.12)])
        canvas.decorate(mark, (40, 40, 44))


def clutter(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """Paint something that has no class: a bin, a box, a bollard. Its label is void."""
    wide, high = between(rng, 0.25, 0.6), between(rng, 0.6, 1.2)
    color = hsv(rng.random(), between(rng, 0.1, 0.8), between(rng, 0.2, 0.7))
    canvas.paint(facing(z, [(x - wide / 2, x + wide / 2, 0.0, high)])[0], color, VOID)
    lid = facing(z, [(x - wide / 2, x + wide / 2, high * 0.82, high)])
    canvas.decorate(lid, dim(color, 0.6), UP)
