"""Weights, checkpoints and model cards: cut off, of another network, with code in them."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from miniature import random_network, truncate
from safetensors.torch import load_file, save_file

from bad_input.world import FEW, Cases, Found, World
from selftrain import checkpoint
from selftrain.knobs import Scalar

CASES = case = Cases()


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.proof,)


def weights_command(world: World, path: Path) -> list[str]:
    """Return the command of a training that starts with these weights of a backbone."""
    values: dict[str, Scalar] = {
        "teacher.network.name": "deeplabv3plus",
        "teacher.network.backbone": "mobilenet_v2",
        "teacher.network.backbone_weights": path,
    }
    return world.scenes("teacher", **values)


def weights(write: Callable[[World, Path], object], *words: str, suffix: str = ".pth") -> None:
    """Take up a case with such a file of weights."""

    def make(world: World) -> Found:
        path = world.folder / f"weights{suffix}"
        write(world, path)
        return weights_command(world, path), [str(path), *words]

    CASES[write.__name__] = make


def a_weights_file_that_is_a_pickle_with_code(world: World, path: Path) -> None:
    path.write_bytes(pickle.dumps({"features.0.0.weight": Code(world.folder / "ran")}))


def a_weights_file_with_code_among_its_tensors(world: World, path: Path) -> None:
    torch.save({"features.0.0.weight": torch.zeros(2), "x": Code(world.folder / "ran")}, path)


def a_weights_file_of_a_whole_network(world: World, path: Path) -> None:
    torch.save(torch.nn.Conv2d(1, 1, 1), path)


def a_weights_file_that_is_a_list(world: World, path: Path) -> None:
    torch.save([torch.zeros(2)], path)


def a_weights_file_with_numbers_for_names(world: World, path: Path) -> None:
    torch.save({1: torch.zeros(2)}, path)


def a_truncated_weights_file(world: World, path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    truncate(path)


def a_weights_file_of_zero_bytes(world: World, path: Path) -> None:
    path.touch()


def a_weights_file_that_is_a_text(world: World, path: Path) -> None:
    path.write_text("no weights at all")


def a_weights_file_of_another_network(world: World, path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)


def a_safetensors_file_that_is_a_text(world: World, path: Path) -> None:
    path.write_text("no weights at all")


def a_safetensors_file_with_a_header_beyond_the_file(world: World, path: Path) -> None:
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")


def a_safetensors_file_with_tensors_beyond_the_file(world: World, path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    header = json.dumps({"features.0.0.weight": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def a_safetensors_file_of_another_network(world: World, path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)


PLAIN, FIT = "not a plain file of tensors", "does not fit mobilenet_v2"
weights(a_weights_file_that_is_a_pickle_with_code, PLAIN, "state_dict()")
weights(a_weights_file_with_code_among_its_tensors, PLAIN, "state_dict()")
weights(a_weights_file_of_a_whole_network, PLAIN, "state_dict()")
weights(a_weights_file_that_is_a_list, PLAIN, "state_dict()")
weights(a_weights_file_with_numbers_for_names, PLAIN, "state_dict()")
weights(a_truncated_weights_file, PLAIN, "fetch it again")
weights(a_weights_file_of_zero_bytes, PLAIN, "fetch it again")
weights(a_weights_file_that_is_a_text, PLAIN, "fetch it again")
weights(a_weights_file_of_another_network, FIT, "unexpected: conv1.weight (64, 3, 7, 7)")
SAFE = ".safetensors"
weights(a_safetensors_file_that_is_a_text, PLAIN, "fetch it again", suffix=SAFE)
weights(a_safetensors_file_with_a_header_beyond_the_file, PLAIN, "again", suffix=SAFE)
weights(a_safetensors_file_with_tensors_beyond_the_file, PLAIN, "again", suffix=SAFE)
weights(a_safetensors_file_of_another_network, FIT, "unexpected: conv1.weight", suffix=SAFE)


@case
def a_weights_file_that_does_not_exist(world: World) -> Found:
    return weights_command(world, Path("nowhere/weights.pth")), ["nowhere/weights.pth", "fetch it"]


@case
def weights_of_an_unknown_name(world: World) -> Found:
    return weights_command(world, Path("IMAGENET9K")), ["IMAGENET9K", "choose from none"]


@case
def no_model_to_predict_with(world: World) -> Found:
    world.picture()
    return world.predict("none"), ["predict.model", "runs:/ID"]


@case
def a_folder_that_holds_no_model(world: World) -> Found:
    world.picture()
    return world.predict(world.folder / "pictures"), [str(world.folder / "pictures"), "model.json"]


@case
def a_truncated_model(world: World) -> Found:
    world.picture()
    model = world.own_network()
    truncate(model / "weights.safetensors")
    return world.predict(model), [str(model / "weights.safetensors"), "damaged", "copy or train"]


@case
def a_model_without_weights(world: World) -> Found:
    world.picture()
    model = world.own_network()
    (model / "weights.safetensors").unlink()
    return world.predict(model), [str(model), "weights.safetensors is missing"]


@case
def a_model_whose_weights_are_a_pickle(world: World) -> Found:
    world.picture()
    model = world.own_network()
    data = pickle.dumps({"a": Code(world.folder / "ran")})
    (model / "weights.safetensors").write_bytes(data)
    return world.predict(model), [str(model / "weights.safetensors"), "damaged", "copy or train"]


@case
def a_model_with_the_weights_of_another(world: World) -> Found:
    world.picture()
    model = world.own_network()
    weights = load_file(model / "weights.safetensors")
    weights.pop(next(name for name in weights if name.endswith(".weight")))
    save_file(weights, model / "weights.safetensors")
    return world.predict(model), [str(model / "weights.safetensors"), "does not fit", "1 missing"]


@case
def a_model_of_weights_that_are_no_numbers(world: World) -> Found:
    world.picture()
    model = world.own_network()
    weights = load_file(model / "weights.safetensors")
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name][:] = torch.nan
    save_file(weights, model / "weights.safetensors")
    return world.predict(model), [str(model / "weights.safetensors"), "NaN or infinity", name]


def card(changes: dict[str, object] | bytes, *words: str) -> Callable[[World], Found]:
    """Return a case with such a card beside whole weights."""

    def make(world: World) -> Found:
        world.picture()
        path = world.own_network() / "model.json"
        if isinstance(changes, bytes):
            path.write_bytes(changes)
        else:
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return world.predict(path.parent), [str(path), "is damaged", *words, "copy or train"]

    return make


CASES |= {
    "a_model_card_that_is_no_json": card(b"{network"),
    "a_model_card_of_zero_bytes": card(b""),
    "a_model_card_that_is_a_list": card(b"[]"),
    "a_model_card_of_deep_brackets": card(b"[" * 100_000),
    "a_model_card_with_something_else": card({"code": "import os"}, "code"),
    "a_model_card_of_an_unknown_network": card({"network": "../x"}, "network = '../x'"),
    "a_model_card_of_an_unknown_backbone": card({"backbone": 5}, "backbone = 5"),
    "a_model_card_with_a_stride_of_zero": card({"output_stride": 0}, "output_stride = 0"),
    "a_model_card_of_a_huge_head": card({"head_channels": 10**12}, "head_channels"),
    "a_model_card_with_a_text_for_classes": card({"classes": "ab"}, "classes = 'ab'"),
    "a_model_card_with_a_color_too_few": card({"colors": [[1, 2, 3]]}, "colors"),
    "a_model_card_with_a_color_that_is_none": card({"colors": [[1, 2, 3], [4, 5, 600]]}, "colors"),
    "a_model_card_with_a_scale_of_nan": card({"scale": float("nan")}, "scale = nan"),
    "a_model_card_with_a_negative_limit": card({"short_side": -1}, "short_side = -1"),
}


@case
def a_model_of_more_classes_than_its_weights_have(world: World) -> Found:
    world.picture()
    path = world.own_network() / "model.json"
    more = {"classes": ["road", "car", "bus"], "colors": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return world.predict(path.parent), ["weights.safetensors does not fit", "of another shape"]


def teachers_folder(world: World) -> Path:
    """Return the folder that the teacher of the scenes will be made in."""
    from selftrain.command_line import parse
    from selftrain.pipeline import Pipeline
    from selftrain.stage import make_key
    from selftrain.trained_runs import TRAIN

    _, config = parse(world.scenes("teacher"), {"teacher": ""})
    pipeline = Pipeline(config)
    key = make_key(TRAIN, pipeline._training_identity(config.teacher, None, None))
    return TRAIN.folder(config.machine.outputs, key)


def of_a_checkpoint(write: Callable[[World, Path], object], *words: str) -> None:
    """Take up a case with such a file where the teacher's checkpoint is looked for."""

    def make(world: World) -> Found:
        folder = teachers_folder(world)
        folder.mkdir(parents=True)
        write(world, folder / checkpoint.CHECKPOINT)
        return world.scenes("teacher"), [str(folder), *words, "delete it"]

    CASES[write.__name__] = make


