"""Colour jitter and blur of whole batches, on the device that trains.

The distributions are those of `augment.py`, which does the same crop by crop on the CPU; the
draws are others, and nothing is rounded to whole numbers in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from selftrain.data.augment import Augmentation

GRAY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the gray value (ITU-R BT.601, as in OpenCV)."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_STREAM = 2
"""Of the crop's seed; `Augmenter` draws from 0 and 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """What is done to one image; the defaults change nothing."""

    brightness: float = 1.0
    """Factor of all pixels."""
    contrast: float = 1.0
    """Factor of the distance from the image's mean gray."""
    saturation: float = 1.0
    """Factor of the distance from each pixel's own gray."""
    hue: float = 0.0
    """Turns of the colour circle."""
    order: tuple[int, ...] = (BRIGHTNESS, CONTRAST, SATURATION, HUE)
    """Which of the four comes first; the colours are clipped to 0..255 after each."""
    sigma: float = 0.0
    """Of the Gaussian blur that comes last, in pixels; 0: none."""


def draw_variation(seed: int, augmentation: Augmentation) -> Variation:
    """Draw how the crop with this seed is varied: always the same."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAM,)))
    jitter = augmentation.jitter
    brightness, contrast, saturation = rng.uniform(1 - jitter, 1 + jitter, size=3)
    hue = rng.uniform(-jitter, jitter)
    order = tuple(rng.permutation(4).tolist())
    is_blurred = rng.random() < augmentation.blur
    sigma = rng.uniform(augmentation.blur_sigma_min, augmentation.blur_sigma_max)
    return Variation(
        brightness=float(brightness),
        contrast=float(contrast),
        saturation=float(saturation),
        hue=hue,
        order=order,
        sigma=sigma if is_blurred else 0.0,
    )


def jitter_and_blur(images: Tensor, seeds: Sequence[int], *, jitter: float, blur: float) -> Tensor:
    """Vary the colours of a batch, and blur some of it.

    What happens to an image follows from its seed alone: its place in the batch, the rank and
    the worker do not matter.

    Args:
        images: (B, 3, H, W), RGB 0..255, uint8 or floating, on any device.
        seeds: The B crops' seeds.
        jitter: Largest change of brightness, contrast, saturation (factors 1 -+ jitter) and hue
            (turns), 0 to 0.5; 0: none.
        blur: Probability of a Gaussian blur, sigma 0.15 to 1.3 pixels.

    Returns:
        (B, 3, H, W), float32, 0..255, in the memory format of the images.

    Raises:
        InputError: jitter or blur is out of its range.
    """
    augmentation = Augmentation(jitter=jitter, blur=blur)
    return vary(images, [draw_variation(seed, augmentation) for seed in seeds])


def vary(images: Tensor, variations: Sequence[Variation]) -> Tensor:
    """Apply one variation to each image of a batch; shapes as in `jitter_and_blur`."""
    if len(variations) != len(images):
        raise ValueError(f"{len(images)} images, but {len(variations)} variations")
    is_last = images.is_contiguous(memory_format=torch.channels_last)
    pixels = images.float()
    for slot in range(4):
        pixels = _vary_colors(pixels, variations, slot)
    pixels = _blur(pixels, variations)
    layout = torch.channels_last if is_last else torch.contiguous_format
    return pixels.contiguous(memory_format=layout)


def _vary_colors(pixels: Tensor, variations: Sequence[Variation], slot: int) -> Tensor:
    """Apply what each image's order has in this slot."""
    # Brightness, contrast and saturation are one formula with other numbers: each mixes the
    # pixel with black, with the mean gray or with its own gray. So no image waits for another.
    mix = np.array([_mix(it, it.order[slot]) for it in variations])
    turns = np.array([it.hue if it.order[slot] == HUE else 0.0 for it in variations])
    if (mix != (1, 0, 0)).any():
        own, to_mean, to_gray = _to(pixels, mix).view(-1, 3, 1, 1, 1).unbind(1)
        red, green, blue = pixels.unbind(1)
        gray = (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue).unsqueeze(1)
        target = to_mean * gray.mean(dim=(2, 3), keepdim=True) + to_gray * gray
        pixels = (own * pixels + target).clamp(0, 255)
    (turned,) = turns.nonzero()
    if turned.size:
        rows = _to(pixels, turned)
        pixels = pixels.index_copy(0, rows, _turn_hue(pixels[rows], _to(pixels, turns[turned])))
    return pixels


