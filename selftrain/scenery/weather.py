"""Light and weather of a drawn scene, and the way from a painted canvas to a photograph."""

import math
from collections.abc import Mapping
from itertools import accumulate, chain

import cv2
import numpy as np
from numpy.typing import NDArray

from selftrain.scenery.canvas import (
    SUBPIXEL_BITS,
    SUPERSAMPLING,
    Camera,
    Canvas,
    Color,
    Label,
    Light,
    Point,
    between,
    pick,
    sensor_noise,
    texture,
)
from selftrain.scenery.style import Rng, Skies, Style

_WETNESS = np.zeros(256, np.float32)
"""By label, whether rain makes a mirror of it."""
_WETNESS[[Label.ROAD, Label.LANE_MARKING, Label.CROSSWALK]] = 1.0


def draw_light(
    rng: Rng, skies: Skies, *, fog: bool, rain: bool, spread: float
) -> tuple[Light, Color]:
    """Draw the sun, the air and the colour of the sky at the zenith.

    Args:
        rng: The scene's generator.
        skies: Of the country.
        fog: Whether distance fades quickly.
        rain: Overcast, and never a sun.
        spread: In [0, 1]: how far light and its colour stray from a grey noon.
    """
    kind = pick(rng, skies.kinds) if not rain else "cloud"
    azimuth, elevation = between(rng, 0, 2 * math.pi), between(rng, *skies.elevation)
    warm = between(rng, *skies.warmth) * spread
    tint = (1 + warm, 1.0, 1 - warm)
    level = 1 + between(rng, -0.25, 0.2) * spread
    if kind == "sun":
        ambient, sun = 0.52 * level, 0.62 * level
        zenith, haze = skies.zenith, skies.haze
    elif kind == "cloud":
        ambient, sun = 0.78 * level, 0.12
        grey = between(rng, 165, 232)
        zenith, haze = (grey * 0.95, grey * 0.97, grey), (grey, grey, grey)
    else:
        elevation = between(rng, 0.12, 0.3)
        ambient, sun = (0.76 - 0.3 * spread * rng.random()) * level, 0.2
        tint = (1 + 0.18 * rng.random() * spread, 0.96, 1.06 - 0.14 * rng.random() * spread)
        zenith, haze = skies.dusk[rng.random() < 0.5]
    horizontal = math.cos(elevation)
    direction = (
        horizontal * math.sin(azimuth),
        math.sin(elevation),
        horizontal * math.cos(azimuth),
    )
    light = Light(
        ambient=(ambient * tint[0], ambient * tint[1], ambient * tint[2]),
        sun=(sun * 1.05 * tint[0], sun * tint[1], sun * 0.92 * tint[2]),
        direction=direction,
        haze=haze,
        density=between(rng, 0.018, 0.04) if fog else between(rng, 0.001, 0.006),
        lamps=kind == "dusk",
    )
    return light, haze if fog else zenith


def paint_sky(canvas: Canvas, zenith: Color) -> None:
    """Fill the picture above the horizon from `zenith` at its top to the haze at the horizon."""
    rows = max(int(canvas.camera.horizon * canvas.rows) + 1, 1)
    down = np.linspace(0, 1, rows)[:, None] ** 1.3
    sky = np.array(zenith) * (1 - down) + np.array(canvas.light.haze) * down
    canvas.image[:rows] = _spread(sky, canvas.image.shape[1])
    canvas.labels[:rows] = Label.SKY


