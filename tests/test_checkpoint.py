"""Networks and checkpoints come back as they were, or not at all."""

import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from miniature import random_network, truncate

from selftrain.checkpoint import (
    CARD,
    CHECKPOINT,
    OLDER,
    WEIGHTS,
    ModelCard,
    load_card,
    load_checkpoint,
    load_network,
    load_start,
    require_same_classes,
    save_checkpoint,
    save_network,
)
from selftrain.data.sample import ClassTable
from selftrain.errors import InputError
from selftrain.models import SegmentationNetwork, build_network

CPU = torch.device("cpu")
CLASSES = ClassTable(("road", "car"), ((1, 2, 3), (4, 5, 6)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return random_network(tmp_path / "network", CLASSES, scale=0.5)


def test_a_network_comes_back_as_it_was(folder: Path, tmp_path: Path) -> None:
    network, card = load_network(folder, CPU)
    assert card.class_table() == CLASSES
    assert card.scale == 0.5
    assert not network.training
    save_network(tmp_path / "again", network, card)
    for file in (WEIGHTS, CARD):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()


def test_the_card_is_written_last(folder: Path) -> None:
    (folder / CARD).unlink()
    with pytest.raises(InputError, match=rf"holds no network: {CARD} is missing"):
        load_network(folder, CPU)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match=rf"{WEIGHTS} is missing"):
        load_network(folder, CPU)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"network": "fast_scnn"}', '{"a": 1}'])
def test_a_damaged_card_is_named(folder: Path, text: str) -> None:
    (folder / CARD).write_text(text)
    with pytest.raises(InputError, match=rf"{CARD} is damaged .*again"):
        load_card(folder)


def test_truncated_weights_are_named(folder: Path) -> None:
    truncate(folder / WEIGHTS)
    with pytest.raises(InputError, match=WEIGHTS):
        load_network(folder, CPU)


def test_the_weights_of_another_network_are_refused(folder: Path, tmp_path: Path) -> None:
    more = ClassTable(("road", "car", "bus"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    other = random_network(tmp_path / "other", more)
    (folder / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    with pytest.raises(InputError, match=rf"{WEIGHTS} does not fit {CARD} beside it"):
        load_network(folder, CPU)


def test_a_network_that_would_answer_nonsense_is_refused_by_the_names_of_its_tensors(
    folder: Path,
) -> None:
    """Of NaN the likeliest class is the first: pictures of road everywhere, and no error."""
    network, card = load_network(folder, CPU)
    name = next(name for name in network.state_dict() if name.endswith("running_var"))
    network.get_buffer(name)[0] = torch.nan
    save_network(folder, network, card)
    with pytest.raises(InputError, match=rf"{WEIGHTS} .*NaN or infinity in 1 .*\({name}\)"):
        load_network(folder, CPU)
    other, _ = load_network(random_network(folder.parent / "other", CLASSES), CPU)
    with pytest.raises(InputError, match=rf"NaN or infinity in 1 .*\({name}\)"):
        load_start(other, folder, CLASSES.names)


def test_an_unknown_network_on_the_card_is_named(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, "network": "unet"}))
    with pytest.raises(InputError, match="unet"):
        load_network(folder, CPU)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {"weights": torch.arange(3.0), "history": [{"loss": 0.5}], "next_epoch": 7}
    save_checkpoint(tmp_path, state)
    found = load_checkpoint(tmp_path, CPU)
    assert found is not None
    # The state's values are of several types.
    assert torch.equal(found.pop("weights"), state.pop("weights"))  # type: ignore[arg-type]
    assert found == state


def saved(folder: Path, *numbers: int) -> None:
    for number in numbers:
        save_checkpoint(folder, {"weights": torch.full((3000,), number)})


def loaded(folder: Path) -> float:
    state = load_checkpoint(folder, CPU)
    assert state is not None
    return float(state["weights"][-1])


def test_two_generations_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3)
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, OLDER}
    assert loaded(tmp_path) == 3
    (tmp_path / CHECKPOINT).unlink()  # killed between two renamings
    assert loaded(tmp_path) == 2
    saved(tmp_path, 4)
    (tmp_path / CHECKPOINT).unlink()
    assert loaded(tmp_path) == 2


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [truncate, flip, empty])
def test_the_older_checkpoint_stands_in_for_a_damaged_one_with_a_warning(
    harm: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, 1, 2)
    harm(tmp_path / CHECKPOINT)
    assert loaded(tmp_path) == 1
    assert f"warning: {tmp_path / CHECKPOINT} is damaged: {OLDER}" in capsys.readouterr().out
    saved(tmp_path, 3)  # the damaged one does not take the place of the whole one
    harm(tmp_path / CHECKPOINT)
    assert loaded(tmp_path) == 1


