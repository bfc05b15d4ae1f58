"""The networks: each is a backbone and a head inside a `SegmentationNetwork`.

They are imported when one is built. They build on torchvision, which imports all of torch's
compiler: seconds that a command whose products are all there need not wait for.
"""

from selftrain.errors import InputError
from selftrain.models.layers import SegmentationNetwork

__all__ = ["BACKBONES", "NETWORKS", "SegmentationNetwork", "build_network"]

NETWORKS = ("deeplabv3plus", "fast_scnn")
BACKBONES = ("mobilenet_v2", "resnext50_32x4d", "resnet50")


def build_network(
    name: str,
    *,
    num_classes: int,
    backbone: str,
    output_stride: int,
    backbone_weights: str,
    head_channels: int = 256,
) -> SegmentationNetwork:
    """Build a network, its backbone pretrained if so wished, the rest random.

    The random weights come from torch's global generator: seed it before.

    Args:
        name: One of `NETWORKS`.
        num_classes: Channels of the logits.
        backbone: One of `BACKBONES`. Fast-SCNN is a whole of its own: neither this nor
            `output_stride` touches it.
        output_stride: Pixels of the image for each pixel of the deepest features: 8 (the paper),
            16 or 32; larger is faster and coarser.
        backbone_weights: "none", a torchvision weights name, or a path: see
            `load_backbone_weights`.
        head_channels: Width of DeepLabV3+'s head; the paper's is 256.

    Raises:
        InputError: A name that is not listed; weights that do not fit, or any at all for
            Fast-SCNN, which has none to start from.
    """
    if name not in NETWORKS:
        raise InputError(f"there is no network {name!r}; choose from {', '.join(NETWORKS)}")
    if name == "fast_scnn":
        if backbone_weights != "none":
            raise InputError(
                f"fast_scnn trains from scratch and cannot start from {backbone_weights!r}; "
                "set the backbone weights to none"
            )
        from selftrain.models.fast_scnn import FastSCNNFeatures, FastSCNNHead

        return SegmentationNetwork(FastSCNNFeatures(), FastSCNNHead(num_classes))

    from selftrain.models.deeplabv3plus import DeepLabV3PlusHead
    from selftrain.models.mobilenet import MobileNetV2
    from selftrain.models.resnet import ResNet
    from selftrain.models.weights import load_backbone_weights

    if backbone not in BACKBONES:
        raise InputError(f"there is no backbone {backbone!r}; choose from {', '.join(BACKBONES)}")
    features = (
        MobileNetV2(output_stride)
        if backbone == "mobilenet_v2"
        else ResNet(backbone, output_stride)
    )
    load_backbone_weights(features, backbone, backbone_weights)
    head = DeepLabV3PlusHead(
        low_channels=features.low_channels,
        deep_channels=features.deep_channels,
        num_classes=num_classes,
        output_stride=output_stride,
        channels=head_channels,
    )
    return SegmentationNetwork(features, head)
