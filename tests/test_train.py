"""The training loop: what an epoch is made of, and that it can be interrupted."""

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from miniature import truncate, write_picture
from mlflow import MlflowClient
from squares import GOLDEN, RECIPE, draw_squares, fit_squares
from torch import nn

from selftrain import checkpoint, progress, signals, tracking
from selftrain.checkpoint import CARD, CHECKPOINT, OLDER, WEIGHTS, load_network
from selftrain.config import Config, MachineConfig
from selftrain.data.augment import Augmentation
from selftrain.data.centroids import find_centroids
from selftrain.data.dataset import EpochBatches, SegmentationDataset, make_loader
from selftrain.data.plan import Crop, global_batches
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, Sample
from selftrain.data.statistics import count_pixels
from selftrain.datasets import OpenData
from selftrain.engine import Engine
from selftrain.epochs import count_crops
from selftrain.errors import InputError, Terminated, Unavailable
from selftrain.knobs import Scalar, override
from selftrain.tracking import SILENT, Run
from selftrain.train import Training, TrainingData, train


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


@dataclass(frozen=True)
class Interrupting(Run):
    """Dies when the metrics of an epoch are logged: after its checkpoint."""

    epoch: int = 0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step == self.epoch:
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
    table = pd.read_csv(folder / "history.csv")
    return table.drop(columns=["train/images_per_second", "train/epoch_seconds"])


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


@dataclass(frozen=True)
class Album(Run):
    """A run that keeps the pictures, and may stop the training behind those of a step."""

    stops_at: int = -1
    pictures: dict[int, dict[str, bytes]] = field(default_factory=dict)

    def log_images(self, pictures: Mapping[str, bytes], step: int) -> None:
        assert step not in self.pictures
        if not pictures:
            return
        self.pictures[step] = dict(pictures)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step == self.stops_at:
            raise KeyboardInterrupt


