"""What is exported computes the same, with onnxruntime and torch.export, or is not written."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from selftrain import export as module
from selftrain.checkpoint import ModelCard, load_network, save_network
from selftrain.errors import InputError
from selftrain.export import CARD, ONNX, TORCH_EXPORT, export
from selftrain.files import write_atomically
from selftrain.models import BACKBONES, NETWORKS, SegmentationNetwork, build_network

onnxruntime = pytest.importorskip("onnxruntime")
CPU = torch.device("cpu")
FAST_SCNN = ("fast_scnn", "mobilenet_v2")
STRIDES = {"swin_t": 32}
"""Of backbones that cannot be had at 16."""
Format = Literal["onnx", "torch_export"]
Run = Callable[[Tensor], Tensor]


def build(names: tuple[str, str]) -> tuple[SegmentationNetwork, ModelCard]:
    """Return a network with random weights."""
    network, backbone = names
    torch.manual_seed(0)
    card = ModelCard(
        network=network,
        backbone=backbone,
        output_stride=STRIDES.get(backbone, 16),
        head_channels=16,
        classes=["road", "car", "sky"],
        colors=[[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        scale=0.5,
    )
    built = build_network(
        network,
        num_classes=3,
        backbone=backbone,
        output_stride=card.output_stride,
        backbone_weights="none",
        head_channels=16,
    )
    return built.eval(), card


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a Fast-SCNN."""
    folder = tmp_path_factory.mktemp("model")
    save_network(folder, *build(FAST_SCNN))
    return folder


def images(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def start(file: Path) -> Any:
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def start_onnx(file: Path) -> Run:
    session = start(file)
    return lambda asked: torch.from_numpy(session.run(None, {"images": asked.numpy()})[0])


def start_torch_export(file: Path) -> Run:
    return torch.export.load(file).module()


START = {ONNX: start_onnx, TORCH_EXPORT: start_torch_export}


def assert_near(found: Tensor, model: Path, asked: Tensor) -> None:
    network, _ = load_network(model, CPU)
    with torch.inference_mode():
        expected = network(asked)
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


def test_the_files_compute_what_the_network_computes_and_the_card_says_how_to_use_them(
    model: Path, tmp_path: Path
) -> None:
    files = export(model, tmp_path, format="both", height=64, width=97, dynamic=False)
    assert [file.path for file in files] == [tmp_path / ONNX, tmp_path / TORCH_EXPORT]
    assert {path.name for path in tmp_path.iterdir()} == {ONNX, TORCH_EXPORT, CARD}
    for file in files:
        data = file.path.read_bytes()
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        asked = images(1, 3, 64, 97)
        assert_near(START[file.path.name](file.path)(asked), model, asked)
    card = json.loads((tmp_path / CARD).read_text())
    assert card["classes"] == ["road", "car", "sky"]
    assert card["colors"] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert card["scale"] == 0.5
    session = start(tmp_path / ONNX)
    (taken,), (returned,) = session.get_inputs(), session.get_outputs()
    asked_for = {"name": taken.name, "dtype": "uint8", "order": "RGB", "shape": taken.shape}
    assert card["input"] == asked_for
    assert taken.type == "tensor(uint8)"
    assert card["output"]["shape"] == returned.shape == [1, 3, 64, 97]
    assert card["difference_from_pytorch"] == {file.path.name: file.difference for file in files}
    assert all(0 <= file.difference <= 1e-4 for file in files)


def test_files_of_an_export_that_died_never_stand_beside_the_card_of_another(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again() -> None:
        export(model, tmp_path, format="torch_export", height=64, width=64, dynamic=False)

    again()
    assert (tmp_path / CARD).exists()

    def die(path: Path, data: bytes) -> None:
        write_atomically(path, data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", die)
        with pytest.raises(KeyboardInterrupt):
            again()
    assert {path.name for path in tmp_path.iterdir()} == {TORCH_EXPORT}
    (tmp_path / f".{'0' * 32}.tmp").touch()
    again()
    assert {path.name for path in tmp_path.iterdir()} == {TORCH_EXPORT, CARD}


def test_with_dynamic_sizes_one_file_takes_other_batches_and_odd_sizes(
    model: Path, tmp_path: Path
) -> None:
    for file in export(model, tmp_path, format="both", height=64, width=96, dynamic=True):
        run = START[file.path.name](file.path)
        for shape in [(1, 3, 64, 96), (1, 3, 45, 70), (2, 3, 101, 64)]:
            asked = images(*shape)
            assert_near(run(asked), model, asked)


@pytest.mark.parametrize(
    ("names", "format"),
    [
        # Both, where a part of the network is written otherwise for its export.
        (("pspnet", "swin_t"), "both"),
        (("linear", "convnext_tiny"), "both"),
        # One of the two for plain convolutions, for the time that it takes.
        (("deeplabv3plus", "mobilenet_v2"), "onnx"),
        (("deeplabv3plus", "resnext50_32x4d"), "torch_export"),
        (("pspnet", "resnet50"), "onnx"),
        (("linear", "resnet101"), "torch_export"),
        (("linear", "wide_resnet38"), "torch_export"),
    ],
)
def test_every_kind_of_network_is_exported_for_any_size(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, str],
    format: Literal["onnx", "torch_export", "both"],
) -> None:
    monkeypatch.setattr(module, "load_network", lambda *_: build(names))
    written = export(tmp_path, tmp_path, format=format, height=45, width=70, dynamic=True)
    assert len(written) == (2 if format == "both" else 1)
    assert all(file.difference < 1e-4 for file in written)


@pytest.mark.torture
@pytest.mark.parametrize("dynamic", [False, True], ids=["one size", "any size"])
@pytest.mark.parametrize(
    "names",
    [FAST_SCNN, *((head, it) for head in NETWORKS if head != "fast_scnn" for it in BACKBONES)],
    ids="-".join,
)
def test_each_of_the_22_networks_computes_the_same_in_both_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], dynamic: bool
) -> None:
    """To 1e-4 of the largest logit, and to 1e-4 in the probabilities."""
    network, _ = build(names)
    monkeypatch.setattr(module, "load_network", lambda *_: build(names))
    written = export(tmp_path, tmp_path, format="both", height=65, width=97, dynamic=dynamic)
    asked = images(1, 3, 65, 97)
    for file in written:
        assert file.difference <= 1e-4
        with torch.inference_mode():
            found, expected = START[file.path.name](file.path)(asked), network(asked)
        assert float((found.softmax(1) - expected.softmax(1)).abs().max()) <= 1e-4


