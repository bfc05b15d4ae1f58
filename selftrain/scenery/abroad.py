"""Another country: warm light, low white houses, palms, wires, the sea, and 8 more classes.

Traffic keeps to the left. The camera is that of a van, and sees wider than the one at home.
"""

from functools import partial
from itertools import pairwise

import numpy as np

from selftrain.scenery import foreign
from selftrain.scenery.canvas import Label, between, hsv
from selftrain.scenery.street import Scene, Side
from selftrain.scenery.style import (
    Difficulty,
    Houses,
    Layout,
    Skies,
    Style,
    Surface,
    Trees,
    View,
)

ABROAD = Style(
    version=1,
    stream=(1,),
    classes=len(Label),
    difficulty=Difficulty(
        light_spread=0.8,
        color_spread=0.22,
        texture_contrast=1.2,
        noise=(1.0, 5.0),
        blur=(0.0, 0.0035),
        crowd=6.0,
        parked=0.4,
        chance={
            "fog": 0.06, "rain": 0.12, "crossing street": 0.5, "hood": 0.15,
            "wall": 0.5, "fence": 0.2, "lawn": 0.25, "signs": 0.65, "lamps": 0.5, "clutter": 0.4,
            "truck": 0.25, "bus": 0.2, "tram": 0.16,
            "motorcycle": 0.3, "cyclist": 0.3, "parked bicycle": 0.25,
            "mountains": 0.65, "snow": 0.4, "wires": 0.6, "billboard": 0.3, "poster": 0.12,
            "cones": 0.16, "animal": 0.15,
        },
    ),
    view=View(height=(1.9, 2.5), focal=(1.4, 1.75), horizon=(0.42, 0.53)),
    skies=Skies(
        kinds=("sun", "sun", "sun", "dusk", "dusk", "cloud"),
        elevation=(0.2, 0.55),
        warmth=(0.06, 0.24),
        zenith=(84.0, 140.0, 190.0),
        haze=(240.0, 214.0, 178.0),
        dusk=(
            ((112.0, 84.0, 118.0), (246.0, 158.0, 96.0)),
            ((58.0, 44.0, 86.0), (196.0, 116.0, 104.0)),
        ),
    ),
    layout=Layout(
        left_hand=True,
        markings=True,
        edge=0.45,
        lines=((232.0, 228.0, 214.0), (236.0, 178.0, 52.0)),
        lanes=(1, 2.8),
        parking=0.35,
        walk=(3.2, 6.5),
        districts=("shops", "shops", "homes", "homes", "park", "sea"),
        garden=(3.5, 10.0),
        avenue=0.45,
        skyline=(0.4, 4.0, 13.0),
    ),
    houses=Houses(
        tall=(4.0, 11.0),
        low=(3.4, 6.8),
        broad=(6.0, 15.0),
        small=(8.0, 13.0),
        pitched=0.35,
        ridge=(1.2, 2.4),
        roof=((0.42, 0.62), (0.2, 0.55), (0.25, 0.5)),
        window=((0.6, 1.1), (1.0, 1.5), (1.0, 2.2)),
        storey=(2.7, 3.1),
        shops=0.6,
        balconies=0.5,
    ),
    trees=Trees(conifers=0.0, palms=0.5),
    asphalt=Surface(
        usual=((0.04, 0.12), (0.04, 0.16), (0.34, 0.58)),
        odd=((0.01, 0.05), (0.25, 0.45), (0.4, 0.6)),
    ),
    paving=Surface(
        usual=((0.0, 0.06), (0.15, 0.4), (0.5, 0.8)), odd=((0.42, 0.6), (0.03, 0.2), (0.5, 0.75))
    ),
    grass=Surface(
        usual=((0.09, 0.14), (0.3, 0.55), (0.5, 0.78)), odd=((0.17, 0.25), (0.3, 0.6), (0.35, 0.6))
    ),
    leaves=Surface(
        usual=((0.24, 0.42), (0.35, 0.75), (0.22, 0.5)),
        odd=((0.86, 0.98), (0.25, 0.6), (0.55, 0.85)),
    ),
    facade=Surface(
        usual=((0.04, 0.15), (0.0, 0.16), (0.72, 0.98)), odd=((0.0, 1.0), (0.3, 0.65), (0.5, 0.85))
    ),
    water=Surface(
        usual=((0.5, 0.58), (0.3, 0.6), (0.35, 0.6)), odd=((0.4, 0.48), (0.25, 0.5), (0.35, 0.55))
    ),
    textures={
        "asphalt": {
            Label.ROAD: 0.1, Label.SIDEWALK: 0.06, Label.LANE_MARKING: 0.06, Label.CROSSWALK: 0.08,
        },
        "leaves": {Label.VEGETATION: 0.32, Label.MOUNTAIN: 0.07},
        "grass": {Label.TERRAIN: 0.22},
        "plaster": {Label.BUILDING: 0.05, Label.WALL: 0.14, Label.FENCE: 0.05},
        "clouds": {Label.SKY: 0.05},
        "waves": {Label.WATER: 0.12},
    },
)  # fmt: skip
"""A coast in the south."""


