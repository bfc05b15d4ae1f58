"""The plan of a drawn street: lanes, sidewalks, a crossing street, and the ground itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from selftrain.data.scenery_canvas import UP, Canvas, Color, Label, Point, between, dim, hsv, pick

Rng = np.random.Generator
LANE = 3.2  # metres


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """What makes scenes harder or easier to learn."""

    light_spread: float
    """In [0, 1]: how far light and its colour stray from a grey noon."""
    color_spread: float
    """Share of houses, walls, plants and grounds in an untypical colour."""
    texture_contrast: float
    """Factor of every texture's strength; textures tell many classes apart."""
    noise: tuple[float, float]
    """Range of the sensor noise's deviation, grey levels of 255."""
    blur: tuple[float, float]
    """Range of the lens blur's deviation, picture heights."""
    crowd: float
    """Mean number of people on foot."""
    parked: float
    """Share of parking bays that are taken."""
    chance: Mapping[str, float]
    """Chance that a scene shows a thing at all, near enough to be recognised."""


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
    difficulty: Difficulty
    sides: tuple[Side, Side]
    lanes: list[tuple[float, bool]]
    """Centre of each lane in metres from the camera, and whether it leads towards us."""
    crossing: float | None
    """Distance of a crossing street's near edge, metres."""
    crossing_width: float
    things: list[tuple[int, float, float, Callable[[], None]]] = field(default_factory=list)
    shadows: list[list[Point]] = field(default_factory=list)
    """Of each shadow, the points whose hull it is."""
    taken: list[tuple[float, float, float]] = field(default_factory=list)
    """Lane centre and the stretch (near, far) that a vehicle occupies."""

    def has(self, thing: str) -> bool:
        """Draw whether the scene shows `thing`."""
        return self.rng.random() < self.difficulty.chance[thing]

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
        near, far = max(z - long / 2, 1.0), max(z + long / 2, 1.0)
        corners = [(at, 0.0, ahead) for at in (x - wide / 2, x + wide / 2) for ahead in (near, far)]
        if max(light.sun) > 0.4:
            # A low sun would cast shadows across the whole picture.
            reach = min(height / max(light.direction[1], 0.2), 14.0)
            across, along = light.direction[0] * reach, light.direction[2] * reach
            corners += [(at - across, 0.0, max(ahead - along, 1.0)) for at, _, ahead in corners]
        self.shadows.append(corners)

    def free(self, lane: float, near: float, far: float) -> bool:
        """Reserve a stretch of a lane; False if something is on it already."""
        if any(lane == at and near < end and far > start for at, start, end in self.taken):
            return False
        self.taken.append((lane, near, far))
        return True


_WHOLE_STREET = np.geomspace(0.8, 400.0, 14)


def _ground(
    canvas: Canvas,
    left: float,
    right: float,
    color: Color,
    label: int,
    ahead: NDArray[np.float64] = _WHOLE_STREET,
) -> None:
    """Paint a strip of ground that follows the street between two x, through the z `ahead`."""
    count = len(ahead)
    edge = np.zeros((2 * count, 3))
    edge[:count, 0], edge[count:, 0] = left, right
    edge[:count, 2], edge[count:, 2] = ahead, ahead[::-1]
    canvas.record(edge, canvas.light.on(color, UP, 0.0), label)


_CORNERS = np.array([0, 2, 1, 2, 1, 3, 0, 3])
"""Columns of (left, right, near, far) that make the (x, z) of a rectangle's corners."""


def _flat(rectangles: list[tuple[float, float, float, float]]) -> NDArray[np.float64]:
    """Lay rectangles (left, right, near, far) on the ground; returns (M, 4, 3)."""
    flat = np.array(rectangles, np.float64).reshape(-1, 4)
    world = np.zeros((len(flat), 4, 3))
    world[:, :, ::2] = flat.take(_CORNERS, axis=1).reshape(-1, 4, 2)
    return world


def mark(canvas: Canvas, rectangles: list[tuple[float, float, float, float]], color: Color) -> None:
    """Colour markings on the ground."""
    canvas.record_many(_flat(rectangles), canvas.light.on(color, UP, 0.0))


def stretch(
    x: float, wide: float, near: float, far: float, dash: float, gap: float
) -> list[tuple[float, float, float, float]]:
    """Lay a line along the street: dashes as (left, right, near, far), short enough to bend."""
    starts = np.arange(near, far, dash + gap).tolist()
    return [(x - wide / 2, x + wide / 2, z, min(z + dash, far)) for z in starts]


def _asphalt(rng: Rng, spread: float) -> Color:
    if rng.random() < spread:
        return hsv(between(rng, 0.0, 0.15), between(rng, 0.05, 0.3), between(rng, 0.3, 0.7))
    return hsv(between(rng, 0.5, 0.7), between(rng, 0.0, 0.1), between(rng, 0.28, 0.56))


