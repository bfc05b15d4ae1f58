"""What drawn scenes are painted on: a camera, a light, and a picture with its labels.

World coordinates are metres: x to the right of the camera, y up from the ground, z ahead. Things
are painted far to near, so that what is painted later hides what lies behind it.
"""

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from itertools import accumulate, compress
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Color = tuple[float, float, float]
"""RGB in [0, 255] for a colour; also used for factors per channel and for directions."""
Point = tuple[float, float, float]
"""(x, y, z) in the world, metres."""
Floats = NDArray[np.float64]
Pixels = NDArray[np.int32]


class Label(IntEnum):
    """The 19 classes of Cityscapes, then those that only exist abroad, by train id."""

    ROAD = 0
    SIDEWALK = 1
    BUILDING = 2
    WALL = 3
    FENCE = 4
    POLE = 5
    TRAFFIC_LIGHT = 6
    TRAFFIC_SIGN = 7
    VEGETATION = 8
    TERRAIN = 9
    SKY = 10
    PERSON = 11
    RIDER = 12
    CAR = 13
    TRUCK = 14
    BUS = 15
    TRAIN = 16
    MOTORCYCLE = 17
    BICYCLE = 18
    LANE_MARKING = 19
    CROSSWALK = 20
    MOUNTAIN = 21
    WATER = 22
    CABLE = 23
    BILLBOARD = 24
    TRAFFIC_CONE = 25
    ANIMAL = 26


