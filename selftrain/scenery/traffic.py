"""What moves through a drawn scene: cars, trucks, buses, trams, two-wheelers and people.

A class is told by its shape and its parts, never by its colour alone: cars, trucks, buses and trams
share their colours, as do people and riders.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from selftrain.scenery.canvas import (
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
RUBBER: Color = (32, 32, 34)
GLASS: Color = (58, 72, 84)
STEEL: Color = (120, 122, 126)
WHEEL_CORNERS = 14
DETAILED = 26.0  # metres; farther away the parts of a car are smaller than a pixel


@dataclass(frozen=True)
class Pose:
    """Where a thing stands on the ground and which way it faces."""

    x: float
    z: float
    heading: float
    """Radians; 0 faces away from the camera, pi / 2 to the right, pi towards it."""

    def place(self, points: Floats) -> Floats:
        """Move local points (..., 3) = (ahead, to its right, up), in metres, into the world."""
        axes, origin = self._frame
        world: Floats = points.reshape(-1, 3) @ axes
        world += origin
        return world.reshape(points.shape)

    @cached_property
    def _way(self) -> tuple[float, float]:
        """Sine and cosine of the heading."""
        return math.sin(self.heading), math.cos(self.heading)

    @cached_property
    def _frame(self) -> tuple[Floats, Floats]:
        """The local axes (3, 3), a row each, and the origin, in the world."""
        sine, cosine = self._way
        axes = np.array([[sine, 0.0, cosine], [cosine, 0.0, -sine], [0.0, 1.0, 0.0]])
        return axes, np.array([self.x, 0.0, self.z])

    def at(self, ahead: float, right: float, up: float) -> Color:
        """Move one local point into the world."""
        x, y, z = self.turn(ahead, right, up)
        return self.x + x, y, self.z + z

    def turn(self, ahead: float, right: float, up: float) -> Color:
        """Turn a local direction into the world."""
        sine, cosine = self._way
        return ahead * sine + right * cosine, up, ahead * cosine - right * sine


Profile = Sequence[tuple[float, float, float]]
"""Side view of a convex solid, counter-clockwise from the lower rear: (ahead, up, half width)."""


def _sees(canvas: Canvas, point: Sequence[float], normal: Color) -> bool:
    """Tell whether a face through the world's `point` turns its front to the camera."""
    camera = canvas.camera
    x, y, z = point
    x += camera.bend * z * z
    return normal[0] * x + normal[1] * (y - camera.height) + normal[2] * z < 0


def _shows_end(canvas: Canvas, pose: Pose, ahead: float) -> bool:
    """Tell whether the front (`ahead` > 0) or the rear of a vehicle turns to the camera."""
    way = pose.turn(math.copysign(1.0, ahead), 0.0, 0.0)
    return _sees(canvas, pose.at(ahead, 0.0, 1.0), way)


def solid(
    canvas: Canvas, pose: Pose, profile: Profile, colors: Sequence[Color | None], side: Color
) -> Floats:
    """Paint a convex solid, faces that look at the camera only, and return its corners.

    Args:
        canvas: What to paint on; the labels stay.
        pose: Where the solid stands.
        profile: Its side view.
        colors: Of the face over each edge of the profile (the first is usually the underside);
            None paints nothing.
        side: Colour of the two sides.

    Returns:
        World corners (2, N, 3): left side, right side.
    """
    local = np.array([[(a, -h, y) for a, y, h in profile], [(a, h, y) for a, y, h in profile]])
    corners = pose.place(local)
    light = canvas.light
    count = len(profile)
    distance = max(float(corners[:, :, 2].sum()) / (2 * count), 0.0)
    bases, others = corners.tolist()
    for right, base in enumerate((bases[0], others[0])):
        normal = pose.turn(0.0, 1.0 if right else -1.0, 0.0)
        if _sees(canvas, base, normal):
            canvas.record(corners[right], light.on(side, normal, distance), None)
    faces = corners.reshape(-1, 3).take(_faces(count), axis=0)
    for i, color in enumerate(colors):
        if color is None:
            continue
        j = (i + 1) % count
        ahead, up = profile[j][1] - profile[i][1], profile[i][0] - profile[j][0]
        length = math.hypot(ahead, up) or 1.0
        normal = pose.turn(ahead / length, 0.0, up / length)
        if _sees(canvas, bases[i], normal):
            canvas.record(faces[i], light.on(color, normal, distance), None)
    return corners


@cache
def _faces(count: int) -> NDArray[np.intp]:
    """Return which corners of a solid bound the face over each edge of its profile (count, 4)."""
    i = np.arange(count)
    j = (i + 1) % count
    return np.stack([i, j, count + j, count + i], axis=1)


