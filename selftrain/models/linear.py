"""The simplest head: what the backbone's features say by themselves."""

from torch import Tensor, nn


class LinearHead(nn.Module):
    """One 1x1 convolution on the deepest features."""

    def __init__(self, deep_channels: int, num_classes: int) -> None:
        """Build the head with random weights."""
        super().__init__()
        self.classify = nn.Sequential(nn.Conv2d(deep_channels, num_classes, 1))

    def forward(self, low: Tensor, deep: Tensor) -> Tensor:
        """Map (B, deep_channels, h, w) to logits (B, num_classes, h, w); `low` is not used."""
        logits: Tensor = self.classify(deep)
        return logits
