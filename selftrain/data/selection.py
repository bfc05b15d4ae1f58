"""Which pseudo labels a training learns from (docs/selection.md).

Everything is computed from the manifest's histograms, in a second for 20,000 images: no label is
read, and another selection needs no other labels. The steps, in this order:

1. images: those with the highest mean confidence or agreement;
2. pixels: for each class the lowest confidence that counts, from the histograms of these images;
3. images of which no pixel is kept, or fewer than `min_pixels`, then leave. The levels stay.

Kept pixels are counted in the histograms: exactly where a level begins a bin. Where it lies inside
one, that bin's pixels count in part, and so an image may stay whose only ones lie below the level.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selftrain.data.shards import BIN_STARTS
from selftrain.errors import InputError

NEVER = 256
"""Level of a class of which no pixel counts: no 8-bit confidence reaches it."""
STARVED = 0.1
"""A class is starved below this share of its frequency in the real labels [choice]."""

_EDGES = np.array([*BIN_STARTS, NEVER])
_BLOCK = 512  # images counted at a time: 5 MB of float64 for 19 classes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """What is kept of N images' pseudo labels of K classes."""

    rows: NDArray[np.intp]
    """The images that are kept, ascending."""
    keep_from: tuple[int, ...]
    """(K) lowest 8-bit confidence at which a pixel counts, 0..NEVER; for `Reader.keep_from`."""
    predicted_pixels: NDArray[np.int64]
    """(K) pixels in all N images."""
    kept_pixels: NDArray[np.int64]
    """(K) pixels that count. Exact where the class's level begins a bin (BIN_STARTS); within a
    bin the pixels are taken as evenly spread."""
    kept_images: NDArray[np.int64]
    """(K) images in which a pixel of the class counts, as exact as `kept_pixels`."""


def lowest_level(threshold: float) -> int:
    """Return the lowest 8-bit confidence that reaches a threshold in [0, 1]."""
    return math.ceil(255 * threshold)


def select(
    histograms: NDArray[np.uint32],
    *,
    rule: Literal["global", "cbst", "dars"] = "global",
    threshold: float = 0.0,
    share: float = 1.0,
    images: Literal["all", "confidence", "agreement"] = "all",
    images_share: float = 1.0,
    min_pixels: int = 0,
    agreement: NDArray[np.float64] | None = None,
    real_pixels: NDArray[np.int64] | None = None,
) -> Selection:
    """Choose the images and, for each class, the confidence from which its pixels count.

    The defaults keep everything. The rules:

    - global: `threshold` for all classes, to the exact 8-bit level.
    - cbst: each class keeps its most confident pixels, at least `share` of them (Zou et al. 2018).
    - dars: what is kept has the real labels' class frequencies, and is at least `share` of all
      pixels. A class that has too few pixels for that gives all, the others fill up in proportion
      to their real frequencies (He et al. 2021).

    cbst and dars cut at the beginning of a bin, so a class may keep up to one bin more than asked.
    Under both, pixels below `threshold` do not count either.

    Args:
        histograms: (N, K, B) pixels by image, class and bin of confidence (BIN_STARTS).
        rule: See above.
        threshold: In [0, 1].
        share: Above 0 to 1; of cbst and dars.
        images: By what the images are chosen; the mean confidence is taken at the bins' middles.
        images_share: Share of the N images that is taken, above 0 to 1; at least one is. Of
            images that score alike the first is taken.
        min_pixels: Least kept pixels of an image, as exact as `Selection.kept_pixels`.
        agreement: (N,), NaN where it was not measured; for images = agreement.
        real_pixels: (K,) pixels of the real labels; for dars.

    Raises:
        InputError: nothing is left, agreement was not measured, or dars has no real pixel.
    """
    if histograms.ndim != 3 or histograms.shape[2] != len(BIN_STARTS):
        raise ValueError(f"histograms {histograms.shape} must be (N, K, {len(BIN_STARTS)})")
    rows = _choose_images(histograms, images, images_share, agreement)
    everything = _sum_images(histograms, np.arange(len(histograms)))
    taken = everything if len(rows) == len(histograms) else _sum_images(histograms, rows)
    floor = lowest_level(threshold)
    if rule == "dars":
        levels = _align_to_real(taken, floor, share, real_pixels)
    else:
        levels = _keep_share(taken, share if rule == "cbst" else 1.0)
    keep_from = tuple(max(level, floor) for level in levels)

    kept = _count_kept(histograms, rows, keep_from)
    pixels, chosen = kept.sum(axis=1), len(rows)
    enough = (pixels > 0) & (pixels >= min_pixels)  # a crop without a label teaches nothing
    rows, kept = rows[enough], kept[enough]
    if not kept.any():
        raise InputError(
            f"Nothing is left of the pseudo labels' {everything.sum()} pixels: {chosen} of "
            f"{len(histograms)} images pass select.images_share = {images_share:g}, of them "
            f"{round(pixels.sum())} pixels select.rule = {rule} with threshold = {threshold:g} and "
            f"share = {share:g}, and no image min_pixels = {min_pixels}: lower threshold or "
            "min_pixels, or raise the shares."
        )
    return Selection(
        rows=rows,
        keep_from=keep_from,
        predicted_pixels=everything.sum(axis=1),
        kept_pixels=np.rint(kept.sum(axis=0)).astype(np.int64),
        kept_images=np.count_nonzero(kept, axis=0).astype(np.int64),
    )


