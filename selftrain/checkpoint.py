"""Networks and interrupted trainings on disk.

A finished network is `weights.safetensors` and `model.json`; an interrupted training is
`checkpoint.pt`. Neither is ever unpickled.
"""

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from selftrain.data.sample import ClassTable
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.models import build_network

NETWORK = "network"
"""Name of the folder that holds a network inside a logged model."""
WEIGHTS, CARD, CHECKPOINT = "weights.safetensors", "model.json", "checkpoint.pt"


@dataclass(frozen=True)
class ModelCard:
    """What must be known to build the network and to read its output."""

    network: str
    backbone: str
    output_stride: int
    head_channels: int
    classes: list[str]
    colors: list[list[int]]
    """RGB for each class."""
    scale: float
    """The network was trained on frames resized by this factor."""

    def class_table(self) -> ClassTable:
        """Return names and colours as the readers know them."""
        return ClassTable(tuple(self.classes), tuple((r, g, b) for r, g, b in self.colors))


def save_network(folder: Path, network: nn.Module, card: ModelCard) -> None:
    """Write weights and card; the card comes last, so that its presence means a whole network."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    write_atomically(folder / WEIGHTS, save_tensors(tensors))
    write_atomically(folder / CARD, json.dumps(dataclasses.asdict(card), indent=2).encode())


def load_card(folder: Path) -> ModelCard:
    """Read the card.

    Raises:
        InputError: the folder holds no network, or the card is damaged.
    """
    path = folder / CARD
    try:
        return ModelCard(**json.loads(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{folder} holds no network: {CARD} is missing.") from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({error}): copy or train the network again."
        ) from error


def load_network(folder: Path, device: torch.device) -> tuple[nn.Module, ModelCard]:
    """Build the network that `save_network` wrote, in evaluation mode.

    Raises:
        InputError: a file is missing or damaged, or the weights are another network's.
    """
    card = load_card(folder)
    network = build_network(
        card.network,
        num_classes=len(card.classes),
        backbone=card.backbone,
        output_stride=card.output_stride,
        head_channels=card.head_channels,
        backbone_weights="none",
    )
    try:
        network.load_state_dict(load_tensors((folder / WEIGHTS).read_bytes()))
    except OSError as error:
        raise InputError(f"{folder} holds no network: {WEIGHTS} is missing.") from error
    except Exception as error:  # safetensors and load_state_dict each raise their own kinds
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder / WEIGHTS} does not fit {CARD} beside it: {reason}") from error
    return on_device(network, device).eval(), card


def on_device(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, in the memory layout that convolutions are fastest in."""
    network.to(device)
    # channels_last halves a training step on the CPU and feeds tensor cores on a GPU.
    return network.to(memory_format=torch.channels_last)


def require_same_classes(found: Sequence[str], wanted: Sequence[str], what: str) -> None:
    """Raise InputError unless a network has the data set's classes in the same order."""
    if list(found) != list(wanted):
        raise InputError(
            f"{what} has the {len(found)} classes {', '.join(found[:4])}, ... but the data set "
            f"has the {len(wanted)} classes {', '.join(wanted[:4])}, ...: "
            "use a model that was trained on the same classes."
        )


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a training, atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / CHECKPOINT, buffer.getvalue())


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Read the state of an interrupted training, or None where there is none."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # zipfile, pickle and torch each raise their own kinds
        raise InputError(
            f"{path} is damaged: delete it, and the training starts from the first epoch."
        ) from error
    return state
