"""How much faster is our confusion matrix than the usual one?

Scores one Cityscapes frame (2048 x 1024, 19 classes, some pixels ignored) on the CPU with
`selftrain.metrics.ConfusionMatrix` and with torchmetrics' `MulticlassConfusionMatrix`, in turn,
and checks that both count the same.

    python -m experiments.speed.confusion_matrix [--record results/speed/confusion_matrix.json]

Cost: 5 seconds. Expected: at least 5 times as fast.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.classification import MulticlassConfusionMatrix

from experiments.speed.measure import machine_facts, median_seconds, report
from selftrain.metrics import ConfusionMatrix

NUM_CLASSES = 19
WIDTH, HEIGHT = 2048, 1024
REPEATS = 15


def draw_frame(seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw labels and predictions like a frame's: large regions, errors in patches.

    Histograms are slower on regions than on noise, because neighbours hit the same bin.

    Returns:
        Labels with about a tenth of the pixels 255 (the hood of the car, specks), and
        predictions of which about 85 % agree; both (1024, 2048) uint8.
    """
    rng = np.random.default_rng(seed)

    def regions(rows: int, columns: int, low: int, high: int) -> NDArray[np.uint8]:
        coarse = rng.integers(low, high, (rows, columns), dtype=np.uint8)
        return np.asarray(
            cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST), np.uint8
        )

    labels = regions(16, 32, 0, NUM_CLASSES)
    mistaken = regions(128, 256, 0, 100) < 15
    predictions = np.where(mistaken, regions(32, 64, 0, NUM_CLASSES), labels)
    labels[-HEIGHT // 12 :] = 255
    labels[regions(256, 512, 0, 100) < 2] = 255
    return labels, predictions


def measure() -> dict[str, object]:
    """Time both ways on one frame, defaults against defaults.

    Returns:
        Milliseconds for a frame (`usual_ms`: torchmetrics as it comes; `usual_unchecked_ms`:
        told not to validate its arguments, which ours always does) and the ratio of the first.
    """
    labels, predictions = draw_frame()
    # uint8, as ours: torchmetrics takes twice the time for the int64 of argmax.
    tensors = torch.from_numpy(predictions), torch.from_numpy(labels)
    ours = ConfusionMatrix(NUM_CLASSES)
    usual = MulticlassConfusionMatrix(num_classes=NUM_CLASSES, ignore_index=255)
    unchecked = MulticlassConfusionMatrix(
        num_classes=NUM_CLASSES, ignore_index=255, validate_args=False
    )

    ours_ms = 1000 * median_seconds(lambda: ours.update(labels, predictions), REPEATS)
    usual_ms = 1000 * median_seconds(lambda: usual.update(*tensors), REPEATS)
    unchecked_ms = 1000 * median_seconds(lambda: unchecked.update(*tensors), REPEATS)
    # Each has counted the frame equally often.
    if not np.array_equal(ours.matrix, usual.compute().numpy()):
        raise AssertionError("ours and torchmetrics count differently")
    return {
        "what": f"confusion matrix of a {WIDTH}x{HEIGHT} frame, {NUM_CLASSES} classes, CPU",
        "ours_ms": ours_ms,
        "usual_ms": usual_ms,
        "usual_unchecked_ms": unchecked_ms,
        "ratio": usual_ms / ours_ms,
        "machine": machine_facts(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time our confusion matrix against torchmetrics.")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result as JSON")
    report(measure(), parser.parse_args().record)
