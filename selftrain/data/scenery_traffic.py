"""What moves through a drawn scene: cars, trucks, buses, trams, two-wheelers and people.

A class is told by its shape and its parts, never by its colour alone: cars, trucks, buses and trams
share their colours, as do people and riders.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selftrain.data.scenery_canvas import (
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

Rng = np.random.Generator
RUBBER: Color = (32, 32, 34)
GLASS: Color = (58, 72, 84)
STEEL: Color = (120, 122, 126)
SKINS: tuple[Color, ...] = ((224, 178, 148), (196, 146, 112), (140, 96, 70), (96, 64, 48))
WHEEL_CORNERS = 14


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a thing stands on the ground and which way it faces."""

    x: float
    z: float
    heading: float
    """Radians; 0 faces away from the camera, pi / 2 to the right, pi towards it."""

    def place(self, points: Floats) -> Floats:
        """Move local points (..., 3) = (ahead, to its right, up), in metres, into the world."""
        sine, cosine = math.sin(self.heading), math.cos(self.heading)
        world = np.empty_like(points)
        world[..., 0] = self.x + points[..., 0] * sine + points[..., 1] * cosine
        world[..., 1] = points[..., 2]
        world[..., 2] = self.z + points[..., 0] * cosine - points[..., 1] * sine
        return world

    def turn(self, ahead: float, right: float, up: float) -> Color:
        """Turn a local direction into the world."""
        sine, cosine = math.sin(self.heading), math.cos(self.heading)
        return ahead * sine + right * cosine, up, ahead * cosine - right * sine


Profile = Sequence[tuple[float, float, float]]
"""Side view of a convex solid, counter-clockwise from the lower rear: (ahead, up, half width)."""


def _sees(canvas: Canvas, point: Floats, normal: Color) -> bool:
    """Tell whether a face through `point` (3,) turns its front to the camera."""
    camera = canvas.camera
    x, y, z = point.tolist()
    x += camera.bend * z * z
    return normal[0] * x + normal[1] * (y - camera.height) + normal[2] * z < 0


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
    distance = max(float(corners[:, :, 2].mean()), 0.0)
    count = len(profile)
    for right in (0, 1):
        normal = pose.turn(0.0, 1.0 if right else -1.0, 0.0)
        if _sees(canvas, corners[right, 0], normal):
            canvas.record(corners[right], light.on(side, normal, distance), None)
    for i, color in enumerate(colors):
        if color is None:
            continue
        j = (i + 1) % count
        ahead, up = profile[j][1] - profile[i][1], profile[i][0] - profile[j][0]
        length = math.hypot(ahead, up) or 1.0
        normal = pose.turn(ahead / length, 0.0, up / length)
        if _sees(canvas, corners[0, i], normal):
            face = corners[(0, 0, 1, 1), (i, j, j, i)]
            canvas.record(face, light.on(color, normal, distance), None)
    return corners


def _box(rear: float, front: float, low: float, high: float, half: float) -> Profile:
    return [(rear, low, half), (front, low, half), (front, high, half), (rear, high, half)]


def _seen_side(canvas: Canvas, pose: Pose, half: float) -> float:
    """Return which side of a vehicle shows: +half, -half, or 0 where neither does."""
    for side in (half, -half):
        point = pose.place(np.array([0.0, side, 1.0]))
        if _sees(canvas, point, pose.turn(0.0, math.copysign(1.0, side), 0.0)):
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
    for axle in axles:
        local = np.stack(
            [axle + ring[:, 0] * radius, np.full(len(ring), side), radius * (1 + ring[:, 1])], 1
        )
        tyre = pose.place(local)
        canvas.paint(tyre, RUBBER, label)
        hub = tyre.mean(axis=0) + (tyre - tyre.mean(axis=0)) * 0.55
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
    ends = ((rear, -1.0, (200.0, 30.0, 28.0)), (front, 1.0, (248.0, 244.0, 220.0)))
    for end, way, color in ends:
        if _sees(canvas, pose.place(np.array([end, 0.0, low])), pose.turn(way, 0.0, 0.0)):
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
    for end, way in ((rear, -1.0), (front, 1.0)):
        if _sees(canvas, pose.place(np.array([end, 0.0, 0.3])), pose.turn(way, 0.0, 0.0)):
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
    if _sees(canvas, pose.place(np.array([rear, 0.0, 1.5])), pose.turn(-1.0, 0.0, 0.0)):
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
    for end, way in ((rear, -1.0), (front, 1.0)):
        if not _sees(canvas, pose.place(np.array([end, 0.0, 1.5])), pose.turn(way, 0.0, 0.0)):
            continue
        low = 1.1 if way > 0 else 1.6
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


