"""The loss: per-pixel cross entropy, real and pseudo labels alike (paper, section 3.1)."""

import torch.nn.functional as F
from torch import Tensor

from selftrain.labels import IGNORE_INDEX


def cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Average the cross entropy over the labelled pixels of a batch.

    A batch without a labelled pixel has loss 0 and gradient 0, where torch's own mean is NaN
    and would spoil every weight: a high confidence threshold and small crops do meet this.

    Args:
        logits: (B, K, H, W), any floating type; the loss is computed in float32.
        labels: (B, H, W), any integer type, 0..K-1 or `ignore_index`.
        ignore_index: Pixels with this label count neither in the sum nor in the mean.

    Returns:
        A scalar, float32, in nats.

    Raises:
        IndexError: A label is neither a class nor ignored (on CUDA: a device-side assertion).
    """
    total = F.cross_entropy(
        logits.float(), labels.long(), ignore_index=ignore_index, reduction="sum"
    )
    labelled = (labels != ignore_index).sum()
    return total / labelled.clamp(min=1)
