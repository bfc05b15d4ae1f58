"""What every network shares: the layer and the way from pixels to logits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green, blue in [0, 1]: what the published backbones were trained with."""


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Make a convolution without bias, batch normalisation and ReLU.

    The padding keeps the size at stride 1, and gives ceil(size / 2) at stride 2.
    """
    padding = dilation * (kernel_size - 1) // 2
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate (B, C, h, w) bilinearly to (B, C, *size), corners not aligned."""
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


class SegmentationNetwork(nn.Module):
    """From pixels to logits: normalisation, backbone, head, upsampling.

    The normalisation is part of the network, so that a checkpoint can be given plain pixels by
    whoever holds it, and images can stay uint8 until they are on the device.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        """Join the two halves, which a trainer may give different learning rates.

        Args:
            backbone: Maps normalised images (B, 3, H, W) to a tuple of low-level features and
                deep features, which are coarser.
            head: Maps the two to logits (B, num_classes, h, w) of any size.
        """
        super().__init__()
        self.backbone = backbone
        self.head = head
        # Constants, not weights: kept out of checkpoints, moved to the device all the same.
        mean = 255 * torch.tensor(IMAGENET_MEAN)
        std = 255 * torch.tensor(IMAGENET_STD)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", mean.view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", std.view(3, 1, 1), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Shift and scale pixels 0..255 to ImageNet's zero mean and unit variance.

        The result is float32 under autocast too: the first convolution casts it, and rounding
        pixels to bfloat16 before the mean is taken off would lose more.
        """
        return (images.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std

    def classifier_names(self) -> list[str]:
        """Return the names of the weights that depend on the classes: the last convolution's."""
        *_, last = self.get_submodule("head.classify").named_children()
        return [name for name in self.state_dict() if name.startswith(f"head.classify.{last[0]}.")]

    def forward(self, images: Tensor) -> Tensor:
        """Predict the classes of every pixel.

        Args:
            images: (B, 3, H, W), RGB, 0..255, uint8 or floating; H and W at least 32, odd sizes
                included.

        Returns:
            Logits (B, num_classes, H, W), float32 under autocast too: in bfloat16 neighbouring
            classes would tie, and the loss needs float32 anyway.
        """
        low, deep = self.backbone(self.normalize(images))
        logits: Tensor = self.head(low, deep)
        return resize(logits.float(), (images.shape[-2], images.shape[-1]))
