"""The dev frames that a training draws."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from miniature import random_network
from PIL import Image
from torch import nn

from selftrain import distributed, examples
from selftrain.checkpoint import load_network
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.datasets import OpenData
from selftrain.examples import Examples, choose
from selftrain.inference import Predictor

CPU = torch.device("cpu")


class LooksAt:
    """A reader that counts classes as its samples' names say, and notes which it reads."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def label(self, sample: Sample) -> np.ndarray:
        self.read.append(sample.name)
        classes = int(sample.name.split()[1])
        return np.append(np.arange(classes), [255, 255]).astype(np.uint8)


def frames(counts: Sequence[int]) -> list[Sample]:
    return [Sample(f"{i:03d} {count}", Path("none")) for i, count in enumerate(counts)]


def test_of_each_third_the_frame_with_the_most_classes_is_chosen_ties_by_name() -> None:
    dev = frames([1, 3, 2, 5, 5, 4, 1, 1, 2])
    chosen = choose(dev, LooksAt())  # type: ignore[arg-type]  # all that it is asked for
    assert [sample.name for sample in chosen] == ["001 3", "003 5", "008 2"]


def test_of_a_large_dev_split_a_few_labels_are_read() -> None:
    reader = LooksAt()
    choose(frames([2] * 500), reader)  # type: ignore[arg-type]  # as above
    assert len(reader.read) == 36


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_dev_split_of_fewer_frames_is_drawn_whole(count: int) -> None:
    assert len(choose(frames([1] * count), LooksAt())) == count  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("epochs", "every", "drawn"),
    [
        (54, 20, [0, 19, 39, 53]),
        (1, 10, [0]),
        (180, 10, [0, *range(9, 180, 10)]),
        (100, 1, [0, *range(4, 100, 5)]),
        (45, 2, [0, *range(3, 45, 4), 44]),
    ],
)
def test_the_first_and_the_last_epoch_are_drawn_and_some_measurements_between(
    epochs: int, every: int, drawn: list[int]
) -> None:
    it = Examples([], Reader.__new__(Reader), epochs=epochs, every=every)
    assert [e for e in range(epochs) if it.is_due(e)] == drawn
    assert len(drawn) <= examples.STEPS + 2


@pytest.fixture
def predictor(tiny_data: OpenData, tmp_path: Path) -> Predictor:
    folder = random_network(tmp_path / "network", tiny_data.splits.classes)
    network, _ = load_network(folder, CPU)
    return Predictor(network, CPU)


@pytest.fixture
def of_tiny(tiny_data: OpenData) -> Examples:
    return Examples(tiny_data.splits.dev, tiny_data.reader, epochs=4, every=2)


def test_frames_are_drawn_small_and_kept(of_tiny: Examples, predictor: Predictor) -> None:
    drawn = of_tiny.draw(predictor, 1)
    assert len(drawn) == 2  # dev has no more
    for name, file in drawn.items():
        assert name.startswith("frames/")
        picture = Image.open(io.BytesIO(file))
        assert picture.format == "WEBP"
        assert picture.width <= 512
        assert len(file) < 30_000
    assert of_tiny.drawn == {1: drawn}


def test_drawing_again_gives_the_same_bytes(of_tiny: Examples, predictor: Predictor) -> None:
    assert dict(of_tiny.draw(predictor, 1)) == dict(of_tiny.draw(predictor, 1))


def test_drawing_draws_no_random_number_and_changes_no_weight(
    of_tiny: Examples, predictor: Predictor
) -> None:
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    weights = {k: v.clone() for k, v in predictor.network.state_dict().items()}
    of_tiny.draw(predictor, 1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
    for name, tensor in predictor.network.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_other_processes_than_the_first_draw_nothing(
    of_tiny: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert of_tiny.draw(Predictor(nn.Identity(), CPU), 1) == {}


def test_what_is_drawn_comes_back_from_a_checkpoint_but_for_later_epochs(
    of_tiny: Examples, predictor: Predictor, tiny_data: OpenData, tmp_path: Path
) -> None:
    for epoch in (1, 3):
        of_tiny.draw(predictor, epoch)
    torch.save(of_tiny.state(), tmp_path / "state")
    again = Examples(tiny_data.splits.dev, tiny_data.reader, epochs=4, every=2)
    again.load_state(torch.load(tmp_path / "state", weights_only=True), next_epoch=3)
    assert again.drawn == {1: of_tiny.drawn[1]}