@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_a_file_that_computes_something_else_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Format
) -> None:
    load = load_network

    def worn(folder: Path, device: torch.device) -> object:
        network, card = load(folder, device)
        runs: list[int] = []

        def drift(_: object, __: object, logits: Tensor) -> Tensor:
            runs.append(1)
            return logits + (len(runs) - 1)  # the first run is the tracer's

        network.register_forward_hook(drift)
        return network, card

    monkeypatch.setattr(module, "load_network", worn)
    with pytest.raises(InputError) as caught:
        export(model, tmp_path, format=kind, height=48, width=64, dynamic=False)
    name = {"onnx": ONNX, "torch_export": TORCH_EXPORT}[kind]
    assert str(caught.value).startswith(f"{name} is not written: for images 1x3x48x64 its logits")
    assert "choose another export.format" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_run_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Tensor:
        raise RuntimeError("Non-zero status code\nand a long trace")

    monkeypatch.setattr(module, "_open_onnx", lambda _: fail)
    with pytest.raises(InputError) as caught:
        export(model, tmp_path, format="onnx", height=48, width=64, dynamic=False)
    assert str(caught.value) == (
        f"{ONNX} is not written: it does not run on images 1x3x48x64 (Non-zero status code); "
        "set export.dynamic to false or choose another export.format."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_traced_is_refused_in_one_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = load_network

    def branching(folder: Path, device: torch.device) -> object:
        network, card = load(folder, device)

        def branch(_: object, __: object, logits: Tensor) -> Tensor:
            return logits * 2 if logits.sum() > 0 else logits

        network.register_forward_hook(branch)
        return network, card

    monkeypatch.setattr(module, "load_network", branching)
    for dynamic, cure in ((True, "set export.dynamic to false"), (False, "another network")):
        with pytest.raises(InputError) as caught:
            export(model, tmp_path, format="both", height=64, width=64, dynamic=dynamic)
        assert str(caught.value).startswith("fast_scnn on mobilenet_v2 cannot be exported")
        assert cure in str(caught.value)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ONNX_PACKAGES", ("onnx", "onnx_of_tomorrow"))
    with pytest.raises(InputError) as caught:
        export(tmp_path, tmp_path / "out", format="both", height=64, width=64, dynamic=False)
    assert "needs onnx_of_tomorrow: install" in str(caught.value)
    assert "pip install '.[export]'" in str(caught.value)


def test_a_folder_without_a_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no network: model\.json is missing"):
        export(tmp_path, tmp_path / "out", format="onnx", height=64, width=64, dynamic=False)
    assert not (tmp_path / "out").exists()
