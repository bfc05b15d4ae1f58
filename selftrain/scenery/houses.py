"""The houses along a drawn street.

`side` is -1 for the left and 1 for the right of the street; houses grow away from it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from selftrain.scenery.canvas import (
    NEAR,
    TOWARDS,
    Canvas,
    Color,
    Floats,
    Label,
    between,
    dim,
    hsv,
    pick,
)
from selftrain.scenery.planes import Rectangles, along, facing, grid
from selftrain.scenery.style import LIT, Houses, Rng, draw_hsv


def building(
    canvas: Canvas,
    rng: Rng,
    side: int,
    x: float,
    near: float,
    far: float,
    height: float,
    color: Color,
    houses: Houses,
) -> None:
    """Paint a house between `near` and `far` metres ahead, its front in the plane at `x`."""
    near = max(near, NEAR)
    depth = between(rng, 7.0, 11.0)
    outer = x + side * depth
    inward: Color = (-float(side), 0.0, 0.0)
    roof_color = draw_hsv(rng, houses.roof)
    pitched = height < 11 and rng.random() < houses.pitched
    if pitched:
        ridge = height + between(rng, *houses.ridge)
        middle = x + side * depth / 2
        slope = np.array(
            [[x, height, near], [x, height, far], [middle, ridge, far], [middle, ridge, near]]
        )
        canvas.paint(slope, roof_color, Label.BUILDING, (-0.6 * side, 0.8, 0.0))
        gable = np.array([[x, height, near], [middle, ridge, near], [outer, height, near]])
        canvas.paint(gable, color, Label.BUILDING)
    canvas.paint(facing(near, [(x, outer, 0.0, height)])[0], color, Label.BUILDING)
    canvas.paint(along(x, [(near, far, 0.0, height)])[0], color, Label.BUILDING, inward)

    if near > 70:
        return  # windows there would be smaller than a pixel
    front = _draw_front(rng, height, color, houses)
    # What lies beside and behind the camera is never seen.
    visible = far - math.floor((far - max(near, 2.0)) / front.step) * front.step
    _fit_out(canvas, rng, partial(along, x), visible, far, height, front, inward, near > 36)
    if near > NEAR:
        left, right = min(x, outer), max(x, outer)
        _fit_out(canvas, rng, partial(facing, near), left, right, height, front, TOWARDS, near > 36)


@dataclass(frozen=True, slots=True)
class _Front:
    """How the fronts of one house look; lengths in metres."""

    wide: float
    high: float
    step: float
    floors: list[float]
    """Height of the window sills."""
    shop: bool
    glass: Color
    frame: Color
    door: Color
    awning: Color
    balconies: bool


def _draw_front(rng: Rng, height: float, color: Color, houses: Houses) -> _Front:
    across, up, gap = houses.window
    wide, floor = between(rng, *across), between(rng, *houses.storey)
    shop = rng.random() < houses.shops
    floors = [1.0 + floor * i for i in range(int((height - 0.8) / floor))]
    return _Front(
        wide=wide,
        high=between(rng, *up),
        step=wide + between(rng, *gap),
        floors=floors[1:] if shop else floors,
        shop=shop,
        glass=hsv(between(rng, 0.5, 0.65), between(rng, 0.05, 0.4), between(rng, 0.15, 0.55)),
        frame=dim(color, pick(rng, (0.7, 1.25))),
        door=dim(color, 0.45),
        awning=hsv(rng.random(), 0.6, 0.7),
        balconies=houses.balconies > 0 and rng.random() < houses.balconies,
    )


_RIM = np.array([-0.12, 0.12, -0.15, 0.12])
"""How far a window's frame reaches beyond the glass, metres."""


def _fit_out(
    canvas: Canvas,
    rng: Rng,
    place: Callable[[Rectangles], Floats],
    start: float,
    end: float,
    height: float,
    front: _Front,
    normal: Color,
    coarse: bool,
) -> None:
    """Paint windows, shops and a cornice on one front; `coarse` leaves out the small parts."""
    windows = grid(start, end, front.step, front.wide, front.floors, front.high)
    if not coarse:
        rim = windows + _RIM
        canvas.decorate(place(rim), front.frame, normal)
        canvas.decorate(place([(start, end, height - 0.35, height)]), front.frame, normal)
    canvas.decorate(place(windows), front.glass, normal)
    if canvas.light.lamps and len(windows):
        lit = windows[rng.random(len(windows)) < 0.35]
        canvas.decorate(place(lit), LIT, normal, glow=True)
    if front.shop:
        panes = grid(start, end, 3.2, 2.6, [0.5], 2.0)
        canvas.decorate(place(panes), dim(front.glass, 0.8), normal)
        awning = grid(start, end, 3.2, 2.9, [2.6], 0.5)
        canvas.decorate(place(awning), front.awning, normal)
    if front.balconies and not coarse:
        sills = [sill for sill in front.floors if sill > 1.5]
        parapets = [(start + 0.3, end - 0.3, sill - 1.0, sill - 0.1) for sill in sills]
        if parapets:
            canvas.decorate(place(parapets), front.frame, normal)
            shadows = [(near, far, low - 0.2, low) for near, far, low, _ in parapets]
            canvas.decorate(place(shadows), dim(front.frame, 0.55), normal)
    if not (front.shop or coarse):
        canvas.decorate(place([(end - 2.6, end - 1.5, 0.0, 2.2)]), front.door, normal)