def _box(rear: float, front: float, low: float, high: float, half: float) -> Profile:
    return [(rear, low, half), (front, low, half), (front, high, half), (rear, high, half)]


def _seen_side(canvas: Canvas, pose: Pose, half: float) -> float:
    """Return which side of a vehicle shows: +half, -half, or 0 where neither does."""
    for side in (half, -half):
        normal = pose.turn(0.0, math.copysign(1.0, side), 0.0)
        if _sees(canvas, pose.at(0.0, side, 1.0), normal):
            return side
    return 0.0


def _on_side(pose: Pose, side: float, rectangles: Sequence[tuple[float, ...]]) -> Floats:
    """Place rectangles (rear, front, low, high) on a side; returns (M, 4, 3)."""
    local = [
        [(a, side, low), (b, side, low), (b, side, high), (a, side, high)]
        for a, b, low, high in rectangles
    ]
    return pose.place(np.array(local, np.float64).reshape(-1, 4, 3))


def _on_end(pose: Pose, ahead: float, rectangles: Sequence[tuple[float, ...]]) -> Floats:
    """Place rectangles (left, right, low, high) on the front or rear; returns (M, 4, 3)."""
    local = [
        [(ahead, a, low), (ahead, b, low), (ahead, b, high), (ahead, a, high)]
        for a, b, low, high in rectangles
    ]
    return pose.place(np.array(local, np.float64).reshape(-1, 4, 3))


def _wheels(
    canvas: Canvas, pose: Pose, side: float, axles: Sequence[float], radius: float, label: Label
) -> None:
    if side == 0.0:
        return
    ring = disc(WHEEL_CORNERS)
    local = np.full((len(axles), WHEEL_CORNERS, 3), side)
    local[:, :, 0] = np.add.outer(axles, ring[:, 0] * radius)
    local[:, :, 2] = radius * (1 + ring[:, 1])
    tyres = pose.place(local)
    centers = tyres.mean(axis=1, keepdims=True)
    hubs = centers + (tyres - centers) * 0.55
    for tyre, hub in zip(tyres, hubs, strict=True):
        canvas.paint(tyre, RUBBER, label)
        canvas.decorate(hub[None], STEEL)


def _end_lights(
    canvas: Canvas, pose: Pose, rear: float, front: float, half: float, low: float, size: float
) -> None:
    """Paint red lights on the rear and white ones on the front, whichever shows."""
    lamps = [
        (-0.95 * half, -0.95 * half + size * 1.5, low, low + size),
        (0.95 * half - size * 1.5, 0.95 * half, low, low + size),
    ]
    lit = canvas.light.lamps
    ends = ((rear, (200.0, 30.0, 28.0)), (front, (248.0, 244.0, 220.0)))
    for end, color in ends:
        if _shows_end(canvas, pose, end):
            canvas.decorate(_on_end(pose, end, lamps), color, glow=lit)
            plate = [(-0.28, 0.28, low - 0.28, low - 0.12)]
            canvas.decorate(_on_end(pose, end, plate), (225, 225, 215))


def body_color(rng: Rng) -> Color:
    """Draw a vehicle colour: mostly greys, else anything."""
    if rng.random() < 0.55:
        return hsv(rng.random(), 0.06, between(rng, 0.12, 0.95))
    return hsv(rng.random(), between(rng, 0.4, 0.9), between(rng, 0.3, 0.9))