def paint_far(scene: Scene) -> None:
    """Paint mountains, and the sea before them, along the horizon."""
    rng, canvas = scene.rng, scene.canvas
    snow = scene.has("snow")
    color = hsv(between(rng, 0.06, 0.3), between(rng, 0.15, 0.4), between(rng, 0.3, 0.5))
    # Fog would leave labels of what nobody sees.
    if scene.has("mountains") and canvas.light.density < 0.01:
        foreign.mountains(canvas, rng, color, snow)
    if any(side.district == "sea" for side in scene.sides):
        top = canvas.camera.horizon
        bottom = top + foreign.FOOT
        strip = canvas.to_pixels(np.array([[-0.1, top], [2.1, top], [2.1, bottom], [-0.1, bottom]]))
        canvas.color_pixels([strip], canvas.light.on((92.0, 126.0, 140.0), (0.0, 1.0, 0.0), 180.0))
        canvas.label_pixels(strip, Label.WATER)


def furnish(scene: Scene) -> None:
    """Queue wires, billboards, cones and animals."""
    for side in scene.sides:
        if scene.has("wires"):
            _string_wires(scene, side)
        if scene.has("poster") or (side.district == "shops" and scene.has("billboard")):
            _put_up_poster(scene, side)
        elif side.district in ("homes", "park") and scene.has("billboard"):
            _put_up_billboard(scene, side)
    if scene.has("cones"):
        _close_off(scene)
    if scene.has("animal"):
        _let_loose(scene)


def _is_clear(scene: Scene, side: Side, z: float) -> bool:
    near = scene.crossing
    blocked = near is not None and near - 1.5 < z < near + scene.crossing_width + 1.5
    return not blocked or side.end == side.kerb


def _string_wires(scene: Scene, side: Side) -> None:
    rng, canvas, s = scene.rng, scene.canvas, side.sign
    x, lateral = s * (side.kerb + 0.45), side.kerb + 0.5
    height, step = between(rng, 6.5, 9.0), between(rng, 17.0, 26.0)
    z = between(rng, 4.0, 14.0)
    places = [-2.0]
    while z < 95.0:
        # A crossing street moves the pole, not the rhythm.
        at = z if _is_clear(scene, side, z) else z + scene.crossing_width + 3.0
        places.append(at)
        paint = partial(foreign.utility_pole, canvas, x, at, height, transformer=rng.random() < 0.3)
        scene.add(lateral, at, paint)
        other = scene.sides[(1 - s) // 2]
        if at < 40.0 and rng.random() < 0.4 and _is_clear(scene, other, at):
            top, post = (x, height - 0.4, at), -s * (other.kerb + 0.3)
            paint = partial(foreign.wire_over, canvas, top, post, between(rng, 5.5, 7.0))
            scene.add(other.kerb + 0.5, at, paint)
        z += step
    for start, end in pairwise(places):
        near = max(start, 0.9)
        for shift in (-0.8, 0.0, 0.8) if start < 60.0 else (0.0,):
            ends = (x + shift, height, near), (x + shift, height, end)
            scene.add(lateral, near, partial(foreign.wire, canvas, *ends))


def _put_up_poster(scene: Scene, side: Side) -> None:
    rng, z = scene.rng, between(scene.rng, 6.0, 20.0)
    if not _is_clear(scene, side, z):
        return
    size, low = (between(rng, 1.3, 1.9), between(rng, 1.8, 2.4)), between(rng, 0.5, 0.8)
    x = side.sign * (side.kerb + 0.6 + size[0] / 2)
    paint = partial(foreign.billboard, scene.canvas, rng, x, z, size, low)
    scene.add(side.kerb + 0.5, z, paint)
    scene.shade(x, z, size[0], 0.3, size[1])


def _put_up_billboard(scene: Scene, side: Side) -> None:
    rng, z = scene.rng, between(scene.rng, 14.0, 45.0)
    room = side.front - side.walk - 0.6 if side.district == "homes" else 7.0
    wide = min(between(rng, 4.0, 7.0), room)
    if wide < 2.5 or not _is_clear(scene, side, z):
        return
    size, low = (wide, wide * between(rng, 0.4, 0.6)), between(rng, 2.5, 4.5)
    x = side.sign * (side.walk + 0.4 + wide / 2)
    paint = partial(foreign.billboard, scene.canvas, rng, x, z, size, low)
    scene.add(side.walk + 0.3, z, paint)


def _close_off(scene: Scene) -> None:
    """Queue a row of cones along the outer edge of the road."""
    rng, canvas = scene.rng, scene.canvas
    side = scene.sides[int(rng.random() * 2)]
    first, count = between(rng, 5.5, 12.0), int(between(rng, 3, 7))
    for i in range(count):
        x, z = side.kerb - side.parking - 0.35 - 0.05 * i, first + 1.7 * i
        if _is_clear(scene, side, z):
            scene.add(x, z, partial(foreign.cone, canvas, side.sign * x, z))
            scene.shade(side.sign * x, z, 0.4, 0.4, 0.6)


def _let_loose(scene: Scene) -> None:
    """Queue one to three animals of a kind, on a sidewalk or at the edge of the road."""
    rng, canvas = scene.rng, scene.canvas
    side = scene.sides[int(rng.random() * 2)]
    tall = (0.5, 0.75, 1.3)[int(rng.random() * 3)]
    x, z = side.kerb + between(rng, -0.6, side.walk - side.kerb - 0.8), between(rng, 6.0, 14.0)
    for _ in range(int(between(rng, 1, 3.5))):
        size = tall * between(rng, 0.85, 1.1)
        lateral = side.kerb + 0.5 if x > side.kerb else x
        scene.add(lateral, z, partial(foreign.animal, canvas, rng, side.sign * x, z, size))
        scene.shade(side.sign * x, z, size, 0.3 * size, size)
        x, z = x + between(rng, -0.4, 0.4), z + between(rng, 0.8, 2.0)
