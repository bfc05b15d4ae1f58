import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from selftrain.errors import InputError
from selftrain.models import BACKBONES, NETWORKS, SegmentationNetwork, build_network
from selftrain.models.convnext import ConvNeXtTiny
from selftrain.models.layers import Backbone
from selftrain.models.mobilenet import MobileNetV2
from selftrain.models.resnet import ResNet
from selftrain.models.swin import SwinTiny
from selftrain.models.wide_resnet import WideResNet38

NUM_CLASSES = 5
OURS = {"wide_resnet38": WideResNet38, "convnext_tiny": ConvNeXtTiny, "swin_t": SwinTiny}
LOW_STRIDES = {"wide_resnet38": 2}
"""All others have 4."""
CHOICES = [
    (name, output_stride)
    for name in BACKBONES
    for output_stride in ((32,) if name == "swin_t" else (8, 16, 32))
]


def build(
    name: str = "deeplabv3plus",
    backbone: str = "mobilenet_v2",
    output_stride: int = 16,
    *,
    num_classes: int = NUM_CLASSES,
    auxiliary: bool = False,
) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(
        name,
        num_classes=num_classes,
        backbone=backbone,
        output_stride=output_stride,
        backbone_weights="none",
        auxiliary=auxiliary,
    )


def build_backbone(name: str, output_stride: int) -> Backbone:
    if name in OURS:
        return OURS[name](output_stride)
    return MobileNetV2(output_stride) if name == "mobilenet_v2" else ResNet(name, output_stride)


def draw(height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 101)])
@torch.inference_mode()
def test_logits_have_the_size_of_the_image(name: str, size: tuple[int, int]) -> None:
    network = build(name).eval()
    logits = network(draw(*size, batch=2))
    assert logits.shape == (2, NUM_CLASSES, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("backbone", "output_stride"), CHOICES)