def _upright(x: float, z: float, points: Sequence[tuple[float, float]]) -> Floats:
    """Stand a figure (N, 2) = (right, up) at (x, z), turned to the camera; returns (N, 3)."""
    figure = np.array(points, np.float64)
    return np.column_stack([x + figure[:, 0], figure[:, 1], np.full(len(figure), z)])


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
    ring = disc(10)
    face = np.column_stack(
        [x + ring[:, 0] * 0.1 * size, y + ring[:, 1] * 0.135 * size, np.full(10, z)]
    )
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
    hip = 0.85 * tall

    def paint(points: Sequence[tuple[float, float]], color: Color) -> None:
        scaled = [(a * wide, b * tall) for a, b in points]
        canvas.paint(_upright(x, z, scaled), color, Label.PERSON)

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
        paint(
            [(at - 0.08, 0.09), (at - 0.08, 0.0), (at + 0.12, 0.0), (at + 0.07, 0.09)], (40, 34, 30)
        )
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
    _head(canvas, rng, x, hip * 0 + 1.6 * tall, z, Label.PERSON, tall, None)


def _frame(pose: Pose, points: Sequence[tuple[float, float]]) -> Floats:
    """Place a side view (N, 2) = (ahead, up) in the plane a two-wheeler stands in."""
    flat = np.array(points, np.float64)
    return pose.place(np.column_stack([flat[:, 0], np.zeros(len(flat)), flat[:, 1]]))


def bicycle(canvas: Canvas, rng: Rng, pose: Pose, *, ridden: bool) -> None:
    """Paint a bicycle, about 1.75 m long: two large thin wheels seen through, a frame of tubes."""
    color = hsv(rng.random(), between(rng, 0.1, 0.9), between(rng, 0.2, 0.9))
    ring = disc(16)
    for axle in (-0.53, 0.53):
        outer = _frame(pose, [(axle + 0.34 * a, 0.34 + 0.34 * b) for a, b in ring.tolist()])
        inner = _frame(pose, [(axle + 0.27 * a, 0.34 + 0.27 * b) for a, b in ring.tolist()])
        # A tyre keeps its 5 cm where the wheel is seen edge-on.
        edge = np.concatenate([outer, outer])
        edge[:16, 0] -= 0.03
        edge[16:, 0] += 0.03
        canvas.hull(edge, Label.BICYCLE)
        # One polygon out along the tyre and back along its inner edge leaves the spokes open.
        rim = np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])
        canvas.record(rim, canvas.light.on(RUBBER, TOWARDS, pose.z), None)
    tubes = [
        ((-0.53, 0.34), (-0.1, 0.36)),
        ((-0.1, 0.36), (-0.22, 0.86)),
        ((-0.2, 0.75), (0.36, 0.78)),
        ((-0.1, 0.36), (0.36, 0.75)),
        ((0.53, 0.34), (0.34, 0.98)),
        ((-0.53, 0.34), (-0.2, 0.75)),
    ]
    for tube in tubes:
        canvas.line(_frame(pose, tube), 0.05, color, Label.BICYCLE)
    canvas.line(_frame(pose, [(-0.34, 0.9), (-0.1, 0.9)]), 0.09, RUBBER, Label.BICYCLE)
    bar = pose.place(np.array([[0.34, -0.26, 1.0], [0.34, 0.26, 1.0]]))
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