def report(
    selection: Selection,
    names: Sequence[str],
    real_pixels: NDArray[np.int64],
    centroids: Mapping[int, NDArray[np.int32]] | None = None,
) -> pd.DataFrame:
    """Compare what is kept of each class with what was predicted and with the real labels.

    Args:
        selection: Of the K classes.
        names: Of the K classes.
        real_pixels: (K,) pixels of the real labels.
        centroids: Rows for each class that crops aim at in the kept labels; None: not asked for.

    Returns:
        A row a class. real %, predicted % and kept % are shares of all pixels of that kind, kept
        share % is of the class's own predicted pixels, threshold the lowest confidence that
        counts (NaN: none does), images those in which a pixel counts.
    """
    levels = np.array(selection.keep_from)
    columns: dict[str, object] = {
        "class": list(names),
        "real %": _percent(real_pixels),
        "predicted %": _percent(selection.predicted_pixels),
        "kept %": _percent(selection.kept_pixels),
        "kept share %": 100 * selection.kept_pixels / np.maximum(selection.predicted_pixels, 1),
        "threshold": np.where(levels < NEVER, levels / 255, np.nan),
        "images": selection.kept_images,
    }
    if centroids is not None:
        columns["centroids"] = [len(centroids.get(k, ())) for k in range(len(names))]
    return pd.DataFrame(columns)


def starved(
    names: Sequence[str], real_pixels: NDArray[np.int64], pixels: NDArray[np.int64]
) -> list[str]:
    """List the classes that the real labels have and the pseudo labels hardly show.

    Such a class has less than STARVED of its real frequency among the pixels: a student is then
    told that it hardly exists.

    Args:
        names: Of the K classes.
        real_pixels: (K,) pixels of the real labels.
        pixels: (K,) pixels of the pseudo labels, all or those that are kept.

    Returns:
        For each a name with its two frequencies, the worst first, as "train (0.001 % instead
        of 0.17 %)".
    """
    real, found = _percent(real_pixels), _percent(pixels)
    ratio = found / np.where(real > 0, real, np.nan)
    return [
        f"{names[k]} ({found[k]:.2g} % instead of {real[k]:.2g} %)"
        for k in np.argsort(ratio, kind="stable").tolist()
        if ratio[k] < STARVED
    ]