@pytest.mark.parametrize("size", [(65, 96), (33, 127)])
def test_features_have_the_stated_strides(
    backbone: str, output_stride: int, size: tuple[int, int]
) -> None:
    with torch.device("meta"):  # shapes without numbers
        features = build_backbone(backbone, output_stride).eval()
        low, deep = features(torch.zeros(1, 3, *size))
    low_stride = LOW_STRIDES.get(backbone, 4)
    assert low.shape == (1, features.low_channels, *(-(-side // low_stride) for side in size))
    assert deep.shape == (1, features.deep_channels, *(-(-side // output_stride) for side in size))


def stages(backbone: Backbone) -> list[list[nn.Module]]:
    """Return the blocks of the four stages, in order, with what makes features coarser first."""
    if isinstance(backbone, ResNet):
        return [list(backbone.get_submodule(f"layer{n}").children()) for n in range(1, 5)]
    parts = list(backbone.get_submodule("features").children())
    if isinstance(backbone, MobileNetV2):
        return [parts[1:4], parts[4:7], parts[7:14], parts[14:18]]
    return [[parts[n], *parts[n + 1].children()] for n in (0, 2, 4, 6)]


@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations"),
    [
        # Of each stage: the dilation where it begins, and behind that. A convolution that gave up
        # its stride still sees features at the old spacing.
        (8, [4, 8, 8, 8], [(1, 1), (1, 1), (1, 2), (2, 4)]),
        (16, [4, 8, 16, 16], [(1, 1), (1, 1), (1, 1), (1, 2)]),
        (32, [4, 8, 16, 32], [(1, 1), (1, 1), (1, 1), (1, 1)]),
    ],
)
@pytest.mark.parametrize("name", sorted(set(BACKBONES) - {"wide_resnet38", "swin_t"}))
def test_stages_have_the_stride_and_the_receptive_dilation_of_the_output_stride(
    name: str, output_stride: int, strides: list[int], dilations: list[tuple[int, int]]
) -> None:
    """WideResNet38's are in test_wide_resnet.py; Swin-T has no dilation."""
    found: list[int] = []

    def note_stride(block: nn.Module, given: object, features: Tensor) -> None:
        found.append(128 // features.shape[-1])

    with torch.device("meta"):
        backbone = build_backbone(name, output_stride).eval()
        for blocks in stages(backbone):
            blocks[-1].register_forward_hook(note_stride)
        backbone(torch.zeros(1, 3, 64, 128))
    assert found == strides
    for blocks, (entering, inside) in zip(stages(backbone), dilations, strict=True):
        convs = [it for block in blocks for it in block.modules() if isinstance(it, nn.Conv2d)]
        first, *rest = [conv.dilation for conv in convs if conv.kernel_size != (1, 1)]
        assert first == (entering, entering)
        assert set(rest) == {(inside, inside)}


@pytest.mark.parametrize(("backbone", "output_stride"), CHOICES)
@pytest.mark.parametrize("name", ["deeplabv3plus", "pspnet", "linear"])
def test_every_network_gives_logits_of_an_odd_image(
    name: str, backbone: str, output_stride: int
) -> None:
    with torch.device("meta"):
        network = build(name, backbone, output_stride).eval()
        assert network(torch.zeros(2, 3, 47, 70)).shape == (2, NUM_CLASSES, 47, 70)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50", "convnext_tiny"])
@pytest.mark.parametrize("output_stride", [8, 16])
@torch.inference_mode()
def test_dilated_features_contain_the_strided_ones(backbone: str, output_stride: int) -> None:
    dense, strided = build_backbone(backbone, output_stride), build_backbone(backbone, 32)
    dense.load_state_dict(strided.state_dict())
    images = draw(33, 66).double()
    skip = 32 // output_stride
    found = dense.eval().double()(images)[1][:, :, ::skip, ::skip]
    torch.testing.assert_close(found, strided.eval().double()(images)[1])


@pytest.mark.parametrize(
    ("name", "behind_the_features"),
    [
        # torchvision publishes the size of the whole network; these are left out here.
        ("resnet50", 2048 * 1000 + 1000),
        ("resnet101", 2048 * 1000 + 1000),
        ("resnext50_32x4d", 2048 * 1000 + 1000),
        ("mobilenet_v2", 1280 * 1000 + 1000 + 320 * 1280 + 2 * 1280),
        ("convnext_tiny", 768 * 1000 + 1000),  # 28.6 million with it
        ("swin_t", 768 * 1000 + 1000),
    ],
)
def test_backbones_have_the_published_size(name: str, behind_the_features: int) -> None:
    published = get_model_weights(name)["IMAGENET1K_V1"].meta["num_params"]
    with torch.device("meta"):
        assert count(build_backbone(name, 32)) == published - behind_the_features


def test_wide_resnet38_deeplab_has_the_size_of_the_predecessors_code() -> None:
    # DeepWV3Plus in network/deepv3.py and wider_resnet.py of NVIDIA/semantic-segmentation (VPLR),
    # counted layer by layer: 3x3 pairs with a shortcut where the width changes, two bottlenecks,
    # the normalisations before every convolution, then pyramid, skip and refinement.
    trunk, width = 3 * 64 * 9, 64
    for blocks, first, last in ((3, 128, 128), (3, 256, 256), (6, 512, 512), (3, 512, 1024)):
        for _ in range(blocks):
            trunk += 9 * first * (width + last) + 2 * (width + first)
            trunk += width * last if width != last else 0
            width = last
    for first, second, last in ((512, 1024, 2048), (1024, 2048, 4096)):
        trunk += first * width + 9 * first * second + second * last + width * last
        trunk += 2 * (width + first + second)
        width = last
    aspp = 2 * (4096 * 256 + 512) + 3 * (9 * 4096 * 256 + 512) + 1280 * 256
    refine = 128 * 48 + 9 * 304 * 256 + 9 * 256 * 256 + 2 * 512 + 19 * 256
    # Ours also normalises the trunk's, the pyramid's and the skip's output, and has a bias.
    extra = 2 * (4096 + 256 + 48) + 19
    with torch.device("meta"):
        network = build("deeplabv3plus", "wide_resnet38", 8, num_classes=19)
    assert count(network) == trunk + aspp + refine + extra
    assert count(network) / 1e6 == pytest.approx(137.1, abs=0.05)  # the number that is quoted


@pytest.mark.parametrize("auxiliary", [False, True])
def test_pspnet_has_the_size_of_the_papers_layers(auxiliary: bool) -> None:
    # Section 3.2: four levels of 2048 / 4 channels, joined with the 2048 by a 3x3 convolution to
    # 512. Section 3.3: the auxiliary classifier on the 1024 channels of the stage before.
    resnet101 = 44_549_160 - (2048 * 1000 + 1000)  # torchvision's, without its classifier
    head = 4 * (2048 * 512 + 2 * 512) + 9 * 4096 * 512 + 2 * 512 + 512 * 19 + 19
    second = 9 * 1024 * 256 + 2 * 256 + 256 * 19 + 19
    with torch.device("meta"):
        network = build("pspnet", "resnet101", 8, num_classes=19, auxiliary=auxiliary)
    assert count(network) == resnet101 + head + auxiliary * second


def test_the_deeplab_head_has_the_size_of_its_layers() -> None:
    # 5 branches of ASPP, its projection, 48 low-level channels, two refinements, 19 classes.
    deep, width = 2048, 256
    aspp = 2 * deep * width + 3 * 9 * deep * width + 5 * width * width
    refine = 256 * 48 + 9 * (width + 48) * width + 9 * width * width
    norms = 2 * (6 * width + 48 + 2 * width)
    with torch.device("meta"):
        network = build("deeplabv3plus", "resnext50_32x4d", 8, num_classes=19)
    assert count(network.head) == aspp + refine + norms + 19 * width + 19


def test_fast_scnn_has_the_published_size() -> None:
    network = build_network(
        "fast_scnn",
        num_classes=19,
        backbone="mobilenet_v2",
        output_stride=8,
        backbone_weights="none",
    )
    # "1.11 million": Poudel et al. 2019, Table 4. Their Table 1 leaves the pyramid's projection
    # and the biases open.
    assert count(network) == pytest.approx(1.11e6, rel=0.03)


def test_fast_scnn_has_the_published_strides() -> None:
    low, deep = build("fast_scnn").eval().backbone(torch.zeros(1, 3, 64, 128))
    assert low.shape == (1, 64, 8, 16)
    assert deep.shape == (1, 128, 2, 4)


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - {"wide_resnet38"}))
def test_torchvision_weights_load_without_a_key_map(name: str) -> None:
    with torch.device("meta"):
        backbone, published = build_backbone(name, 32), get_model(name, weights=None)
    outcome = backbone.load_state_dict(published.state_dict(), strict=False, assign=True)
    assert outcome.missing_keys == []
    behind = ("fc.", "classifier.", "features.18.", "head.")
    assert [key for key in outcome.unexpected_keys if not key.startswith(behind)] == []


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t"])
@torch.inference_mode()
def test_features_of_modern_backbones_are_torchvisions(name: str) -> None:
    torch.manual_seed(0)
    published = get_model(name, weights=None).eval()
    ours = build_backbone(name, 32).eval()
    ours.load_state_dict(published.state_dict(), strict=False)
    images = torch.randn(1, 3, 96, 64)
    expected = published.features(images)
    if name == "swin_t":
        expected = published.permute(published.norm(expected))
    else:
        expected = published.classifier[0](expected)
    torch.testing.assert_close(ours(images)[1], expected)


def test_classifier_names_are_all_that_changes_with_the_classes() -> None:
    for name, auxiliary in (
        ("deeplabv3plus", False),
        ("pspnet", False),
        ("pspnet", True),
        ("linear", False),
        ("fast_scnn", False),
    ):
        with torch.device("meta"):
            few, many = (
                build(name, "resnet50", 32, num_classes=n, auxiliary=auxiliary) for n in (3, 4)
            )
        shapes = {key: tensor.shape for key, tensor in few.state_dict().items()}
        others = {key: tensor.shape for key, tensor in many.state_dict().items()}
        changed = [key for key in shapes if shapes[key] != others[key]]
        assert changed == few.classifier_names()
        assert len(changed) == (4 if auxiliary else 2)


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_bytes_and_floats_give_equal_logits(name: str) -> None:
    network, images = build(name).eval(), draw(48, 48)
    torch.testing.assert_close(network(images), network(images.float()), rtol=0, atol=0)


@torch.inference_mode()
def test_pixels_are_normalised_as_imagenet() -> None:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    images = draw(8, 8)
    torch.testing.assert_close(build().normalize(images), (images / 255 - mean) / std)


def test_normalisation_is_not_in_the_checkpoint() -> None:
    assert not [key for key in build("fast_scnn").state_dict() if "pixel" in key]


@torch.inference_mode()
def test_memory_format_does_not_change_the_logits() -> None:
    network, images = build("fast_scnn").eval(), draw(64, 48)
    expected = network(images)
    network.to(memory_format=torch.channels_last)
    found = network(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@torch.inference_mode()
def test_logits_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build("fast_scnn").eval()(draw(32, 32)).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("fast_scnn", "mobilenet_v2"),
        ("deeplabv3plus", "mobilenet_v2"),
        ("deeplabv3plus", "resnext50_32x4d"),
        ("pspnet", "mobilenet_v2"),
        ("linear", "convnext_tiny"),
        ("deeplabv3plus", "swin_t"),
    ],
)
def test_gradient_reaches_every_parameter(name: str, backbone: str) -> None:
    network = build(name, backbone, output_stride=32).train()
    network(draw(33, 65, batch=2)).square().mean().backward()
    untouched = [
        parameter_name
        for parameter_name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert untouched == []


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"name": "unet"}, "unet.*deeplabv3plus, pspnet, linear, fast_scnn"),
        ({"auxiliary": True}, "auxiliary.*only pspnet.*deeplabv3plus"),
        ({"name": "fast_scnn", "auxiliary": True}, "auxiliary.*only pspnet.*fast_scnn"),
        ({"name": "pspnet", "auxiliary": True}, "auxiliary.*mobilenet_v2.*resnet50, resnet101"),
        ({"backbone": "swin_t", "output_stride": 16}, "16.*swin_t.*32"),
        ({"backbone": "convnext_tiny", "output_stride": 4}, "4.*8, 16, 32"),
        ({"backbone": "wide_resnet38", "output_stride": 4}, "4.*8, 16, 32"),
        (
            {"backbone": "wide_resnet38", "backbone_weights": "IMAGENET1K_V1"},
            "has no wide_resnet38.*none",
        ),
        (
            {"backbone": "swin_t", "output_stride": 32, "backbone_weights": "IMAGENET1K_V2"},
            "IMAGENET1K_V2.*IMAGENET1K_V1",
        ),
        ({"backbone": "vgg16"}, "vgg16.*mobilenet_v2"),
        ({"output_stride": 4}, "4.*8, 16, 32"),
        ({"backbone": "resnet50", "output_stride": 12}, "12.*8, 16, 32"),
        ({"name": "fast_scnn", "backbone_weights": "IMAGENET1K_V1"}, "IMAGENET1K_V1"),
    ],
)
def test_wrong_choices_are_refused_by_name(wrong: dict[str, str | int], names: str) -> None:
    arguments: dict[str, str | int] = {
        "name": "deeplabv3plus",
        "num_classes": 3,
        "backbone": "mobilenet_v2",
        "output_stride": 8,
        "backbone_weights": "none",
    }
    with pytest.raises(InputError, match=names), torch.device("meta"):
        # One dict for arguments of several types.
        build_network(**arguments | wrong)  # type: ignore[arg-type]