def _spread(column: NDArray[np.float64], width: int) -> NDArray[np.uint8]:
    """Repeat a column of colours (H, 3) to a picture (H, width, 3)."""
    # Several times as fast as broadcasting, which copies three bytes at a time.
    column8 = np.rint(column).astype(np.uint8)[:, None]
    block = math.gcd(width, 16)
    repeated = cv2.repeat(cv2.repeat(column8, 1, block), 1, width // block)
    return np.asarray(repeated, np.uint8)


def settle_ground(canvas: Canvas, shadows: list[list[Point]]) -> None:
    """Lay shadows, hulls of points on the ground, and haze over the part below the horizon."""
    top = int(canvas.camera.horizon * canvas.rows) + 1
    ground = canvas.image[top:]
    sunlit = np.full(canvas.labels.shape, 255, np.uint8)
    if shadows:
        pixels = canvas.pixels(np.array(list(chain.from_iterable(shadows))))
        for end, points in zip(accumulate(map(len, shadows)), shadows, strict=True):
            hull = cv2.convexHull(pixels[end - len(points) : end])
            cv2.fillPoly(sunlit, [hull], (255 - 112,), cv2.LINE_8, SUBPIXEL_BITS)
    soft = max(canvas.rows // 100, 1)
    kept = cv2.blur(sunlit[top:], (soft * 2 + 1, soft))
    camera = canvas.camera
    row = (np.arange(top, canvas.rows) + 0.5) / canvas.rows
    distance = camera.focal * camera.height / np.maximum(row - camera.horizon, 1e-3)
    clear = np.exp(-np.minimum(distance, 200) * canvas.light.density)[:, None]
    haze = _spread(np.array(canvas.light.haze) * (1 - clear), canvas.image.shape[1])
    factor = (kept * clear).astype(np.uint8)
    shaded = cv2.multiply(ground, cv2.cvtColor(factor, cv2.COLOR_GRAY2RGB), scale=1 / 255)
    canvas.image[top:] = cv2.add(shaded, haze)


def _cut(field: NDArray[np.float32], rng: Rng, width: int, height: int) -> NDArray[np.float32]:
    """Cut a picture out of a field 1.5 times as large, at the same place for every size."""
    x, y = int(rng.random() * 0.49 * width), int(rng.random() * 0.49 * height)
    return field[y : y + height, x : x + width]


def _textures(
    labels: NDArray[np.uint8],
    rng: Rng,
    textures: Mapping[str, Mapping[Label, float]],
    contrast: float,
) -> NDArray[np.float32]:
    """Return a factor (H, W) for the brightness of every pixel."""
    height, width = labels.shape
    factor = np.ones((height, width), np.float32)
    for name, strengths in textures.items():
        amounts = np.zeros(256, np.float32)
        for label, strength in strengths.items():
            amounts[label] = strength * contrast
        field = _cut(texture(name, width, height), rng, width, height)
        factor += cv2.LUT(labels, amounts) * field
    return np.maximum(factor, 0.2)


def _rain(image: NDArray[np.float32], labels: NDArray[np.uint8], camera: Camera, rng: Rng) -> None:
    """Mirror the picture in the wet road and streak it with drops, in place."""
    height, width = labels.shape
    top = int(camera.horizon * height)
    below = height - top
    mirror = cv2.blur(image[:top][::-1], (1, max(height // 20, 1)))
    depth = min(below, len(mirror))
    fade = np.linspace(0.55, 0.0, depth, dtype=np.float32)[:, None]
    wet = (cv2.LUT(labels[top : top + depth], _WETNESS) * fade)[:, :, None]
    image[top : top + depth] += wet * (mirror[:depth] - image[top : top + depth])
    count = 70
    x, y = rng.random(count) * width, rng.random(count) * height
    slant, long = between(rng, -0.02, 0.02) * height, rng.uniform(0.03, 0.09, count) * height
    ends = np.stack([np.stack([x, y], 1), np.stack([x + slant, y + long], 1)], 1)
    streaks = np.zeros((height, width), np.uint8)
    thick = max(height // 128, 1)
    cv2.polylines(streaks, list((ends * 16).astype(np.int32)), False, (70,), thick, cv2.LINE_AA, 4)
    image += cv2.LUT(streaks, np.linspace(0, 110, 256, dtype=np.float32))[:, :, None]


def develop(
    canvas: Canvas, rng: Rng, style: Style, *, rain: bool, blur: float, noise: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Turn the painted canvas into a photograph of the final size.

    Args:
        canvas: Painted to the end.
        rng: The scene's generator.
        style: Of the country.
        rain: Whether the road mirrors and drops fall.
        blur: Deviation of the lens blur, in picture heights.
        noise: Deviation of the sensor's noise, in grey levels of 255.

    Returns:
        Picture (H, W, 3), RGB, and labels (H, W).
    """
    height, width = (n // SUPERSAMPLING for n in canvas.labels.shape)
    labels = np.ascontiguousarray(canvas.labels[::SUPERSAMPLING, ::SUPERSAMPLING])
    small = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA)
    # Faster than numpy, whose inner loop would run over the three channels alone.
    brightness = cv2.cvtColor(
        _textures(labels, rng, style.textures, style.difficulty.texture_contrast),
        cv2.COLOR_GRAY2RGB,
    )
    image = np.asarray(cv2.multiply(small, brightness, dtype=cv2.CV_32F), np.float32)
    if rain:
        _rain(image, labels, canvas.camera, rng)
    sigma = blur * height
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32, copy=False)
    image += _cut(sensor_noise(width, height), rng, width, height) * np.float32(noise)
    return np.clip(image, 0, 255).astype(np.uint8), labels