def _mix(variation: Variation, kind: int) -> tuple[float, float, float]:
    """Return the shares of the pixel itself, of the image's mean gray and of its own gray."""
    if kind == BRIGHTNESS:
        return variation.brightness, 0.0, 0.0
    if kind == CONTRAST:
        return variation.contrast, 1 - variation.contrast, 0.0
    if kind == SATURATION:
        return variation.saturation, 0.0, 1 - variation.saturation
    return 1.0, 0.0, 0.0


def _turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of the hexagonal colour model (HSV); value and saturation stay.

    Args:
        pixels: (B, 3, H, W), RGB, float32.
        turns: (B,), 1 is the whole circle.
    """
    red, green, blue = pixels.unbind(1)
    value = pixels.amax(dim=1)
    chroma = value - pixels.amin(dim=1)
    # Sixths of the circle from red. A gray pixel has none, and needs none: its chroma is 0.
    divisor = torch.where(chroma > 0, chroma, 1.0)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sixths = sixths + 6 * turns.view(-1, 1, 1)
    # How far each channel falls below the value: it rises and falls once round the circle.
    starts = torch.arange(5, 0, -2, device=pixels.device).view(1, 3, 1, 1)
    place = (sixths.unsqueeze(1) + starts) % 6
    fall = torch.minimum(place, 4 - place).clamp(0, 1)
    return value.unsqueeze(1) - chroma.unsqueeze(1) * fall


def _blur(pixels: Tensor, variations: Sequence[Variation]) -> Tensor:
    """Blur the images that have a sigma; mirrored at the borders, the edge pixel not repeated."""
    sigmas = np.array([it.sigma for it in variations])
    radii = (3.5 * sigmas).astype(int)
    (blurred,) = radii.nonzero()
    if not blurred.size:
        return pixels
    radius = int(radii.max())
    taps = np.stack([_half_kernel(s, r, radius) for s, r in zip(sigmas, radii, strict=True)])
    rows = _to(pixels, blurred)
    weights = _to(pixels, taps[blurred]).view(-1, radius + 1, 1, 1, 1).unbind(1)
    found = pixels[rows]
    # One axis after the other, each as shifted copies: a grouped convolution has its weights per
    # image too, but gives up the memory format.
    for dim, pad in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded, length = F.pad(found, pad, mode="reflect"), found.shape[dim]
        found = weights[0] * found
        for shift in range(1, radius + 1):
            before = padded.narrow(dim, radius - shift, length)
            found = torch.addcmul(
                found, weights[shift], before + padded.narrow(dim, radius + shift, length)
            )
    return pixels.index_copy(0, rows, found)


def _half_kernel(sigma: float, radius: int, length: int) -> NDArray[np.float64]:
    """Return the Gaussian at 0..length, 0 beyond the radius; the whole kernel sums to 1."""
    x = np.arange(length + 1)
    kernel = np.where(x <= radius, np.exp(-0.5 * (x / max(sigma, 1e-6)) ** 2), 0)
    return np.asarray(kernel / (2 * kernel.sum() - kernel[0]))


def _to(pixels: Tensor, numbers: NDArray[np.generic]) -> Tensor:
    """Copy to the pixels' device, without waiting for it; fractions become float32."""
    dtype = torch.float32 if numbers.dtype.kind == "f" else torch.int64
    return torch.as_tensor(numbers, dtype=dtype).to(pixels.device, non_blocking=True)