def car(canvas: Canvas, rng: Rng, pose: Pose) -> None:
    """Paint a hatchback, saloon, estate or small van, 3.7 to 4.9 m long."""
    length, half = between(rng, 3.7, 4.7), between(rng, 0.84, 0.95)
    paint = body_color(rng)
    kind = pick(rng, ("hatch", "saloon", "estate", "van"))
    roof = {"hatch": 1.5, "saloon": 1.42, "estate": 1.6, "van": 1.9}[kind] + between(
        rng, -0.06, 0.1
    )
    rear, front = -length / 2, length / 2
    waist = roof * 0.6
    back = {"hatch": 0.01, "saloon": 0.2, "estate": 0.0, "van": 0.0}[kind] * length + rear
    hood = between(rng, 0.16, 0.26) * length * (0.7 if kind == "van" else 1.0)
    body = [
        (rear, 0.26, half),
        (front, 0.26, half),
        (front, waist * 0.8, half),
        (front - hood, waist, half),
        (rear, waist, half),
    ]
    top = half * 0.8
    cabin = [
        (back, waist - 0.02, half),
        (front - hood, waist - 0.02, half),
        (front - hood - 0.75, roof, top),
        (back + 0.35 * (kind != "van"), roof, top),
    ]
    side = _seen_side(canvas, pose, half)
    corners = [
        solid(canvas, pose, body, (None, dim(paint, 0.85), paint, paint, paint), dim(paint, 0.95)),
        solid(canvas, pose, cabin, (None, GLASS, paint, GLASS), paint),
    ]
    for part in corners:
        canvas.hull(part, Label.CAR)
    if pose.z > DETAILED:
        _end_lights(canvas, pose, rear, front, half, 0.66, 0.17)
        return
    if side:
        glass = roof - 0.12
        slant = half - (half - top) * 0.75
        split = (back + front - hood) / 2
        panes = []
        for a, b, c, d in (
            (back + 0.25, split - 0.08, split - 0.08, back + 0.5),
            (split + 0.03, front - hood - 0.15, front - hood - 0.75, split + 0.03),
        ):
            s = math.copysign(1.0, side)
            panes.append(
                [
                    (a, s * half, waist + 0.03),
                    (b, s * half, waist + 0.03),
                    (c, s * slant, glass),
                    (d, s * slant, glass),
                ]
            )
        canvas.decorate(pose.place(np.array(panes)), GLASS)
        canvas.decorate(_on_side(pose, side, [(rear, front, 0.26, 0.4)]), (40, 40, 42))
    _wheels(canvas, pose, side, (rear * 0.62, front * 0.64), 0.33, Label.CAR)
    bumper = [(-half, half, 0.26, 0.42)]
    for end in (rear, front):
        if _shows_end(canvas, pose, end):
            canvas.decorate(_on_end(pose, end, bumper), (44, 44, 46))
    _end_lights(canvas, pose, rear, front, half, 0.66, 0.17)


def truck(canvas: Canvas, rng: Rng, pose: Pose) -> None:
    """Paint a lorry: a cab, a plain box or tipper behind it, and an open undercarriage."""
    length, half = between(rng, 6.5, 9.5), between(rng, 1.1, 1.25)
    rear, front = -length / 2, length / 2
    paint = body_color(rng)
    load = pick(rng, ((228.0, 228.0, 224.0), dim(paint, 0.9), hsv(rng.random(), 0.5, 0.6)))
    tipper = rng.random() < 0.35
    high = between(rng, 2.0, 2.5) if tipper else between(rng, 3.1, 3.8)
    cab_rear = front - between(rng, 1.8, 2.2)
    roof = between(rng, 2.5, 2.9)
    chassis = _box(rear + 0.2, front - 0.3, 0.45, 0.95, half * 0.75)
    cargo = _box(rear, cab_rear - 0.3, 0.95, high, half)
    cab = [
        (cab_rear, 0.5, half * 0.95),
        (front, 0.5, half * 0.95),
        (front, 1.5, half * 0.95),
        (front - 0.25, roof, half * 0.9),
        (cab_rear, roof, half * 0.9),
    ]
    dark: Color = (46, 46, 48)
    parts = [
        (chassis, (None, dark, dark, dark), dark),
        (cargo, (None, load, dim(load, 0.6 if tipper else 1.0), dim(load, 0.92)), load),
        (cab, (None, paint, GLASS, paint, paint), paint),
    ]
    # The cab hides the load of a truck that comes towards us, and the load hides the cab else.
    if math.cos(pose.heading) > 0:
        parts = [parts[0], parts[2], parts[1]]
    for profile, colors, flank in parts:
        canvas.hull(solid(canvas, pose, profile, colors, flank), Label.TRUCK)
    side = _seen_side(canvas, pose, half)
    if side:
        ribs = [(a, a + 0.07, 1.0, high) for a in np.arange(rear, cab_rear - 0.4, 0.8)]
        canvas.decorate(_on_side(pose, side, ribs), dim(load, 0.7))
        window = [(cab_rear + 0.5, front - 0.4, 1.55, roof - 0.3)]
        canvas.decorate(_on_side(pose, side * 0.95, window), GLASS)
    axles = (rear + 0.9, rear + 2.0, front - 1.0)
    _wheels(canvas, pose, side, axles, 0.5, Label.TRUCK)
    if _shows_end(canvas, pose, rear):
        bars = [
            (-0.04, 0.04, 1.0, high),
            (-half, half, 0.95, 1.05),
            (-half, half, high - 0.1, high),
        ]
        canvas.decorate(_on_end(pose, rear, bars[:1]), dim(load, 0.55))
        canvas.decorate(_on_end(pose, rear, bars[1:]), dim(load, 0.7))
        tyres = [(-half * 0.95, -half * 0.5, 0.0, 0.8), (half * 0.5, half * 0.95, 0.0, 0.8)]
        for tyre in _on_end(pose, rear + 0.2, tyres):
            canvas.paint(tyre, RUBBER, Label.TRUCK)
    _end_lights(canvas, pose, rear, front, half, 0.72, 0.2)


