"""The networks: each is a backbone and a head inside a `SegmentationNetwork`.

They are imported when one is built. They build on torchvision, which imports all of torch's
compiler: seconds that a command whose products are all there need not wait for.
"""

from torch import nn

from selftrain.errors import InputError
from selftrain.models.layers import Backbone, SegmentationNetwork

__all__ = ["BACKBONES", "NETWORKS", "SegmentationNetwork", "build_network"]

NETWORKS = ("deeplabv3plus", "pspnet", "linear", "fast_scnn")
BACKBONES = (
    "mobilenet_v2",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "wide_resnet38",
    "convnext_tiny",
    "swin_t",
)
WITH_MIDDLE = ("resnet50", "resnet101", "resnext50_32x4d")
"""Backbones that can show an auxiliary head what is between their low-level and deep features."""


def build_network(
    name: str,
    *,
    num_classes: int,
    backbone: str,
    output_stride: int,
    backbone_weights: str,
    head_channels: int = 256,
    auxiliary: bool = False,
) -> SegmentationNetwork:
    """Build a network, its backbone pretrained if so wished, the rest random.

    The random weights come from torch's global generator: seed it before.

    Args:
        name: One of `NETWORKS`.
        num_classes: Channels of the logits.
        backbone: One of `BACKBONES`. Fast-SCNN is a whole of its own: neither this nor
            `output_stride` touches it.
        output_stride: Pixels of the image for each pixel of the deepest features: 8 (the paper),
            16 or 32; larger is faster and coarser. Swin-T has 32 alone.
        backbone_weights: "none", a torchvision weights name, or a path: see
            `load_backbone_weights`.
        head_channels: Width of DeepLabV3+'s head; the paper's is 256.
        auxiliary: Whether PSPNet has a second classifier while it trains: see
            `SegmentationNetwork.forward`. Its backbone must be a ResNet.

    Raises:
        InputError: A name that is not listed, or a choice that the network or the backbone does
            not have; weights that do not fit, or any at all for Fast-SCNN, which has none to
            start from.
    """
    if name not in NETWORKS:
        raise InputError(f"there is no network {name!r}; choose from {', '.join(NETWORKS)}")
    if auxiliary and name != "pspnet":
        raise InputError(f"auxiliary is true, but only pspnet has such a head, not {name}")
    if name == "fast_scnn":
        if backbone_weights != "none":
            raise InputError(
                f"fast_scnn trains from scratch and cannot start from {backbone_weights!r}; "
                "set the backbone weights to none"
            )
        from selftrain.models.fast_scnn import FastSCNNFeatures, FastSCNNHead

        return SegmentationNetwork(FastSCNNFeatures(), FastSCNNHead(num_classes))

    from selftrain.models.pspnet import AuxiliaryHead
    from selftrain.models.resnet import ResNet
    from selftrain.models.weights import load_backbone_weights

    features = _build_backbone(backbone, output_stride, with_middle=auxiliary)
    load_backbone_weights(features, backbone, backbone_weights)
    head = _build_head(name, features, num_classes, output_stride, head_channels)
    second = AuxiliaryHead(ResNet.middle_channels, num_classes) if auxiliary else None
    return SegmentationNetwork(features, head, second)


def _build_backbone(name: str, output_stride: int, *, with_middle: bool) -> Backbone:
    from selftrain.models.convnext import ConvNeXtTiny
    from selftrain.models.mobilenet import MobileNetV2
    from selftrain.models.resnet import ResNet
    from selftrain.models.swin import SwinTiny
    from selftrain.models.wide_resnet import WideResNet38

    if name not in BACKBONES:
        raise InputError(f"there is no backbone {name!r}; choose from {', '.join(BACKBONES)}")
    if with_middle and name not in WITH_MIDDLE:
        raise InputError(
            f"auxiliary is true, but {name} shows no features for it; choose from "
            f"{', '.join(WITH_MIDDLE)}"
        )
    if name in WITH_MIDDLE:
        return ResNet(name, output_stride, with_middle=with_middle)
    if name == "mobilenet_v2":
        return MobileNetV2(output_stride)
    if name == "wide_resnet38":
        return WideResNet38(output_stride)
    if name == "convnext_tiny":
        return ConvNeXtTiny(output_stride)
    return SwinTiny(output_stride)


def _build_head(
    name: str, features: Backbone, num_classes: int, output_stride: int, head_channels: int
) -> nn.Module:
    from selftrain.models.deeplabv3plus import DeepLabV3PlusHead
    from selftrain.models.linear import LinearHead
    from selftrain.models.pspnet import PSPHead

    if name == "linear":
        return LinearHead(features.deep_channels, num_classes)
    if name == "pspnet":
        return PSPHead(features.deep_channels, num_classes)
    return DeepLabV3PlusHead(
        low_channels=features.low_channels,
        deep_channels=features.deep_channels,
        num_classes=num_classes,
        output_stride=output_stride,
        channels=head_channels,
    )
