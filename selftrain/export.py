"""A trained network as a file that runs without this project: ONNX, or torch.export's .pt2.

What is to be written is loaded from its own bytes and compared with PyTorch first: a file that
computes something else is never there.
"""

import hashlib
import importlib.util
import io
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from selftrain.checkpoint import ModelCard, load_network
from selftrain.errors import InputError
from selftrain.files import remove_leftovers, write_atomically

ONNX, TORCH_EXPORT, CARD = "network.onnx", "network.pt2", "network.json"
OPSET = 18
"""Version of the ONNX operators: old enough for most programs that read them."""
TOLERANCE = 1e-4
"""Largest difference of a logit from PyTorch's, as a share of the largest logit."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Sizes = dict[int, Dim]
"""Axes of the images that have any size."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, and what is known of it."""

    path: Path
    size: int
    """Bytes."""
    sha256: str
    """Of its bytes, in hexadecimal."""
    difference: float
    """Largest difference of a logit from PyTorch's, as a share of the largest logit."""


def export(
    model: Path,
    output: Path,
    *,
    format: Literal["onnx", "torch_export", "both"],
    height: int,
    width: int,
    dynamic: bool,
) -> list[Exported]:
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
        dynamic: Take batches and images of other sizes too, sides longer than 32 pixels; else
            exactly one image of this size.

    Returns:
        The files, without the card.

    Raises:
        InputError: the folder holds no network; a package is missing; the network cannot be
            exported so; what was exported computes something else; a file cannot be written.
    """
    if format != "torch_export":
        _require_packages()
    network, card = load_network(model, torch.device("cpu"))
    examples = _examples(height, width, dynamic)
    program = _trace(network, examples, card, dynamic)
    files: dict[str, bytes] = {}
    differences: dict[str, float] = {}
    if format != "torch_export":
        files[ONNX] = _to_onnx(program, card, dynamic)
        run = _open_onnx(files[ONNX])
        differences[ONNX] = _require_near(ONNX, network, examples, run)
    if format != "onnx":
        files[TORCH_EXPORT] = _to_torch_export(program)
        run = torch.export.load(io.BytesIO(files[TORCH_EXPORT])).module()
        differences[TORCH_EXPORT] = _require_near(TORCH_EXPORT, network, examples, run)
    # The card is the last to come: without it the files are not those of one export.
    remove_leftovers(output, deep=False)
    with suppress(OSError):  # what is written next says what is wrong
        (output / CARD).unlink(missing_ok=True)
    written = []
    for name, data in files.items():
        write_atomically(output / name, data)
        written.append(
            Exported(
                path=output / name,
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                difference=differences[name],
            )
        )
    write_atomically(output / CARD, _describe(card, height, width, dynamic, differences))
    return written


def _require_packages() -> None:
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"export.format onnx needs {', '.join(missing)}: install the project with its extra, "
            "pip install '.[export]', or set export.format to torch_export."
        )


def _examples(height: int, width: int, dynamic: bool) -> list[Tensor]:
    """Return images to trace with and to compare on; with `dynamic`, of all kinds of sizes."""
    shapes = [(1, height, width)]
    if dynamic:
        # No side or batch of the first is like another, or a multiple of anything, lest the
        # tracer takes a coincidence for a rule.
        shapes = [(2, 75, 107), (1, height, width), (3, 33, 97), (1, 256, 64)]
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (batch, 3, h, w), dtype=torch.uint8, generator=generator)
        for batch, h, w in shapes
    ]


def _trace(
    network: nn.Module, examples: list[Tensor], card: ModelCard, dynamic: bool
) -> ExportedProgram:
    """Return a program that takes the examples' sizes: the first one's, or with `dynamic` any."""
    if not dynamic:
        return _trace_once(network, examples[0], None, card)
    # The order of convolutions' weights in memory would decide about their results', and that
    # would become a condition on the sizes.
    network = network.to(memory_format=torch.contiguous_format)
    sizes = {0: Dim("batch", min=1), 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    # torch knows two ways to reason about sizes, and neither serves all networks: by the first,
    # ConvNeXt wants more than one image; by the second, Swin wants as many windows as here.
    for oblivious in (True, False):
        with _config.patch(backed_size_oblivious=oblivious):  # type: ignore[attr-defined]
            program = _trace_once(network, examples[0], (sizes,), card)
        if _takes(program, examples):
            break
    return program


def _trace_once(
    network: nn.Module, images: Tensor, sizes: tuple[Sizes] | None, card: ModelCard
) -> ExportedProgram:
    try:
        return torch.export.export(network, (images,), dynamic_shapes=sizes)
    except Exception as error:  # its kinds are private to torch, and change with its versions
        raise _refusal(card, sizes is not None, error) from error


@torch.inference_mode()
def _takes(program: ExportedProgram, examples: list[Tensor]) -> bool:
    run = program.module()
    try:
        for images in examples:
            run(images)
    except Exception:  # a condition that an example does not meet; the kinds are torch's own
        return False
    return True


def _to_onnx(program: ExportedProgram, card: ModelCard, dynamic: bool) -> bytes:
    try:
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


def _open_onnx(data: bytes) -> Callable[[Tensor], Tensor]:
    """Return what runs an ONNX network, by onnxruntime on the CPU."""
    import onnxruntime  # type: ignore[import-untyped]  # it publishes no types

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


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
    card: ModelCard, height: int, width: int, dynamic: bool, differences: Mapping[str, float]
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
