"""The head of DeepLabV3+ (Chen et al. 2018, arXiv 1802.02611, section 3.1)."""

import torch
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from selftrain.errors import InputError
from selftrain.models.layers import conv_bn_relu, resize

ASPP_RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
"""Output stride -> dilations that span the same pixels of the image (DeepLabV3, section 3.3)."""


class DeepLabV3PlusHead(nn.Module):
    """Pool the deep features over several ranges, then refine them with low-level ones."""

    def __init__(
        self,
        *,
        low_channels: int,
        deep_channels: int,
        num_classes: int,
        output_stride: int,
        channels: int = 256,
    ) -> None:
        """Build the head with random weights.

        Args:
            low_channels: Channels of the low-level features, which give the edges.
            deep_channels: Channels of the deep features, which give the classes.
            num_classes: Channels of the logits.
            output_stride: Of the deep features: 8, 16 or 32; decides the pyramid's dilations.
            channels: Width of the pyramid and the refinement; the paper's 256 cost more than a
                small backbone.
        """
        super().__init__()
        self.aspp = aspp(deep_channels, channels, output_stride=output_stride)
        # Few channels, lest the low-level features outweigh the pyramid's (Table 1).
        self.project = conv_bn_relu(low_channels, 48)
        self.classify = nn.Sequential(
            conv_bn_relu(channels + 48, channels, 3),
            conv_bn_relu(channels, channels, 3),
            nn.Conv2d(channels, num_classes, 1),
        )

    def forward(self, low: Tensor, deep: Tensor) -> Tensor:
        """Predict the classes at the resolution of the low-level features.

        Args:
            low: (B, low_channels, h, w).
            deep: (B, deep_channels, h', w').

        Returns:
            Logits (B, num_classes, h, w).
        """
        # Parts without a name are let go: half a gigabyte for a large image.
        logits: Tensor = self.classify(
            torch.cat(
                [resize(self.aspp(deep), (low.shape[-2], low.shape[-1])), self.project(low)], dim=1
            )
        )
        return logits


def aspp(
    in_channels: int, out_channels: int = 256, *, output_stride: int, dropout: float = 0.1
) -> ASPP:
    """Make an atrous spatial pyramid pooling.

    Its image pooling leaves one value per channel and image, so that a training batch of one
    image is refused by its batch normalisation.

    Args:
        in_channels: Channels of the deep features.
        out_channels: Channels of each branch and of the result.
        output_stride: Of the deep features: 8, 16 or 32; decides the dilations.
        dropout: Of the output, as in the authors' TensorFlow code; torchvision drops half.
    """
    if output_stride not in ASPP_RATES:
        raise InputError(f"output_stride is {output_stride}; choose from {list(ASPP_RATES)}")
    pyramid = ASPP(in_channels, ASPP_RATES[output_stride], out_channels=out_channels)
    pyramid.project[-1] = nn.Dropout(dropout)
    return pyramid
