"""The plan of a drawn street: lanes, sidewalks, a crossing street, and the ground itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from selftrain.scenery.canvas import UP, Canvas, Color, Label, Point, between, dim, pick
from selftrain.scenery.style import Difficulty, Rng, Style, Surface

LANE = 3.2  # metres
OFFING = 3000.0
"""Where the sea ends, metres to the side."""


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
    """One of `Layout.districts`."""
    border: str
    """What closes the plots: "wall", "fence", "hedge" or "open"."""

    @property
    def end(self) -> float:
        """How far a crossing street reaches: a quay ends it."""
        return self.kerb if self.district == "sea" else math.inf


@dataclass(slots=True)
class Scene:
    """What is in a scene before it is painted: things with the order to paint them in."""

    rng: Rng
    canvas: Canvas
    style: Style
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

    @property
    def difficulty(self) -> Difficulty:
        """Of the scene's style."""
        return self.style.difficulty

    def color(self, surface: Surface) -> Color:
        """Draw a colour of one of the style's surfaces."""
        return surface.draw(self.rng, self.difficulty.color_spread)

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


def mark(
    canvas: Canvas,
    rectangles: list[tuple[float, float, float, float]],
    color: Color,
    label: int | None = None,
) -> None:
    """Colour markings on the ground, and label them if asked to."""
    canvas.record_many(_flat(rectangles), canvas.light.on(color, UP, 0.0), label)


def stretch(
    x: float, wide: float, near: float, far: float, dash: float, gap: float
) -> list[tuple[float, float, float, float]]:
    """Lay a line along the street: dashes as (left, right, near, far), short enough to bend."""
    starts = np.arange(near, far, dash + gap).tolist()
    return [(x - wide / 2, x + wide / 2, z, min(z + dash, far)) for z in starts]


def plan(rng: Rng, canvas: Canvas, style: Style) -> Scene:
    """Draw lanes, sides and the crossing street."""
    layout, chance = style.layout, style.difficulty.chance
    ours, theirs = int(between(rng, *layout.lanes)), int(between(rng, *layout.lanes))
    own = int(rng.random() * ours)
    lanes = [(LANE * (i - own), False) for i in range(ours)]
    lanes += [(-LANE * (own + 1 + i), True) for i in range(theirs)]
    drift = between(rng, -0.5, 0.5)
    lanes = [(x + drift, towards) for x, towards in lanes]
    sides = []
    for sign in (-1, 1):
        edge = max(sign * x for x, _ in lanes) + LANE / 2
        parking = 2.2 if rng.random() < layout.parking else 0.0
        kerb = edge + parking
        walk = kerb + between(rng, *layout.walk)
        district = pick(rng, layout.districts)
        border = "open"
        if district != "shops":
            kind = rng.random()
            wall, fence = chance["wall"], chance["fence"]
            border = "wall" if kind < wall else "fence" if kind < wall + fence else "hedge"
            if rng.random() < 0.2:
                border = "open"
        front = walk + (0.0 if district == "shops" else between(rng, *layout.garden))
        verge = between(rng, 0.8, 1.4) if rng.random() < chance["lawn"] else 0.0
        sides.append(Side(sign, parking, kerb, walk, verge, front, district, border))
    crossing = between(rng, 11.0, 38.0) if rng.random() < chance["crossing street"] else None
    return Scene(rng, canvas, style, (sides[0], sides[1]), lanes, crossing, between(rng, 7.0, 11.0))


