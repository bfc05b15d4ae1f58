"""The confusion matrix, and the mean intersection over union read from it.

The mIoU rule, which is that of the Cityscapes evaluation: counts are summed over all pixels of
all images first. The IoU of a class is the pixels that are it and are called it, over the pixels
that are it or are called it. mIoU is the plain mean over the classes that have such pixels: a
class that neither occurs nor is predicted is left out, one that is predicted where it never
occurs counts as 0. Pixels labelled 255 count nowhere.
"""

from typing import Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrain.labels import IGNORE_INDEX

EXACT_IN_FLOAT32 = 2**24
"""OpenCV returns counts as float32, which holds every integer up to this one."""


class ConfusionMatrix:
    """Counts of (true class, predicted class) pairs, exact in int64."""

    def __init__(self, num_classes: int) -> None:
        """Start from zero.

        Args:
            num_classes: Classes 0..num_classes-1, at most 255: label 255 means ignored.
        """
        if not 0 < num_classes <= IGNORE_INDEX:
            raise ValueError(f"num_classes is {num_classes}; it must be in 1..{IGNORE_INDEX}")
        self.num_classes = num_classes
        self._counts = np.zeros((num_classes, num_classes), np.int64)
        self._on_device: dict[torch.device, Tensor] = {}

    @classmethod
    def from_matrix(cls, matrix: NDArray[np.int64]) -> Self:
        """Take over counts (K, K), as `matrix` gave them: from another process, from a file."""
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"a confusion matrix is square, not {matrix.shape}")
        confusion = cls(matrix.shape[0])
        confusion._counts += matrix
        return confusion

    def update(
        self, labels: NDArray[np.uint8] | Tensor, predictions: NDArray[np.uint8] | Tensor
    ) -> None:
        """Count the pixels of one image or of a batch.

        Args:
            labels: Any shape; 0..num_classes-1, or 255 to leave the pixel out.
            predictions: The same shape and kind; 0..num_classes-1 everywhere, ignored pixels
                included. Arrays are uint8. Tensors have any integer type and lie on one device;
                there the host is never made to wait, so that wrong values come to light only
                when the matrix is next read.

        Raises:
            ValueError: Shapes, kinds or types do not match; a label or prediction is out of range.
        """
        if labels.shape != predictions.shape:
            raise ValueError(
                f"labels {tuple(labels.shape)} and predictions {tuple(predictions.shape)} differ"
            )
        if isinstance(labels, np.ndarray) and isinstance(predictions, np.ndarray):
            self._count_arrays(labels, predictions)
        elif not isinstance(labels, Tensor) or not isinstance(predictions, Tensor):
            raise ValueError("labels and predictions must both be arrays or both be tensors")
        elif labels.device.type == "cpu" and labels.dtype == predictions.dtype == torch.uint8:
            self._count_arrays(labels.numpy(), predictions.numpy())
        else:
            self._count_tensors(labels, predictions)

    def _count_arrays(self, labels: NDArray[np.uint8], predictions: NDArray[np.uint8]) -> None:
        if labels.dtype != np.uint8 or predictions.dtype != np.uint8:
            raise ValueError(f"arrays must be uint8, not {labels.dtype} and {predictions.dtype}")
        if labels.size == 0:
            return
        num_classes = self.num_classes
        if predictions.max() >= num_classes:
            raise ValueError(f"prediction {predictions.max()} is not in 0..{num_classes - 1}")

        counts = np.zeros(num_classes**2, np.int64)
        # One row each: OpenCV takes one-dimensional arrays on a path several times slower.
        labels, predictions = labels.reshape(1, -1), predictions.reshape(1, -1)
        for start in range(0, labels.size, EXACT_IN_FLOAT32):
            part = slice(start, start + EXACT_IN_FLOAT32)
            # label * K + prediction fits into uint16, and falls behind the last bin for every
            # label that is no class. A histogram of these costs half of one in two dimensions.
            pairs = np.multiply(labels[:, part], num_classes, dtype=np.uint16)
            pairs += predictions[:, part]
            bins = cv2.calcHist([pairs], [0], None, [num_classes**2], [0, num_classes**2])
            counts += bins.reshape(-1).astype(np.int64)

        if counts.sum() != np.count_nonzero(labels != IGNORE_INDEX):
            wrong = labels[(labels >= num_classes) & (labels != IGNORE_INDEX)]
            raise ValueError(f"label {wrong[0]} is neither in 0..{num_classes - 1} nor 255")
        self._counts += counts.reshape(num_classes, num_classes)

    def _count_tensors(self, labels: Tensor, predictions: Tensor) -> None:
        num_classes, device = self.num_classes, labels.device
        labels, predictions = labels.flatten().long(), predictions.flatten().long()
        ignored = labels == IGNORE_INDEX
        wrong = (predictions < 0) | (predictions >= num_classes)
        wrong |= ~ignored & ((labels < 0) | (labels >= num_classes))
        # Two spare bins: ignored pixels, and those that are wrong.
        bins = num_classes**2 + 2
        pairs = labels * num_classes + predictions
        pairs = pairs.masked_fill(ignored, bins - 2).masked_fill(wrong, bins - 1)
        if device.type == "cpu":
            counts = torch.bincount(pairs, minlength=bins)
        else:
            # CUDA's bincount asks the device for the largest value, and so waits for it.
            counts = torch.zeros(bins, dtype=torch.int64, device=device)
            counts = counts.scatter_add(0, pairs, torch.ones_like(pairs))
        # Not in place: a sum begun in inference mode may not be changed outside it.
        before = self._on_device.get(device)
        self._on_device[device] = counts if before is None else before + counts

    @property
    def matrix(self) -> NDArray[np.int64]:
        """The counts (K, K), a copy: row = true class, column = predicted class.

        Raises:
            ValueError: A tensor given to `update` held a label or prediction out of range.
        """
        matrix = self._counts.copy()
        for counts in self._on_device.values():
            *_, wrong = on_host = counts.cpu().numpy()
            if wrong:
                raise ValueError(
                    f"{wrong} pixels have a label or prediction that is not in "
                    f"0..{self.num_classes - 1}"
                )
            matrix += on_host[:-2].reshape(matrix.shape)
        return matrix

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add the counts of other images, as if they had been given to `update` here.

        Raises:
            ValueError: The two have different numbers of classes.
        """
        if other.num_classes != self.num_classes:
            raise ValueError(f"{other.num_classes} classes do not merge with {self.num_classes}")
        self._counts += other.matrix

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        total = ConfusionMatrix.from_matrix(self.matrix)
        total.merge(other)
        return total

    def iou(self) -> NDArray[np.float64]:
        """Return the intersection over union of each class (K,), in [0, 1].

        It is nan for a class that neither occurs nor is predicted.
        """
        matrix = self.matrix
        intersection = np.diag(matrix)
        union = matrix.sum(axis=0) + matrix.sum(axis=1) - intersection
        # Both are exact integers; 0 / 0 is the nan that is meant.
        with np.errstate(invalid="ignore"):
            iou: NDArray[np.float64] = intersection / union
        return iou

    def miou(self) -> float:
        """Return the mean of `iou` over the classes that have one, in [0, 1]; nan if none has."""
        iou = self.iou()
        known = iou[~np.isnan(iou)]
        return float(known.mean()) if known.size else float("nan")

    def accuracy(self) -> float:
        """Return the share of labelled pixels that are right, in [0, 1]; nan without any."""
        matrix = self.matrix
        total = int(matrix.sum())
        return int(matrix.trace()) / total if total else float("nan")
