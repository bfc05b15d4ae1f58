"""How far other answers agree with a pseudo label (ST++, Yang et al. 2022)."""

import numpy as np
from numpy.typing import NDArray

from selftrain.data.histogram import count_values
from selftrain.labels import IGNORE_INDEX


def measure_agreement(
    label: NDArray[np.uint8], judges: NDArray[np.uint8], *, num_classes: int
) -> tuple[float, NDArray[np.bool_]]:
    """Compare a label with what judges say of the same image.

    Args:
        label: (H, W), train ids and 255; where it is 255, nobody is asked.
        judges: (J, H, W), train ids; at least one judge.
        num_classes: K.

    Returns:
        The mean over the judges of the mean IoU between their labels and `label`, over the classes
        that either shows; 0 where `label` is 255 all over. And (H, W): where every judge has the
        label's class.
    """
    agreed = (label != IGNORE_INDEX) & (judges == label).all(axis=0)
    return float(np.mean([_miou(label, judge, num_classes) for judge in judges])), agreed


def _miou(label: NDArray[np.uint8], judge: NDArray[np.uint8], num_classes: int) -> float:
    counts = count_values([label, judge], [num_classes] * 2)  # 255 is left out
    both = counts.diagonal()
    either = counts.sum(axis=0) + counts.sum(axis=1) - both
    shown = either > 0
    return float((both[shown] / either[shown]).mean()) if shown.any() else 0.0
