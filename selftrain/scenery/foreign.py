"""Things that are classes of their own abroad: mountains, wires, billboards, cones, animals.

A utility pole is a pole like any other; the wires between two of them are not.
"""

import math

import numpy as np

from selftrain.scenery.canvas import (
    THINNEST,
    UP,
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
from selftrain.scenery.planes import facing, upright
from selftrain.scenery.style import Rng

_SLOPE: Color = (0.3, 0.6, -0.74)
_SNOW: Color = (236.0, 238.0, 244.0)
FOOT = 0.03
"""How far mountains reach below the horizon, picture heights; the ground hides it."""


def _ridge(rng: Rng, height: float, rough: float) -> Floats:
    """Draw the line of a ridge (N, 2): picture heights from the left edge, and above the foot."""
    x = np.linspace(-0.1, 2.1, 67)
    rise = np.zeros(67)
    for knots, strength in ((5, 1.0), (12, 0.5), (34, 0.22 * rough)):
        rise += strength * np.interp(x, np.linspace(-0.1, 2.1, knots), rng.random(knots))
    return np.stack([x, height * (0.1 + 0.9 * rise / rise.max())], axis=1)


def mountains(canvas: Canvas, rng: Rng, color: Color, snow: bool) -> None:
    """Paint two ridges along the whole horizon, at once: a high one far off, a low one before it.

    Args:
        canvas: Holds the sky and nothing else yet.
        rng: The scene's generator.
        color: Of the near ridge before light.
        snow: Whether the far ridge is white above a line.
    """
    foot = canvas.camera.horizon + FOOT
    high = between(rng, 0.12, 0.26)
    blue = tuple(0.5 * (c + b) for c, b in zip(color, (96.0, 112.0, 140.0), strict=True))
    for height, base, distance, rough in (
        (high, (blue[0], blue[1], blue[2]), 230.0, 1.0),
        (high * between(rng, 0.35, 0.6), color, 90.0, 0.6),
    ):
        ridge = _ridge(rng, height + FOOT, rough)
        below = np.array([[2.1, 0.0], [-0.1, 0.0]])
        shade = canvas.light.on(base, _SLOPE, distance)
        outline = _above(canvas, foot, np.concatenate([ridge, below]))
        canvas.color_pixels([outline], shade)
        canvas.label_pixels(outline, Label.MOUNTAIN)
        gullies = [_above(canvas, foot, gully) for gully in _gullies(rng, ridge)]
        canvas.color_pixels(gullies, canvas.light.on(dim(base, 0.82), _SLOPE, distance))
        if snow and distance > 100:
            white = canvas.light.on(_SNOW, _SLOPE, distance / 2)
            for cap in _caps(rng, ridge, 0.62 * ridge[:, 1].max()):
                canvas.color_pixels([_above(canvas, foot, cap)], white)


def _above(
    canvas: Canvas, foot: float, points: Floats
) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    return canvas.to_pixels(points * (1.0, -1.0) + (0.0, foot))


def _gullies(rng: Rng, ridge: Floats) -> list[Floats]:
    """Cut dark wedges from the ridge down one side of its peaks."""
    starts = rng.permutation(len(ridge) - 6)[:14] + 3
    wedges = []
    for i in starts.tolist():
        (x, y), slant = ridge[i], between(rng, 0.02, 0.07)
        wedge = [
            (x, y),
            (x + slant, y * 0.45),
            (x + slant * 1.5, y * 0.1),
            (x + 0.2 * slant, y * 0.3),
        ]
        wedges.append(np.array(wedge))
    return wedges


def _caps(rng: Rng, ridge: Floats, line: float) -> list[Floats]:
    """Return what of the ridge lies above the snow line, as polygons."""
    edge = line * (1.0 + 0.12 * (rng.random(len(ridge)) - 0.5))
    inside = ridge[:, 1] > edge
    runs = np.split(np.arange(len(ridge)), np.flatnonzero(np.diff(inside)) + 1)
    caps = []
    for run in runs:
        if inside[run[0]] and len(run) > 1:
            hem = np.stack([ridge[run, 0], edge[run]], axis=1)
            caps.append(np.concatenate([ridge[run], hem[::-1]]))
    return caps


def utility_pole(canvas: Canvas, x: float, z: float, height: float, *, transformer: bool) -> None:
    """Paint a wooden or concrete pole with a cross-arm, for wires at `height` metres."""
    color: Color = (122.0, 108.0, 94.0)
    canvas.line(np.array([[x, 0.0, z], [x, height + 0.5, z]]), 0.26, color, Label.POLE)
    arm = np.array([[x - 0.9, height, z], [x + 0.9, height, z]])
    canvas.line(arm, 0.14, dim(color, 0.8), Label.POLE)
    if transformer:
        drum = facing(z, [(x + 0.1, x + 0.65, height - 2.0, height - 1.0)])[0]
        canvas.paint(drum, (150.0, 152.0, 150.0), Label.POLE)


def wire_over(canvas: Canvas, start: tuple[float, float, float], x: float, height: float) -> None:
    """Hang a wire from `start` to a plain pole that stands as far ahead at `x`."""
    z = start[2]
    post = np.array([[x, 0.0, z], [x, height + 0.2, z]])
    canvas.line(post, 0.18, (118.0, 116.0, 112.0), Label.POLE)
    wire(canvas, start, (x, height, z))


def wire(
    canvas: Canvas, start: tuple[float, float, float], end: tuple[float, float, float]
) -> None:
    """Hang a wire between two points of the world; it is never drawn thinner than a pixel."""
    part = np.linspace(0.0, 1.0, 9)[:, None]
    line = np.array(start) * (1 - part) + np.array(end) * part
    sag = 0.018 * math.dist(start, end)
    line[:, 1] -= (4 * sag * part * (1 - part))[:, 0]
    half = np.maximum(0.03, THINNEST * np.maximum(line[:, 2], 1.0) / canvas.camera.focal) / 2
    upper, lower = line.copy(), line[::-1].copy()
    upper[:, 1] += half
    lower[:, 1] -= half[::-1]
    canvas.paint(np.concatenate([upper, lower]), (34.0, 34.0, 38.0), Label.CABLE, UP)


def billboard(
    canvas: Canvas, rng: Rng, x: float, z: float, size: tuple[float, float], low: float
) -> None:
    """Paint a panel of advertising on posts.

    Args:
        canvas: What to paint on.
        rng: The scene's generator.
        x: Its middle.
        z: Its distance.
        size: Width and height of the panel, metres.
        low: Height of its lower edge.
    """
    wide, high = size
    for at in (x - 0.3 * wide, x + 0.3 * wide):
        post = np.array([[at, 0.0, z], [at, low + 0.1, z]])
        canvas.line(post, 0.1 + 0.03 * wide, (96.0, 98.0, 102.0), Label.POLE)
    left, right, top = x - wide / 2, x + wide / 2, low + high
    canvas.paint(facing(z, [(left, right, low, top)])[0], (58.0, 60.0, 64.0), Label.BILLBOARD)
    rim = 0.04 * high
    ground = hsv(rng.random(), between(rng, 0.1, 0.9), between(rng, 0.55, 1.0))
    panel = facing(z, [(left + rim, right - rim, low + rim, top - rim)])
    glow = canvas.light.lamps
    canvas.decorate(panel, ground, glow=glow)
    ink = hsv(rng.random(), between(rng, 0.5, 0.95), between(rng, 0.2, 0.9))
    spot = (x + between(rng, -0.25, 0.25) * wide, low + between(rng, 0.4, 0.65) * high)
    figure = disc(12) * (between(rng, 0.15, 0.3) * min(wide, high)) + spot
    canvas.decorate(upright(z, figure)[None], ink, glow=glow)
    words = [
        (left + 0.1 * wide, left + between(rng, 0.4, 0.9) * wide, y - 0.05 * high, y + 0.05 * high)
        for y in (low + 0.17 * high, low + 0.84 * high)
    ]
    canvas.decorate(facing(z, words), pick(rng, ((24.0, 24.0, 28.0), dim(ink, 0.5))), glow=glow)


def cone(canvas: Canvas, x: float, z: float) -> None:
    """Paint a traffic cone, 0.75 m high, with two white bands."""
    orange: Color = (236.0, 92.0, 28.0)
    canvas.paint(
        facing(z, [(x - 0.24, x + 0.24, 0.0, 0.07)])[0], dim(orange, 0.7), Label.TRAFFIC_CONE
    )
    body = [(x - 0.17, 0.05), (x + 0.17, 0.05), (x + 0.045, 0.75), (x - 0.045, 0.75)]
    canvas.paint(upright(z, np.array(body)), orange, Label.TRAFFIC_CONE)
    for low, high in ((0.26, 0.38), (0.5, 0.6)):
        bottom, top = (0.17 - 0.125 * (y - 0.05) / 0.7 for y in (low, high))
        band = [(x - bottom, low), (x + bottom, low), (x + top, high), (x - top, high)]
        canvas.decorate(upright(z, np.array(band))[None], (240.0, 240.0, 236.0))


_BODY = np.array(
    [(-0.5, 0.55), (-0.46, 0.9), (-0.2, 0.98), (0.3, 0.96), (0.52, 1.0), (0.5, 0.6), (0.1, 0.48)]
)
_NECK = np.array([(0.36, 0.7), (0.5, 0.62), (0.78, 1.1), (0.62, 1.28)])
_HEAD = np.array(
    [(0.58, 1.12), (0.62, 1.3), (0.72, 1.36), (0.98, 1.12), (0.94, 1.02), (0.74, 1.04)]
)
_EAR = np.array([(0.6, 1.28), (0.64, 1.46), (0.72, 1.33)])
_TAIL = np.array([(-0.5, 0.88), (-0.62, 0.5), (-0.66, 0.5), (-0.55, 0.92)])
COATS: tuple[Color, ...] = (
    (176, 138, 92),
    (92, 64, 44),
    (214, 204, 190),
    (62, 58, 56),
    (150, 96, 60),
)


def animal(canvas: Canvas, rng: Rng, x: float, z: float, tall: float) -> None:
    """Paint a four-legged animal from the side: a dog, a goat or a cow, by its height.

    Args:
        canvas: What to paint on.
        rng: The scene's generator.
        x: Its middle.
        z: Its distance.
        tall: Height of the withers, metres.
    """
    way = pick(rng, (-1.0, 1.0))
    long = tall * between(rng, 1.0, 1.35)
    coat = dim(pick(rng, COATS), between(rng, 0.8, 1.15))

    def paint(points: Floats, color: Color) -> None:
        world = upright(z, points * (way * long, tall) + (x, 0.0))
        canvas.paint(world, color, Label.ANIMAL)

    step = between(rng, -0.1, 0.1)
    for hip, foot, shade in (
        (-0.34, -0.34 - step, 0.7),
        (0.34, 0.34 + step, 0.7),
        (-0.4, -0.4 + step, 1.0),
        (0.42, 0.42 - step, 1.0),
    ):
        leg = [(hip - 0.1, 0.7), (hip + 0.1, 0.7), (foot + 0.05, 0.0), (foot - 0.06, 0.0)]
        paint(np.array(leg), dim(coat, shade * 0.85))
    for part, shade in ((_TAIL, 0.8), (_NECK, 0.95), (_BODY, 1.0), (_EAR, 0.7), (_HEAD, 1.05)):
        paint(part, dim(coat, shade))
    if rng.random() < 0.5:
        patch = disc(8) * (0.16, 0.14) + (between(rng, -0.25, 0.25), 0.8)
        canvas.decorate(upright(z, patch * (way * long, tall) + (x, 0.0))[None], (232, 226, 216))
