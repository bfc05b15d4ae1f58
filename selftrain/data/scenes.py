"""Street scenes drawn by numpy and OpenCV: the benchmark that needs no download.

A scene is a function of (seed, index) and nothing else. It is laid out in metres and seen through
a camera, so it shows the same street at every picture size. The classes, their order and their
colours are those of Cityscapes, and so is the imbalance: the road has several hundred times the
pixels of the motorcycles.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from selftrain.data import scenery, scenery_traffic
from selftrain.data.scenery_canvas import (
    UP,
    VOID,
    Camera,
    Canvas,
    Color,
    Label,
    between,
    dim,
    hsv,
    pick,
)
from selftrain.data.scenery_weather import develop, draw_light, paint_sky, settle_ground

VERSION = 1
"""Part of the data's digest; raise it whenever the drawing changes."""

NAMES: tuple[str, ...] = tuple(label.name.lower().replace("_", " ") for label in Label)
COLORS: tuple[tuple[int, int, int], ...] = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
    (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
    (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip

# Difficulty: what makes the benchmark harder or easier to learn. All in [0, 1] unless stated.
LIGHT_SPREAD = 1.0  # how far light and its colour stray from a grey noon
COLOR_SPREAD = 0.3  # share of houses, walls and grounds in an untypical colour
TEXTURE_CONTRAST = 1.0  # factor of every texture's strength; textures tell many classes apart
NOISE = (2.0, 9.0)  # sensor noise, grey levels of 255
BLUR = (0.0, 0.005)  # lens blur, picture heights
FOG_CHANCE = 0.12
RAIN_CHANCE = 0.15
CROWD = 5.0  # mean number of people on foot
PARKED = 0.45  # share of parking bays taken
# Chance that a scene shows the thing at all, near enough to be recognised.
CHANCE: dict[str, float] = {
    "truck": 0.14, "bus": 0.14, "tram": 0.12, "motorcycle": 0.13, "cyclist": 0.28,
    "parked bicycle": 0.3, "crossing street": 0.5, "wall": 0.22, "fence": 0.32,
    "lawn": 0.4, "hood": 0.3, "clutter": 0.4, "signs": 0.75, "lamps": 0.7,
}  # fmt: skip

Rng = np.random.Generator
LANE = 3.2  # metres
FAR = 110.0  # metres; the backdrop stands beyond


@dataclass(slots=True)
class Side:
    """One side of the street, from the kerb outwards; every x is a distance from the camera."""

    sign: int
    """-1 left, 1 right."""
    parking: float
    """Width of the parking lane, 0 where there is none; it lies inside the kerb."""
    kerb: float
    walk: float
    """Outer edge of the sidewalk."""
    verge: float
    """Width of a strip of grass between kerb and sidewalk, part of the sidewalk's width."""
    front: float
    """Where the houses stand."""
    district: str
    """"shops" (houses at the sidewalk), "homes" (gardens) or "park" (no houses)."""
    border: str
    """What closes the plots: "wall", "fence", "hedge" or "open"."""


@dataclass(slots=True)
class Scene:
    """What is in a scene before it is painted: things with the order to paint them in."""

    rng: Rng
    canvas: Canvas
    sides: tuple[Side, Side]
    lanes: list[tuple[float, bool]]
    """Centre of each lane in metres from the camera, and whether it leads towards us."""
    crossing: float | None
    """Distance of a crossing street's near edge, metres."""
    crossing_width: float
    things: list[tuple[int, float, float, Callable[[], None]]] = field(default_factory=list)
    shadows: list[NDArray[np.float64]] = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)
    """Lane centre and the stretch (near, far) that a vehicle occupies."""

    def has(self, thing: str) -> bool:
        """Draw whether the scene shows `thing`."""
        return self.rng.random() < CHANCE[thing]

    def add(
        self, lateral: float, z: float, paint: Callable[[], None], *, on_crossing: bool = False
    ) -> None:
        """Queue a thing; what lies farther to the side or farther ahead is painted first.

        At one column of the picture the thing farther to the side is also the one farther ahead,
        so sorting by side first keeps even a 30 m tram behind the car that it reaches past.
        """
        zone = 1 if on_crossing else 2
        if not on_crossing and self.crossing is not None and z > self.crossing:
            zone = 0
        self.things.append((zone, -abs(lateral), -z, paint))

    def shade(self, x: float, z: float, wide: float, long: float, height: float) -> None:
        """Queue the shadow of a block `wide` by `long` metres around (x, z)."""
        light = self.canvas.light
        corners = np.array(
            [[x + a * wide / 2, 0.0, max(z + b * long / 2, 1.0)] for a in (-1, 1) for b in (-1, 1)]
        )
        if max(light.sun) > 0.4:
            # A low sun would cast shadows across the whole picture.
            reach = min(height / max(light.direction[1], 0.2), 14.0)
            cast = corners.copy()
            cast[:, 0] -= light.direction[0] * reach
            cast[:, 2] = np.maximum(cast[:, 2] - light.direction[2] * reach, 1.0)
            corners = np.concatenate([corners, cast])
        self.shadows.append(corners)

    def free(self, lane: float, near: float, far: float) -> bool:
        """Reserve a stretch of a lane; False if something is on it already."""
        if any(lane == at and near < end and far > start for at, start, end in self.taken):
            return False
        self.taken.append((lane, near, far))
        return True


def _ground(
    canvas: Canvas,
    left: float,
    right: float,
    color: Color,
    label: int,
    near: float = 0.8,
    far: float = 400.0,
) -> None:
    """Paint a strip of ground that follows the street between two x."""
    z = np.geomspace(near, far, 14)
    edge = np.zeros((28, 3))
    edge[:, 0] = np.repeat((left, right), 14)
    edge[:, 2] = np.concatenate([z, z[::-1]])
    canvas.record(edge, canvas.light.on(color, UP, 0.0), label)


def _flat(rectangles: list[tuple[float, float, float, float]]) -> NDArray[np.float64]:
    """Lay rectangles (left, right, near, far) on the ground; returns (M, 4, 3)."""
    flat = np.array(rectangles, np.float64).reshape(-1, 4)
    world = np.zeros((len(flat), 4, 3))
    world[:, :, 0] = flat[:, [0, 1, 1, 0]]
    world[:, :, 2] = flat[:, [2, 2, 3, 3]]
    return world


def _mark(
    canvas: Canvas, rectangles: list[tuple[float, float, float, float]], color: Color
) -> None:
    """Colour markings on the ground."""
    canvas.record_many(_flat(rectangles), canvas.light.on(color, UP, 0.0))


def _stretch(
    x: float, wide: float, near: float, far: float, dash: float, gap: float
) -> list[tuple[float, float, float, float]]:
    """Lay a line along the street: dashes as (left, right, near, far), short enough to bend."""
    starts = np.arange(near, far, dash + gap).tolist()
    return [(x - wide / 2, x + wide / 2, z, min(z + dash, far)) for z in starts]


def _asphalt(rng: Rng) -> Color:
    if rng.random() < COLOR_SPREAD:
        return hsv(between(rng, 0.0, 0.15), between(rng, 0.05, 0.3), between(rng, 0.3, 0.7))
    return hsv(between(rng, 0.5, 0.7), between(rng, 0.0, 0.1), between(rng, 0.28, 0.56))


def _paving(rng: Rng) -> Color:
    if rng.random() < COLOR_SPREAD:
        return hsv(between(rng, 0.0, 0.06), between(rng, 0.2, 0.45), between(rng, 0.45, 0.75))
    return hsv(between(rng, 0.05, 0.15), between(rng, 0.0, 0.2), between(rng, 0.42, 0.82))


def _grass(rng: Rng) -> Color:
    if rng.random() < COLOR_SPREAD:
        return hsv(between(rng, 0.07, 0.15), between(rng, 0.25, 0.5), between(rng, 0.4, 0.7))
    return hsv(between(rng, 0.17, 0.28), between(rng, 0.3, 0.65), between(rng, 0.4, 0.7))


def _foliage(rng: Rng) -> Color:
    if rng.random() < COLOR_SPREAD:
        return hsv(between(rng, 0.02, 0.16), between(rng, 0.5, 0.8), between(rng, 0.4, 0.75))
    return hsv(between(rng, 0.2, 0.36), between(rng, 0.3, 0.7), between(rng, 0.25, 0.55))


def _plan(rng: Rng, canvas: Canvas) -> Scene:
    """Draw lanes, sides and the crossing street."""
    ours, theirs = int(between(rng, 1, 2.6)), int(between(rng, 1, 2.6))
    own = int(rng.random() * ours)
    lanes = [(LANE * (i - own), False) for i in range(ours)]
    lanes += [(-LANE * (own + 1 + i), True) for i in range(theirs)]
    drift = between(rng, -0.5, 0.5)
    lanes = [(x + drift, towards) for x, towards in lanes]
    sides = []
    for sign in (-1, 1):
        edge = max(sign * x for x, _ in lanes) + LANE / 2
        parking = 2.2 if rng.random() < 0.55 else 0.0
        kerb = edge + parking
        walk = kerb + between(rng, 2.0, 5.0)
        district = pick(rng, ("shops", "shops", "homes", "park"))
        border = "open"
        if district != "shops":
            chance = rng.random()
            wall, fence = CHANCE["wall"], CHANCE["fence"]
            border = "wall" if chance < wall else "fence" if chance < wall + fence else "hedge"
            if rng.random() < 0.2:
                border = "open"
        front = walk + (0.0 if district == "shops" else between(rng, 3.0, 9.0))
        verge = between(rng, 0.8, 1.4) if rng.random() < CHANCE["lawn"] else 0.0
        sides.append(Side(sign, parking, kerb, walk, verge, front, district, border))
    crossing = between(rng, 11.0, 38.0) if rng.random() < CHANCE["crossing street"] else None
    return Scene(rng, canvas, (sides[0], sides[1]), lanes, crossing, between(rng, 7.0, 11.0))


def _pave(scene: Scene) -> None:
    """Paint the ground: plots, sidewalks, verges, road and everything drawn on them."""
    rng, canvas = scene.rng, scene.canvas
    asphalt, paving, grass = _asphalt(rng), _paving(rng), _grass(rng)
    kerb_color, line = dim(paving, 1.18), pick(rng, ((225.0, 225.0, 220.0), (214.0, 180.0, 70.0)))
    for side in scene.sides:
        s = side.sign
        soil, label = (
            (paving, Label.SIDEWALK) if side.district == "shops" else (grass, Label.TERRAIN)
        )
        _ground(canvas, s * side.walk, s * 90, soil, label)
        _ground(canvas, s * side.kerb, s * side.walk, paving, Label.SIDEWALK)
        slab = between(rng, 0.5, 1.1)
        rows = np.arange(2.0, 24.0, slab).tolist()
        joints = [(s * side.kerb, s * side.walk, z, z + 0.05) for z in rows]
        _mark(canvas, joints, dim(paving, 0.78))
        for x in np.arange(side.kerb + slab, side.walk, slab).tolist():
            _mark(canvas, _stretch(s * x, 0.05, 2.0, 30.0, 7.0, 0.0), dim(paving, 0.78))
        if side.verge:
            _ground(
                canvas,
                s * (side.kerb + 0.2),
                s * (side.kerb + 0.2 + side.verge),
                grass,
                Label.TERRAIN,
            )
        _ground(canvas, s * side.kerb, s * (side.kerb + 0.2), kerb_color, Label.SIDEWALK)
    left, right = scene.sides
    _ground(canvas, -left.kerb, right.kerb, asphalt, Label.ROAD)
    for side in scene.sides:
        x = side.sign * (side.kerb - side.parking - 0.1)
        _mark(canvas, _stretch(x, 0.12, 1.5, 90, 5.0, 0.0), line)
        _mark(
            canvas,
            _stretch(side.sign * (side.kerb - 0.15), 0.3, 1.5, 60, 5.0, 0.0),
            dim(asphalt, 0.8),
        )
    for x, towards in scene.lanes:
        if (x + LANE, towards) in scene.lanes:
            _mark(canvas, _stretch(x + LANE / 2, 0.13, 2.0, 90, 3.0, between(rng, 2, 5)), line)
    middle = max(x for x, towards in scene.lanes if towards) + LANE / 2
    _mark(canvas, _stretch(middle, 0.15, 1.5, 90, 4.0, pick(rng, (0.0, 3.0))), line)
    for _ in range(int(between(rng, 0, 5))):  # repairs and manholes
        x, z = between(rng, -left.kerb, right.kerb - 1.0), between(rng, 4.0, 22.0)
        patch = [(x, x + between(rng, 0.6, 1.8), z, z + between(rng, 0.8, 5.0))]
        _mark(canvas, patch, dim(asphalt, between(rng, 0.72, 1.2)))
    if scene.crossing is not None:
        _pave_crossing(scene, scene.crossing, asphalt, line)


def _pave_crossing(scene: Scene, near: float, asphalt: Color, line: Color) -> None:
    canvas, (left, right) = scene.canvas, scene.sides
    far = near + scene.crossing_width
    corner = dim(asphalt, 1.0)
    _ground(canvas, -90, 90, corner, Label.ROAD, near, far)
    _mark(
        canvas,
        [
            (-90, -left.kerb, (near + far) / 2, (near + far) / 2 + 0.15),
            (right.kerb, 90, (near + far) / 2, (near + far) / 2 + 0.15),
        ],
        line,
    )
    stripes = np.arange(-left.kerb + 0.4, right.kerb - 0.5, 1.0).tolist()
    _mark(canvas, [(x, x + 0.5, near - 3.8, near - 0.8) for x in stripes], (228, 228, 224))
    _mark(canvas, [(-left.kerb, right.kerb, near - 4.8, near - 4.4)], (228, 228, 224))


def _line_with_plots(scene: Scene, side: Side) -> None:
    """Queue what stands beyond one sidewalk: houses or trees, and the border of the plots."""
    rng, canvas = scene.rng, scene.canvas
    s = side.sign
    blocked = (math.inf, -math.inf)
    if scene.crossing is not None:
        blocked = (scene.crossing - 1.5, scene.crossing + scene.crossing_width + 1.5)
    shared = scenery.facade_color(rng, COLOR_SPREAD)
    leaves = _foliage(rng)
    z = -between(rng, 0.0, 12.0)
    tall = between(rng, 9.0, 22.0) if side.district == "shops" else between(rng, 5.0, 10.0)
    while z < FAR:
        far = z + (between(rng, 9.0, 24.0) if side.district == "shops" else between(rng, 8.0, 14.0))
        if far > blocked[0] and z < blocked[1]:
            far = min(far, blocked[0])
        if far > 3.0 and far - max(z, 0.8) > 3.0:
            if side.district == "park":
                for _ in range(2 if z < 50 else 1):
                    x, at = side.walk + between(rng, 1.5, 14.0), between(rng, max(z, 4.0), far)
                    height = between(rng, 4.0, 11.0)
                    scene.add(x, at, partial(scenery.tree, canvas, rng, s * x, at, height, leaves))
            else:
                color = scenery.facade_color(rng, COLOR_SPREAD) if rng.random() < 0.7 else shared
                height = tall * between(rng, 0.75, 1.25)
                front = side.front
                scene.add(
                    front,
                    far,
                    partial(scenery.building, canvas, rng, s, s * front, z, far, height, color),
                )
                if max(canvas.light.sun) > 0.4:
                    start = max(z, 1.0)
                    scene.shade(s * (front + 4), (start + far) / 2, 8.0, far - start, height)
        z = far + (
            0.0 if side.district == "shops" and rng.random() < 0.8 else between(rng, 2.0, 6.0)
        )
        if blocked[0] - 3.0 < z < blocked[1]:
            z = blocked[1]
    if side.district == "homes":
        for _ in range(int(between(rng, 1, 6))):
            x, at = between(rng, side.walk + 1, side.front), between(rng, 5.0, 45.0)
            scene.add(
                x, at, partial(scenery.tree, canvas, rng, s * x, at, between(rng, 3, 7), leaves)
            )
    _enclose(scene, side, blocked, leaves)


def _enclose(scene: Scene, side: Side, blocked: tuple[float, float], leaves: Color) -> None:
    """Queue the border of the plots, in pieces of 9 m, leaving the crossing street open."""
    rng, canvas = scene.rng, scene.canvas
    s, x = side.sign, side.walk + 0.1
    height = between(rng, 1.1, 2.8)
    stone = scenery.facade_color(rng, COLOR_SPREAD)
    paint = hsv(rng.random(), between(rng, 0.0, 0.5), between(rng, 0.15, 0.95))
    style = pick(rng, ("pickets", "rods", "rods"))
    for start in np.arange(0.8, 80.0, 9.0).tolist():
        end = start + 9.0
        if start < blocked[0] < end:
            end = blocked[0]
        if blocked[0] <= start < blocked[1]:
            continue
        if side.border == "wall":
            scene.add(
                x,
                end,
                partial(scenery.wall, canvas, rng, s, s * x, start, end, height + 0.5, stone),
            )
        elif side.border == "fence":
            scene.add(
                x,
                end,
                partial(
                    scenery.fence, canvas, rng, s * x, start, end, min(height, 2.0), paint, style
                ),
            )
        elif side.border == "hedge":
            scene.add(
                x,
                end,
                partial(scenery.hedge, canvas, rng, s, s * x, start, end, height * 0.7, leaves),
            )
    if side.border == "open" and side.district == "park" and rng.random() < CHANCE["fence"]:
        for start in (0.8, 12.0, 24.0):
            if not (blocked[0] - 12 < start < blocked[1]):
                scene.add(
                    side.kerb + 0.15,
                    start + 12,
                    partial(
                        scenery.fence,
                        canvas,
                        rng,
                        s * (side.kerb + 0.15),
                        start,
                        start + 12,
                        0.9,
                        (150, 152, 154),
                        "rail",
                    ),
                )


def _furnish(scene: Scene, side: Side) -> None:
    """Queue street trees, lamps, signs, lights, people and parked things along one sidewalk."""
    rng, canvas, s = scene.rng, scene.canvas, side.sign
    band = side.kerb + 0.5

    def clear(z: float) -> bool:
        near = scene.crossing
        return near is None or not near - 1.0 < z < near + scene.crossing_width + 1.0

    if rng.random() < 0.4:
        leaves, first, step = _foliage(rng), between(rng, 5.0, 12.0), between(rng, 7.0, 13.0)
        height = between(rng, 4.0, 8.0)
        for z in np.arange(first, 60.0, step).tolist():
            if clear(z):
                x = side.kerb + 0.9
                scene.add(band, z, partial(scenery.tree, canvas, rng, s * x, z, height, leaves))
                scene.shade(s * x, z, 2.5, 2.5, height * 0.5)
    if scene.has("lamps"):
        for z in np.arange(between(rng, 4.0, 16.0), 70.0, between(rng, 13.0, 24.0)).tolist():
            if clear(z):
                scene.add(
                    band,
                    z,
                    partial(
                        scenery.lamp_post,
                        canvas,
                        rng,
                        s * (side.kerb + 0.4),
                        z,
                        -s * between(rng, 0.6, 2.0),
                    ),
                )
    if scene.has("signs"):
        for _ in range(int(between(rng, 1, 3.99))):
            z = between(rng, 5.0, 24.0)
            if clear(z):
                x = side.kerb + between(rng, 0.35, 0.7)
                scene.add(band, z, partial(scenery.sign, canvas, rng, s * x, z))
    if scene.crossing is not None and rng.random() < 0.75:
        z, reach = scene.crossing - 1.2, (-s * between(rng, 2.0, 4.0)) * (rng.random() < 0.5)
        scene.add(
            band, z, partial(scenery.traffic_light, canvas, rng, s * (side.kerb + 0.4), z, reach)
        )
    for _ in range(int(rng.poisson(CROWD / 2.6))):
        z = between(rng, 4.5, 30.0)
        x = between(rng, side.kerb + 0.5 + side.verge, max(side.walk - 0.3, side.kerb + 1.8))
        scene.add(band, z, partial(scenery_traffic.person, canvas, rng, s * x, z))
        scene.shade(s * x, z, 0.4, 0.3, 1.6)
        if rng.random() < 0.4:
            beside = s * x + pick(rng, (-0.6, 0.6))
            scene.add(band, z, partial(scenery_traffic.person, canvas, rng, beside, z + 0.1))
    if scene.has("parked bicycle"):
        first, count = between(rng, 5.0, 14.0), int(between(rng, 1, 4.99))
        for i in range(count):
            z = first + i * 0.8
            if clear(z):
                pose = scenery_traffic.Pose(
                    s * (side.kerb + 1.1), z, math.pi / 2 * s + between(rng, -0.3, 0.3)
                )
                scene.add(
                    band, z, partial(scenery_traffic.bicycle, canvas, rng, pose, ridden=False)
                )
                scene.shade(pose.x, z, 1.6, 0.3, 0.6)
    if scene.has("clutter"):
        z, x = between(rng, 5.0, 20.0), side.kerb + between(rng, 0.4, 1.4)
        if clear(z):
            scene.add(band, z, partial(scenery.clutter, canvas, rng, s * x, z))


def _drive(scene: Scene) -> None:
    """Queue everything on wheels: the rare things first, then cars on what room is left."""
    rng, canvas = scene.rng, scene.canvas
    traffic = scenery_traffic

    def along(
        thing: str,
        draw: Callable[[Canvas, Rng, traffic.Pose], None],
        long: float,
        wide: float,
        high: float,
        tries: int = 4,
    ) -> None:
        for _ in range(tries):
            x, towards = pick(rng, scene.lanes)
            near = between(rng, 8.0 if abs(x) < 2 else 5.0, 22.0)
            if scene.free(x, near - 1.5, near + long + 1.5):
                z = near + long / 2
                pose = traffic.Pose(x + between(rng, -0.2, 0.2), z, math.pi * towards)
                scene.add(abs(x), z, partial(draw, canvas, rng, pose))
                scene.shade(x, z, wide, long, high)
                return

    def across(draw: Callable[[Canvas, Rng, traffic.Pose], None], long: float, high: float) -> None:
        if scene.crossing is None:
            return
        lane = pick(rng, (0.28, 0.72))
        z = scene.crossing + scene.crossing_width * lane
        reach = z * 0.8
        pose = traffic.Pose(between(rng, -reach, reach), z, math.pi * (0.5 if lane < 0.5 else 1.5))
        scene.add(0.0, z, partial(draw, canvas, rng, pose), on_crossing=True)
        scene.shade(pose.x, z, long, 1.9, high)

    for thing, draw, long, wide, high in (
        ("tram", traffic.tram, 24.0, 2.4, 3.4),
        ("bus", traffic.bus, 11.0, 2.5, 3.1),
        ("truck", traffic.truck, 8.5, 2.4, 3.3),
    ):
        if scene.has(thing):
            if scene.crossing is not None and rng.random() < 0.4:
                across(draw, long, high)
            else:
                along(thing, draw, long, wide, high)
    two_wheelers = [("cyclist", partial(traffic.bicycle, ridden=True))]
    two_wheelers.append(("motorcycle", partial(traffic.motorcycle, ridden=rng.random() < 0.6)))
    for thing, ride in two_wheelers:
        for _ in range(int(scene.has(thing)) * (1 + (rng.random() < 0.3))):
            if scene.crossing is not None and rng.random() < 0.3:
                across(ride, 1.8, 1.2)
                continue
            side = pick(rng, scene.sides)
            x = side.kerb - side.parking - between(rng, 0.5, 0.9)
            z = between(rng, 5.0, 18.0)
            pose = traffic.Pose(
                side.sign * x, z, math.pi * (side.sign < 0) + between(rng, -0.5, 0.5)
            )
            scene.add(x, z, partial(ride, canvas, rng, pose))
            scene.shade(pose.x, z, 0.5, 1.6, 1.2)
    for _ in range(int(rng.poisson(3.0))):
        along("car", traffic.car, 4.4, 1.8, 1.4, tries=1)
    for x, towards in scene.lanes:
        for z in np.arange(30.0, 75.0, 12.0).tolist():
            if rng.random() < 0.3 and scene.free(x, z, z + 7):
                pose = traffic.Pose(x, z + 3, math.pi * towards)
                scene.add(abs(x), z, partial(traffic.car, canvas, rng, pose))
    if rng.random() < 0.7:
        across(traffic.car, 4.4, 1.4)
    _park(scene)


def _park(scene: Scene) -> None:
    """Queue cars in the parking bays and people on the zebra crossing."""
    rng, canvas = scene.rng, scene.canvas
    near = scene.crossing
    for side in scene.sides:
        for z in np.arange(3.5, 60.0, 6.0).tolist() if side.parking else ():
            blocked = near is not None and near - 8 < z < near + scene.crossing_width + 3
            if rng.random() < PARKED and not blocked:
                x = side.sign * (side.kerb - side.parking / 2 - 0.1)
                at = z + between(rng, 2.2, 3.2)
                pose = scenery_traffic.Pose(x, at, math.pi * (side.sign < 0))
                scene.add(x, at, partial(scenery_traffic.car, canvas, rng, pose))
                scene.shade(x, at, 1.8, 4.4, 1.4)
    if near is not None:
        for _ in range(int(rng.poisson(CROWD / 4))):
            x = between(rng, -scene.sides[0].kerb, scene.sides[1].kerb)
            z = near - between(rng, 1.0, 3.4)
            scene.add(0.0, z, partial(scenery_traffic.person, canvas, rng, x, z), on_crossing=True)
            scene.shade(x, z, 0.4, 0.3, 1.6)


def _backdrop(scene: Scene) -> None:
    """Paint the skyline at the end of the street."""
    rng, canvas = scene.rng, scene.canvas
    x = -330.0
    green = _foliage(rng)
    while x < 330.0:
        wide, z = between(rng, 10.0, 40.0), 150.0
        if rng.random() < 0.5:
            box = np.array([[x, 0, z], [x + wide, 0, z], [x + wide, 0, z], [x, 0, z]])
            box[2:, 1] = between(rng, 6.0, 26.0)
            canvas.paint(box, scenery.facade_color(rng, COLOR_SPREAD), Label.BUILDING)
        else:
            scenery.crown(canvas, rng, x + wide / 2, 3.0, z, wide * 0.7, between(rng, 5, 14), green)
        x += wide * 0.8


def _hood(scene: Scene) -> None:
    """Paint the hood of our own car over the bottom edge; it has no class."""
    rng, canvas = scene.rng, scene.canvas
    top = between(rng, 0.92, 0.97)
    x = np.linspace(-0.05, 2.05, 15)
    curve = top + 0.08 * (x - 1.0) ** 4
    outline = np.concatenate([np.stack([x, curve], 1), [[2.05, 1.1], [-0.05, 1.1]]])
    polygon = canvas.to_pixels(outline)
    color = hsv(rng.random(), between(rng, 0.0, 0.3), between(rng, 0.1, 0.6))
    canvas.color_pixels([polygon], canvas.light.on(color, UP, 0.0))
    canvas.label_pixels(polygon, VOID)


def draw(
    seed: int, index: int, *, width: int = 256, height: int = 128
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one scene.

    The result depends on the arguments alone; at another size the same scene is only finer or
    coarser.

    Args:
        seed: Of the set of scenes.
        index: Of the scene in its set.
        width: Pixels, twice the height.
        height: Pixels, up to 1024.

    Returns:
        Picture (H, W, 3), RGB, and labels (H, W): train ids 0 to 18, 255 for void.

    Raises:
        ValueError: The picture is not twice as wide as it is high.
    """
    if height < 16 or width != 2 * height:
        raise ValueError(f"width must be twice the height (16 or more), got {width} x {height}")
    rng = np.random.default_rng([seed, index])
    camera = Camera(
        height=between(rng, 1.3, 2.1),
        focal=between(rng, 1.05, 1.5),
        horizon=between(rng, 0.36, 0.48),
        center=between(rng, 0.85, 1.15),
        bend=between(rng, -0.0012, 0.0012) * (rng.random() < 0.6),
    )
    fog, rain = rng.random() < FOG_CHANCE, rng.random() < RAIN_CHANCE
    light, zenith = draw_light(rng, fog=fog, rain=rain, spread=LIGHT_SPREAD)
    canvas = Canvas(camera, light, width, height)
    scene = _plan(rng, canvas)
    paint_sky(canvas, zenith)
    _pave(scene)
    for side in scene.sides:
        _line_with_plots(scene, side)
        _furnish(scene, side)
    _drive(scene)
    canvas.flush()
    settle_ground(canvas, scene.shadows)
    _backdrop(scene)
    for _, _, _, paint in sorted(scene.things, key=lambda thing: thing[:3]):
        paint()
    canvas.flush()
    if scene.has("hood"):
        _hood(scene)
    return develop(
        canvas,
        rng,
        rain=rain,
        contrast=TEXTURE_CONTRAST,
        blur=between(rng, *BLUR),
        noise=between(rng, *NOISE),
    )


def _write_one(folder: Path, seed: int, index: int, width: int, height: int) -> None:
    image, labels = draw(seed, index, width=width, height=height)
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    for kind, picture in (("images", image[:, :, ::-1]), ("labels", labels)):
        path = folder / kind / f"{index:05d}.png"
        if not cv2.imwrite(str(path), picture, fast):
            raise OSError(f"cannot write {path}")


def write_split(
    folder: Path, *, seed: int, indices: range, width: int, height: int, workers: int = 0
) -> None:
    """Draw scenes to folder/images/00000.png and folder/labels/00000.png.

    The files are written beside the folder and moved into place at the end, so `folder` is either
    complete or absent. A complete folder is left as it is.

    Args:
        folder: Does not exist yet, or is what this function wrote for the same arguments.
        seed: As for `draw`.
        indices: Scenes to draw; the index is the file's name.
        width: As for `draw`.
        height: As for `draw`.
        workers: Processes that draw; 0 draws in this one.

    Raises:
        FileExistsError: The folder holds something else.
    """
    content = {
        "version": VERSION,
        "seed": seed,
        "width": width,
        "height": height,
        "indices": [indices.start, indices.stop, indices.step],
    }
    note = folder / "scenes.json"
    if folder.exists():
        if note.exists() and json.loads(note.read_text()) == content:
            return
        raise FileExistsError(f"{folder} holds something else than the scenes {content}")
    partial_folder = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial_folder, ignore_errors=True)
    try:
        for kind in ("images", "labels"):
            (partial_folder / kind).mkdir(parents=True)
        write = partial(_write_one, partial_folder, seed, width=width, height=height)
        if workers > 0:
            # Not fork: OpenCV's and PyTorch's threads do not survive it.
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                list(pool.map(write, indices, chunksize=16))
        else:
            for index in indices:
                write(index)
        (partial_folder / note.name).write_text(json.dumps(content))
        partial_folder.rename(folder)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
