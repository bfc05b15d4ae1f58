"""Pseudo labels against the true ones: opened to measure them, and for nothing else."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selftrain import progress
from selftrain.audit.calibration import LevelCounts
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.errors import InputError
from selftrain.labels import IGNORE_INDEX
from selftrain.metrics import ConfusionMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How right a set of pseudo labels is, over the pixels that both label maps have."""

    confusion: ConfusionMatrix
    levels: LevelCounts
    accuracy: Mapping[str, float]
    """Name of each measured image -> share of its pixels that are right; nan without any."""


def measure_labels(
    samples: Sequence[Sample], truth: Mapping[str, Sample], reader: Reader
) -> Quality:
    """Read every pseudo label and its true one once.

    Memory does not grow with the images, but for a number each.

    Args:
        samples: With pseudo labels; those without a true one are passed over.
        truth: Name of an image -> the sample that has its true label.
        reader: Reads both, at the scale that was labelled.

    Raises:
        InputError: a true label has another size than the image that was labelled.
    """
    classes = len(reader.classes)
    confusion, levels = ConfusionMatrix(classes), LevelCounts(classes)
    accuracy: dict[str, float] = {}
    measured = [sample for sample in samples if sample.name in truth]

    def compare(sample: Sample) -> tuple[ConfusionMatrix, LevelCounts]:
        return _compare(sample, truth[sample.name], reader)

    # Threads: nearly all of the time is decoding, during which others run.
    with (
        progress.bar("measure labels", len(measured), unit="images") as bar,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads,
    ):
        for sample, (pairs, counts) in zip(measured, threads.map(compare, measured), strict=True):
            accuracy[sample.name] = pairs.accuracy()
            confusion.merge(pairs)
            levels.merge(counts)
            bar.advance()
    return Quality(confusion=confusion, levels=levels, accuracy=accuracy)


def find_wrong(label: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where a label map (H, W) differs from the true one, both having a class."""
    wrong = (label != truth) & (label != IGNORE_INDEX) & (truth != IGNORE_INDEX)
    return np.asarray(wrong)


def read_both(
    sample: Sample, truth: Sample, reader: Reader
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the pseudo label and the true one of an image, (H, W) each.

    Args:
        sample: With a pseudo label.
        truth: The same image with its true label.
        reader: Reads both.

    Raises:
        InputError: the two have different sizes.
    """
    label, true = reader.label(sample), reader.label(truth)
    if label.shape != true.shape:
        where = truth.label.path if truth.label else truth.name
        raise InputError(
            f"{where} is {true.shape[1]}x{true.shape[0]} but the pseudo label of {sample.name} is "
            f"{label.shape[1]}x{label.shape[0]}: they must have the same size; see that the label "
            "is the image's."
        )
    return label, true


def _compare(sample: Sample, truth: Sample, reader: Reader) -> tuple[ConfusionMatrix, LevelCounts]:
    label, true = read_both(sample, truth, reader)
    pairs, levels = ConfusionMatrix(len(reader.classes)), LevelCounts(len(reader.classes))
    levels.update(true, label, reader.confidence(sample))
    # Pixels that got no pseudo label, such as the hood's, are left out, not wrong.
    has_label = label != IGNORE_INDEX
    if not has_label.all():
        true = np.where(has_label, true, np.uint8(IGNORE_INDEX))
        label = np.where(has_label, label, np.uint8(0))
    pairs.update(true, label)
    return pairs, levels
