import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from selftrain.errors import InputError
from selftrain.models import BACKBONES, NETWORKS, SegmentationNetwork, build_network
from selftrain.models.mobilenet import MobileNetV2
from selftrain.models.resnet import ResNet

NUM_CLASSES = 5


def build(
    name: str = "deeplabv3plus", backbone: str = "mobilenet_v2", output_stride: int = 16
) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(
        name,
        num_classes=NUM_CLASSES,
        backbone=backbone,
        output_stride=output_stride,
        backbone_weights="none",
    )


def build_backbone(name: str, output_stride: int) -> MobileNetV2 | ResNet:
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


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@torch.inference_mode()
def test_deep_features_have_the_output_stride(backbone: str, output_stride: int) -> None:
    features = build_backbone(backbone, output_stride).eval()
    low, deep = features(torch.zeros(1, 3, 65, 96))
    assert low.shape == (1, features.low_channels, 17, 24)
    assert deep.shape[1] == features.deep_channels
    assert deep.shape[2:] == (-(-65 // output_stride), 96 // output_stride)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50"])
@pytest.mark.parametrize("output_stride", [8, 16])
@torch.inference_mode()
def test_dilated_features_contain_the_strided_ones(backbone: str, output_stride: int) -> None:
    dense, strided = build_backbone(backbone, output_stride), build_backbone(backbone, 32)
    dense.load_state_dict(strided.state_dict())
    images = draw(65, 98).double()
    skip = 32 // output_stride
    found = dense.eval().double()(images)[1][:, :, ::skip, ::skip]
    torch.testing.assert_close(found, strided.eval().double()(images)[1])


def test_every_output_stride_gives_logits() -> None:
    for output_stride in (8, 16, 32):
        network = build(output_stride=output_stride).eval()
        with torch.inference_mode():
            assert network(draw(40, 56)).shape == (1, NUM_CLASSES, 40, 56)


@pytest.mark.parametrize(
    ("name", "behind_the_features"),
    [
        # torchvision publishes the size of the whole network; these are left out here.
        ("resnet50", 2048 * 1000 + 1000),
        ("resnext50_32x4d", 2048 * 1000 + 1000),
        ("mobilenet_v2", 1280 * 1000 + 1000 + 320 * 1280 + 2 * 1280),
    ],
)
def test_backbones_have_the_published_size(name: str, behind_the_features: int) -> None:
    published = get_model_weights(name)["IMAGENET1K_V1"].meta["num_params"]
    assert count(build_backbone(name, 8)) == published - behind_the_features


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


@pytest.mark.parametrize("name", BACKBONES)
def test_torchvision_weights_load_without_a_key_map(name: str) -> None:
    backbone = build(backbone=name).backbone
    outcome = backbone.load_state_dict(get_model(name, weights=None).state_dict(), strict=False)
    assert outcome.missing_keys == []
    behind = ("fc.", "classifier.", "features.18.")
    assert [key for key in outcome.unexpected_keys if not key.startswith(behind)] == []


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
    ],
)
def test_gradient_reaches_every_parameter(name: str, backbone: str) -> None:
    network = build(name, backbone).train()
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
        ({"name": "pspnet"}, "pspnet.*deeplabv3plus"),
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
    with pytest.raises(InputError, match=names):
        # One dict for arguments of several types.
        build_network(**arguments | wrong)  # type: ignore[arg-type]
