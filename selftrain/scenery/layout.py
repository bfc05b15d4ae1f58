"""Where the things of a drawn street are: houses, gardens, furniture, people, traffic."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from selftrain.scenery import furniture, people, plants, traffic
from selftrain.scenery.canvas import Canvas, Color, Label, between, hsv, pick
from selftrain.scenery.houses import building
from selftrain.scenery.street import Scene, Side, mark, stretch
from selftrain.scenery.style import Rng
from selftrain.scenery.traffic import Pose

FAR = 110.0  # metres; the backdrop stands beyond


def line_with_plots(scene: Scene, side: Side) -> None:
    """Queue what stands beyond one sidewalk: houses or trees, and the border of the plots."""
    rng, canvas, style = scene.rng, scene.canvas, scene.style
    houses, trees = style.houses, style.trees
    s = side.sign
    blocked = (math.inf, -math.inf)
    if scene.crossing is not None and side.end > side.walk:
        blocked = (scene.crossing - 1.5, scene.crossing + scene.crossing_width + 1.5)
    shared = scene.color(style.facade)
    leaves = scene.color(style.leaves)
    z = -between(rng, 0.0, 12.0)
    tall = between(rng, *(houses.tall if side.district == "shops" else houses.low))
    while z < FAR and side.district != "sea":
        far = z + between(rng, *(houses.broad if side.district == "shops" else houses.small))
        if far > blocked[0] and z < blocked[1]:
            far = min(far, blocked[0])
        if far > 3.0 and far - max(z, 0.8) > 3.0:
            if side.district == "park":
                for _ in range(2 if z < 50 else 1):
                    x, at = side.walk + between(rng, 1.5, 14.0), between(rng, max(z, 4.0), far)
                    height = between(rng, 4.0, 11.0)
                    plant = partial(plants.tree, canvas, rng, s * x, at, height)
                    scene.add(x, at, partial(plant, leaves, trees))
            else:
                color = scene.color(style.facade) if rng.random() < 0.7 else shared
                height = tall * between(rng, 0.75, 1.25)
                front = side.front
                build = partial(building, canvas, rng, s, s * front, z, far)
                scene.add(front, far, partial(build, height, color, houses))
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
            plant = partial(plants.tree, canvas, rng, s * x, at, between(rng, 3, 7))
            scene.add(x, at, partial(plant, leaves, trees))
    _enclose(scene, side, blocked, leaves)


def _enclose(scene: Scene, side: Side, blocked: tuple[float, float], leaves: Color) -> None:
    """Queue the border of the plots, in pieces of 9 m, leaving the crossing street open."""
    rng, canvas, s, x = scene.rng, scene.canvas, side.sign, side.walk + 0.1
    height = between(rng, 1.1, 2.8)
    stone = scene.color(scene.style.facade)
    coat = hsv(rng.random(), between(rng, 0.0, 0.5), between(rng, 0.15, 0.95))
    bars = pick(rng, ("pickets", "rods", "rods"))

    def paint(start: float, end: float) -> None:
        if side.border == "wall":
            furniture.wall(canvas, rng, s, s * x, start, end, height + 0.5, stone)
        elif side.border == "fence":
            furniture.fence(canvas, rng, s * x, start, end, min(height, 2.0), coat, bars)
        elif side.border == "hedge":
            plants.hedge(canvas, rng, s, s * x, start, end, height * 0.7, leaves)

    for start in np.arange(0.8, 80.0, 9.0).tolist():
        end = start + 9.0
        if start < blocked[0] < end:
            end = blocked[0]
        if not blocked[0] <= start < blocked[1]:
            scene.add(x, end, partial(paint, start, end))
    if side.border == "open" and side.district == "park" and scene.has("fence"):
        at, steel = side.kerb + 0.15, (150, 152, 154)
        for start in (0.8, 12.0, 24.0):
            if not blocked[0] - 12 < start < blocked[1]:
                rail = partial(furniture.fence, canvas, rng, s * at, start, start + 12)
                scene.add(at, start + 12, partial(rail, 0.9, steel, "rail"))


def furnish(scene: Scene, side: Side) -> None:
    """Queue street trees, lamps, signs, lights, people and parked things along one sidewalk."""
    rng, canvas, style, s = scene.rng, scene.canvas, scene.style, side.sign
    band = side.kerb + 0.5

    def clear(z: float) -> bool:
        near = scene.crossing
        return near is None or not near - 1.0 < z < near + scene.crossing_width + 1.0

    if rng.random() < style.layout.avenue:
        leaves, first, step = (
            scene.color(style.leaves),
            between(rng, 5.0, 12.0),
            between(rng, 7.0, 13.0),
        )
        height = between(rng, 4.0, 8.0)
        for z in np.arange(first, 60.0, step).tolist():
            if clear(z):
                x = side.kerb + 0.9
                scene.add(
                    band,
                    z,
                    partial(plants.tree, canvas, rng, s * x, z, height, leaves, style.trees),
                )
                scene.shade(s * x, z, 2.5, 2.5, height * 0.5)
    if scene.has("lamps"):
        for z in np.arange(between(rng, 4.0, 16.0), 55.0, between(rng, 13.0, 24.0)).tolist():
            if clear(z):
                scene.add(
                    band,
                    z,
                    partial(
                        furniture.lamp_post,
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
                scene.add(band, z, partial(furniture.sign, canvas, rng, s * x, z))
    if scene.crossing is not None and rng.random() < 0.75:
        z, reach = scene.crossing - 1.2, (-s * between(rng, 2.0, 4.0)) * (rng.random() < 0.5)
        scene.add(
            band, z, partial(furniture.traffic_light, canvas, rng, s * (side.kerb + 0.4), z, reach)
        )
    for _ in range(int(rng.poisson(scene.difficulty.crowd / 2.6))):
        z = between(rng, 4.5, 22.0)
        x = between(rng, side.kerb + 0.5 + side.verge, max(side.walk - 0.3, side.kerb + 1.8))
        scene.add(band, z, partial(people.person, canvas, rng, s * x, z))
        scene.shade(s * x, z, 0.4, 0.3, 1.6)
        if rng.random() < 0.4:
            beside = s * x + pick(rng, (-0.6, 0.6))
            scene.add(band, z, partial(people.person, canvas, rng, beside, z + 0.1))
    if scene.has("parked bicycle"):
        first, count = between(rng, 5.0, 14.0), int(between(rng, 1, 4.99))
        for i in range(count):
            z = first + i * 0.8
            if clear(z):
                pose = Pose(s * (side.kerb + 1.1), z, math.pi / 2 * s + between(rng, -0.3, 0.3))
                scene.add(band, z, partial(people.bicycle, canvas, rng, pose, ridden=False))
                scene.shade(pose.x, z, 1.6, 0.3, 0.6)
    if scene.has("clutter"):
        z, x = between(rng, 5.0, 20.0), side.kerb + between(rng, 0.4, 1.4)
        if clear(z):
            scene.add(band, z, partial(furniture.clutter, canvas, rng, s * x, z))


def drive(scene: Scene) -> None:
    """Queue everything on wheels: the rare things first, then cars on what room is left."""
    rng, canvas = scene.rng, scene.canvas

    def along(
        draw: Callable[[Canvas, Rng, Pose], None],
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
                pose = Pose(x + between(rng, -0.2, 0.2), z, math.pi * towards)
                scene.add(abs(x), z, partial(draw, canvas, rng, pose))
                scene.shade(x, z, wide, long, high)
                if draw is traffic.tram:
                    rails = [
                        strip
                        for at in (x - 0.72, x + 0.72)
                        for strip in stretch(at, 0.12, 1.5, 90.0, 6.0, 0.0)
                    ]
                    mark(canvas, rails, (150.0, 148.0, 146.0))
                return

    def across(draw: Callable[[Canvas, Rng, Pose], None], long: float, high: float) -> None:
        if scene.crossing is None:
            return
        lane = pick(rng, (0.28, 0.72))
        z = scene.crossing + scene.crossing_width * lane
        left, right = (min(z * 0.8, side.end - long / 2) for side in scene.sides)
        pose = Pose(between(rng, -left, right), z, math.pi * (0.5 if lane < 0.5 else 1.5))
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
                along(draw, long, wide, high)
    two_wheelers = [("cyclist", partial(people.bicycle, ridden=True))]
    two_wheelers.append(("motorcycle", partial(people.motorcycle, ridden=rng.random() < 0.6)))
    for thing, ride in two_wheelers:
        for _ in range(int(scene.has(thing)) * (1 + (rng.random() < 0.3))):
            if scene.crossing is not None and rng.random() < 0.3:
                across(ride, 1.8, 1.2)
                continue
            side = pick(rng, scene.sides)
            x = side.kerb - side.parking - between(rng, 0.5, 0.9)
            # Nearer, a single motorcycle would outweigh all the others of a split.
            z = between(rng, 6.5, 13.0)
            pose = Pose(side.sign * x, z, math.pi * (side.sign < 0) + between(rng, -0.5, 0.5))
            scene.add(x, z, partial(ride, canvas, rng, pose))
            scene.shade(pose.x, z, 0.5, 1.6, 1.2)
    for _ in range(int(rng.poisson(3.0))):
        along(traffic.car, 4.4, 1.8, 1.4, tries=1)
    for x, towards in scene.lanes:
        for z in np.arange(30.0, 75.0, 12.0).tolist():
            if rng.random() < 0.22 and scene.free(x, z, z + 7):
                pose = Pose(x, z + 3, math.pi * towards)
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
            if rng.random() < scene.difficulty.parked and not blocked:
                x = side.sign * (side.kerb - side.parking / 2 - 0.1)
                at = z + between(rng, 2.2, 3.2)
                pose = Pose(x, at, math.pi * (side.sign < 0))
                scene.add(x, at, partial(traffic.car, canvas, rng, pose))
                scene.shade(x, at, 1.8, 4.4, 1.4)
    if near is not None:
        for _ in range(int(rng.poisson(scene.difficulty.crowd / 4))):
            x = between(rng, -scene.sides[0].kerb, scene.sides[1].kerb)
            z = near - between(rng, 1.0, 3.4)
            scene.add(0.0, z, partial(people.person, canvas, rng, x, z), on_crossing=True)
            scene.shade(x, z, 0.4, 0.3, 1.6)


def paint_backdrop(scene: Scene) -> None:
    """Paint the skyline at the end of the street; out at sea there is none."""
    rng, canvas, style = scene.rng, scene.canvas, scene.style
    built, low, high = style.layout.skyline
    coast = [(side.sign, side.walk + 10.0) for side in scene.sides if side.district == "sea"]
    x = -170.0
    green = scene.color(style.leaves)
    while x < 170.0:
        wide, z = between(rng, 10.0, 40.0), 150.0
        if any(max(s * x, s * (x + wide)) > shore for s, shore in coast):
            pass
        elif rng.random() < built:
            box = np.array([[x, 0, z], [x + wide, 0, z], [x + wide, 0, z], [x, 0, z]])
            box[2:, 1] = between(rng, low, high)
            canvas.paint(box, scene.color(style.facade), Label.BUILDING)
        else:
            center, radii = (x + wide / 2, 3.0), (wide * 0.7, between(rng, 5.0, 14.0))
            plants.foliage(canvas, rng, [center], z, radii, green, 0)
        x += wide * 0.8
