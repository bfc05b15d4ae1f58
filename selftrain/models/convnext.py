"""ConvNeXt-Tiny (Liu et al. 2022, arXiv 2201.03545) as a feature extractor, dilated if wished."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import convnext_tiny

from selftrain.errors import InputError
from selftrain.models.layers import Backbone, crop_to_stride, pad_to_multiple

DILATIONS = {8: (1, 2, 4), 16: (1, 1, 2), 32: (1, 1, 1)}
"""Output stride -> dilation of the second, third and fourth stage."""


class ConvNeXtTiny(Backbone):
    """torchvision's `convnext_tiny()` up to its last normalisation, under its names."""

    low_channels = 96
    """Channels of the first output, at stride 4."""
    deep_channels = 768
    """Channels of the second output, at the output stride."""

    def __init__(self, output_stride: int) -> None:
        """Build the network with random weights.

        Args:
            output_stride: Pixels of the image for each pixel of the deep features: 8, 16 or 32.
        """
        super().__init__()
        if output_stride not in DILATIONS:
            raise InputError(f"output_stride is {output_stride}; choose from {list(DILATIONS)}")
        self.output_stride = output_stride
        whole = convnext_tiny(weights=None)
        self.features: nn.Sequential = whole.features
        self.classifier: nn.Sequential = whole.classifier[:1]  # the normalisation alone
        dense = 1
        for position, dilation in zip((2, 4, 6), DILATIONS[output_stride], strict=True):
            if dilation > dense:
                self.features[position][1] = _DenseDownsampling(self.features[position][1], dense)
            dense = dilation
            for block in self.features[position + 1]:
                conv = block.block[0]
                conv.dilation = (dilation, dilation)
                conv.padding = (3 * dilation, 3 * dilation)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            (B, 96, H / 4, W / 4) and (B, 768, H / output_stride, W / output_stride), sizes
            rounded up.
        """
        low = self.run(self._blocks(1), self.features[0](pad_to_multiple(images, 32)))
        deep = low
        for position in (2, 4, 6):  # each makes the features coarser for the stage behind it
            deep = self.run([self.features[position], *self._blocks(position + 1)], deep)
        deep = self.classifier(deep)
        return crop_to_stride(low, images, 4), crop_to_stride(deep, images, self.output_stride)

    def _blocks(self, stage: int) -> list[nn.Module]:
        return list(self.features[stage].children())


class _DenseDownsampling(nn.Conv2d):
    """A 2x2 convolution of stride 2 at stride 1: each second of its results is the strided one's.

    Its input may be dilated already. Zeros at the right and the bottom keep the size.
    """

    def __init__(self, strided: nn.Conv2d, dilation: int) -> None:
        """Take the shape of a convolution and dilate it."""
        super().__init__(strided.in_channels, strided.out_channels, 2, dilation=dilation)
        self.weight, self.bias = strided.weight, strided.bias

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h, w)."""
        reach = self.dilation[0]
        return super().forward(F.pad(input, (0, reach, 0, reach)))
