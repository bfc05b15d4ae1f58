"""What a confidence is worth: calibration, and the errors among what a threshold keeps.

Confidences are levels 0..255, for probabilities that were scaled by 255 and rounded down. A level
therefore stands for the middle of what falls on it; level 255 means 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selftrain.data.histogram import count_values
from selftrain.labels import IGNORE_INDEX

LEVELS = 256
ECE_BINS = 15
"""Equal bins of the confidence from 0 to 1: 17 levels each, and level 255 in the last."""

Counts = NDArray[np.int64]


class LevelCounts:
    """How many pixels were labelled rightly and wrongly, by predicted class and confidence."""

    def __init__(self, num_classes: int) -> None:
        """Start from zero.

        Args:
            num_classes: K, at most 255.
        """
        self.right: Counts = np.zeros((num_classes, LEVELS), np.int64)
        """(K, 256): pixels of a predicted class at a level."""
        self.wrong: Counts = np.zeros((num_classes, LEVELS), np.int64)
        """Likewise."""

    def update(
        self, truth: NDArray[np.uint8], label: NDArray[np.uint8], confidence: NDArray[np.uint8]
    ) -> None:
        """Count the pixels of one image; those that are ignored in either map have no part.

        Args:
            truth: (H, W), 0..K-1 and 255.
            label: (H, W), predicted: 0..K-1 and 255.
            confidence: (H, W) of the prediction.
        """
        # Unlabelled pixels lie behind the last bin.
        codes = np.multiply(label, LEVELS, dtype=np.uint16)
        codes += confidence
        is_right, is_known = truth == label, truth != IGNORE_INDEX
        for counts, where in ((self.right, is_right), (self.wrong, ~is_right)):
            counts += count_values([codes], [counts.size], where & is_known).reshape(counts.shape)

    def merge(self, other: "LevelCounts") -> None:
        """Add the counts of other images."""
        self.right += other.right
        self.wrong += other.wrong

    def kept(self, keep_from: tuple[int, ...]) -> tuple[int, int]:
        """Return the right and the wrong pixels that are left by a threshold for each class.

        Args:
            keep_from: For each class the lowest level that is kept, 0..256.
        """
        keeps = np.arange(LEVELS) >= np.array(keep_from)[:, None]
        return int(self.right[keeps].sum()), int(self.wrong[keeps].sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Confidence and accuracy in each of `ECE_BINS` bins of the confidence."""

    pixels: Counts
    confidence: NDArray[np.float64]
    """Mean in a bin, 0..1; nan in an empty one."""
    accuracy: NDArray[np.float64]
    """Share of a bin's pixels that are right, 0..1; nan in an empty one."""

    def error(self) -> float:
        """Return the expected calibration error (ECE), 0..1; nan without a pixel.

        The difference of accuracy and confidence in a bin, averaged over the pixels.
        """
        total = int(self.pixels.sum())
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float(gaps @ self.pixels / total) if total else float("nan")


def level_confidence() -> NDArray[np.float64]:
    """Return the confidence that each level stands for, (256,)."""
    return np.minimum((np.arange(LEVELS) + 0.5) / (LEVELS - 1), 1.0)


def reliability(right: Counts, wrong: Counts) -> Reliability:
    """Compare confidence and accuracy.

    Args:
        right: (256,) pixels at each level whose label is right.
        wrong: (256,) likewise wrong.
    """
    bins = np.minimum(np.arange(LEVELS) * ECE_BINS // (LEVELS - 1), ECE_BINS - 1)
    pixels = right + wrong

    def in_bins(values: NDArray[np.float64] | Counts) -> NDArray[np.float64]:
        return np.asarray(np.bincount(bins, values.astype(np.float64), ECE_BINS), np.float64)

    count = in_bins(pixels)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the nan that is meant
        confidence = in_bins(pixels * level_confidence()) / count
        accuracy = in_bins(right) / count
    return Reliability(pixels=count.astype(np.int64), confidence=confidence, accuracy=accuracy)


def risk_coverage(right: Counts, wrong: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what is kept and how much of it is wrong, as the threshold falls from 255 to 0.

    Args:
        right: (256,) pixels at each level whose label is right.
        wrong: (256,) likewise wrong.

    Returns:
        Coverage, the share of all pixels that is kept, and risk, the share of these that is wrong:
        one each for every level that has pixels, the highest first. Both are empty without any.
    """
    pixels = (right + wrong)[::-1]
    kept = pixels.cumsum()[pixels > 0]
    errors = wrong[::-1].cumsum()[pixels > 0]
    return kept / max(int(pixels.sum()), 1), errors / kept


def area_under_risk(coverage: NDArray[np.float64], risk: NDArray[np.float64]) -> float:
    """Return the area under the risk-coverage curve (AURC), 0..1; nan without a pixel.

    It is the mean over the pixels of the risk among those that are at least as confident. If the
    confidence says nothing it is the share of wrong pixels, and the less the more it says.
    """
    return float(np.diff(coverage, prepend=0.0) @ risk) if len(risk) else float("nan")
