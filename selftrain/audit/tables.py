"""The numbers of an audit, as tables: how frequent classes are, how sure, and what is kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selftrain.audit.calibration import (
    ECE_BINS,
    area_under_risk,
    level_confidence,
    reliability,
    risk_coverage,
)
from selftrain.audit.quality import Quality
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.selection import NEVER, lowest_level, select
from selftrain.data.shards import BIN_STARTS
from selftrain.data.statistics import frequency_table
from selftrain.errors import InputError

THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Of the rule global."""
SHARES = (0.2, 0.5, 0.8)
"""Of the rules cbst and dars."""
ALL = "all"
"""Name of the row that is of all classes together."""
RIGHT = ("IoU %", "precision %", "recall %", "ECE %")
"""Columns of how right a class's labels are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One way to select pixels, and what it leaves of each class."""

    title: str
    """As "threshold 0.9" or "cbst 0.5"."""
    keep_from: tuple[int, ...]
    """(K) lowest 8-bit confidence that is kept, 0..NEVER."""
    kept: NDArray[np.float64]
    """(K) share of a class's pixels; exact where its level begins a bin, and to one bin else."""


def list_choices(labels: PseudoLabelSet, real_pixels: NDArray[np.int64]) -> list[Choice]:
    """Return what each of `THRESHOLDS`, and cbst and dars at each of `SHARES`, keep.

    Args:
        labels: Of K classes.
        real_pixels: (K,) pixels of the real labels; where they have no class that was predicted,
            there is no dars, which would keep nothing.
    """

    def choice(title: str, keep_from: tuple[int, ...]) -> Choice:
        return Choice(title=title, keep_from=keep_from, kept=labels.kept_share(keep_from))

    classes = len(real_pixels)
    choices = [choice(f"threshold {t:g}", (lowest_level(t),) * classes) for t in THRESHOLDS]
    if labels.class_pixels().any():
        histograms = labels.histograms()
        for share in SHARES:
            levels = select(histograms, rule="cbst", share=share).keep_from
            choices.append(choice(f"cbst {share:g}", levels))
        for share in SHARES if real_pixels.any() else ():
            try:
                selected = select(histograms, rule="dars", share=share, real_pixels=real_pixels)
            except InputError:  # it keeps nothing: no reason to lose a set that is made
                continue
            choices.append(choice(f"dars {share:g}", selected.keep_from))
    return choices


def image_confidence(labels: PseudoLabelSet) -> NDArray[np.float64]:
    """Return the mean confidence of each image's labelled pixels, (N,) in 0..1; nan without any."""
    by_bin = labels.histograms().sum(axis=1, dtype=np.int64)
    with np.errstate(invalid="ignore"):
        return np.asarray(by_bin @ _bin_confidence() / by_bin.sum(axis=1))


def tabulate_classes(
    names: Sequence[str],
    labels: PseudoLabelSet,
    real_pixels: NDArray[np.int64],
    quality: Quality | None = None,
) -> pd.DataFrame:
    """Return a row a class: its frequencies, confidence and agreement, and how right it is.

    Args:
        names: Of the K classes.
        labels: The set.
        real_pixels: (K,) pixels of the real labels.
        quality: Adds IoU, precision (share of what is called the class that is it), recall (share
            of the class that is called it) and calibration error, of what is called the class.
    """
    pixels, histogram = labels.class_pixels(), labels.confidence_histogram()
    table = frequency_table(names, real_pixels, pixels)
    real, pseudo = table.columns[-2:]
    table = table.rename(columns={real: "real imbalance", pseudo: "pseudo imbalance"})
    table["growth"] = table["pseudo imbalance"] / table["real imbalance"]
    with np.errstate(invalid="ignore"):
        table["confidence"] = histogram @ _bin_confidence() / histogram.sum(axis=1)
        agreed = labels.agreed_pixels()
        if agreed is not None:
            table["agreed %"] = 100 * agreed.sum(axis=0) / pixels
        if quality is not None:
            matrix = quality.confusion.matrix
            right = np.diag(matrix)
            levels = zip(quality.levels.right, quality.levels.wrong, strict=True)
            shares = (
                quality.confusion.iou(),
                right / matrix.sum(axis=0),
                right / matrix.sum(axis=1),
                np.array([reliability(*counts).error() for counts in levels]),
            )
            table[list(RIGHT)] = 100 * np.column_stack(shares)
    return table


def tabulate_imbalance(
    names: Sequence[str], real: NDArray[np.int64], pseudo: NDArray[np.int64]
) -> pd.DataFrame:
    """Return a row for each ordered pair of classes: how many pixels of one for one of the other.

    Args:
        names: Of the K classes.
        real: (K,) pixels of the real labels.
        pseudo: (K,) pixels of the pseudo labels.

    Returns:
        K * K rows: class, to (the other class), real and pseudo ratio, and growth, the pseudo
        ratio for one of the real; nan where the other class, or either, has no pixel.
    """
    known_real, known_pseudo = (np.where(p > 0, p, np.nan) for p in (real, pseudo))
    table = pd.DataFrame(
        {
            "class": np.repeat(list(names), len(names)),
            "to": list(names) * len(names),
            "real": (real[:, None] / known_real).ravel(),
            "pseudo": (pseudo[:, None] / known_pseudo).ravel(),
        }
    )
    table["growth"] = table["pseudo"] / table["real"].where(table["real"] > 0)
    return table