def test_the_pictures_of_an_interrupted_training_are_those_of_an_uninterrupted_one(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    values: dict[str, Scalar] = {"epochs": 3, "eval_every": 1}
    whole, first, second = Album(""), Album("", stops_at=1), Album("")
    fit(tiny, data, tmp_path / "whole", values, whole)
    assert list(whole.pictures) == [0, 1, 2]
    assert whole.pictures[0].keys() == whole.pictures[2].keys() != set()
    assert whole.pictures[0] != whole.pictures[2]
    with pytest.raises(KeyboardInterrupt):
        fit(tiny, data, tmp_path / "cut", values, first)
    assert list(first.pictures) == [0, 1]
    fit(tiny, data, tmp_path / "cut", values, second)  # another run: it gets all of them, once
    assert second.pictures == whole.pictures


def test_pictures_change_nothing_in_the_network_and_are_not_part_of_it(
    tiny: Config, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Scalar] = {"epochs": 3, "eval_every": 1}
    drawn = fit(tiny, data, tmp_path / "drawn", values)
    monkeypatch.setattr(Training, "draw_dev", lambda self, epoch: {})
    plain = fit(tiny, data, tmp_path / "plain", values)
    assert (drawn / WEIGHTS).read_bytes() == (plain / WEIGHTS).read_bytes()
    assert {path.name for path in drawn.iterdir()} == {path.name for path in plain.iterdir()}


STOPPING: dict[str, Scalar] = {
    "epochs": 2,
    "eval_every": 1,
    "optim.batch_size": 2,  # four steps an epoch
    "optim.ema": 0.9,
    "optim.name": "adamw",
    "optim.lr": 0.002,
    "augment.on_device": True,
}


def stop_after(monkeypatch: pytest.MonkeyPatch, what: Any, name: str, calls: int = 1) -> None:
    """Let this process be sent SIGTERM when something has been called so often."""
    called, numbers = getattr(what, name), itertools.count(1)

    def call(*given: Any, **named: Any) -> Any:
        found = called(*given, **named)
        if next(numbers) == calls:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(what, name, call)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_that_is_stopped_at_any_step_ends_like_one_that_is_not(
    workers: int, tiny: Config, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = override(tiny, {"machine.workers": workers})
    read = Counter[int]()
    taken = SegmentationDataset.__getitem__

    def count(dataset: SegmentationDataset, crop: Crop) -> Any:
        read[crop.seed] += 1
        return taken(dataset, crop)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationDataset, "__getitem__", count)
        whole = fit(tiny, data, tmp_path / "whole", STOPPING)
        expected, cut = dict(read), tmp_path / "cut"
        read.clear()
        attempts: list[tuple[object, str, int, str]] = [
            (Engine, "step", 1, "step 1 in epoch 0"),
            (Engine, "step", 1, "step 2 in epoch 0"),
            (Engine, "step", 2, "step 4 in epoch 0"),
            (Training, "measure_dev", 1, "step 4 in epoch 0"),
            (Engine, "step", 2, "step 6 in epoch 1"),
            (Engine, "step", 2, "step 8 in epoch 1"),
            (Training, "measure_dev", 1, ""),
        ]
        for what, name, calls, done in attempts if workers == 0 else attempts[:1]:
            with patch.context() as stopping:
                stop_after(stopping, what, name, calls)
                with pytest.raises(Terminated) as stop, signals.heard():
                    fit(tiny, data, cut, STOPPING)
            assert stop.value.signal == signal.SIGTERM
            assert str(stop.value) == "stopped by SIGTERM" + (
                done and f": the checkpoint of {done} is written; the same command goes on from it"
            )
            torch.rand(3)  # what else this process draws does not matter
        fit(tiny, data, cut, STOPPING)
    assert (cut / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert history(cut).to_csv() == history(whole).to_csv()
    if workers == 0:  # else they are read elsewhere, and some ahead
        assert read == expected


@pytest.mark.parametrize(
    ("what", "name", "calls"),
    [(Training, "measure_dev", 1), (Training, "end_epoch", 1), (checkpoint, "save_checkpoint", 2)],
)
def test_a_measurement_that_a_stop_has_kept_from_being_told_is_told_by_the_next_start(
    what: Any,
    name: str,
    calls: int,
    tiny: Config,
    data: TrainingData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = override(tiny.student, {**STOPPING, "epochs": 3})

    def start(folder: Path) -> list[tuple[int, float]]:
        told: list[tuple[int, float]] = []

        def on_dev(epochs: int, miou: float) -> None:
            told.append((epochs, miou))

        with contextlib.suppress(Terminated), signals.heard():
            train(recipe, data, tiny.machine, folder, SILENT, title="test", on_dev=on_dev)
        return told

    whole = start(tmp_path / "whole")
    assert [epochs for epochs, _ in whole] == [1, 2]  # the last one is the result
    with monkeypatch.context() as patch:
        stop_after(patch, what, name, calls)
        assert start(tmp_path / "cut") == whole[: calls - 1]
    assert start(tmp_path / "cut") == whole


def test_a_training_whose_run_is_deleted_is_kept_with_the_epoch_that_could_not_be_logged(
    store: str, tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    values: dict[str, Scalar] = {"epochs": 3, "eval_every": 1}
    whole, cut = fit(tiny, data, tmp_path / "whole", values), tmp_path / "cut"
    tracking.connect(tmp_path / "outputs")
    with (  # noqa: PT012
        pytest.raises(Unavailable, match=r"refuses what run .* logs .*same command goes on"),
        tracking.stage_run("train", "student", "key") as run,
    ):

        def delete(epochs: int, miou: float) -> None:
            MlflowClient(store).delete_run(run.run_id)

        recipe = override(tiny.student, values)
        train(recipe, data, tiny.machine, cut, run, title="test", on_dev=delete)
    training = Training(override(tiny.student, values), data, tiny.machine)
    training.load_state(checkpoint.load_checkpoint(cut, training.device) or {})
    assert training.next_epoch == 2
    with tracking.stage_run("train", "student", "key") as run:
        fit(tiny, data, cut, values, run)
    assert (cut / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert list(tracking.metric_steps(run.run_id, "train/loss")) == [0, 1, 2]


def test_a_training_is_kept_by_the_clock_inside_an_epoch_too(
    tiny: Config, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(tiny, data, tmp_path / "whole", STOPPING)
    step, numbers = Engine.step, itertools.count()

    def die(*given: Any, **named: Any) -> Any:
        if next(numbers) == 6:
            raise RuntimeError("the power is gone")
        return step(*given, **named)

    for minutes, found in ((1e-9, (1, 2)), (0.0, (1, 0)), (10.0, (1, 0))):
        cut, numbers = tmp_path / f"cut {minutes}", itertools.count()
        often = override(tiny, {"machine.checkpoint_minutes": minutes})
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "step", die)
            with pytest.raises(RuntimeError, match="power"):
                fit(often, data, cut, STOPPING)
        training = Training(override(tiny.student, STOPPING), data, tiny.machine)
        training.load_state(checkpoint.load_checkpoint(cut, training.device) or {})
        assert (training.next_epoch, training.steps_done) == found
    fit(tiny, data, tmp_path / "cut 1e-09", STOPPING)
    assert (tmp_path / "cut 1e-09" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_a_killed_worker_is_one_sentence_and_costs_no_step(
    tiny: Config, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(tiny, data, tmp_path / "whole", STOPPING)
    parallel = override(tiny, {"machine.workers": 2, "machine.checkpoint_minutes": 0.0})
    with monkeypatch.context() as patch:
        step = Engine.step

        def kill(*given: Any, **named: Any) -> Any:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGKILL)
            return step(*given, **named)

        patch.setattr(Engine, "step", kill)
        with pytest.raises(
            InputError, match=r"^After step \d in epoch 0: .* lower machine\.workers"
        ):
            fit(parallel, data, tmp_path / "cut", STOPPING)
    training = Training(override(tiny.student, STOPPING), data, tiny.machine)
    training.load_state(checkpoint.load_checkpoint(tmp_path / "cut", training.device) or {})
    assert training.steps_done > 0
    fit(tiny, data, tmp_path / "cut", STOPPING)
    assert (tmp_path / "cut" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_a_damaged_newest_checkpoint_costs_an_epoch_and_not_the_training(
    tiny: Config, data: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values: dict[str, Scalar] = {"epochs": 3, "eval_every": 3}
    whole = fit(tiny, data, tmp_path / "whole", values)
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        fit(tiny, data, cut, values, Interrupting("", epoch=1))
    truncate(cut / CHECKPOINT)
    fit(tiny, data, cut, values)
    said = capsys.readouterr().out
    assert f"warning: {cut / CHECKPOINT} is damaged: {OLDER}, the one before, is read" in said
    assert "goes on with epoch 1 of 3" in said
    assert (cut / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert not (cut / OLDER).exists()  # of no more use


@pytest.mark.parametrize(
    "values",
    [
        {"network.name": "deeplabv3plus", "network.backbone": "mobilenet_v2"},
        {"optim.name": "adamw"},
        {"optim.ema": 0.5},
        {"epochs": 1},
    ],
    ids=str,
)
def test_the_checkpoint_of_another_training_is_refused_in_one_sentence(
    values: dict[str, Scalar], tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(tiny, data, tmp_path, {"epochs": 3, "eval_every": 3}, Interrupting("", epoch=1))
    with pytest.raises(InputError, match=rf"{CHECKPOINT}: The checkpoint is of another .* delete"):
        fit(tiny, data, tmp_path, {"epochs": 3, "eval_every": 3, **values})


def test_snapshots_are_what_a_training_was_on_the_way_interrupted_or_not(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    values: dict[str, Scalar] = {"epochs": 6, "eval_every": 6, "optim.ema": 0.5}
    plain = fit(tiny, data, tmp_path / "plain", values)
    assert checkpoint.snapshots(plain) == []
    kept = fit(tiny, data, tmp_path / "kept", {**values, "snapshots": 2})
    assert (kept / WEIGHTS).read_bytes() == (plain / WEIGHTS).read_bytes()
    folders = checkpoint.snapshots(kept)
    assert [folder.name for folder in folders] == ["epoch-00002", "epoch-00004"]
    states = [folder / WEIGHTS for folder in (*folders, kept)]
    assert len({state.read_bytes() for state in states}) == 3
    for folder in folders:
        assert load_network(folder, torch.device("cpu"))[1].classes == list(
            data.reader.classes.names
        )
    cut = tmp_path / "cut"
    for epoch in range(5):  # dies after each epoch once
        with pytest.raises(KeyboardInterrupt):
            fit(tiny, data, cut, {**values, "snapshots": 2}, Interrupting("", epoch))
    fit(tiny, data, cut, {**values, "snapshots": 2})
    assert [state.read_bytes() for state in states] == [
        (cut / state.relative_to(kept)).read_bytes() for state in states
    ]


@pytest.mark.usefixtures("store")
def test_snapshots_come_back_with_the_network_from_the_tracking_store(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    tracking.connect()
    with tracking.stage_run("train", "teacher", "key") as run:
        made = fit(tiny, data, tmp_path / "made", {"epochs": 2, "snapshots": 1}, run)
    fetched = tracking.download(f"runs:/{run.run_id}/{tracking.MODEL}", tmp_path / "fetched")
    found = checkpoint.snapshots(fetched / "artifacts" / checkpoint.NETWORK)
    assert [folder.name for folder in found] == ["epoch-00001"]
    expected = checkpoint.snapshots(made)[0] / WEIGHTS
    assert (found[0] / WEIGHTS).read_bytes() == expected.read_bytes()


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
        "select.threshold": 1.0,
        "data.pseudo_ratio": 7.0,
        "optim.batch_size": 2,
    }
    folder = fit(tiny, replace(data, pseudo=pseudo), tmp_path / "out", values)
    assert np.isfinite(history(folder)["train/loss"]).all()
    network, _ = load_network(folder, torch.device("cpu"))
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def test_a_training_that_diverges_names_the_step_and_its_crops_and_what_to_do(
    tiny: Config, data: TrainingData, tmp_path: Path
) -> None:
    values: dict[str, Scalar] = {"optim.lr": 1e30, "optim.batch_size": 2}
    training = Training(override(tiny.student, values), data, tiny.machine)
    with pytest.raises(InputError, match=r"step 1 in epoch 0: lower optim\.lr = 1e\+30") as stop:
        fit(tiny, data, tmp_path / "out", values)
    crops = training.batches(training.epochs[0])[1]
    samples = [*data.real, *data.pseudo]
    for crop in crops:
        assert f"{samples[crop.image].name} " in str(stop.value)
        assert f"with seed {crop.seed}" in str(stop.value)
    assert "optim.clip_norm = 0" in str(stop.value)
    assert not (tmp_path / "out" / CARD).exists()


def test_the_checkpoint_before_a_divergence_stays_usable(
    tiny: Config, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Scalar] = {"epochs": 2, "eval_every": 2}
    whole = fit(tiny, data, tmp_path / "whole", values)
    step = Engine.step

    def spoil_the_second_epoch(engine: Engine, *given: Any, lr: float, **how: Any) -> Any:
        loss, norm = step(engine, *given, lr=lr, **how)
        return loss, norm * (math.nan if lr < tiny.student.optim.lr * 0.5 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", spoil_the_second_epoch)
        with pytest.raises(InputError, match=r"The gradient is not finite at step \d+ in epoch 1"):
            fit(tiny, data, tmp_path / "cut", values)
    fit(tiny, data, tmp_path / "cut", values)
    assert (tmp_path / "cut" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_statistics_that_are_no_numbers_end_a_training_whose_loss_does_not_show_it(
    tiny: Config, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Scalar] = {"epochs": 2, "eval_every": 2}
    whole = fit(tiny, data, tmp_path / "whole", values)
    step = Engine.step

    def spoil_the_second_epoch(engine: Engine, *given: Any, lr: float, **how: Any) -> Any:
        found = step(engine, *given, lr=lr, **how)
        if lr < tiny.student.optim.lr * 0.5:
            norm = next(it for it in engine.network.modules() if isinstance(it, nn.BatchNorm2d))
            norm.get_buffer("running_var")[0] = torch.inf
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", spoil_the_second_epoch)
        with pytest.raises(InputError, match=r"After epoch 1 .*running_var\): lower optim\.lr"):
            fit(tiny, data, tmp_path / "cut", values)
    assert not (tmp_path / "cut" / CARD).exists()
    fit(tiny, data, tmp_path / "cut", values)
    assert (tmp_path / "cut" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


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


@pytest.fixture
def sure(data: TrainingData, tmp_path: Path) -> TrainingData:
    """The data with pseudo labels that are sure on the left and not at all on the right."""
    confidence = np.full((32, 64), 255, np.uint8)
    confidence[:, 32:] = 0
    write_picture(tmp_path / "confidence.png", confidence)
    blob = Blob(tmp_path / "confidence.png")
    return replace(data, pseudo=[replace(sample, confidence=blob) for sample in data.pseudo])


@pytest.mark.parametrize(
    "values",
    [
        {"loss.confidence_gamma": 2.0},
        {"loss.class_weights": "median"},
        {"loss.name": "ohem", "loss.ohem_threshold": 0.05},
        {"augment.on_device": True},
        {"optim.clip_norm": 0.01},
    ],
    ids=str,
)
def test_a_knob_of_the_step_changes_the_training_and_repeats_it(
    values: Mapping[str, Scalar], tiny: Config, sure: TrainingData, tmp_path: Path
) -> None:
    plain = fit(tiny, sure, tmp_path / "plain")
    first, second = (fit(tiny, sure, tmp_path / name, values) for name in ("a", "b"))
    assert (first / WEIGHTS).read_bytes() != (plain / WEIGHTS).read_bytes()
    assert (first / WEIGHTS).read_bytes() == (second / WEIGHTS).read_bytes()


def test_classes_are_weighed_by_the_real_labels_alone(
    tiny: Config, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[Sample] = []

    def count(samples: list[Sample], reader: Reader) -> np.ndarray:
        counted.extend(samples)
        return count_pixels(samples, reader)

    monkeypatch.setattr("selftrain.training.count_pixels", count)
    Training(tiny.student, data, tiny.machine)
    assert counted == []
    Training(override(tiny.student, {"loss.class_weights": "median"}), data, tiny.machine)
    assert counted == list(data.real)


def test_the_losses_are_those_of_the_recorded_training(tmp_path: Path) -> None:
    machine = MachineConfig(device="cpu", workers=0)
    losses = fit_squares(RECIPE, draw_squares(tmp_path), machine).losses
    np.testing.assert_allclose(losses, GOLDEN, rtol=0.04)  # another CPU adds in another order


def test_the_compiler_is_told_of_every_shape_that_comes_and_of_no_other(
    tiny: Config, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed: set[tuple[int, int, float]] = set()
    trained: set[tuple[int, int, float]] = set()

    def momentum(engine: Engine) -> float:
        """Return what a batch weighs in the running statistics: a number in the graph."""
        norms = (it for it in engine.network.modules() if isinstance(it, nn.BatchNorm2d))
        return cast(float, next(norms).momentum)

    def warm(engine: Engine, shapes: Iterable[tuple[int, int, int]]) -> None:
        for count, side, batches in shapes:
            engine.remember(batches)
            warmed.add((count, side, momentum(engine)))

        def see(network: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            if network.training:
                trained.add((given[0].shape[0], given[0].shape[-1], momentum(engine)))

        engine.network.register_forward_pre_hook(see)

    monkeypatch.setattr(Engine, "warm", warm)
    values: dict[str, Scalar] = {
        "epochs": 3,
        "crop.size": 64,
        "crop.schedule": "coarse2fine",
        "crop.constant_pixels": True,
        "data.pseudo_ratio": 3.0,
        "optim.batch_size": 5,
        "optim.accumulate": 2,
    }
    fit(tiny, data, tmp_path / "out", values)
    assert trained == warmed
    assert (3, 64, 0.1) in warmed
    assert (2, 64, 0.1) in warmed
    assert len(warmed) > 3
    assert {weight for _, side, weight in warmed if side < 48} == {1 - 0.9**3}  # 15 crops, not 5
