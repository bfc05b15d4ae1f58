"""A trained network as a file that runs without this project: ONNX, or torch.export's .pt2.

What is to be written is loaded from its own bytes and compared with PyTorch first: a file that
computes something else is never there.
"""

import importlib.util
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from selftrain.checkpoint import ModelCard, load_network
from selftrain.errors import InputError
from selftrain.files import write_atomically

ONNX, TORCH_EXPORT, CARD = "network.onnx", "network.pt2", "network.json"
OPSET = 18
"""Version of the ONNX operators: old enough for most programs that read them."""
TOLERANCE = 1e-4
"""Largest difference of a logit from PyTorch's, as a share of the largest logit."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export(
    model: Path,
    output: Path,
    *,
    format: Literal["onnx", "torch_export", "both"],
    height: int,
    width: int,
    dynamic: bool,
) -> list[Path]:
    """Write a network as `network.onnx` and `network.pt2`, with a card that says how to use them.

    What is exported takes images (B, 3, H, W), uint8, RGB, and normalises them itself. It returns
    logits (B, K, H, W), float32. `network.json` names classes, colours, the scale of the frames
    in training, input and output, and how near to PyTorch each file was.

    Args:
        model: Folder of a network.
        output: Folder to write into.
        format: Which of the two files.
        height: Of the images, in pixels; with `dynamic` an example.
        width: Likewise.
        dynamic: Take batches and images of other sizes too; else exactly one image of this size.

    Returns:
        The files, the card last.

    Raises:
        InputError: the folder holds no network; a package is missing; the network cannot be
            exported so; what was exported computes something else; a file cannot be written.
    """
    if format != "torch_export":
        _require_packages()
    network, card = load_network(model, torch.device("cpu"))
    if dynamic and card.backbone == "swin_t" and card.network != "fast_scnn":
        raise InputError(
            f"The {card.network} on swin_t in {model} cannot be exported for images of any size, "
            "because its windows are laid out for one: set export.dynamic to false."
        )
    examples = _examples(height, width, dynamic)
    program = _trace(network, examples[0], card, dynamic)
    files: dict[Path, bytes] = {}
    differences: dict[str, float] = {}
    if format != "torch_export":
        data = _to_onnx(program, card, dynamic)
        differences[ONNX] = _require_near(ONNX, network, examples, partial(_run_onnx, data))
        files[output / ONNX] = data
    if format != "onnx":
        data = _to_torch_export(program)
        loaded = torch.export.load(io.BytesIO(data)).module()
        differences[TORCH_EXPORT] = _require_near(TORCH_EXPORT, network, examples, loaded)
        files[output / TORCH_EXPORT] = data
    files[output / CARD] = _describe(card, height, width, dynamic, differences)
    for path, data in files.items():
        write_atomically(path, data)
    return list(files)


def _require_packages() -> None:
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"export.format onnx needs {', '.join(missing)}: install the project with its extra, "
            "pip install '.[export]', or set export.format to torch_export."
        )


def _examples(height: int, width: int, dynamic: bool) -> list[Tensor]:
    """Return images to trace with and to compare on; with `dynamic`, of odd and other sizes."""
    shapes = [(1, height, width)]
    if dynamic:
        # The first has no side of 1, lest the tracer takes it for a constant.
        shapes = [
            (2, max(height, 64), max(width, 64)),
            (1, height // 2 + 33, width // 2 + 50),
            (3, 65, 97),
        ]
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (batch, 3, h, w), dtype=torch.uint8, generator=generator)
        for batch, h, w in shapes
    ]


def _trace(network: nn.Module, images: Tensor, card: ModelCard, dynamic: bool) -> ExportedProgram:
    # The least height and width are left to the tracer: where the deepest features are one cell,
    # some networks are other programs.
    sizes = {0: Dim("batch", min=1), 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        return torch.export.export(network, (images,), dynamic_shapes=(sizes,) if dynamic else None)
    except Exception as error:  # its kinds are private to torch, and change with its versions
        raise _refusal(card, dynamic, error) from error


def _to_onnx(program: ExportedProgram, card: ModelCard, dynamic: bool) -> bytes:
    aten = torch.ops.aten
    pooling = {aten._adaptive_avg_pool2d.default: _pool, aten.adaptive_avg_pool2d.default: _pool}
    try:
        if dynamic:
            program = program.run_decompositions(pooling)
        written = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
        assert written is not None  # it is None for the old exporter only
        return bytes(written.model_proto.SerializeToString())
    except Exception as error:  # onnxscript's kinds are many
        raise _refusal(card, dynamic, error) from error


def _pool(features: Tensor, cells: list[int]) -> Tensor:
    """Average (B, C, h, w) over cells, as adaptive average pooling does.

    ONNX has no such operator. As matrix products it works for any size, and for every size the
    cells are the same as PyTorch's: from floor(i * h / n) to ceil((i + 1) * h / n).
    """
    down, across = (
        _shares(cells[axis], features.shape[2 + axis], features).to(features.dtype)
        for axis in (0, 1)
    )
    return down @ features @ across.transpose(0, 1)


def _shares(cells: int, length: int, features: Tensor) -> Tensor:
    """Return the share (cells, length) that each place of an axis has in each cell."""
    place = torch.arange(length, device=features.device)
    cell = torch.arange(cells, device=features.device).unsqueeze(1)
    # Compared as products: cell * length / cells need not be rounded by anybody.
    inside = ((place + 1) * cells > cell * length) & (place * cells < (cell + 1) * length)
    share = inside.to(features.dtype)
    return share / share.sum(1, keepdim=True)


def _run_onnx(data: bytes, images: Tensor) -> Tensor:
    import onnxruntime  # type: ignore[import-untyped]  # it publishes no types

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    return torch.from_numpy(logits)


def _to_torch_export(program: ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


@torch.inference_mode()
def _require_near(
    name: str, network: nn.Module, examples: list[Tensor], run: Callable[[Tensor], Tensor]
) -> float:
    """Return the largest difference from the network's logits, as a share of the largest logit.

    Raises:
        InputError: it is above `TOLERANCE`, or no number; or `run` fails.
    """
    cure = "set export.dynamic to false or choose another export.format"
    largest = 0.0
    for images in examples:
        shape = "x".join(map(str, images.shape))
        expected = network(images)
        try:
            difference = float((run(images) - expected).abs().max() / expected.abs().max())
        except Exception as error:  # onnxruntime's kinds, torch's guards
            raise InputError(
                f"{name} is not written: it does not run on images {shape} ({_reason(error)}); "
                f"{cure}."
            ) from error
        if not difference <= TOLERANCE:  # NaN too
            raise InputError(
                f"{name} is not written: for images {shape} its logits differ from PyTorch's by "
                f"{difference:.2g} of the largest, more than {TOLERANCE:g}; {cure}."
            )
        largest = max(largest, difference)
    return largest


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _refusal(card: ModelCard, dynamic: bool, error: Exception) -> InputError:
    cure = (
        "set export.dynamic to false"
        if dynamic
        else "choose another export.format or train another network"
    )
    sizes = "for images of any size" if dynamic else "for images of this size"
    return InputError(
        f"{card.network} on {card.backbone} cannot be exported {sizes} ({_reason(error)}): {cure}."
    )


def _describe(
    card: ModelCard, height: int, width: int, dynamic: bool, differences: dict[str, float]
) -> bytes:
    shape = ["batch", 3, "height", "width"] if dynamic else [1, 3, height, width]
    described = {
        "network": card.network,
        "backbone": card.backbone,
        "classes": card.classes,
        "colors": card.colors,
        "scale": card.scale,
        "short_side": card.short_side,
        "input": {"name": "images", "dtype": "uint8", "order": "RGB", "shape": shape},
        "output": {
            "name": "logits",
            "dtype": "float32",
            "shape": [shape[0], len(card.classes), *shape[2:]],
        },
        "opset": OPSET if ONNX in differences else None,
        "torch": torch.__version__,
        "difference_from_pytorch": differences,
    }
    return json.dumps(described, indent=2).encode()