def bus(canvas: Canvas, rng: Rng, pose: Pose) -> None:
    """Paint a city bus, 9 to 12 m: one box with a row of panes, doors, wheels, a lit sign."""
    length, half, roof = between(rng, 9.0, 12.0), 1.27, between(rng, 2.95, 3.2)
    rear, front = -length / 2, length / 2
    paint = hsv(rng.random(), between(rng, 0.5, 0.9), between(rng, 0.5, 0.9))
    if rng.random() < 0.3:
        paint = (226.0, 226.0, 220.0)
    shell = _box(rear, front, 0.35, roof, half)
    canvas.hull(solid(canvas, pose, shell, (None, paint, dim(paint, 1.1), paint), paint), Label.BUS)
    side = _seen_side(canvas, pose, half)
    if side:
        pane = between(rng, 1.2, 1.6)
        panes = [
            (a + 0.08, min(a + pane - 0.08, front - 0.1), 1.35, 2.45)
            for a in np.arange(rear + 0.3, front - 0.6, pane)
        ]
        canvas.decorate(_on_side(pose, side, panes), GLASS)
        doors = [(d, d + 1.1, 0.45, 2.45) for d in (front - 1.7, rear * 0.1)]
        canvas.decorate(_on_side(pose, side, doors), dim(GLASS, 0.75))
        canvas.decorate(_on_side(pose, side, [(rear, front, 0.35, 0.55)]), (50, 50, 52))
    _wheels(canvas, pose, side, (rear * 0.55, front * 0.55), 0.48, Label.BUS)
    for end in (rear, front):
        if not _shows_end(canvas, pose, end):
            continue
        low = 1.1 if end > 0 else 1.6
        canvas.decorate(_on_end(pose, end, [(-half * 0.9, half * 0.9, low, 2.45)]), GLASS)
        sign = [(-0.8, 0.8, 2.55, 2.85)]
        canvas.decorate(_on_end(pose, end, sign), (24, 24, 24))
        canvas.decorate(_on_end(pose, end, [(-0.6, 0.5, 2.64, 2.76)]), (255, 190, 40), glow=True)
    _end_lights(canvas, pose, rear, front, half, 0.7, 0.22)


def tram(canvas: Canvas, rng: Rng, pose: Pose) -> None:
    """Paint a tram: two to four low cars, a glass band, skirts down to the rails, roof gear."""
    section, half, roof = between(rng, 6.5, 8.5), 1.2, between(rng, 3.3, 3.6)
    count = int(between(rng, 2, 4.99))
    paint = hsv(rng.random(), between(rng, 0.5, 0.95), between(rng, 0.4, 0.85))
    upper: Color = (232.0, 230.0, 222.0) if rng.random() < 0.6 else dim(paint, 0.8)
    total = section * count
    side = _seen_side(canvas, pose, half)
    # The section farthest from the camera first.
    order = range(count) if math.cos(pose.heading) < 0 else range(count - 1, -1, -1)
    for i in order:
        rear = -total / 2 + i * section
        front = rear + section - 0.45
        nose = 0.9 if i == count - 1 else 0.0
        tail = 0.9 if i == 0 else 0.0
        shell = [
            (rear, 0.12, half),
            (front, 0.12, half),
            (front, 1.3, half),
            (front - nose, roof, half * 0.92),
            (rear + tail, roof, half * 0.92),
            (rear, 1.3, half),
        ]
        part = solid(canvas, pose, shell, (None, paint, GLASS, upper, GLASS, paint), upper)
        canvas.hull(part, Label.TRAIN)
        gear = _box(rear + 1.5, front - 1.5, roof, roof + 0.4, half * 0.55)
        canvas.hull(solid(canvas, pose, gear, (None, STEEL, STEEL, STEEL), STEEL), Label.TRAIN)
        if side:
            canvas.decorate(_on_side(pose, side, [(rear, front, 0.12, 1.25)]), paint)
            canvas.decorate(_on_side(pose, side, [(rear + 0.3, front - 0.3, 1.5, 2.75)]), GLASS)
            doors = [(d, d + 0.12, 0.3, 2.8) for d in (rear + 2.0, rear + 3.3, front - 2.2)]
            canvas.decorate(_on_side(pose, side, doors), upper)
            if i + 1 < count:
                bellows = _on_side(pose, side * 0.9, [(front, front + 0.45, 0.3, roof - 0.1)])
                canvas.paint(bellows[0], (48, 48, 50), Label.TRAIN)
    _end_lights(canvas, pose, -total / 2, total / 2, half, 0.8, 0.2)
