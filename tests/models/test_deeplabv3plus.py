"""Ours against segmentation_models_pytorch, an independent DeepLabV3+ (a test extra)."""

import pytest
import torch
from torch import Tensor, nn

from selftrain.models import SegmentationNetwork, build_network
from selftrain.models.deeplabv3plus import DeepLabV3PlusHead
from selftrain.models.layers import IMAGENET_MEAN, IMAGENET_STD

NUM_CLASSES = 4
RATES = {8: (12, 24, 36), 16: (6, 12, 18)}


def theirs(output_stride: int) -> nn.Module:
    """Build their network where the definitions coincide.

    Theirs adds a separable convolution after the pyramid, aligns corners when it upsamples, and
    dilates the first block of a stage as much as the others, unlike torchvision.
    """
    smp = pytest.importorskip("segmentation_models_pytorch")
    network: nn.Module = smp.DeepLabV3Plus(
        "resnet50",
        encoder_weights=None,
        encoder_output_stride=output_stride,
        decoder_channels=32,
        decoder_atrous_rates=RATES[output_stride],
        decoder_aspp_separable=False,
        classes=NUM_CLASSES,
    )
    decoder = network.get_submodule("decoder")
    decoder.aspp = network.get_submodule("decoder.aspp.0")
    for name in ("decoder.up", "segmentation_head.1"):
        network.get_submodule(name).align_corners = False  # type: ignore[assignment]
    for stage in ("layer3", "layer4") if output_stride == 8 else ("layer4",):
        conv = network.get_submodule(f"encoder.{stage}.0.conv2")
        assert isinstance(conv, nn.Conv2d)
        conv.dilation = conv.padding = (conv.dilation[0] // 2, conv.dilation[0] // 2)
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # the defaults would hide exchanged layers
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor, 0.5, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return network


def map_over(network: nn.Module, ours: SegmentationNetwork) -> None:
    """Give ours their weights."""
    part = network.get_submodule
    encoder = part("encoder").state_dict()
    ours.backbone.load_state_dict({k: v for k, v in encoder.items() if not k.startswith("fc.")})
    head = ours.head
    assert isinstance(head, DeepLabV3PlusHead)
    head.aspp.load_state_dict(part("decoder.aspp").state_dict())
    head.project.load_state_dict(part("decoder.block1").state_dict())
    # Depthwise and 1x1 convolution without anything between are one convolution. Theirs takes
    # the pyramid's channels first, as ours.
    depthwise = part("decoder.block2.0.0").get_parameter("weight")
    pointwise = part("decoder.block2.0.1").get_parameter("weight")
    refine = head.classify
    refine.get_parameter("0.0.weight").data = pointwise * depthwise.transpose(0, 1)
    refine.get_submodule("0.1").load_state_dict(part("decoder.block2.1").state_dict())
    # The second refinement, which theirs lacks, passes on what is not negative.
    nn.init.dirac_(refine.get_parameter("1.0.weight"))
    refine.get_submodule("1.1").eps = 0.0  # type: ignore[assignment]
    refine.get_submodule("2").load_state_dict(part("segmentation_head.0").state_dict())


def normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(it).view(3, 1, 1) for it in (IMAGENET_MEAN, IMAGENET_STD))
    return (images / 255 - mean) / std


@pytest.mark.parametrize("output_stride", [8, 16])
@torch.inference_mode()
def test_an_independent_implementation_gives_equal_logits(output_stride: int) -> None:
    reference = theirs(output_stride).eval()
    ours = build_network(
        "deeplabv3plus",
        num_classes=NUM_CLASSES,
        backbone="resnet50",
        output_stride=output_stride,
        backbone_weights="none",
        head_channels=32,
    ).eval()
    map_over(reference, ours)
    images = torch.randint(0, 256, (1, 3, 96, 64), dtype=torch.uint8)
    expected = reference.double()(normalized(images).double())
    found = ours.double()(images.double())
    assert expected.std() > 0.01  # else anything would agree
    # float32 constants of the normalisation are what is left of a difference.
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)