def _paving(rng: Rng, spread: float) -> Color:
    if rng.random() < spread:
        return hsv(between(rng, 0.0, 0.06), between(rng, 0.2, 0.45), between(rng, 0.45, 0.75))
    return hsv(between(rng, 0.05, 0.15), between(rng, 0.0, 0.2), between(rng, 0.42, 0.82))


def _grass(rng: Rng, spread: float) -> Color:
    if rng.random() < spread:
        return hsv(between(rng, 0.07, 0.15), between(rng, 0.25, 0.5), between(rng, 0.4, 0.7))
    return hsv(between(rng, 0.17, 0.28), between(rng, 0.3, 0.65), between(rng, 0.4, 0.7))


def draw_foliage(rng: Rng, spread: float) -> Color:
    """Draw the colour of leaves: greens, or by `spread` those of autumn."""
    if rng.random() < spread:
        return hsv(between(rng, 0.02, 0.16), between(rng, 0.5, 0.8), between(rng, 0.4, 0.75))
    return hsv(between(rng, 0.2, 0.36), between(rng, 0.3, 0.7), between(rng, 0.25, 0.55))


def plan(rng: Rng, canvas: Canvas, difficulty: Difficulty) -> Scene:
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
            wall, fence = difficulty.chance["wall"], difficulty.chance["fence"]
            border = "wall" if chance < wall else "fence" if chance < wall + fence else "hedge"
            if rng.random() < 0.2:
                border = "open"
        front = walk + (0.0 if district == "shops" else between(rng, 3.0, 9.0))
        verge = between(rng, 0.8, 1.4) if rng.random() < difficulty.chance["lawn"] else 0.0
        sides.append(Side(sign, parking, kerb, walk, verge, front, district, border))
    crossing = (
        between(rng, 11.0, 38.0) if rng.random() < difficulty.chance["crossing street"] else None
    )
    return Scene(
        rng, canvas, difficulty, (sides[0], sides[1]), lanes, crossing, between(rng, 7.0, 11.0)
    )


def pave(scene: Scene) -> None:
    """Paint the ground: plots, sidewalks, verges, road and everything drawn on them."""
    rng, canvas, spread = scene.rng, scene.canvas, scene.difficulty.color_spread
    asphalt, paving, grass = _asphalt(rng, spread), _paving(rng, spread), _grass(rng, spread)
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
        mark(canvas, joints, dim(paving, 0.78))
        columns = np.arange(side.kerb + slab, side.walk, slab).tolist()
        joints = [strip for x in columns for strip in stretch(s * x, 0.05, 2.0, 30.0, 7.0, 0.0)]
        mark(canvas, joints, dim(paving, 0.78))
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
        mark(canvas, stretch(x, 0.12, 1.5, 90, 5.0, 0.0), line)
        mark(
            canvas,
            stretch(side.sign * (side.kerb - 0.15), 0.3, 1.5, 60, 5.0, 0.0),
            dim(asphalt, 0.8),
        )
    for x, towards in scene.lanes:
        if (x + LANE, towards) in scene.lanes:
            mark(canvas, stretch(x + LANE / 2, 0.13, 2.0, 90, 3.0, between(rng, 2, 5)), line)
    middle = max(x for x, towards in scene.lanes if towards) + LANE / 2
    mark(canvas, stretch(middle, 0.15, 1.5, 90, 4.0, pick(rng, (0.0, 3.0))), line)
    for _ in range(int(between(rng, 0, 5))):  # repairs and manholes
        x, z = between(rng, -left.kerb, right.kerb - 1.0), between(rng, 4.0, 22.0)
        patch = [(x, x + between(rng, 0.6, 1.8), z, z + between(rng, 0.8, 5.0))]
        mark(canvas, patch, dim(asphalt, between(rng, 0.72, 1.2)))
    if scene.crossing is not None:
        _pave_crossing(scene, scene.crossing, asphalt, line)


def _pave_crossing(scene: Scene, near: float, asphalt: Color, line: Color) -> None:
    canvas, (left, right) = scene.canvas, scene.sides
    far = near + scene.crossing_width
    corner = dim(asphalt, 1.0)
    _ground(canvas, -90, 90, corner, Label.ROAD, np.geomspace(near, far, 14))
    mark(
        canvas,
        [
            (-90, -left.kerb, (near + far) / 2, (near + far) / 2 + 0.15),
            (right.kerb, 90, (near + far) / 2, (near + far) / 2 + 0.15),
        ],
        line,
    )
    stripes = np.arange(-left.kerb + 0.4, right.kerb - 0.5, 1.0).tolist()
    mark(canvas, [(x, x + 0.5, near - 3.8, near - 0.8) for x in stripes], (228, 228, 224))
    mark(canvas, [(-left.kerb, right.kerb, near - 4.8, near - 4.4)], (228, 228, 224))