VOID = 255
SUPERSAMPLING = 2  # drawn this much larger and averaged: the only anti-aliasing labels survive
SUBPIXEL_BITS = 4
NEAR = 0.8  # metres; nothing is drawn closer to the camera
THINNEST = 0.008  # picture heights; bars are drawn at least this wide


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera looking along the street; lengths in the picture are in picture heights."""

    height: float
    """Metres above the ground."""
    focal: float
    """Focal length in picture heights."""
    horizon: float
    """Picture heights from the top edge."""
    center: float
    """Where the street vanishes, in picture heights from the left edge (1 is the middle)."""
    bend: float
    """Half the curvature of the street, 1/m; the street drifts by bend * z**2."""


@dataclass(frozen=True, slots=True)
class Light:
    """Sun, sky and air. Colours are multiplied by `ambient` + `sun` * cosine."""

    ambient: Color
    sun: Color
    direction: Color
    """Unit vector towards the sun."""
    haze: Color
    """Colour that distance fades to."""
    density: float
    """Of the haze, 1/m."""
    lamps: bool
    """True when windows and lamps are lit."""

    def on(self, color: Color, normal: Color, distance: float) -> tuple[int, int, int]:
        """Return the colour of a surface as it is seen from `distance` metres."""
        # Called for every stroke, therefore written out: it is a fifth faster than with min().
        a, s, h = self.ambient, self.sun, self.haze
        (x, y, z), (right, up, ahead) = self.direction, normal
        facing = right * x + up * y + ahead * z
        if facing < 0.0:
            facing = 0.0
        clear = math.exp(-distance * self.density)
        faded = 1 - clear
        red, green, blue = color
        red *= a[0] + s[0] * facing
        green *= a[1] + s[1] * facing
        blue *= a[2] + s[2] * facing
        return (
            int((red if red < 255.0 else 255.0) * clear + h[0] * faded),
            int((green if green < 255.0 else 255.0) * clear + h[1] * faded),
            int((blue if blue < 255.0 else 255.0) * clear + h[2] * faded),
        )

    def through(self, color: Color, distance: float) -> tuple[int, int, int]:
        """Return the colour of something that shines by itself, seen from `distance` metres."""
        clear = math.exp(-distance * self.density)
        red, green, blue = (
            int(c * clear + h * (1 - clear)) for c, h in zip(color, self.haze, strict=True)
        )
        return red, green, blue


TOWARDS: Color = (0.0, 0.0, -1.0)  # normal of a surface that faces the camera
UP: Color = (0.0, 1.0, 0.0)


class Canvas:
    """A picture (2H, 2W, 3) and its labels (2H, 2W), painted together or apart.

    Strokes are kept until `flush`, which projects the corners of all of them at once: one by one,
    the overhead of numpy's calls would be most of the time that a scene takes.
    """

    def __init__(self, camera: Camera, light: Light, width: int, height: int) -> None:
        self.camera = camera
        self.light = light
        self.rows = height * SUPERSAMPLING
        self.image = np.zeros((self.rows, width * SUPERSAMPLING, 3), np.uint8)
        self.labels = np.full(self.image.shape[:2], VOID, np.uint8)
        # Corners, what draws them, and how far that reaches beyond them in fixed-point pixels.
        self._strokes: list[tuple[Floats, Callable[[Pixels], None], float]] = []
        # The projection in fixed-point pixels; integer coordinates are the centres of pixels.
        self._unit = float(self.rows << SUBPIXEL_BITS)

    def pixels(self, points: Floats) -> Pixels:
        """Project world points (N, 3) to the fixed-point pixels (N, 2) OpenCV draws with."""
        camera = self.camera
        x, y, z = points.T
        z = np.maximum(z, NEAR)
        across = camera.center + camera.focal * (x / z + camera.bend * z)
        down = camera.horizon + camera.focal * (camera.height - y) / z
        return self.to_pixels(np.stack([across, down], axis=1))

    def shows(self, left: float, right: float, z: float) -> bool:
        """Tell whether something between `left` and `right` at distance `z` may be in the picture.

        False is certain, so that its strokes need not be made. Lines, which may be drawn wider
        than they are, are not considered.
        """
        camera = self.camera
        z = max(z, NEAR)
        middle, scale = camera.center + camera.focal * camera.bend * z, camera.focal / z
        margin = 2 / self.rows
        width = self.image.shape[1] / self.rows
        return middle + scale * right > -margin and middle + scale * left < width + margin

    def to_pixels(self, seen: Floats) -> Pixels:
        """Turn picture heights (..., 2) into the fixed-point pixels OpenCV draws with."""
        return np.rint(seen * self._unit - 0.5 * (1 << SUBPIXEL_BITS)).astype(np.int32)

    def flush(self) -> None:
        """Draw all strokes recorded so far, in their order."""
        if not self._strokes:
            return
        corners, strokes, reaches = zip(*self._strokes, strict=True)
        self._strokes.clear()
        pixels = self.pixels(np.concatenate(corners))
        ends = list(accumulate(map(len, corners)))
        starts = [0, *ends[:-1]]
        seen = self._in_frame(pixels, starts, reaches)
        for stroke, start, end in compress(zip(strokes, starts, ends, strict=True), seen):
            stroke(pixels[start:end])

    def _in_frame(
        self, pixels: Pixels, starts: Sequence[int], reaches: Sequence[float]
    ) -> list[bool]:
        """Tell which strokes may touch the picture; a third of a scene's strokes do not."""
        reach = np.array(reaches) + (1 << SUBPIXEL_BITS)
        seen = np.ones(len(starts), bool)
        for axis, size in ((0, self.image.shape[1]), (1, self.rows)):
            at = pixels[:, axis]
            seen &= np.maximum.reduceat(at, starts) >= -reach
            seen &= np.minimum.reduceat(at, starts) <= (size << SUBPIXEL_BITS) + reach
        return seen.tolist()

    def color_pixels(self, polygons: Sequence[Pixels], color: Sequence[float]) -> None:
        """Colour polygons that do not overlap, at once; the labels stay."""
        cv2.fillPoly(self.image, polygons, color, cv2.LINE_8, SUBPIXEL_BITS)

    def label_pixels(self, polygon: Pixels, label: int) -> None:
        """Label one polygon at once; the picture stays."""
        cv2.fillPoly(self.labels, [polygon], (label,), cv2.LINE_8, SUBPIXEL_BITS)

    def record(self, points: Floats, color: Sequence[float] | None, label: int | None) -> None:
        """Record a polygon (N, 3) in a colour that is already lit; None leaves a layer alone."""

        def stroke(pixels: Pixels) -> None:
            if color is not None:
                cv2.fillPoly(self.image, [pixels], color, cv2.LINE_8, SUBPIXEL_BITS)
            if label is not None:
                cv2.fillPoly(self.labels, [pixels], (label,), cv2.LINE_8, SUBPIXEL_BITS)

        self._strokes.append((points, stroke, 0.0))

    def record_many(
        self, polygons: Floats, color: Sequence[float], label: int | None = None
    ) -> None:
        """Record polygons (M, N, 3) that do not overlap, in a colour that is already lit."""
        count, corners = polygons.shape[:2]
        if count == 0:
            return
        if count == 1:
            self.record(polygons[0], color, label)
            return

        def stroke(pixels: Pixels) -> None:
            split = list(pixels.reshape(count, corners, 2))
            cv2.fillPoly(self.image, split, color, cv2.LINE_8, SUBPIXEL_BITS)
            if label is not None:
                cv2.fillPoly(self.labels, split, (label,), cv2.LINE_8, SUBPIXEL_BITS)

        self._strokes.append((polygons.reshape(-1, 3), stroke, 0.0))

    def paint(self, points: Floats, color: Color, label: int, normal: Color = TOWARDS) -> None:
        """Colour and label one flat polygon (N, 3)."""
        self.record(points, self.light.on(color, normal, float(points[0, 2])), label)

    def decorate(
        self, polygons: Floats, color: Color, normal: Color = TOWARDS, *, glow: bool = False
    ) -> None:
        """Colour polygons (M, N, 3) that do not overlap each other, without labelling them."""
        if len(polygons) == 0:
            return
        distance = float(polygons[0, 0, 2])
        light = self.light
        seen = light.through(color, distance) if glow else light.on(color, normal, distance)
        self.record_many(polygons, seen)

    def mark(self, points: Floats, label: int) -> None:
        """Label one polygon (N, 3) without colouring it: fences and wheels are seen through."""
        self.record(points, None, label)

    def hull(self, points: Floats, label: int, color: Color | None = None) -> None:
        """Label the outline of a solid from its corners (..., 3), and colour it if asked to."""
        corners = points.reshape(-1, 3)
        seen = self.light.on(color, TOWARDS, float(corners[0, 2])) if color is not None else None

        def stroke(pixels: Pixels) -> None:
            outline = cv2.convexHull(pixels)
            if seen is not None:
                cv2.fillPoly(self.image, [outline], seen, cv2.LINE_8, SUBPIXEL_BITS)
            cv2.fillPoly(self.labels, [outline], (label,), cv2.LINE_8, SUBPIXEL_BITS)

        self._strokes.append((corners, stroke, 0.0))

    def line(self, ends: Floats, width: float, color: Color, label: int) -> None:
        """Draw a thin bar between world points (2, 3).

        Args:
            ends: The two ends.
            width: Metres. Bars are never drawn thinner than about one pixel of 128 rows.
            color: RGB before light.
            label: Class of the bar.
        """
        focal = self.camera.focal
        near, far = (
            max(width * focal / max(z, NEAR), THINNEST) * self._unit / 2
            for z in ends[:, 2].tolist()
        )
        seen = self.light.on(color, TOWARDS, float(ends[0, 2]))

        def stroke(pixels: Pixels) -> None:
            (left, top), (right, bottom) = pixels.tolist()
            x, y = right - left, bottom - top
            length = math.hypot(x, y) or 1.0
            a, b = near / length, far / length
            corners = [
                (left - y * a, top + x * a),
                (right - y * b, bottom + x * b),
                (right + y * b, bottom - x * b),
                (left + y * a, top - x * a),
            ]
            polygon = np.array(corners, np.int32)
            cv2.fillPoly(self.image, [polygon], seen, cv2.LINE_8, SUBPIXEL_BITS)
            cv2.fillPoly(self.labels, [polygon], (label,), cv2.LINE_8, SUBPIXEL_BITS)

        self._strokes.append((ends, stroke, max(near, far)))


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number in [low, high); faster than `Generator.uniform` for one number."""
    return low + (high - low) * rng.random()


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Draw one of `choices`, all equally likely."""
    return choices[int(rng.random() * len(choices))]


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Return an RGB colour in [0, 255] from hue, saturation and value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return red * 255, green * 255, blue * 255


