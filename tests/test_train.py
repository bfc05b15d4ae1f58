"""The training loop: what an epoch is made of, and that it can be interrupted."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from miniature import write_picture
from torch import nn

from selftrain import progress
from selftrain.checkpoint import CARD, CHECKPOINT, WEIGHTS, load_network
from selftrain.config import Config, Scalar, TrainConfig, override
from selftrain.data.augment import Augmentation
from selftrain.data.centroids import find_centroids
from selftrain.data.dataset import EpochBatches, SegmentationDataset, make_loader
from selftrain.data.plan import global_batches
from selftrain.data.sample import Blob, Sample
from selftrain.datasets import OpenData
from selftrain.errors import InputError
from selftrain.schedules import SCHEDULES
from selftrain.tracking import SILENT, Run
from selftrain.train import Training, TrainingData, count_crops, plan_epochs, train


@pytest.fixture
def data(tiny_data: OpenData) -> TrainingData:
    """The tiny scenes; the pool has its true labels for pseudo labels."""
    splits, reader = tiny_data.splits, tiny_data.reader
    pseudo = [replace(sample, is_pseudo=True) for sample in splits.pool_with_labels]
    return TrainingData(
        reader=reader,
        real=splits.labelled,
        real_centroids=find_centroids(splits.labelled, reader, tile=32),
        pseudo=pseudo,
        pseudo_centroids=find_centroids(pseudo, reader, tile=32),
        dev=splits.dev,
    )


class Interrupting(Run):
    """Dies when the metrics of an epoch are logged: after its steps, before its checkpoint."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step == 1:
            raise KeyboardInterrupt


def fit(
    config: Config,
    data: TrainingData,
    folder: Path,
    values: Mapping[str, Scalar] = MappingProxyType({}),
    run: Run = SILENT,
) -> Path:
    recipe = override(config.student, values)
    train(recipe, data, config.machine, folder, run, title="test")
    return folder


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv").drop(columns="train/images_per_second")


