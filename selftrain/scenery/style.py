"""What makes the scenes of one country look alike, as data: palettes, layout, light and chances.

A pair of numbers is a range that every scene draws from anew; lengths are metres.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from selftrain.scenery.canvas import Color, Label, between, hsv

Rng = np.random.Generator
Range = tuple[float, float]
Hues = tuple[Range, Range, Range]
"""Ranges of hue, saturation and value, each in [0, 1]."""
LIT: Color = (255, 214, 140)
"""Of lamps, and of windows with a light behind them."""


def draw_hsv(rng: Rng, hues: Hues) -> Color:
    """Draw a colour."""
    hue, saturation, value = hues
    return hsv(between(rng, *hue), between(rng, *saturation), between(rng, *value))


@dataclass(frozen=True, slots=True)
class Surface:
    """The colours of one kind of surface."""

    usual: Hues
    odd: Hues
    """Of a share `Difficulty.color_spread` of them."""

    def draw(self, rng: Rng, spread: float) -> Color:
        """Draw a colour, an odd one with chance `spread`."""
        return draw_hsv(rng, self.odd if rng.random() < spread else self.usual)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """What makes scenes harder or easier to learn."""

    light_spread: float
    """In [0, 1]: how far light and its colour stray from a grey noon."""
    color_spread: float
    """Share of houses, walls, plants and grounds in an untypical colour."""
    texture_contrast: float
    """Factor of every texture's strength; textures tell many classes apart."""
    noise: Range
    """Of the sensor noise's deviation, grey levels of 255."""
    blur: Range
    """Of the lens blur's deviation, picture heights."""
    crowd: float
    """Mean number of people on foot."""
    parked: float
    """Share of parking bays that are taken."""
    chance: Mapping[str, float]
    """Chance that a scene shows a thing at all, near enough to be recognised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Where the camera is and how it looks; lengths in the picture are in picture heights."""

    height: Range
    """Above the ground, metres."""
    focal: Range
    horizon: Range
    """From the top edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skies:
    """Sun and sky."""

    kinds: tuple[str, ...]
    """"sun", "cloud" or "dusk", all equally likely."""
    elevation: Range
    """Of the sun by day, radians."""
    warmth: Range
    """How much red gains and blue loses, as a share."""
    zenith: Color
    """Of the sky on a sunny day, at the zenith and at the horizon."""
    haze: Color
    dusk: tuple[tuple[Color, Color], tuple[Color, Color]]
    """Zenith and haze of an early and of a late dusk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How wide the parts of a street are, and what lies along it."""

    left_hand: bool
    """Whether traffic keeps to the left."""
    markings: bool
    """Whether lines, and crosswalks with the road between their stripes, are classes."""
    edge: float
    """From the kerb or the parking lane to the line along it."""
    lines: tuple[Color, ...]
    """What the lines on the road are painted with."""
    lanes: Range
    """In one direction; rounded down."""
    parking: float
    """Chance of a parking lane on a side."""
    walk: Range
    """Width of a sidewalk."""
    districts: tuple[str, ...]
    """"shops" (houses at the sidewalk), "homes" (gardens), "park" (no houses) or "sea" (a quay)."""
    garden: Range
    """Depth of the plots between sidewalk and houses."""
    avenue: float
    """Chance of a row of trees on a side."""
    skyline: tuple[float, float, float]
    """At the end of the street: share of houses among plants, and the houses' heights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Houses:
    """How houses are built."""

    tall: Range
    """Height where houses stand at the sidewalk."""
    low: Range
    """Height where they stand in gardens."""
    broad: Range
    """Length along the street where they stand at the sidewalk."""
    small: Range
    """Length where they stand in gardens."""
    pitched: float
    """Share of pitched roofs among houses below 11 m."""
    ridge: Range
    """Height of a pitched roof."""
    roof: Hues
    window: tuple[Range, Range, Range]
    """Width and height of windows, and the gap between two of them."""
    storey: Range
    shops: float
    """Share of houses with a shop on the ground floor."""
    balconies: float
    """Share of houses with a balcony along each floor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """Shares of two kinds among the trees; the others are broad-leaved."""

    conifers: float
    palms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The look of one country."""

    version: int
    """Raise it whenever the drawing of this style changes."""
    stream: tuple[int, ...]
    """Follows (seed, index) in the seed of a scene, so that no style repeats another's streets."""
    classes: int
    """Train ids 0 to classes - 1 occur."""
    difficulty: Difficulty
    view: View
    skies: Skies
    layout: Layout
    houses: Houses
    trees: Trees
    asphalt: Surface
    paving: Surface
    grass: Surface
    leaves: Surface
    facade: Surface
    water: Surface
    """Of the sea, in a district that lies at it."""
    textures: Mapping[str, Mapping[Label, float]]
    """By texture and class, deviation of the brightness as a share of it."""


