"""Pretrained backbone weights: from torchvision, or from a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from selftrain.errors import InputError

FILE_SUFFIXES = (".pth", ".pt", ".safetensors")
CLASSIFIER = ("fc.", "classifier.", "features.18.", "head.")
"""Parts of the published networks behind the features; what a backbone keeps of them is loaded."""
OWN_BACKBONE = "backbone."
"""How the names begin in the file of one of our networks, whose other parts are not loaded."""
NAMED = 5
"""How many tensors a message names before it only counts."""


def load_backbone_weights(backbone: nn.Module, backbone_name: str, source: str) -> None:
    """Load published or own weights into a backbone, all of them or none.

    Args:
        backbone: Has torchvision's parameter names.
        backbone_name: torchvision's name of the whole network, e.g. "resnet50".
        source: "none" leaves the random weights. A name such as "IMAGENET1K_V1" takes
            torchvision's, downloaded once to its own cache ($TORCH_HOME). A path that ends in
            .pth, .pt or .safetensors is read without running any code in it; its tensors may
            have any precision and become the backbone's. The file may hold one of our networks:
            its backbone is taken.

    Raises:
        InputError: There is no such weights name or file, it cannot be fetched or read, or its
            tensors are not the backbone's or hold NaN or infinity; the classifier and the batch
            counters of batch normalisation may be absent or too many. The backbone is then
            unchanged.
    """
    if source == "none":
        return
    if source.endswith(FILE_SUFFIXES):
        found = _read(Path(source))
    else:
        found = _download(backbone_name, source)

    if any(name.startswith(OWN_BACKBONE) for name in found):
        found = {
            name.removeprefix(OWN_BACKBONE): tensor
            for name, tensor in found.items()
            if name.startswith(OWN_BACKBONE)
        }
    own = backbone.state_dict().keys()
    found = {
        name: tensor
        for name, tensor in found.items()
        if name in own or not name.startswith(CLASSIFIER)
    }
    load_fitting(backbone, found, f"{source} does not fit {backbone_name}")


def load_fitting(module: nn.Module, weights: Mapping[str, Tensor], refusal: str) -> None:
    """Load weights into a module, all of them or none.

    Args:
        module: Takes them at its own precision.
        weights: By the names of the module's parameters and buffers. The batch counters of batch
            normalisation may be absent or too many.
        refusal: How the sentence begins that lists the tensors that do not fit.

    Raises:
        InputError: Tensors are missing, too many, of another shape, or hold NaN or infinity: with
            them a network answers nonsense without a word. The module is unchanged.
    """
    if faults := _differences(weights, module.state_dict()):
        raise InputError(f"{refusal}: " + "; ".join(faults))
    try:
        if broken := not_finite(weights):
            raise InputError(
                f"{refusal}: NaN or infinity in {len(broken)} of its tensors "
                f"({name_some(broken)}); take other weights, or train them again"
            )
        module.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # of a kind that cannot be copied: sparse, quantized, ...
        raise InputError(f"{refusal}: its tensors are not plain numbers") from error


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity, in order."""
    # Their sum would be faster, but of large numbers it is infinite itself.
    return sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())


def name_some(names: Sequence[str]) -> str:
    """List the first `NAMED` names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(f"there is no weights file {path}: correct the path, or fetch it")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): see that you may read it"
        ) from error
    except Exception as error:  # zipfile, pickle, torch and safetensors each raise their own kinds
        # Not torch's own words: they advise to load the file in the unsafe way.
        raise InputError(
            f"{path} is not a plain file of tensors, or is damaged: fetch it again, or save a "
            "state_dict() itself"
        ) from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(it, Tensor) for name, it in found.items()
    ):
        raise InputError(f"{path} is not a plain file of tensors: save a state_dict() itself")
    return found


def _download(backbone_name: str, weights_name: str) -> Mapping[str, Tensor]:
    # Seconds that a file need not wait for.
    from torchvision.models import get_model_weights, list_models

    if backbone_name not in list_models():
        raise InputError(
            f"torchvision has no {backbone_name} and so no weights {weights_name!r} for it; choose "
            f"none, or a path ending in {', '.join(FILE_SUFFIXES)}"
        )
    published = get_model_weights(backbone_name)
    if weights_name not in published.__members__:
        raise InputError(
            f"{backbone_name} has no weights {weights_name!r}; choose from none, "
            f"{', '.join(published.__members__)}, or a path ending in {', '.join(FILE_SUFFIXES)}"
        )
    weights = published[weights_name]
    try:
        found: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; a download that was cut short
        raise InputError(
            f"cannot download {weights.url} ({error}); fetch it on a machine with a network and "
            "give its path as the backbone weights, or set them to none"
        ) from error
    return found


def _differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Say which tensors are missing, too many or of another shape; empty if none is."""
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    groups = {
        "missing": [f"{name} {wanted[name]}" for name in wanted.keys() - shapes.keys()],
        "unexpected": [f"{name} {shapes[name]}" for name in shapes.keys() - wanted.keys()],
        "of another shape": [
            f"{name} {shapes[name]} instead of {wanted[name]}"
            for name in wanted.keys() & shapes.keys()
            if shapes[name] != wanted[name]
        ],
    }
    faults = []
    for fault, tensors in groups.items():
        tensors = sorted(it for it in tensors if "num_batches_tracked" not in it)
        if tensors:
            faults.append(f"{len(tensors)} {fault}: {name_some(tensors)}")
    return faults
