"""WideResNet38 (Wu et al. 2016, "Wider or Deeper", arXiv 1611.10080; Table 3's largest backbone).

It is the variant that the paper's predecessor builds on (Zhu et al. 2019, "VPLR"): the A2 layout of
Rota Bulo et al. 2018 (arXiv 1712.02616), which halves the size twice by pooling and then by
strides, or here by dilation instead.

Parameter names are the published ImageNet weights', in the order in which an image meets them:
`mod1.conv1`, then for each residual block `modM.blockN.` with `bn1.0`, `convs.conv1`,
`convs.bn2.0`, `convs.conv2` (bottlenecks go on with `convs.bn3.0`, `convs.conv3`) and `proj_conv`
where the shape changes, and at the end `bn_out.0`. A file of those weights is used once its inner
`state_dict` is saved by itself without the prefix "module.".
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from selftrain.errors import InputError
from selftrain.models.layers import Backbone

BLOCKS = (3, 3, 6, 3, 1, 1)
"""Residual blocks of mod2 to mod7."""
CHANNELS = ((128, 128), (256, 256), (512, 512), (512, 1024), (512, 1024, 2048), (1024, 2048, 4096))
"""Output channels of the convolutions of their blocks; those of three are bottlenecks."""
DROPOUT = (0.0, 0.0, 0.0, 0.0, 0.3, 0.5)
"""Share of whole channels that their blocks drop before the last convolution."""
STRIDES = {8: (1, 1, 2, 1, 1, 1), 16: (1, 1, 2, 2, 1, 1), 32: (1, 1, 2, 2, 2, 1)}
DILATIONS = {8: (1, 1, 1, 2, 4, 4), 16: (1, 1, 1, 1, 2, 2), 32: (1, 1, 1, 1, 1, 1)}
"""Output stride -> stride of their first block, and dilation of all their blocks."""


class WideResNet38(Backbone):
    """Few, wide residual blocks; 105 million parameters without a classifier."""

    low_channels = 128
    """Channels of the first output, at stride 2: DeepLabV3+ refines there, as in VPLR."""
    deep_channels = 4096
    """Channels of the second output, at the output stride."""

    def __init__(self, output_stride: int) -> None:
        """Build the network with random weights.

        Args:
            output_stride: Pixels of the image for each pixel of the deep features: 8, 16 or 32.
        """
        super().__init__()
        if output_stride not in STRIDES:
            raise InputError(f"output_stride is {output_stride}; choose from {list(STRIDES)}")
        self.mod1 = nn.Sequential(OrderedDict(conv1=_conv(3, 64, 3)))
        self.pool2 = nn.MaxPool2d(3, stride=2, padding=1)
        self.pool3 = nn.MaxPool2d(3, stride=2, padding=1)
        in_channels = 64
        for i, channels in enumerate(CHANNELS):
            module = nn.Sequential()
            for number in range(BLOCKS[i]):
                block = PreActivationBlock(
                    in_channels,
                    channels,
                    stride=STRIDES[output_stride][i] if number == 0 else 1,
                    dilation=DILATIONS[output_stride][i],
                    dropout=DROPOUT[i],
                )
                module.add_module(f"block{number + 1}", block)
                in_channels = channels[-1]
            self.add_module(f"mod{i + 2}", module)
        # VPLR leaves it out; but the sums of pre-activation blocks have no scale of their own.
        self.bn_out = _bn_relu(in_channels)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            (B, 128, H / 2, W / 2) and (B, 4096, H / output_stride, W / output_stride), sizes
            rounded up.
        """
        low = self.run(self._blocks(2), self.pool2(self.mod1(images)))
        deep = self.pool3(low)
        for number in range(3, 8):
            deep = self.run(self._blocks(number), deep)
        return low, self.bn_out(deep)

    def _blocks(self, number: int) -> list[nn.Module]:
        return list(self.get_submodule(f"mod{number}").children())


class PreActivationBlock(nn.Module):
    """Adds convolutions of the normalised input to the input (He et al. 2016, arXiv 1603.05027)."""

    def __init__(
        self,
        in_channels: int,
        channels: tuple[int, ...],
        *,
        stride: int,
        dilation: int,
        dropout: float,
    ) -> None:
        """Build the block with random weights.

        Args:
            in_channels: Channels of the input.
            channels: Output channels of each convolution: two of 3x3; or three, of 1x1, 3x3, 1x1.
            stride: Of the first convolution and of the shortcut.
            dilation: Of the 3x3 convolutions.
            dropout: Probability that a channel is dropped before the last convolution.
        """
        super().__init__()
        self.bn1 = _bn_relu(in_channels)
        sizes = (3, 3) if len(channels) == 2 else (1, 3, 1)
        self.convs = nn.Sequential()
        last = len(channels)
        inner = in_channels
        for number, (width, size) in enumerate(zip(channels, sizes, strict=True), start=1):
            if number > 1:
                self.convs.add_module(f"bn{number}", _bn_relu(inner))
            if number == last and dropout:
                self.convs.add_module("dropout", nn.Dropout2d(dropout))
            conv = _conv(inner, width, size, stride if number == 1 else 1, dilation)
            self.convs.add_module(f"conv{number}", conv)
            inner = width
        changes = stride != 1 or in_channels != inner
        self.proj_conv = _conv(in_channels, inner, 1, stride) if changes else None

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, channels[-1], h / stride, w / stride)."""
        normalized = self.bn1(features)
        shortcut = features if self.proj_conv is None else self.proj_conv(normalized)
        return torch.add(self.convs(normalized), shortcut)


def _bn_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _conv(
    in_channels: int, out_channels: int, size: int, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    dilation = dilation if size > 1 else 1
    padding = dilation * (size // 2)
    return nn.Conv2d(in_channels, out_channels, size, stride, padding, dilation, bias=False)