def a_truncated_checkpoint(world: World, path: Path) -> None:
    checkpoint.save_checkpoint(path.parent, {"network": {"a": torch.zeros(1000)}})
    truncate(path)


def a_checkpoint_of_zero_bytes(world: World, path: Path) -> None:
    path.touch()


def a_checkpoint_that_is_a_pickle_with_code(world: World, path: Path) -> None:
    path.write_bytes(pickle.dumps(Code(world.folder / "ran")))


def a_checkpoint_with_code_and_a_right_digest(world: World, path: Path) -> None:
    checkpoint.save_checkpoint(path.parent, {"network": Code(world.folder / "ran")})


def a_checkpoint_of_another_network(world: World, path: Path) -> None:
    network = random_network(world.folder / "other", FEW)
    weights = load_file(network / "weights.safetensors")
    checkpoint.save_checkpoint(path.parent, {"network": weights, "next_epoch": 0, "history": []})


of_a_checkpoint(a_truncated_checkpoint, "damaged")
of_a_checkpoint(a_checkpoint_of_zero_bytes, "damaged")
of_a_checkpoint(a_checkpoint_that_is_a_pickle_with_code, "damaged")
of_a_checkpoint(a_checkpoint_with_code_and_a_right_digest, "damaged")
of_a_checkpoint(a_checkpoint_of_another_network, "another network")