CITY = Style(
    version=3,
    stream=(),
    classes=19,
    difficulty=Difficulty(
        light_spread=0.8,
        color_spread=0.25,
        texture_contrast=1.0,
        noise=(1.0, 4.0),
        blur=(0.0, 0.0035),
        crowd=5.0,
        parked=0.45,
        chance={
            "fog": 0.12, "rain": 0.15, "crossing street": 0.5, "hood": 0.3,
            "wall": 0.35, "fence": 0.45, "lawn": 0.4, "signs": 0.75, "lamps": 0.7, "clutter": 0.4,
            "truck": 0.22, "bus": 0.22, "tram": 0.2,
            "motorcycle": 0.13, "cyclist": 0.4, "parked bicycle": 0.4,
        },
    ),
    view=View(height=(1.3, 2.1), focal=(1.7, 2.2), horizon=(0.36, 0.48)),
    skies=Skies(
        kinds=("sun", "sun", "cloud", "dusk"),
        elevation=(0.35, 1.1),
        warmth=(-0.12, 0.12),
        zenith=(96.0, 148.0, 212.0),
        haze=(202.0, 216.0, 230.0),
        dusk=(
            ((66.0, 82.0, 130.0), (226.0, 164.0, 128.0)),
            ((40.0, 52.0, 84.0), (104.0, 108.0, 134.0)),
        ),
    ),
    layout=Layout(
        left_hand=False,
        markings=False,
        edge=0.1,
        lines=((225.0, 225.0, 220.0), (214.0, 180.0, 70.0)),
        lanes=(1, 2.6),
        parking=0.55,
        walk=(2.0, 5.0),
        districts=("shops", "shops", "homes", "park"),
        garden=(3.0, 9.0),
        avenue=0.4,
        skyline=(0.5, 6.0, 26.0),
    ),
    houses=Houses(
        tall=(9.0, 22.0),
        low=(5.0, 10.0),
        broad=(9.0, 24.0),
        small=(8.0, 14.0),
        pitched=0.75,
        ridge=(2.0, 3.5),
        roof=((0.0, 0.1), (0.1, 0.6), (0.25, 0.5)),
        window=((0.8, 1.7), (1.3, 2.0), (0.7, 1.7)),
        storey=(2.9, 3.5),
        shops=0.5,
        balconies=0.0,
    ),
    trees=Trees(conifers=0.15, palms=0.0),
    asphalt=Surface(
        usual=((0.5, 0.7), (0.0, 0.1), (0.28, 0.56)), odd=((0.0, 0.15), (0.05, 0.3), (0.3, 0.7))
    ),
    paving=Surface(
        usual=((0.05, 0.15), (0.0, 0.2), (0.42, 0.82)), odd=((0.0, 0.06), (0.2, 0.45), (0.45, 0.75))
    ),
    grass=Surface(
        usual=((0.17, 0.28), (0.3, 0.65), (0.4, 0.7)), odd=((0.07, 0.15), (0.25, 0.5), (0.4, 0.7))
    ),
    leaves=Surface(
        usual=((0.2, 0.36), (0.3, 0.7), (0.25, 0.55)), odd=((0.02, 0.16), (0.5, 0.8), (0.4, 0.75))
    ),
    facade=Surface(
        usual=((0.0, 0.13), (0.03, 0.5), (0.35, 0.92)), odd=((0.0, 1.0), (0.1, 0.6), (0.3, 0.9))
    ),
    water=Surface(
        usual=((0.52, 0.6), (0.3, 0.5), (0.4, 0.6)), odd=((0.4, 0.5), (0.3, 0.5), (0.4, 0.6))
    ),
    textures={
        "asphalt": {Label.ROAD: 0.09, Label.SIDEWALK: 0.045},
        "leaves": {Label.VEGETATION: 0.3},
        "grass": {Label.TERRAIN: 0.2},
        "plaster": {Label.BUILDING: 0.06, Label.WALL: 0.11, Label.FENCE: 0.05},
        "clouds": {Label.SKY: 0.03},
    },
)  # fmt: skip
"""A central European town on any day of the year."""
