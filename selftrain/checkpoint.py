"""Networks and interrupted trainings on disk.

A finished network is `weights.safetensors` and `model.json`; an interrupted training is
`checkpoint.pt`, and the one before it `checkpoint.older.pt`: each begins with a digest of its
bytes. None is ever unpickled.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from selftrain import distributed, progress
from selftrain.data.sample import ClassTable
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.models import BACKBONES, NETWORKS, SegmentationNetwork, build_network
from selftrain.models.weights import load_fitting

Network = TypeVar("Network", bound=nn.Module)

NETWORK = "network"
"""Name of the folder that holds a network inside a logged model."""
AUXILIARY = "auxiliary."
"""Beginning of the names of an auxiliary head's weights."""
SNAPSHOTS = "snapshots"
"""Name of the folder, beside a network, that holds the networks it was on the way."""
WEIGHTS, CARD = "weights.safetensors", "model.json"
CHECKPOINT, OLDER = "checkpoint.pt", "checkpoint.older.pt"
_DIGEST_BYTES = 16


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
    short_side: int = 0
    """The network was trained on frames whose shorter side was at most this; 0: of any size."""

    def class_table(self) -> ClassTable:
        """Return names and colours as the readers know them."""
        return ClassTable(tuple(self.classes), tuple((r, g, b) for r, g, b in self.colors))

    def require_sound(self) -> None:
        """Raise ValueError unless a network can be built by what stands here: it was in a file."""

        def is_whole(value: object, low: int, high: int) -> bool:
            return type(value) is int and low <= value <= high

        def is_color(value: object) -> bool:
            parts = value if isinstance(value, list) else []
            return len(parts) == 3 and all(is_whole(part, 0, 255) for part in parts)

        classes = self.classes if isinstance(self.classes, list) else []
        colors = self.colors if isinstance(self.colors, list) else []
        sound = {
            "network": self.network in NETWORKS,
            "backbone": self.backbone in BACKBONES,
            "output_stride": is_whole(self.output_stride, 8, 32),
            "head_channels": is_whole(self.head_channels, 1, 2**16),
            "classes": 1 <= len(classes) <= 255 and all(isinstance(it, str) for it in classes),
            "colors": len(colors) == len(classes) and all(map(is_color, colors)),
            "scale": isinstance(self.scale, int | float) and 0 < self.scale <= 1000,
            "short_side": is_whole(self.short_side, 0, 2**20),
        }
        if wrong := [f"{name} = {getattr(self, name)!r}" for name, ok in sound.items() if not ok]:
            raise ValueError(f"{wrong[0][:100]} cannot be")


def save_network(folder: Path, network: nn.Module, card: ModelCard) -> None:
    """Write weights and card; the card comes last, so that its presence means a whole network.

    An auxiliary head is left out: it has done its work when the training ends.
    """
    tensors = {
        name: tensor.contiguous().cpu()
        for name, tensor in network.state_dict().items()
        if not name.startswith(AUXILIARY)
    }
    write_atomically(folder / WEIGHTS, save_tensors(tensors))
    write_atomically(folder / CARD, json.dumps(dataclasses.asdict(card), indent=2).encode())


def snapshot_folder(folder: Path, epochs: int) -> Path:
    """Return where a training keeps the network that it was after so many epochs."""
    return folder / SNAPSHOTS / f"epoch-{epochs:05d}"


def snapshots(folder: Path) -> list[Path]:
    """Return the folders of the networks that a training kept on the way, the earliest first."""
    return sorted(card.parent for card in folder.glob(f"{SNAPSHOTS}/epoch-*/{CARD}"))


def load_card(folder: Path) -> ModelCard:
    """Read the card.

    Raises:
        InputError: the folder holds no network, or the card is damaged.
    """
    path = folder / CARD
    try:
        card = ModelCard(**json.loads(path.read_bytes()))
        card.require_sound()
    except OSError as error:
        raise InputError(f"{folder} holds no network: {CARD} is missing.") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error}): copy or train the network again."
        ) from error
    return card


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights that `save_network` wrote.

    Raises:
        InputError: there are none, or the file is damaged.
    """
    path = folder / WEIGHTS
    try:
        return load_tensors(path.read_bytes())
    except OSError as error:
        raise InputError(f"{folder} holds no network: {WEIGHTS} is missing.") from error
    except SafetensorError as error:
        raise InputError(
            f"{path} is damaged ({error}): copy or train the network again."
        ) from error


def load_network(folder: Path, device: torch.device) -> tuple[SegmentationNetwork, ModelCard]:
    """Build the network that `save_network` wrote, in evaluation mode.

    Raises:
        InputError: a file is missing or damaged, or the weights are another network's or hold NaN
            or infinity.
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
    load_fitting(network, read_weights(folder), f"{folder / WEIGHTS} does not fit {CARD} beside it")
    return on_device(network, device).eval(), card


