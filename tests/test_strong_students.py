"""Students of strongly changed, mixed and softly labelled crops: the training stays what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import torch
from miniature import write_picture
from torch import Tensor

from selftrain.checkpoint import CHECKPOINT, WEIGHTS
from selftrain.config import Config, MachineConfig, TrainConfig
from selftrain.data.centroids import find_centroids
from selftrain.data.plan import Crop, Mix
from selftrain.data.quarter import CELL
from selftrain.data.sample import Blob, Sample
from selftrain.datasets import OpenData
from selftrain.divergence import name_crops
from selftrain.engine import Engine
from selftrain.errors import InputError
from selftrain.knobs import Scalar, override
from selftrain.labels import IGNORE_INDEX
from selftrain.models import build_network
from selftrain.tracking import SILENT, Run
from selftrain.train import Training, TrainingData, train

STRONG: dict[str, Scalar] = {
    "strong.jitter": 0.3,
    "strong.gray": 0.2,
    "strong.blur": 0.5,
    "strong.cutout": 0.5,
    "strong.cutmix": 0.5,
    "strong.classmix": 0.5,
    "loss.soft": True,
}
NOTHING: Mapping[str, Scalar] = MappingProxyType({})


@pytest.fixture
def data(tiny_data: OpenData, tmp_path: Path) -> TrainingData:
    """The tiny scenes; the pool has its true labels for pseudo labels, and doubts about them."""
    splits, reader = tiny_data.splits, tiny_data.reader
    pseudo = []
    for sample in splits.pool_with_labels:
        label = reader.label(sample)
        cells = np.where(label == IGNORE_INDEX, 0, label)[::CELL, ::CELL].astype(np.uint8)
        other = (cells + 1) % len(reader.classes)
        third = (cells + 2) % len(reader.classes)
        maps = {
            "confidence": np.full(label.shape, 200, np.uint8),
            "classes": np.dstack([third, other, cells]),  # red, the likeliest, is the last
            "probabilities": np.full((*cells.shape, 3), (20, 40, 180), np.uint8),
        }
        for kind, pixels in maps.items():
            write_picture(tmp_path / f"{sample.name}-{kind}.png", pixels)
        confidence, *soft = (Blob(tmp_path / f"{sample.name}-{kind}.png") for kind in maps)
        pseudo.append(
            replace(sample, is_pseudo=True, confidence=confidence, soft=(soft[0], soft[1]))
        )
    return TrainingData(
        reader=reader,
        real=splits.labelled,
        real_centroids=find_centroids(splits.labelled, reader, tile=32),
        pseudo=pseudo,
        pseudo_centroids=find_centroids(pseudo, reader, tile=32),
        dev=splits.dev,
    )


class Interrupting(Run):
    """Dies when the metrics of an epoch are logged: after its checkpoint."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step == 0:
            raise KeyboardInterrupt


def fit(
    config: Config,
    data: TrainingData,
    folder: Path,
    values: Mapping[str, Scalar] = NOTHING,
    run: Run = SILENT,
) -> Path:
    recipe = override(config.student, {**STRONG, **values})
    train(recipe, data, config.machine, folder, run, title="test")
    return folder


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


def history(folder: Path) -> pd.DataFrame:
    rows = pd.read_csv(folder / "history.csv")
    return rows[[name for name in rows if "second" not in str(name)]]


