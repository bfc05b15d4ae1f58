"""Images of an audit: chosen by a rule, with what the teacher made of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from numpy.typing import NDArray

from selftrain.audit.quality import find_wrong, read_both
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.labels import IGNORE_INDEX
from selftrain.pictures import Picture, encode_jpeg, overlay, shrink

OF_A_KIND = 8
"""Images of the lowest, of the middle and of the highest confidence."""
_WIDEST = 360  # pixels of a picture on the page
_QUALITY = 80
_ORANGE = (213, 94, 0)  # on gray to be seen by every kind of colour vision, as red is not
_RAMP = (255 * matplotlib.colormaps["viridis"](np.arange(256))[:, :3]).round().astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """Pictures of one image, side by side."""

    caption: str
    panels: Sequence[tuple[str, bytes]]
    """(title, JPEG) from left to right."""


def confidence_colors(steps: int = 9) -> list[tuple[int, int, int]]:
    """Return the colours of confidences from 0 to 1, evenly spaced."""
    chosen = _RAMP[np.linspace(0, 255, steps).astype(int)].tolist()
    return [(red, green, blue) for red, green, blue in chosen]


def choose_by_confidence(confidence: Sequence[float]) -> dict[str, list[int]]:
    """Choose images without anyone's taste: from the bottom, the middle and the top of an order.

    Args:
        confidence: Mean of each image of the pool; nan, of images without a label, is the lowest.
            Images that are equally confident keep the pool's order.

    Returns:
        Title -> positions, ascending by confidence; none is in two. Of 3 * `OF_A_KIND` images or
        fewer there is one group with all of them.
    """
    order = np.argsort(np.nan_to_num(np.asarray(confidence), nan=-1.0), kind="stable").tolist()
    if len(order) <= 3 * OF_A_KIND:
        return {"All images, from the lowest mean confidence to the highest": order}
    middle = (len(order) - OF_A_KIND) // 2
    return {
        "Lowest mean confidence": order[:OF_A_KIND],
        "About the median": order[middle : middle + OF_A_KIND],
        "Highest mean confidence": order[-OF_A_KIND:],
    }


def draw_labels(sample: Sample, reader: Reader, caption: str) -> Panels:
    """Draw an image, its pseudo label over it, and the confidence."""
    image, label = reader.pair(sample)
    confidence = reader.confidence(sample)
    panels = {
        "image": image,
        "pseudo label": overlay(image, label, reader.classes.colors),
        "confidence": _paint_confidence(confidence, label),
    }
    return _to_panels(panels, caption)


def draw_errors(sample: Sample, truth: Sample, reader: Reader, caption: str) -> Panels:
    """Draw an image, its pseudo label and its true one over it, and where they differ."""
    image = reader.image(sample)
    label, true = read_both(sample, truth, reader)
    colors = reader.classes.colors
    panels = {
        "image": image,
        "pseudo label": overlay(image, label, colors),
        "truth": overlay(image, true, colors),
        "wrong": _mark_wrong(image, label, true),
    }
    return _to_panels(panels, caption)


def _to_panels(pictures: dict[str, Picture], caption: str) -> Panels:
    return Panels(
        caption=caption,
        panels=[
            (title, encode_jpeg(shrink(picture, _WIDEST), quality=_QUALITY))
            for title, picture in pictures.items()
        ],
    )


def _paint_confidence(confidence: NDArray[np.uint8], label: NDArray[np.uint8]) -> Picture:
    """Paint a confidence map from dark blue (0) to yellow (1); black where there is no label."""
    return np.where((label != IGNORE_INDEX)[..., None], _RAMP[confidence], np.uint8(0))


def _mark_wrong(image: Picture, label: NDArray[np.uint8], true: NDArray[np.uint8]) -> Picture:
    """Paint the wrong pixels orange on a gray image, which is dark where a label is missing."""
    gray = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    missing = (label == IGNORE_INDEX) | (true == IGNORE_INDEX)
    gray[missing] *= 0.3
    wrong = find_wrong(label, true)
    gray[wrong] = 0.35 * gray[wrong] + 0.65 * np.array(_ORANGE)
    return np.asarray(gray.round(), dtype=np.uint8)
