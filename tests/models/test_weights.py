from pathlib import Path
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torchvision.models import convnext_tiny, mobilenet_v2

from selftrain.errors import InputError
from selftrain.models import build_network
from selftrain.models.convnext import ConvNeXtTiny
from selftrain.models.mobilenet import MobileNetV2
from selftrain.models.weights import load_backbone_weights


@pytest.fixture
def backbone() -> MobileNetV2:
    torch.manual_seed(0)
    return MobileNetV2(output_stride=16)


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    torch.manual_seed(1)
    found: dict[str, Tensor] = mobilenet_v2(weights=None).state_dict()
    return found


def copy_of(backbone: MobileNetV2) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.state_dict().items()}


def assert_loaded(backbone: MobileNetV2, expected: dict[str, Tensor]) -> None:
    for name, tensor in backbone.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def assert_unchanged(backbone: MobileNetV2, before: dict[str, Tensor]) -> None:
    assert_loaded(backbone, before)


def test_none_leaves_the_random_weights(backbone: MobileNetV2) -> None:
    before = copy_of(backbone)
    load_backbone_weights(backbone, "mobilenet_v2", "none")
    assert_unchanged(backbone, before)


def test_a_pth_file_loads(
    backbone: MobileNetV2, published: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(published, tmp_path / "whole.pth")
    load_backbone_weights(backbone, "mobilenet_v2", str(tmp_path / "whole.pth"))
    assert_loaded(backbone, published)


def test_a_safetensors_file_loads(
    backbone: MobileNetV2, published: dict[str, Tensor], tmp_path: Path
) -> None:
    safetensors.torch.save_file(published, tmp_path / "whole.safetensors")
    load_backbone_weights(backbone, "mobilenet_v2", str(tmp_path / "whole.safetensors"))
    assert_loaded(backbone, published)


def test_half_precision_becomes_float32(
    backbone: MobileNetV2, published: dict[str, Tensor], tmp_path: Path
) -> None:
    halved = {
        name: tensor.half() if tensor.ndim == 4 else tensor
        for name, tensor in published.items()
        if not name.startswith("classifier") and "num_batches_tracked" not in name
    }
    torch.save(halved, tmp_path / "half.pth")
    load_backbone_weights(backbone, "mobilenet_v2", str(tmp_path / "half.pth"))
    assert {tensor.dtype for tensor in backbone.parameters()} == {torch.float32}
    first = backbone.state_dict()["features.0.0.weight"]
    torch.testing.assert_close(first, halved["features.0.0.weight"].float(), rtol=0, atol=0)


def test_every_mismatch_is_named_and_nothing_is_loaded(
    backbone: MobileNetV2, published: dict[str, Tensor], tmp_path: Path
) -> None:
    wrong = dict(published)
    del wrong["features.0.0.weight"]
    wrong["stem.weight"] = torch.zeros(2, 3)
    wrong["features.1.conv.1.weight"] = torch.zeros(16, 32, 3, 3)
    torch.save(wrong, tmp_path / "wrong.pth")
    before = copy_of(backbone)
    with pytest.raises(InputError) as caught:
        load_backbone_weights(backbone, "mobilenet_v2", str(tmp_path / "wrong.pth"))
    message = str(caught.value)
    assert "1 missing: features.0.0.weight (32, 3, 3, 3)" in message
    assert "1 unexpected: stem.weight (2, 3)" in message
    assert "features.1.conv.1.weight (16, 32, 3, 3) instead of (16, 32, 1, 1)" in message
    assert_unchanged(backbone, before)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_named_and_nothing_is_loaded(
    value: float, backbone: MobileNetV2, published: dict[str, Tensor], tmp_path: Path
) -> None:
    broken = {name: tensor.clone() for name, tensor in published.items()}
    broken["features.0.1.running_var"][3] = value
    torch.save(broken, tmp_path / "broken.pth")
    before = copy_of(backbone)
    named = r"NaN or infinity in 1 of its tensors \(features\.0\.1\.running_var\); take other"
    with pytest.raises(InputError, match=rf"broken\.pth .*{named}"):
        load_backbone_weights(backbone, "mobilenet_v2", str(tmp_path / "broken.pth"))
    assert_unchanged(backbone, before)


def test_many_mismatches_are_counted(backbone: MobileNetV2, tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"255 missing: features\.0.* and 250 more"):
        load_backbone_weights(backbone, "mobilenet_v2", str(tmp_path / "other.safetensors"))


def test_the_backbone_of_one_of_our_networks_loads(backbone: MobileNetV2, tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = build_network(
        "linear",
        num_classes=3,
        backbone="mobilenet_v2",
        output_stride=32,
        backbone_weights="none",
    )
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    load_backbone_weights(backbone, "mobilenet_v2", str(tmp_path / "weights.safetensors"))
    assert_loaded(backbone, network.backbone.state_dict())


def test_a_normalisation_among_the_classifiers_weights_is_loaded(tmp_path: Path) -> None:
    published = convnext_tiny(weights=None).state_dict()
    published["classifier.0.weight"] = torch.full((768,), 7.0)
    safetensors.torch.save_file(published, tmp_path / "whole.safetensors")
    backbone = ConvNeXtTiny(32)
    load_backbone_weights(backbone, "convnext_tiny", str(tmp_path / "whole.safetensors"))
    assert backbone.state_dict()["classifier.0.weight"].eq(7).all()


def test_a_backbone_that_torchvision_lacks_is_refused_with_the_cure(backbone: MobileNetV2) -> None:
    with pytest.raises(InputError, match=r"no wide_resnet38.*'IMAGENET1K_V2'.*none, or a path"):
        load_backbone_weights(backbone, "wide_resnet38", "IMAGENET1K_V2")


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def test_code_in_a_pickle_is_refused_and_not_run(backbone: MobileNetV2, tmp_path: Path) -> None:
    torch.save({"features.0.0.weight": Bomb(tmp_path / "went off")}, tmp_path / "bomb.pth")
    with pytest.raises(InputError, match=r"bomb\.pth is not a plain file of tensors"):
        load_backbone_weights(backbone, "mobilenet_v2", str(tmp_path / "bomb.pth"))
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("name", ["torn.pth", "torn.safetensors"])
def test_a_torn_file_is_refused(backbone: MobileNetV2, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(InputError, match="is not a plain file of tensors"):
        load_backbone_weights(backbone, "mobilenet_v2", str(tmp_path / name))


def test_a_whole_checkpoint_is_refused_with_the_cure(
    backbone: MobileNetV2, published: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"model": published, "epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(InputError, match=r"state_dict\(\)"):
        load_backbone_weights(backbone, "mobilenet_v2", str(tmp_path / "checkpoint.pth"))


def test_a_missing_file_and_an_unknown_name_are_refused(
    backbone: MobileNetV2, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no weights file .*absent\.pth"):
        load_backbone_weights(backbone, "mobilenet_v2", str(tmp_path / "absent.pth"))
    with pytest.raises(InputError, match=r"'imagenet'.*none, IMAGENET1K_V1, IMAGENET1K_V2"):
        load_backbone_weights(backbone, "mobilenet_v2", "imagenet")


def test_without_a_network_the_message_says_what_to_do(
    backbone: MobileNetV2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(InputError, match=r"cannot download https://.*set them to none"):
        load_backbone_weights(backbone, "mobilenet_v2", "IMAGENET1K_V1")


def test_downloaded_weights_load(
    backbone: MobileNetV2,
    published: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def download(url: str, target: str, *args: object, **kwargs: object) -> None:
        torch.save(published, target)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    load_backbone_weights(backbone, "mobilenet_v2", "IMAGENET1K_V1")
    assert_loaded(backbone, published)