def _percent(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(100 * pixels / max(int(pixels.sum()), 1))


def _choose_images(
    histograms: NDArray[np.uint32],
    images: str,
    images_share: float,
    agreement: NDArray[np.float64] | None,
) -> NDArray[np.intp]:
    """Return the rows of the images with the highest scores, ascending."""
    if images == "all":
        return np.arange(len(histograms))
    scores = _mean_confidence(histograms) if images == "confidence" else agreement
    if scores is None or len(scores) != len(histograms):
        raise ValueError("select by agreement needs the agreement of each image")
    if unknown := int(np.isnan(scores).sum()):
        raise InputError(
            f"select.images = agreement, but {unknown} of the {len(scores)} images were labelled "
            "without measuring it: label the pool with pseudo_label.agreement = flip or snapshots, "
            "or by several teachers."
        )
    wanted = max(1, round(images_share * len(scores)))
    return np.sort(np.argsort(-scores, kind="stable")[:wanted])


def _mean_confidence(histograms: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return the mean 8-bit confidence of each image's labelled pixels, (N,); 0 without any."""
    by_bin = histograms.sum(axis=1, dtype=np.int64)
    middles = (_EDGES[:-1] + _EDGES[1:] - 1) / 2  # of the levels in a bin, both ends included
    return np.asarray(by_bin @ middles / np.maximum(by_bin.sum(axis=1), 1))


def _sum_images(histograms: NDArray[np.uint32], rows: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the pixels of each class and bin in some of the images, (K, B)."""
    total = np.zeros(histograms.shape[1:], dtype=np.int64)
    for start in range(0, len(rows), _BLOCK):
        total += histograms[rows[start : start + _BLOCK]].sum(axis=0, dtype=np.int64)
    return total


def _count_kept(
    histograms: NDArray[np.uint32], rows: NDArray[np.intp], keep_from: Sequence[int]
) -> NDArray[np.float64]:
    """Return the pixels that count, by image and class, (rows, K)."""
    weights = _bin_weights(keep_from)
    kept = np.zeros((len(rows), len(weights)))
    for start in range(0, len(rows), _BLOCK):
        block = histograms[rows[start : start + _BLOCK]].astype(np.float64)
        kept[start : start + _BLOCK] = np.einsum("nkb,kb->nk", block, weights)
    return kept


def _bin_weights(keep_from: Sequence[int]) -> NDArray[np.float64]:
    """Return which share of each bin's pixels counts, (K, B)."""
    levels = np.asarray(keep_from)[:, np.newaxis]
    return np.asarray(np.clip((_EDGES[1:] - levels) / np.diff(_EDGES), 0, 1))


def _keep_share(taken: NDArray[np.int64], share: float) -> list[int]:
    if share >= 1:
        return [0] * len(taken)
    return [_cut(pixels, _whole(share * int(pixels.sum()))) for pixels in taken]


def _align_to_real(
    taken: NDArray[np.int64], floor: int, share: float, real_pixels: NDArray[np.int64] | None
) -> list[int]:
    if real_pixels is None or len(real_pixels) != len(taken):
        raise ValueError("dars needs the real labels' pixels of each class")
    if not real_pixels.any():
        raise InputError(
            "select.rule = dars follows the class frequencies of the real labels, but these have "
            "no labelled pixel: label some, or choose cbst."
        )
    available = (taken * _bin_weights([floor] * len(taken))).sum(axis=1)
    targets = _fill_up(available, real_pixels / real_pixels.sum(), share * int(taken.sum()))
    return [
        # A class that gives all it has, even if that is nothing, is cut by the threshold alone.
        0 if wanted >= held else _cut(pixels, _whole(wanted))
        for pixels, wanted, held in zip(taken, targets, available, strict=True)
    ]


def _fill_up(
    available: NDArray[np.float64], frequencies: NDArray[np.float64], total: float
) -> NDArray[np.float64]:
    """Return min(available, alpha x frequencies) with the alpha at which the sum is `total`.

    Where all that there is of the wanted classes does not reach the total, return it all.
    """
    wanted = np.flatnonzero(frequencies)
    empty_at = available[wanted] / frequencies[wanted]  # the alpha at which a class is used up
    order = wanted[np.argsort(empty_at, kind="stable")]
    for used_up, k in enumerate(order.tolist()):
        missing = total - available[order[:used_up]].sum()
        alpha = missing / frequencies[order[used_up:]].sum()
        if available[k] > alpha * frequencies[k]:
            return np.asarray(np.minimum(available, alpha * frequencies))
    return np.where(frequencies > 0, available, 0.0)


def _whole(pixels: float) -> int:
    # 0.07 of 100 pixels are 7, although 0.07 * 100 is 7.000000000000001.
    return math.ceil(pixels * (1 - 1e-12))


def _cut(pixels: NDArray[np.int64], wanted: int) -> int:
    """Return the highest beginning of a bin from which a class keeps at least so many pixels."""
    if wanted == 0:
        return NEVER if pixels.any() else 0
    from_bin = pixels[::-1].cumsum()[::-1]
    return int(_EDGES[np.flatnonzero(from_bin >= wanted)[-1]])
