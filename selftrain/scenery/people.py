"""People in a drawn scene, on foot and on two wheels.

Riders and people on foot wear the same colours; a rider is told by the bent knees and by what
carries it. A bicycle is seen through, a motorcycle is not.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from selftrain.scenery.canvas import (
    TOWARDS,
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
from selftrain.scenery.traffic import RUBBER, STEEL, WHEEL_CORNERS, Pose, Rng

SKINS: tuple[Color, ...] = ((224, 178, 148), (196, 146, 112), (140, 96, 70), (96, 64, 48))


def _head(
    canvas: Canvas,
    rng: Rng,
    x: float,
    y: float,
    z: float,
    label: Label,
    size: float,
    helmet: Color | None,
) -> None:
    face = np.full((10, 3), z)
    face[:, :2] = disc(10) * (0.1, 0.135) * size + (x, y)
    canvas.paint(face, pick(rng, SKINS), label)
    hair = face[:6].copy()
    hair[:, 1] += 0.03 * size
    top = helmet or pick(
        rng, ((30.0, 24.0, 20.0), (84.0, 58.0, 36.0), (196.0, 164.0, 108.0), (110.0, 108.0, 106.0))
    )
    canvas.decorate(hair[None], top)


def _cloth(rng: Rng) -> Color:
    return hsv(rng.random(), between(rng, 0.05, 0.85), between(rng, 0.12, 0.9))


def person(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """Paint someone on foot, standing or walking, 1.15 to 1.9 m tall."""
    tall = (between(rng, 1.15, 1.4) if rng.random() < 0.15 else between(rng, 1.6, 1.9)) / 1.75
    coat, legs = _cloth(rng), hsv(rng.random(), between(rng, 0.05, 0.6), between(rng, 0.1, 0.5))
    stride = between(rng, -0.28, 0.28)
    skirt = rng.random() < 0.2
    wide = between(rng, 0.85, 1.2)

    def paint(points: Sequence[tuple[float, float]], color: Color) -> None:
        world = np.array([(x + right * wide, up * tall, z) for right, up in points])
        canvas.paint(world, color, Label.PERSON)

    for foot, sign in ((stride, -1.0), (-stride, 1.0)):
        at = foot + sign * 0.09
        paint(
            [
                (sign * 0.16, 0.9),
                (sign * 0.01, 0.9),
                (at - 0.05, 0.05),
                (at + 0.07, 0.0),
                (at + 0.09 * sign, 0.05),
            ],
            legs,
        )
        if z < 16:
            shoe = [(at - 0.08, 0.09), (at - 0.08, 0.0), (at + 0.12, 0.0), (at + 0.07, 0.09)]
            paint(shoe, (40, 34, 30))
    if skirt:
        paint([(-0.27, 0.5), (0.27, 0.5), (0.16, 1.0), (-0.16, 1.0)], coat)
    hem = between(rng, 0.7, 0.9)
    paint(
        [
            (-0.17, hem),
            (0.17, hem),
            (0.2, 1.2),
            (0.22, 1.42),
            (0.08, 1.5),
            (-0.08, 1.5),
            (-0.22, 1.42),
            (-0.2, 1.2),
        ],
        coat,
    )
    swing = stride * 0.7
    for sign in (-1.0, 1.0):
        hand = sign * 0.26 - sign * swing
        paint(
            [(sign * 0.19, 1.43), (sign * 0.27, 1.38), (hand + 0.05, 0.82), (hand - 0.05, 0.82)],
            dim(coat, 0.82),
        )
    if rng.random() < 0.3:
        bag = pick(rng, (-1.0, 1.0)) * 0.24
        paint(
            [(bag - 0.13, 0.75), (bag + 0.13, 0.75), (bag + 0.11, 1.12), (bag - 0.11, 1.12)],
            _cloth(rng),
        )
    _head(canvas, rng, x, 1.6 * tall, z, Label.PERSON, tall, None)


def _frame(pose: Pose, points: Sequence[tuple[float, float]]) -> Floats:
    """Place a side view (N, 2) = (ahead, up) in the plane a two-wheeler stands in."""
    return pose.place(np.array([(ahead, 0.0, up) for ahead, up in points]))


_BICYCLE_BARS = np.array(
    [
        [[-0.53, 0.0, 0.34], [-0.1, 0.0, 0.36]],
        [[-0.1, 0.0, 0.36], [-0.22, 0.0, 0.86]],
        [[-0.2, 0.0, 0.75], [0.36, 0.0, 0.78]],
        [[-0.1, 0.0, 0.36], [0.36, 0.0, 0.75]],
        [[0.53, 0.0, 0.34], [0.34, 0.0, 0.98]],
        [[-0.53, 0.0, 0.34], [-0.2, 0.0, 0.75]],
        [[-0.34, 0.0, 0.9], [-0.1, 0.0, 0.9]],
        [[0.34, -0.26, 1.0], [0.34, 0.26, 1.0]],
    ]
)
"""Tubes of the frame, then the saddle and the handlebar: the ends (ahead, right, up)."""


@cache
def _bicycle_wheels() -> Floats:
    """Return the outer and the inner edge of the rear and the front tyre (2, 2, 16, 3)."""
    wheels = np.zeros((2, 2, 16, 3))
    for wheel, axle in zip(wheels, (-0.53, 0.53), strict=True):
        for edge, radius in zip(wheel, (0.34, 0.27), strict=True):
            edge[:, ::2] = radius * disc(16) + (axle, 0.34)
    return wheels


def bicycle(canvas: Canvas, rng: Rng, pose: Pose, *, ridden: bool) -> None:
    """Paint a bicycle, about 1.75 m long: two large thin wheels seen through, a frame of tubes."""
    color = hsv(rng.random(), between(rng, 0.1, 0.9), between(rng, 0.2, 0.9))
    for outer, inner in pose.place(_bicycle_wheels()):
        # A tyre keeps its 5 cm where the wheel is seen edge-on.
        edge = np.concatenate([outer, outer])
        edge[:16, 0] -= 0.03
        edge[16:, 0] += 0.03
        canvas.hull(edge, Label.BICYCLE)
        # One polygon out along the tyre and back along its inner edge leaves the spokes open.
        rim = np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])
        canvas.record(rim, canvas.light.on(RUBBER, TOWARDS, pose.z), None)
    *tubes, saddle, bar = pose.place(_BICYCLE_BARS)
    for tube in tubes:
        canvas.line(tube, 0.05, color, Label.BICYCLE)
    canvas.line(saddle, 0.09, RUBBER, Label.BICYCLE)
    canvas.line(bar, 0.05, RUBBER, Label.BICYCLE)
    if ridden:
        _rider(canvas, rng, pose, saddle=0.92, pedal=(0.0, 0.2), grip=(0.34, 1.02), helmet=0.5)


def motorcycle(canvas: Canvas, rng: Rng, pose: Pose, *, ridden: bool) -> None:
    """Paint a motorcycle or scooter, about 2.1 m long: fat wheels, a closed body, lights."""
    color = hsv(rng.random(), between(rng, 0.3, 0.95), between(rng, 0.25, 0.85))
    ring = disc(WHEEL_CORNERS)
    for axle in (-0.7, 0.72):
        wheel = _frame(pose, [(axle + 0.31 * a, 0.31 + 0.31 * b) for a, b in ring.tolist()])
        fat = np.concatenate([wheel, wheel])
        fat[:WHEEL_CORNERS, 0] -= 0.08
        fat[WHEEL_CORNERS:, 0] += 0.08
        canvas.hull(fat, Label.MOTORCYCLE, RUBBER)
        hub = _frame(pose, [(axle + 0.15 * a, 0.31 + 0.15 * b) for a, b in ring.tolist()])
        canvas.decorate(hub[None], STEEL)

    def part(points: Sequence[tuple[float, float]], paint: Color, half: float) -> None:
        flat = np.array(points)
        left = np.column_stack([flat[:, 0], np.full(len(flat), -half), flat[:, 1]])
        right = left * (1.0, -1.0, 1.0)
        canvas.hull(pose.place(np.concatenate([left, right])), Label.MOTORCYCLE, paint)

    part([(-0.45, 0.25), (0.35, 0.22), (0.42, 0.55), (-0.4, 0.6)], (66, 66, 70), 0.16)
    part(
        [(-0.95, 0.72), (-0.3, 0.6), (0.45, 0.62), (0.5, 0.9), (0.05, 0.98), (-0.9, 0.86)],
        color,
        0.17,
    )
    part([(-0.75, 0.84), (0.0, 0.8), (0.0, 0.9), (-0.75, 0.95)], (28, 26, 26), 0.15)
    part([(0.42, 0.6), (0.62, 0.62), (0.56, 1.15), (0.44, 1.1)], color, 0.18)
    canvas.line(_frame(pose, [(0.72, 0.31), (0.48, 1.0)]), 0.09, STEEL, Label.MOTORCYCLE)
    canvas.line(_frame(pose, [(-0.1, 0.25), (-0.9, 0.33)]), 0.1, (170, 170, 172), Label.MOTORCYCLE)
    bar = pose.place(np.array([[0.42, -0.36, 1.05], [0.42, 0.36, 1.05]]))
    canvas.line(bar, 0.06, RUBBER, Label.MOTORCYCLE)
    if ridden:
        _rider(canvas, rng, pose, saddle=0.88, pedal=(0.05, 0.3), grip=(0.4, 1.05), helmet=1.0)
    facing = math.cos(pose.heading) < 0
    lamp = pose.place(np.array([[0.62 if facing else -0.95, 0.0, 0.85]]))[0]
    spot = lamp + np.column_stack([disc(8) * 0.09, np.zeros(8)])
    canvas.decorate(spot[None], (255, 250, 225) if facing else (215, 30, 30), glow=True)


def _rider(
    canvas: Canvas,
    rng: Rng,
    pose: Pose,
    *,
    saddle: float,
    pedal: tuple[float, float],
    grip: tuple[float, float],
    helmet: float,
) -> None:
    """Paint someone seated: bent knees, arms to the bar; `helmet` is the chance of one."""
    coat, legs = _cloth(rng), hsv(rng.random(), between(rng, 0.05, 0.6), between(rng, 0.1, 0.5))
    lean = between(rng, 0.1, 0.3)
    shoulder = (-0.2 + lean, saddle + 0.56)
    knee = (pedal[0] + 0.24, saddle - 0.16)

    def limb(
        joints: Sequence[tuple[float, float]], apart: float, width: float, color: Color
    ) -> None:
        for side in (-apart, apart):
            points = pose.place(np.array([(a, side, y) for a, y in joints]))
            for ends in (points[:2], points[1:]):
                canvas.line(ends, width, color, Label.RIDER)

    limb([(-0.18, saddle), knee, pedal], 0.13, 0.17, legs)
    base = pose.place(
        np.array(
            [
                (-0.2, -0.15, saddle - 0.08),
                (-0.2, 0.15, saddle - 0.08),
                (shoulder[0], -0.22, shoulder[1]),
                (shoulder[0], 0.22, shoulder[1]),
                (-0.32, 0.0, saddle),
                (0.0, 0.0, saddle),
                (shoulder[0] + 0.12, 0.0, shoulder[1] - 0.05),
                (shoulder[0] - 0.14, 0.0, shoulder[1] - 0.02),
            ]
        )
    )
    canvas.hull(base, Label.RIDER, coat)
    elbow = ((shoulder[0] + grip[0]) / 2, (shoulder[1] + grip[1]) / 2 - 0.08)
    limb([shoulder, elbow, grip], 0.22, 0.11, dim(coat, 0.82))
    head = pose.place(np.array([shoulder[0] + 0.08, 0.0, shoulder[1] + 0.2]))
    cover = hsv(rng.random(), 0.7, between(rng, 0.15, 0.9)) if rng.random() < helmet else None
    _head(canvas, rng, float(head[0]), float(head[1]), float(head[2]), Label.RIDER, 1.12, cover)
