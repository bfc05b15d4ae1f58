"""ResNet50, ResNet101 and ResNeXt50 as feature extractors, dilated for a finer output.

The paper's "ResNeXt50" is plain ResNeXt50-32x4d here; the authors' earlier code has the
squeeze-and-excitation variant.
"""

from torch import Tensor
from torchvision.models import get_model

from selftrain.errors import InputError
from selftrain.models.layers import Backbone

DILATED_STAGES = {8: (False, True, True), 16: (False, False, True), 32: (False, False, False)}
"""Output stride -> which of layer2, layer3 and layer4 give up their stride for dilation."""


class ResNet(Backbone):
    """The convolutional part of a torchvision ResNet; its parameters keep torchvision's names."""

    low_channels = 256
    """Channels of the first output, at stride 4."""
    middle_channels = 1024
    """Channels of layer3, at the output stride, but at 16 if that is 32."""
    deep_channels = 2048
    """Channels of the last output, at the output stride."""

    def __init__(self, name: str, output_stride: int, *, with_middle: bool = False) -> None:
        """Build the network with random weights.

        Args:
            name: torchvision's name of a ResNet of bottlenecks: "resnet50", "resnext50_32x4d".
            output_stride: Pixels of the image for each pixel of the deep features: 8, 16 or 32.
            with_middle: Whether to return layer3's features too, which an auxiliary head reads.
        """
        super().__init__()
        if output_stride not in DILATED_STAGES:
            raise InputError(
                f"output_stride is {output_stride}; choose from {list(DILATED_STAGES)}"
            )
        whole = get_model(
            name, weights=None, replace_stride_with_dilation=DILATED_STAGES[output_stride]
        )
        self.with_middle = with_middle
        self.conv1 = whole.conv1
        self.bn1 = whole.bn1
        self.relu = whole.relu
        self.maxpool = whole.maxpool
        self.layer1 = whole.layer1
        self.layer2 = whole.layer2
        self.layer3 = whole.layer3
        self.layer4 = whole.layer4

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            (B, 256, H / 4, W / 4) and (B, 2048, H / output_stride, W / output_stride), sizes
            rounded up; between them layer3's 1024 channels, if asked for.
        """
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        low = self.run(self.layer1, stem)
        middle = self.run([*self.layer2, *self.layer3], low)
        deep = self.run(self.layer4, middle)
        return (low, middle, deep) if self.with_middle else (low, deep)