@pytest.mark.parametrize(("ema", "optimizer"), [(0.0, "sgd"), (0.9, "sgd"), (0.0, "adamw")])
def test_an_interrupted_training_ends_like_an_uninterrupted_one(
    ema: float, optimizer: str, tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    values: dict[str, Scalar] = {
        "epochs": 3,
        "eval_every": 2,
        "optim.ema": ema,
        "optim.name": optimizer,
        "crop.schedule": "coarse2fine",
        "crop.size": 48,
    }
    whole = fit(tiny, data, tmp_path / "whole", values)
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        fit(tiny, data, cut, values, Interrupting(""))
    assert {path.name for path in cut.iterdir()} == {CHECKPOINT}
    torch.rand(5)  # what else this process draws does not matter
    fit(tiny, data, cut, values)
    assert (cut / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    pd.testing.assert_frame_equal(history(cut), history(whole))


def test_the_seed_decides_the_training(tiny: Config, data: TrainingData, tmp_path: Path) -> None:
    weights = [
        (fit(tiny, data, tmp_path / name, {"seed": seed}) / WEIGHTS).read_bytes()
        for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    ]
    assert weights[0] == weights[1] != weights[2]


def test_workers_do_not_change_the_training(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    parallel = override(tiny, {"machine.workers": 1})
    first, second = fit(tiny, data, tmp_path / "a"), fit(parallel, data, tmp_path / "b")
    assert (first / WEIGHTS).read_bytes() == (second / WEIGHTS).read_bytes()


def test_a_finished_training_leaves_a_network_and_its_history(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    folder = fit(tiny, data, tmp_path / "out", {"epochs": 3, "eval_every": 2})
    assert {WEIGHTS, CARD, "history.csv"} <= {path.name for path in folder.iterdir()}
    network, card = load_network(folder, torch.device("cpu"))
    assert card.class_table().names == data.reader.classes.names
    assert not network.training
    rows = history(folder)
    assert rows["epoch"].tolist() == [0, 1, 2]
    assert rows["dev/mIoU"].isna().tolist() == [True, False, False]
    assert rows["train/lr"].is_monotonic_decreasing


def test_crop_size_and_batch_follow_the_schedule(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    values: dict[str, Scalar] = {
        "epochs": 3,
        "eval_every": 3,
        "crop.size": 64,
        "crop.schedule": "coarse2fine",
        "crop.constant_pixels": True,
        "optim.batch_size": 2,
        "optim.power": 0.0001,
    }
    rows = history(fit(tiny, data, tmp_path / "out", values))
    assert rows["train/crop_size"].tolist() == [24, 48, 64]
    # (64 / 24)^2 = 7.1 would be seven batches of 2, but the epoch has no more than four.
    assert sum(count_crops(tiny.student, len(data.real))) // 2 == 4
    np.testing.assert_allclose(rows["train/lr"] / 0.05, [4, 1, 1], rtol=1e-2)
    assert np.isfinite(rows["train/loss"]).all()


def test_crops_without_a_labelled_pixel_do_no_harm(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    unsure = tmp_path / "confidence.png"
    write_picture(unsure, np.zeros((32, 64), np.uint8))
    pseudo = [replace(sample, confidence=Blob(unsure)) for sample in data.pseudo]
    values: dict[str, Scalar] = {
        "data.threshold": 1.0,
        "data.pseudo_ratio": 7.0,
        "optim.batch_size": 2,
    }
    folder = fit(tiny, replace(data, pseudo=pseudo), tmp_path / "out", values)
    assert np.isfinite(history(folder)["train/loss"]).all()
    network, _ = load_network(folder, torch.device("cpu"))
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def test_a_training_that_diverges_says_which_knob_to_turn(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"epoch 0: lower optim\.lr = 1e\+30"):
        fit(tiny, data, tmp_path / "out", {"optim.lr": 1e30, "optim.batch_size": 2})
    assert not (tmp_path / "out" / CARD).exists()


def test_a_damaged_checkpoint_is_named(tiny: Config, data: TrainingData, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"PK\x03\x04 half")
    with pytest.raises(InputError, match=rf"{CHECKPOINT} is damaged: delete it"):
        fit(tiny, data, tmp_path)


def without_batch_statistics(network: nn.Module) -> None:
    """Take out what makes a crop's result depend on its neighbours or on chance."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.Dropout):
                setattr(parent, name, nn.Identity())


def all_weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([weights.detach().flatten() for weights in network.parameters()])


def test_a_step_in_parts_is_the_same_step(tiny: Config, data: TrainingData) -> None:
    # Crops that reach beyond their image have fewer labelled pixels: parts weigh differently.
    weights = []
    for accumulate in (1, 2):
        values: dict[str, Scalar] = {
            "optim.accumulate": accumulate,
            "crop.size": 48,
            "optim.batch_size": 4,
        }
        recipe = override(tiny.student, values)
        training = Training(recipe, data, tiny.machine)
        without_batch_statistics(training.network)
        before = all_weights(training.network)
        (epoch,) = training.epochs
        samples: list[Sample] = [*data.real, *data.pseudo]
        loader = make_loader(
            SegmentationDataset(samples, data.reader, Augmentation()),
            EpochBatches(global_batches(training.crops(epoch), batch_size=4)),
            workers=0,
            pin_memory=False,
        )
        with progress.bar("test", 2) as bar:
            training.train_epoch(epoch, loader, bar)
        weights.append(all_weights(training.network))
    assert (weights[0] - before).abs().max() > 1e-3
    assert (weights[0] - weights[1]).abs().max() < 1e-6


def test_the_average_of_the_weights_is_the_result(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    plain = fit(tiny, data, tmp_path / "plain")
    averaged = fit(tiny, data, tmp_path / "averaged", {"optim.ema": 0.5})
    assert (plain / WEIGHTS).read_bytes() != (averaged / WEIGHTS).read_bytes()
    rows = history(plain), history(averaged)
    assert rows[0]["train/loss"].tolist() == rows[1]["train/loss"].tolist()


@given(
    num_real=st.integers(1, 500),
    repeat=st.sampled_from([0.25, 0.5, 1.0, 3.0]),
    pseudo_ratio=st.sampled_from([0.0, 1.0, 3.0, 7.0]),
    epochs=st.integers(1, 30),
    schedule=st.sampled_from(SCHEDULES),
    constant_pixels=st.booleans(),
)
def test_the_steps_of_all_epochs_follow_each_other(
    num_real: int,
    repeat: float,
    pseudo_ratio: float,
    epochs: int,
    schedule: str,
    constant_pixels: bool,
) -> None:
    values: dict[str, Scalar] = {
        "data.repeat": repeat,
        "data.pseudo_ratio": pseudo_ratio,
        "epochs": epochs,
        "crop.schedule": schedule,
        "crop.constant_pixels": constant_pixels,
    }
    planned = plan_epochs(override(TrainConfig(), values), num_real)
    assert [epoch.number for epoch in planned] == list(range(epochs))
    done = 0
    for epoch in planned:
        assert epoch.first_step == done
        assert epoch.steps >= 1
        assert epoch.batch_size % 16 == 0
        done += epoch.steps