def test_two_damaged_checkpoints_are_named_with_the_cure(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    for name in (CHECKPOINT, OLDER):
        truncate(tmp_path / name)
    with pytest.raises(InputError, match=rf"{CHECKPOINT} and .*{OLDER} are damaged: delete them"):
        load_checkpoint(tmp_path, CPU)
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, OLDER}


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: os.write(-1, b""))  # an OSError
        with pytest.raises(InputError, match=rf"{CHECKPOINT} cannot be written"):
            saved(tmp_path, 2)
    assert loaded(tmp_path) == 1


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, CPU) is None


def test_a_truncated_checkpoint_is_named_with_the_cure(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"weights": torch.arange(3000.0)})
    truncate(tmp_path / CHECKPOINT)
    with pytest.raises(InputError, match=rf"{CHECKPOINT} is damaged: delete it"):
        load_checkpoint(tmp_path, CPU)


class Malice:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("pack", ["torch", "pickle"])
@pytest.mark.parametrize("digested", [True, False])
def test_a_malicious_checkpoint_is_refused_and_not_run(
    tmp_path: Path, pack: str, digested: bool
) -> None:
    victim = tmp_path / "touched"
    code = io.BytesIO()
    if pack == "torch":
        torch.save({"network": Malice(victim)}, code)
    else:
        code.write(pickle.dumps(Malice(victim), protocol=2))
    digest = hashlib.blake2b(code.getvalue(), digest_size=16).digest()
    (tmp_path / CHECKPOINT).write_bytes((digest if digested else b"") + code.getvalue())
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(tmp_path, CPU)
    assert not victim.exists()


def test_malicious_weights_are_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "touched"
    (folder / WEIGHTS).write_bytes(pickle.dumps(Malice(victim)))
    with pytest.raises(InputError, match=WEIGHTS):
        load_network(folder, CPU)
    assert not victim.exists()


def test_classes_must_be_the_same_in_the_same_order() -> None:
    require_same_classes(["a", "b"], ("a", "b"), "It")
    for found in (["b", "a"], ["a"], ["a", "b", "c"]):
        with pytest.raises(InputError, match=r"It has the .* the data set has the 2 classes a, b"):
            require_same_classes(found, ("a", "b"), "It")


def test_a_start_on_the_same_classes_gives_all_its_weights(folder: Path, tmp_path: Path) -> None:
    other, _ = load_network(random_network(tmp_path / "other", CLASSES, seed=1), CPU)
    assert load_start(other, folder, CLASSES.names)
    start, _ = load_network(folder, CPU)
    assert all(torch.equal(it, other.state_dict()[name]) for name, it in start.state_dict().items())


@pytest.mark.parametrize("names", [("road", "bus"), ("car", "road"), ("road", "car", "bus")])
def test_a_start_on_other_classes_gives_all_but_its_classifier(
    names: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    """Classes of another order are other classes, even if there are as many."""
    classes = ClassTable(names, tuple((i, i, i) for i in range(len(names))))
    network, _ = load_network(random_network(tmp_path / "other", classes, seed=1), CPU)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert not load_start(network, folder, names)
    start, _ = load_network(folder, CPU)
    for name, tensor in network.state_dict().items():
        expected = before if name in network.classifier_names() else start.state_dict()
        assert torch.equal(tensor, expected[name])


def test_a_start_of_another_architecture_is_refused_with_what_does_not_fit(folder: Path) -> None:
    network = build_network(
        "deeplabv3plus",
        num_classes=2,
        backbone="mobilenet_v2",
        output_stride=16,
        backbone_weights="none",
    )
    with pytest.raises(InputError, match=r"fast_scnn in .* does not fit .*missing: backbone"):
        load_start(network, folder, CLASSES.names)


def test_an_auxiliary_head_stays_with_the_training(tmp_path: Path) -> None:
    def build(*, auxiliary: bool) -> SegmentationNetwork:
        return build_network(
            "pspnet",
            num_classes=2,
            backbone="resnet50",
            output_stride=16,
            backbone_weights="none",
            auxiliary=auxiliary,
        )

    trained = build(auxiliary=True)
    card = ModelCard("pspnet", "resnet50", 16, 256, list(CLASSES.names), [[0, 0, 0]] * 2, 1.0)
    save_network(tmp_path, trained, card)
    loaded, _ = load_network(tmp_path, CPU)
    assert loaded.auxiliary is None
    for name in loaded.classifier_names():
        assert torch.equal(loaded.state_dict()[name], trained.state_dict()[name])
    assert load_start(build(auxiliary=True), tmp_path, CLASSES.names)
