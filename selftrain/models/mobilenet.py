"""MobileNetV2 as a feature extractor, dilated for a finer output."""

from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from selftrain.errors import InputError
from selftrain.models.layers import Backbone


class MobileNetV2(Backbone):
    """torchvision's `mobilenet_v2().features`, under its names, up to the 320 channels.

    The 1x1 convolution to 1280 channels that follows (`features.18`) is left out: it serves the
    classifier, and would make the pyramid after it four times as dear.
    """

    low_channels = 24
    """Channels of the first output, at stride 4."""
    deep_channels = 320
    """Channels of the second output, at the output stride."""

    def __init__(self, output_stride: int) -> None:
        """Build the network with random weights.

        Args:
            output_stride: Pixels of the image for each pixel of the deep features: 8, 16 or 32.
        """
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise InputError(f"output_stride is {output_stride}; choose from [8, 16, 32]")
        self.features: nn.Sequential = mobilenet_v2(weights=None).features[:-1]
        _dilate(self.features, output_stride)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            (B, 24, H / 4, W / 4) and (B, 320, H / output_stride, W / output_stride), sizes
            rounded up.
        """
        low = self.run(self.features[:4], images)
        return low, self.run(self.features[4:], low)


def _dilate(features: nn.Sequential, output_stride: int) -> None:
    """Trade the strides beyond `output_stride` for dilation, in place.

    A convolution that loses its stride still sees its input at the old spacing; the ones after
    it see inputs twice as dense, and skip every other one. So the dense features contain the
    strided ones: published weights keep their meaning.
    """
    stride = dilation = 1
    for conv in features.modules():
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size == (1, 1):
            continue
        conv.dilation = conv.padding = (dilation, dilation)
        if conv.stride == (2, 2) and stride == output_stride:
            conv.stride = (1, 1)
            dilation *= 2
        elif conv.stride == (2, 2):
            stride *= 2