def tabulate_confidence(names: Sequence[str], labels: PseudoLabelSet) -> pd.DataFrame:
    """Return a row for each class and bin of the confidence: its 8-bit levels and its pixels."""
    ends = np.array([*BIN_STARTS[1:], NEVER]) - 1
    return pd.DataFrame(
        {
            "class": np.repeat(list(names), len(BIN_STARTS)),
            "from level": list(BIN_STARTS) * len(names),
            "to level": ends.tolist() * len(names),
            "pixels": labels.confidence_histogram().ravel(),
        }
    )


def tabulate_kept(
    names: Sequence[str], pixels: NDArray[np.int64], choices: Sequence[Choice]
) -> pd.DataFrame:
    """Return a row for each choice and class, and for all classes of a choice.

    Args:
        names: Of the K classes.
        pixels: (K,) of the pseudo labels.
        choices: Of `list_choices`.

    Returns:
        selection, class, threshold (lowest confidence that is kept; nan: none is, or there is one
        for each class), kept % (nan: the class was never predicted).
    """
    rows: list[tuple[str, str, float, float]] = []
    for choice in choices:
        for k, name in enumerate(names):
            level = choice.keep_from[k]
            threshold = level / 255 if level < NEVER else np.nan
            rows.append((choice.title, name, threshold, 100 * _share(choice.kept[k], pixels[k])))
        total = int(pixels.sum())
        overall = float(choice.kept @ pixels / max(total, 1))
        same = len(set(choice.keep_from)) == 1
        threshold = choice.keep_from[0] / 255 if same else np.nan
        rows.append((choice.title, ALL, threshold, 100 * _share(overall, total)))
    return pd.DataFrame(rows, columns=["selection", "class", "threshold", "kept %"])


def tabulate_accuracy(choices: Sequence[Choice], quality: Quality) -> pd.DataFrame:
    """Return a row a choice: how much of the measured pixels it keeps, and how right that is.

    From the counts by 8-bit level, and so exact.
    """
    rows = []
    total = int(quality.levels.right.sum() + quality.levels.wrong.sum())
    for choice in choices:
        right, wrong = quality.levels.kept(choice.keep_from)
        kept = right + wrong
        accuracy = 100 * right / kept if kept else np.nan
        rows.append((choice.title, 100 * kept / max(total, 1), accuracy))
    return pd.DataFrame(rows, columns=["selection", "kept %", "accuracy %"])


def tabulate_reliability(quality: Quality) -> pd.DataFrame:
    """Return a row a bin of the confidence: its pixels, their mean confidence and accuracy."""
    found = reliability(quality.levels.right.sum(axis=0), quality.levels.wrong.sum(axis=0))
    return pd.DataFrame(
        {
            "from": np.arange(ECE_BINS) / ECE_BINS,
            "to": (np.arange(ECE_BINS) + 1) / ECE_BINS,
            "pixels": found.pixels,
            "confidence": found.confidence,
            "accuracy": found.accuracy,
        }
    )


def tabulate_risk(quality: Quality) -> pd.DataFrame:
    """Return a row for each level that has pixels, the highest first: coverage and risk."""
    right, wrong = quality.levels.right.sum(axis=0), quality.levels.wrong.sum(axis=0)
    levels = np.flatnonzero(right + wrong)[::-1]
    coverage, risk = risk_coverage(right, wrong)
    return pd.DataFrame({"threshold": levels / 255, "coverage": coverage, "risk": risk})


def tabulate_images(
    labels: PseudoLabelSet, pool: Sequence[str], quality: Quality | None = None
) -> pd.DataFrame:
    """Return a row an image of the pool, in its order: confidence, agreement, accuracy.

    Args:
        labels: The set.
        pool: Names of its images.
        quality: Adds the accuracy; nan for images that were not measured.
    """
    rows = [labels.rows[name] for name in pool]
    table = pd.DataFrame(
        {
            "name": list(pool),
            "confidence": image_confidence(labels)[rows],
            "agreement": labels.agreement()[rows],
        }
    )
    if quality is not None:
        table["accuracy"] = [quality.accuracy.get(name, np.nan) for name in pool]
    return table


def summarise_quality(names: Sequence[str], quality: Quality) -> dict[str, float]:
    """Return the measured numbers as metrics, shares from 0 to 1: `labels/mIoU`, ..."""
    right, wrong = quality.levels.right.sum(axis=0), quality.levels.wrong.sum(axis=0)
    ious = zip(names, quality.confusion.iou().tolist(), strict=True)
    return {
        "labels/mIoU": quality.confusion.miou(),
        "labels/accuracy": quality.confusion.accuracy(),
        "labels/ece": reliability(right, wrong).error(),
        "labels/aurc": area_under_risk(*risk_coverage(right, wrong)),
        **{f"labels/IoU/{name}": iou for name, iou in ious},
    }


def find_worst(values: Sequence[float], count: int) -> list[int]:
    """Return where the lowest of the values lie, ascending; the first of equals; none is nan."""
    known = [(value, at) for at, value in enumerate(values) if not np.isnan(value)]
    return [at for _, at in sorted(known)[:count]]


def _bin_confidence() -> NDArray[np.float64]:
    """Return the confidence that the middle of each bin stands for, (B,)."""
    edges = np.array([*BIN_STARTS, NEVER])
    return np.asarray(np.add.reduceat(level_confidence(), edges[:-1]) / np.diff(edges))


def _share(kept: float, pixels: int) -> float:
    return float(kept) if pixels else np.nan