def pave(scene: Scene) -> None:
    """Paint the ground: plots, sidewalks, verges, road and everything drawn on them."""
    rng, canvas, style = scene.rng, scene.canvas, scene.style
    asphalt, paving = scene.color(style.asphalt), scene.color(style.paving)
    grass = scene.color(style.grass)
    line = pick(rng, style.layout.lines)
    for side in scene.sides:
        _pave_side(scene, side, paving, grass)
    left, right = scene.sides
    _ground(canvas, -left.kerb, right.kerb, asphalt, Label.ROAD)
    # Where lines are a class, what hides them takes their label with their colour.
    lined, plain = (Label.LANE_MARKING, Label.ROAD) if style.layout.markings else (None, None)
    for side in scene.sides:
        x = side.sign * (side.kerb - side.parking - style.layout.edge)
        mark(canvas, stretch(x, 0.12, 1.5, 90, 5.0, 0.0), line, lined)
        gutter = stretch(side.sign * (side.kerb - 0.15), 0.3, 1.5, 60, 5.0, 0.0)
        mark(canvas, gutter, dim(asphalt, 0.8), plain)
    for x, towards in scene.lanes:
        if (x + LANE, towards) in scene.lanes:
            dashes = stretch(x + LANE / 2, 0.13, 2.0, 90, 3.0, between(rng, 2, 5))
            mark(canvas, dashes, line, lined)
    middle = max(x for x, towards in scene.lanes if towards) + LANE / 2
    mark(canvas, stretch(middle, 0.15, 1.5, 90, 4.0, pick(rng, (0.0, 3.0))), line, lined)
    for _ in range(int(between(rng, 0, 5))):  # repairs and manholes
        x, z = between(rng, -left.kerb, right.kerb - 1.0), between(rng, 4.0, 22.0)
        patch = [(x, x + between(rng, 0.6, 1.8), z, z + between(rng, 0.8, 5.0))]
        mark(canvas, patch, dim(asphalt, between(rng, 0.72, 1.2)), plain)
    if scene.crossing is not None:
        _pave_crossing(scene, scene.crossing, asphalt, line)


def _pave_side(scene: Scene, side: Side, paving: Color, grass: Color) -> None:
    rng, canvas, s = scene.rng, scene.canvas, side.sign
    if side.district == "sea":
        water = scene.color(scene.style.water)
        _ground(canvas, s * side.walk, s * OFFING, water, Label.WATER)
    elif side.district == "shops":
        _ground(canvas, s * side.walk, s * 90, paving, Label.SIDEWALK)
    else:
        _ground(canvas, s * side.walk, s * 90, grass, Label.TERRAIN)
    _ground(canvas, s * side.kerb, s * side.walk, paving, Label.SIDEWALK)
    slab = between(rng, 0.5, 1.1)
    rows = np.arange(2.0, 24.0, slab).tolist()
    joints = [(s * side.kerb, s * side.walk, z, z + 0.05) for z in rows]
    mark(canvas, joints, dim(paving, 0.78))
    columns = np.arange(side.kerb + slab, side.walk, slab).tolist()
    joints = [strip for x in columns for strip in stretch(s * x, 0.05, 2.0, 30.0, 7.0, 0.0)]
    mark(canvas, joints, dim(paving, 0.78))
    if side.verge:
        inner = side.kerb + 0.2
        _ground(canvas, s * inner, s * (inner + side.verge), grass, Label.TERRAIN)
    kerb_color = dim(paving, 1.18)
    _ground(canvas, s * side.kerb, s * (side.kerb + 0.2), kerb_color, Label.SIDEWALK)


def _pave_crossing(scene: Scene, near: float, asphalt: Color, line: Color) -> None:
    canvas, (left, right) = scene.canvas, scene.sides
    markings = scene.style.layout.markings
    far = near + scene.crossing_width
    starts, ends = max(-90.0, -left.end), min(90.0, right.end)
    _ground(canvas, starts, ends, dim(asphalt, 1.0), Label.ROAD, np.geomspace(near, far, 14))
    middle = (near + far) / 2
    arms = [
        (starts, -left.kerb, middle, middle + 0.15),
        (right.kerb, ends, middle, middle + 0.15),
    ]
    mark(canvas, arms, line, Label.LANE_MARKING if markings else None)
    if markings:
        zebra = [(-left.kerb + 0.4, right.kerb - 0.5, near - 3.8, near - 0.8)]
        mark(canvas, zebra, asphalt, Label.CROSSWALK)
    stripes = np.arange(-left.kerb + 0.4, right.kerb - 0.5, 1.0).tolist()
    mark(canvas, [(x, x + 0.5, near - 3.8, near - 0.8) for x in stripes], (228, 228, 224))
    stop = [(-left.kerb, right.kerb, near - 4.8, near - 4.4)]
    mark(canvas, stop, (228, 228, 224), Label.LANE_MARKING if markings else None)