def test_a_strong_training_is_the_same_with_and_without_workers(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    alone = fit(tiny, data, tmp_path / "alone")
    helped = fit(override(tiny, {"machine.workers": 2}), data, tmp_path / "helped")
    assert weights(alone) == weights(helped)
    assert np.isfinite(history(alone)["train/loss"]).all()


def test_an_interrupted_strong_training_ends_like_an_uninterrupted_one(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    values: dict[str, Scalar] = {"epochs": 3, "eval_every": 2, "loss.confidence_gamma": 1.0}
    whole = fit(tiny, data, tmp_path / "whole", values)
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        fit(tiny, data, cut, values, Interrupting(""))
    assert {path.name for path in cut.iterdir()} == {CHECKPOINT}
    fit(tiny, data, cut, values)
    assert weights(cut) == weights(whole)
    pd.testing.assert_frame_equal(history(cut), history(whole))


def test_each_knob_changes_a_student_and_none_a_teacher(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    off: dict[str, Scalar] = {**dict.fromkeys(STRONG, 0.0), "loss.soft": False}
    on = {knob: value if knob == "loss.soft" else 0.5 for knob, value in STRONG.items()}
    trained = [fit(tiny, data, tmp_path / "off", off)]
    trained += [fit(tiny, data, tmp_path / knob, {**off, knob: on[knob]}) for knob in on]
    assert len(set(map(weights, trained))) == len(trained)
    real: dict[str, Scalar] = {"data.pseudo_ratio": 0.0, "loss.soft": False}
    teachers = fit(tiny, data, tmp_path / "a", real), fit(tiny, data, tmp_path / "b", off | real)
    assert weights(teachers[0]) == weights(teachers[1])


def test_the_training_mixes_no_real_sample(tiny: Config, data: TrainingData) -> None:
    config = override(tiny.student, {**STRONG, "data.repeat": 10.0})
    training = Training(config, data, tiny.machine)
    samples: list[Sample] = [*data.real, *data.pseudo]
    crops = training.crops(training.epochs[0])
    mixes = {crop: crop.mix for crop in crops if crop.mix is not None}
    assert {mix.kind for mix in mixes.values()} == {"cutmix", "classmix"}
    assert all(samples[crop.image].is_pseudo for crop in mixes)
    assert all(samples[mix.partner.image].is_pseudo for mix in mixes.values())
    assert len(mixes) == sum(samples[crop.image].is_pseudo for crop in crops)


def test_a_crop_that_is_named_is_named_with_its_partner(data: TrainingData) -> None:
    crop = Crop(1, None, None, 32, 5, Mix("classmix", Crop(0, (7, 8), 2, 32, 6), 9))
    own, partner = data.pseudo[1].name, data.pseudo[0].name
    assert name_crops([crop], data.pseudo) == (
        f"{own} anywhere with seed 5, classmix of {partner} around (7, 8) with seed 6"
    )


def test_a_set_without_soft_labels_is_named(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    hard = [replace(sample, soft=None) for sample in data.pseudo]
    with pytest.raises(InputError, match=r"has no soft label: set loss\.soft to false"):
        fit(tiny, replace(data, pseudo=hard), tmp_path / "out")


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_the_parts_of_a_step_with_soft_labels_add_up_to_it(gamma: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, dtype=torch.uint8, generator=generator)

    labels = torch.ones(4, 32, 32, dtype=torch.uint8)
    labels[:, :9] = IGNORE_INDEX
    confidence = [draw(256, 4, 32, 32)] if gamma else []
    classes = torch.tensor([1, 2, 3], dtype=torch.uint8).view(1, 3, 1, 1).repeat(4, 1, 32, 32)
    batch = (draw(256, 4, 3, 32, 32), labels, *confidence, classes, draw(256, 4, 3, 32, 32))
    whole, parts, hard = (
        change_of_a_step(gamma, *how) for how in [(batch, 1), (batch, 2), (batch[:-2], 1)]
    )
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-6)
    assert (hard - whole).norm() > 0.1 * whole.norm()


def change_of_a_step(gamma: float, batch: Sequence[Tensor], parts: int) -> Tensor:
    """Return how a step changes a network's weights."""
    torch.manual_seed(0)
    network = build_network(
        "fast_scnn",
        num_classes=4,
        backbone="mobilenet_v2",
        output_stride=16,
        head_channels=8,
        backbone_weights="none",
        auxiliary=False,
    )
    values: dict[str, Scalar] = {"loss.soft": True, "loss.confidence_gamma": gamma}
    config = override(TrainConfig(), {**values, "optim.weight_decay": 0.0})
    machine = MachineConfig(device="cpu", precision="fp32")
    engine = Engine(network, config, machine, torch.device("cpu"))
    engine.network.eval()  # batch statistics would differ between the parts, and dropout too
    before = [parameter.detach().clone() for parameter in network.parameters()]
    engine.step(batch, lr=1.0, parts=parts)
    after = network.parameters()
    return torch.cat([(b - a).flatten() for a, b in zip(before, after, strict=True)]).detach()
