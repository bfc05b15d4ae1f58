"""An image of the pool with all that the teacher said of it, and how it is stored."""

import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from selftrain.data.centroids import tile_centroids
from selftrain.data.digests import digest_file
from selftrain.data.histogram import count_values
from selftrain.data.quarter import enlarge, quarter_shape, shrink
from selftrain.data.sample import Sample
from selftrain.errors import InputError
from selftrain.labels import IGNORE_INDEX

BIN_STARTS = (*range(0, 128, 8), *range(128, 224, 4), *range(224, 256))
"""Lowest 8-bit confidence of each bin of the histograms. Finest where most pixels are and where
thresholds lie: single levels from 224 on."""
SOFT_CLASSES = 3
"""Classes of a cell that soft labels keep."""
# Rows as differences to the row above, and runs of one value: against compression level 1 half to a
# fifth of the time, half the bytes of a label map and as many of a confidence map (measured).
# Not with a level after them: it undoes the filter.
_PNG = [
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
]
_BIN_OF_LEVEL = (np.searchsorted(BIN_STARTS, np.arange(256), side="right") - 1).astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImage:
    """An image of the pool with all that the teacher said of it."""

    sample: Sample
    label: NDArray[np.uint8]
    """(H, W), train ids and 255."""
    confidence: NDArray[np.uint8]
    """(H, W), 0..255 for 0..1."""
    soft_classes: NDArray[np.uint8] | None = None
    """(ceil(H / 4), ceil(W / 4), 3): the likeliest classes of each cell, the likeliest first. One
    of probability 0 means nothing."""
    soft_probabilities: NDArray[np.uint8] | None = None
    """Of these classes, 0..255 for 0..1, in the same shape."""
    agreement: float = math.nan
    """Mean over the judges of the mean IoU between a judge's labels and `label`, over the classes
    that either shows; NaN: there were no judges."""
    agreed: NDArray[np.bool_] | NDArray[np.uint8] | None = None
    """(H, W): where every judge has the label's class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardForm:
    """What the images of a set have in common."""

    num_classes: int
    """K; label maps hold 0..K-1 and 255."""
    tile: int
    """Side of the centroids' tiles, in pixels (see `tile_centroids`)."""
    confidence: Literal["full", "quarter"] = "full"
    """Resolution at which confidence is stored."""


def encode_image(item: LabelledImage, form: ShardForm) -> tuple[dict[str, Any], list[bytes]]:
    """Return an image's row of the manifest, but for its place, and its pictures as PNG.

    Args:
        item: What is stored.
        form: Of its set.

    Returns:
        The row and the pictures in the order of `manifest.KINDS`; b"" for one that it lacks.

    Raises:
        InputError: the name leads out of the set's folder, or the image cannot be read.
        ValueError: a map has another type or shape than it should, or holds an id of no class.
    """
    _check_item(item, form.num_classes)
    stored = seen = item.confidence
    if form.confidence == "quarter":
        stored = shrink(item.confidence)
        height, width = item.label.shape
        seen = enlarge(stored, (height, width))  # what `Reader` will select by
    row = {
        "name": item.sample.name,
        "image_digest": digest_file(item.sample.image),
        "agreement": item.agreement,
        **_describe(item, seen, form),
    }
    maps = [item.label, stored, item.soft_classes, item.soft_probabilities]
    return row, [b"" if array is None else encode_map(array) for array in maps]


def _check_item(item: LabelledImage, num_classes: int) -> None:
    sample, label = item.sample, item.label
    name = PurePosixPath(sample.name)
    if name.is_absolute() or ".." in name.parts or "\\" in sample.name or not name.parts:
        raise InputError(
            f"The name {sample.name!r} of {sample.image} cannot name a shard's member: rename it."
        )
    if label.ndim != 2:
        raise ValueError(f"the label of {sample.name} is {label.shape}, not (H, W)")
    cells = (*quarter_shape(*label.shape), SOFT_CLASSES)
    for what, array, shape in [
        ("label", label, label.shape),
        ("confidence", item.confidence, label.shape),
        ("agreed", None if item.agreed is None else item.agreed.view(np.uint8), label.shape),
        ("soft_classes", item.soft_classes, cells),
        ("soft_probabilities", item.soft_probabilities, cells),
    ]:
        if array is not None and (array.shape != shape or array.dtype != np.uint8):
            raise ValueError(
                f"{what} of {sample.name} is {array.dtype} {array.shape}, not uint8 {shape}"
            )
    soft = item.soft_classes, item.soft_probabilities
    if (soft[0] is None) != (soft[1] is None):
        raise ValueError(f"{sample.name} has soft classes or soft probabilities, but not both")
    illegal = ((label >= num_classes) & (label != IGNORE_INDEX)).any()
    if soft[0] is not None and soft[1] is not None:
        illegal |= ((soft[0] >= num_classes) & (soft[1] > 0)).any()
    if illegal:
        raise ValueError(f"the label of {sample.name} holds ids that are none of {num_classes}")


def _describe(
    item: LabelledImage, confidence: NDArray[np.uint8], form: ShardForm
) -> dict[str, object]:
    label = item.label
    histogram = count_confidence(label, confidence, form.num_classes)
    agreed: list[int] = []
    if item.agreed is not None:
        where = np.where(item.agreed, label, IGNORE_INDEX).astype(np.uint8)
        agreed = count_values([where], [form.num_classes]).tolist()
    centroids = tile_centroids(label, num_classes=form.num_classes, tile=form.tile)
    return {
        "height": label.shape[0],
        "width": label.shape[1],
        "class_pixels": histogram.sum(axis=1).tolist(),
        "confidence_histogram": histogram.ravel().tolist(),
        "centroids": centroids.ravel().tolist(),
        "agreed_pixels": agreed,
    }


def count_confidence(
    label: NDArray[np.uint8], confidence: NDArray[np.uint8], num_classes: int
) -> NDArray[np.int64]:
    """Count an image's pixels by class and bin of the confidence: (K, len(BIN_STARTS))."""
    bins = cv2.LUT(confidence, _BIN_OF_LEVEL)
    return count_values([label, np.asarray(bins, dtype=np.uint8)], [num_classes, len(BIN_STARTS)])


def encode_map(array: NDArray[np.uint8]) -> bytes:
    """Return a map (H, W), or (H, W, 3) in RGB, as the PNG that a shard holds."""
    if array.ndim == 3:
        array = np.ascontiguousarray(array[..., ::-1])  # OpenCV writes the last as red
    ok, png = cv2.imencode(".png", array, _PNG)
    if not ok:
        raise ValueError(f"a map of {array.shape} cannot be encoded as PNG")
    return png.tobytes()