def load_start(network: SegmentationNetwork, folder: Path, classes: Sequence[str]) -> bool:
    """Give a network another's weights, to go on from there on the same or on other classes.

    Args:
        network: Gets the weights.
        folder: Of the network to start from.
        classes: Names of the classes that `network` is to learn. If the other has just these, its
            classifier is taken over too; else `network` keeps its own, which is random.

    Returns:
        Whether the classifier was taken over.

    Raises:
        InputError: the folder holds no network, or one of another architecture or with NaN or
            infinity; the parameters that do not fit are named.
    """
    card = load_card(folder)
    weights = read_weights(folder)
    keeps_classifier = list(card.classes) == list(classes)
    own = network.state_dict()
    kept = [name for name in own if name.startswith(AUXILIARY)]  # was not saved
    if not keeps_classifier:
        kept += network.classifier_names()
    weights |= {name: own[name] for name in kept}
    refusal = f"The {card.network} in {folder} does not fit the network that is to start from it"
    load_fitting(network, weights, refusal)
    return keeps_classifier


def on_device(network: Network, device: torch.device) -> Network:
    """Move a network to a device, in the memory layout that convolutions are fastest in."""
    network.to(device)
    # channels_last halves a training step on the CPU and feeds tensor cores on a GPU.
    network.to(memory_format=torch.channels_last)
    return network


def require_same_classes(found: Sequence[str], wanted: Sequence[str], what: str) -> None:
    """Raise InputError unless a network has the data set's classes in the same order."""
    if list(found) != list(wanted):
        raise InputError(
            f"{what} has the {len(found)} classes {', '.join(found[:4])}, ... but the data set "
            f"has the {len(wanted)} classes {', '.join(wanted[:4])}, ...: "
            "use a model that was trained on the same classes."
        )


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a training, and keep the one that was written before it.

    Raises:
        InputError: it cannot be written; one of those before is still there, whole.
    """
    buffer = io.BytesIO(bytes(_DIGEST_BYTES))
    buffer.seek(_DIGEST_BYTES)
    torch.save(state, buffer)
    digest = _digest(buffer.getbuffer()[_DIGEST_BYTES:])
    buffer.seek(0)
    buffer.write(digest)
    path = folder / CHECKPOINT
    try:
        if path.exists():
            path.replace(folder / OLDER)
    except OSError as error:
        raise InputError(
            f"{path} cannot be renamed ({error.strerror}): choose a folder that you may write to."
        ) from error
    write_atomically(path, buffer.getvalue())


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Read the state of an interrupted training, or None where there is none.

    Where the newest is damaged it is deleted, with a warning, and the one before it is read.

    Raises:
        InputError: all that there are are damaged, or cannot be read.
    """
    damaged: list[Path] = []
    for path in (folder / CHECKPOINT, folder / OLDER):
        data = _read(path)
        if data is None:
            continue
        state = _unpack(data, device)
        if state is None:
            damaged.append(path)
            continue
        if damaged:
            progress.say(f"warning: {damaged[0]} is damaged: {path.name}, the one before, is read")
            if distributed.rank() == 0:  # or the next one would take the place of the whole one
                damaged[0].unlink(missing_ok=True)
        return state
    if not damaged:
        return None
    are, them = ("is", "it") if len(damaged) == 1 else ("are", "them")
    raise InputError(
        f"{' and '.join(map(str, damaged))} {are} damaged: delete {them}, and the training starts "
        "from the first epoch."
    )


def drop_older_checkpoint(folder: Path) -> None:
    """Delete the older checkpoint of a training that has ended."""
    (folder / OLDER).unlink(missing_ok=True)


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): make it readable, or delete it, and the "
            "training starts from the first epoch."
        ) from error


def _unpack(data: bytes, device: torch.device) -> dict[str, Any] | None:
    """Return the state in a checkpoint's bytes; None unless they are as they were written."""
    body = data[_DIGEST_BYTES:]
    if _digest(body) != data[:_DIGEST_BYTES]:
        return None
    try:
        state = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
    except Exception:  # zipfile, pickle and torch each raise their own kinds
        return None
    return state if isinstance(state, dict) else None
