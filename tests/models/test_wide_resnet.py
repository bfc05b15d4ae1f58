import pytest
import torch
from torch import nn

from selftrain.models.wide_resnet import PreActivationBlock, WideResNet38


@pytest.fixture(scope="module")
def backbone() -> WideResNet38:
    with torch.device("meta"):
        return WideResNet38(8)


def test_parameters_are_named_and_ordered_as_an_image_meets_them(backbone: WideResNet38) -> None:
    names = [name for name, _ in backbone.named_parameters()]
    assert names[:9] == [
        "mod1.conv1.weight",
        "mod2.block1.bn1.0.weight",
        "mod2.block1.bn1.0.bias",
        "mod2.block1.convs.conv1.weight",
        "mod2.block1.convs.bn2.0.weight",
        "mod2.block1.convs.bn2.0.bias",
        "mod2.block1.convs.conv2.weight",
        "mod2.block1.proj_conv.weight",
        "mod2.block2.bn1.0.weight",
    ]
    assert names[-7:] == [
        "mod7.block1.convs.conv2.weight",
        "mod7.block1.convs.bn3.0.weight",
        "mod7.block1.convs.bn3.0.bias",
        "mod7.block1.convs.conv3.weight",
        "mod7.block1.proj_conv.weight",
        "bn_out.0.weight",
        "bn_out.0.bias",
    ]


def test_it_has_38_layers_counting_the_classifier(backbone: WideResNet38) -> None:
    # Wu et al. count two convolutions for each of the 17 blocks, or three in the two bottlenecks,
    # the first convolution and the classifier.
    on_the_path = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d) and "proj_conv" not in name
    ]
    assert len(on_the_path) + 1 == 38


@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations"),
    [
        (8, [1, 1, 2, 1, 1, 1], [1, 1, 1, 2, 4, 4]),
        (16, [1, 1, 2, 2, 1, 1], [1, 1, 1, 1, 2, 2]),
        (32, [1, 1, 2, 2, 2, 1], [1, 1, 1, 1, 1, 1]),
    ],
)
def test_stages_have_the_stride_and_the_dilation_of_the_layout(
    output_stride: int, strides: list[int], dilations: list[int]
) -> None:
    with torch.device("meta"):
        network = WideResNet38(output_stride)
    for number, stride, dilation in zip(range(2, 8), strides, dilations, strict=True):
        stage = network.get_submodule(f"mod{number}")
        convs = [it for it in stage.modules() if isinstance(it, nn.Conv2d)]
        assert max(conv.stride[0] for conv in convs) == stride
        assert {conv.dilation[0] for conv in convs if conv.kernel_size == (3, 3)} == {dilation}


def test_a_stage_drops_whole_channels_where_the_layout_says(backbone: WideResNet38) -> None:
    dropped = {
        name: module.p
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Dropout2d)
    }
    assert dropped == {"mod6.block1.convs.dropout": 0.3, "mod7.block1.convs.dropout": 0.5}


@torch.inference_mode()
def test_a_block_adds_to_its_input_as_it_was() -> None:
    block = PreActivationBlock(4, (6, 4), stride=1, dilation=2, dropout=0).eval()
    for conv in block.convs.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.zeros_(conv.weight)
    features = torch.randn(1, 4, 7, 9)
    torch.testing.assert_close(block(features.clone()), features)


@torch.inference_mode()
def test_a_block_that_changes_shape_projects_its_normalised_input() -> None:
    block = PreActivationBlock(4, (6, 5, 8), stride=2, dilation=1, dropout=0.5).eval()
    nn.init.zeros_(block.get_parameter("convs.conv3.weight"))
    features = torch.randn(1, 4, 7, 9)
    assert block.proj_conv is not None
    expected = block.proj_conv(block.bn1(features))
    assert expected.shape == (1, 8, 4, 5)
    torch.testing.assert_close(block(features), expected)