def dim(color: Color, factor: float) -> Color:
    """Return `color` times `factor`, at most 255."""
    red, green, blue = color
    return min(255.0, red * factor), min(255.0, green * factor), min(255.0, blue * factor)


@cache
def disc(corners: int) -> Floats:
    """Return a unit circle as a polygon (corners, 2)."""
    angle = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


@cache
def texture(name: str, width: int, height: int) -> NDArray[np.float32]:
    """Return a noise field of 1.5 picture widths and heights, mean 0 and deviation 1.

    It is made on one grid and resized, so that it shows the same grain at every picture size.

    Args:
        name: One of `TEXTURES`.
        width: Of the picture.
        height: Of the picture.
    """
    layers = TEXTURES[name]
    # A fixed stream per texture: the scene chooses only the offset of its cut-out.
    rng = np.random.default_rng([list(TEXTURES).index(name), 1906])
    field = np.zeros((384, 768), np.float32)
    for across, down, strength in layers:
        noise = rng.standard_normal(field.shape, np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), sigmaX=across, sigmaY=down)
        field += strength * smooth / smooth.std()
    shape = (width * 3 // 2, height * 3 // 2)
    shrinks = shape[0] < field.shape[1]
    sized = cv2.resize(field, shape, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(sized / sized.std(), np.float32)


TEXTURES: dict[str, list[tuple[float, float, float]]] = {  # (blur across, blur down, strength)
    "asphalt": [(1.2, 0.8, 1.0), (14.0, 3.0, 0.5)],
    "leaves": [(1.6, 1.6, 1.0), (5.0, 5.0, 0.8)],
    "grass": [(0.8, 2.4, 1.0), (9.0, 3.0, 0.7)],
    "plaster": [(1.0, 1.0, 0.6), (16.0, 16.0, 1.0)],
    "clouds": [(40.0, 12.0, 1.0), (14.0, 5.0, 0.4)],
    "waves": [(7.0, 0.9, 1.0), (2.5, 0.6, 0.6)],
}


@cache
def sensor_noise(width: int, height: int) -> NDArray[np.float32]:
    """Return white noise of 1.5 picture widths and heights and 3 channels, deviation 1."""
    rng = np.random.default_rng(1907)
    return rng.standard_normal((height * 3 // 2, width * 3 // 2, 3), np.float32)
