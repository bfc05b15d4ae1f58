"""The head of PSPNet (Zhao et al. 2017, arXiv 1612.01105) and its auxiliary classifier."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selftrain.models.layers import conv_bn_relu, resize

POOLED_SIZES = (1, 2, 3, 6)
"""Cells to a side in each level of the pyramid (section 3.2)."""


class PSPHead(nn.Module):
    """Add the context of the whole image, and of its parts, to the deep features; classify."""

    def __init__(
        self, deep_channels: int, num_classes: int, *, channels: int = 512, dropout: float = 0.1
    ) -> None:
        """Build the head with random weights.

        Args:
            deep_channels: Channels of the deep features, a multiple of 4.
            num_classes: Channels of the logits.
            channels: Width after the pyramid.
            dropout: Probability that a channel is dropped before the last layer.
        """
        super().__init__()
        self.pyramid = PyramidPooling(deep_channels, channels, kernel_size=3)
        self.classify = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, 1))

    def forward(self, low: Tensor, deep: Tensor) -> Tensor:
        """Map (B, deep_channels, h, w) to logits (B, num_classes, h, w); `low` is not used."""
        logits: Tensor = self.classify(self.pyramid(deep))
        return logits


class AuxiliaryHead(nn.Module):
    """Classify features from the middle of the backbone, to train it better (section 3.3)."""

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float = 0.1) -> None:
        """Build the head with random weights; a quarter of the channels is its width."""
        super().__init__()
        channels = in_channels // 4
        self.classify = nn.Sequential(
            conv_bn_relu(in_channels, channels, 3),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, num_classes, 1),
        )

    def forward(self, middle: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to logits (B, num_classes, h, w)."""
        logits: Tensor = self.classify(middle)
        return logits


class PyramidPooling(nn.Module):
    """Join features with their mean over the image and over its parts.

    The mean over the image is one value per channel, so that a training batch of one image is
    refused by its batch normalisation.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 1) -> None:
        """Build the pyramid with random weights.

        Args:
            in_channels: A multiple of 4; each level gets a quarter of them.
            out_channels: Of the convolution that joins the levels and the features.
            kernel_size: Of that convolution: 3 in PSPNet, 1 in Fast-SCNN.
        """
        super().__init__()
        level_channels = in_channels // len(POOLED_SIZES)
        self.levels = nn.ModuleList(
            nn.Sequential(CellMeans(size), conv_bn_relu(in_channels, level_channels))
            for size in POOLED_SIZES
        )
        self.project = conv_bn_relu(2 * in_channels, out_channels, kernel_size)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, h, w)."""
        size = (features.shape[-2], features.shape[-1])
        pooled = [resize(level(features), size) for level in self.levels]
        mixed: Tensor = self.project(torch.cat([features, *pooled], dim=1))
        return mixed


class CellMeans(nn.Module):
    """torch's adaptive average pooling, which can also be exported for sizes not yet known."""

    def __init__(self, cells: int) -> None:
        """Pool to `cells` x `cells`."""
        super().__init__()
        self.cells = cells

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, cells, cells)."""
        if not torch.compiler.is_exporting():
            return F.adaptive_avg_pool2d(features, self.cells)
        # ONNX has no such operator. The means of each axis are a product with a matrix.
        rows = cell_shares(features.shape[-2], self.cells).to(features)
        columns = cell_shares(features.shape[-1], self.cells).to(features)
        return rows @ (features @ columns.T)


def cell_shares(length: int, cells: int) -> Tensor:
    """Return what each place contributes to the mean of each cell: (cells, length).

    Cell i goes from floor(i * length / cells) to ceil((i + 1) * length / cells), so that cells
    overlap where the length is no multiple of their number. All is integer arithmetic on a
    length that may still be symbolic.
    """
    cell = torch.arange(cells).unsqueeze(1)
    place = torch.arange(length).unsqueeze(0)
    first = cell * length // cells
    end = ((cell + 1) * length + cells - 1) // cells
    return ((place >= first) & (place < end)).float() / (end - first)
