"""The one training loop: teacher, student and control are this with another config.

An epoch: draw its crops (`plan_epoch`), cut them into batches, step through them, save a
checkpoint. Everything random follows from (seed, epoch, crop), so that an interrupted training
goes on as if nothing had happened: bit for bit on the CPU, within rounding on CUDA.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from selftrain import checkpoint, distributed, progress, tracking
from selftrain.checkpoint import ModelCard
from selftrain.config import MachineConfig, TrainConfig
from selftrain.data.augment import Augmentation
from selftrain.data.centroids import Centroids
from selftrain.data.dataset import CropLoader, EpochBatches, SegmentationDataset, make_loader
from selftrain.data.plan import Crop, Pool, plan_epoch, rank_batches
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.inference import Predictor, autocast, batch_size_for, score
from selftrain.labels import IGNORE_INDEX
from selftrain.losses import cross_entropy
from selftrain.machine import count_workers
from selftrain.metrics import ConfusionMatrix
from selftrain.models import build_network
from selftrain.pictures import confusion_figure
from selftrain.schedules import batch_size_for as crops_in_batch
from selftrain.schedules import crop_sizes, poly

History = list[dict[str, float]]


@dataclass(frozen=True)
class TrainingData:
    """What a training reads."""

    reader: Reader
    """Reads real samples as they are trained on."""
    real: Sequence[Sample]
    real_centroids: Centroids
    pseudo: Sequence[Sample]
    """Empty unless the config's pseudo_ratio is above 0."""
    pseudo_centroids: Centroids
    """Rows count positions in `pseudo`."""
    dev: Sequence[Sample]
    """Empty: nothing is measured while training."""
    start: Path | None = None
    """Folder of a network to start from; None: the config's `backbone_weights`."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch is made of, known before it starts."""

    number: int
    crop_size: int
    batch_size: int
    """Crops of a step, over all ranks."""
    steps: int
    first_step: int
    """Steps of all epochs before."""


def plan_epochs(config: TrainConfig, num_real: int) -> list[Epoch]:
    """Lay out all epochs: crop sizes by the schedule, and the steps that they take.

    Args:
        config: Its `data.repeat` and `data.pseudo_ratio` give the crops of an epoch.
        num_real: Labelled images.
    """
    crops = sum(count_crops(config, num_real))
    sizes = crop_sizes(
        config.crop.schedule,
        epochs=config.epochs,
        crop_size=config.crop.size,
        warm_up=config.crop.warm_up,
        cycles=config.crop.cycles,
    )
    epochs: list[Epoch] = []
    first_step = 0
    for number, size in enumerate(sizes):
        batch = crops_in_batch(
            size,
            full_size=config.crop.size,
            batch_size=config.optim.batch_size,
            constant_pixels=config.crop.constant_pixels,
        )
        # `constant_pixels` cannot grow a batch beyond the epoch.
        batch = min(batch, max(1, crops // config.optim.batch_size) * config.optim.batch_size)
        steps = max(1, crops // batch)
        epochs.append(Epoch(number, size, batch, steps, first_step))
        first_step += steps
    return epochs


def count_crops(config: TrainConfig, num_real: int) -> tuple[int, int]:
    """Return the real and the pseudo-labelled crops of an epoch (Table 2).

    The equal-iteration control is the config with `repeat * (1 + pseudo_ratio)` and ratio 0.
    So that it has exactly as many crops, it is their sum that is rounded, and then the real ones.
    """
    data = config.data
    real = max(1, round(data.repeat * num_real))
    both = round(data.repeat * (1 + data.pseudo_ratio) * num_real)
    return real, max(0, both - real)


class Training:
    """The state of a training and the steps that change it."""

    def __init__(self, config: TrainConfig, data: TrainingData, machine: MachineConfig) -> None:
        self.config, self.data, self.machine = config, data, machine
        self.device = distributed.choose_device(machine.device)
        self.epochs = plan_epochs(config, len(data.real))
        if min(map(self._least_crops, self.epochs)) < 2:
            raise InputError(
                f"A step leaves one of {distributed.world_size()} processes fewer than 2 crops, "
                "and batch normalisation needs 2: raise optim.batch_size = "
                f"{config.optim.batch_size} or data.repeat, or use fewer processes."
            )
        self.total_steps = sum(epoch.steps for epoch in self.epochs)
        torch.manual_seed(config.seed)
        network = build_network(
            config.network.name,
            num_classes=len(data.reader.classes),
            backbone=config.network.backbone,
            output_stride=config.network.output_stride,
            head_channels=config.network.head_channels,
            backbone_weights="none" if data.start else config.network.backbone_weights,
        )
        if data.start is not None:
            checkpoint.load_start(network, data.start, data.reader.classes.names)
        self.network = checkpoint.on_device(network, self.device)
        self.forward = self._wrap(self.network)
        self.optimizer = self._make_optimizer()
        self.average = self._make_average()
        self.history: History = []
        self.next_epoch = 0

    def _least_crops(self, epoch: Epoch) -> int:
        """Return the crops that the rank with the fewest gets for a step."""
        crops = sum(count_crops(self.config, len(self.data.real)))
        return min(crops, epoch.batch_size) // distributed.world_size()

    def _wrap(self, network: nn.Module) -> nn.Module:
        if distributed.world_size() == 1:
            return network
        if self.device.type == "cuda":
            # torch gives this, the average's function and backward() no types.
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
            return DistributedDataParallel(self.network, device_ids=[self.device.index])
        return DistributedDataParallel(network)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        optim, parameters = self.config.optim, self.network.parameters()
        if optim.name == "adamw":
            return torch.optim.AdamW(
                parameters,
                lr=optim.lr,
                betas=(optim.momentum, 0.999),
                weight_decay=optim.weight_decay,
                fused=True,  # one pass over all weights; on the CPU too
            )
        return torch.optim.SGD(
            parameters,
            lr=optim.lr,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
            fused=True,  # one pass over all weights; on the CPU too
        )

    def _make_average(self) -> AveragedModel | None:
        decay = self.config.optim.ema
        if decay == 0:
            return None
        return AveragedModel(
            self.network,
            multi_avg_fn=get_ema_multi_avg_fn(decay),  # type: ignore[no-untyped-call]
            use_buffers=True,
        )

    def state(self) -> dict[str, Any]:
        """Return all that an exact resume needs; random states follow from the epoch."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "history": self.history,
            "next_epoch": self.next_epoch,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.history = list(state["history"])
        self.next_epoch = int(state["next_epoch"])

    def crops(self, epoch: Epoch) -> list[Crop]:
        """Draw the crops of an epoch; the same list on every rank."""
        num_real = len(self.data.real)
        real, pseudo = count_crops(self.config, num_real)
        offset = np.array([num_real, 0, 0], dtype=np.int32)
        shifted = {
            class_id: rows + offset  # positions in real + pseudo
            for class_id, rows in self.data.pseudo_centroids.items()
        }
        return plan_epoch(
            Pool(range(num_real), self.data.real_centroids),
            Pool(range(num_real, num_real + len(self.data.pseudo)), shifted),
            real_crops=real,
            pseudo_crops=pseudo,
            centroid_fraction=self.config.sampling.centroid_fraction,
            crop_size=epoch.crop_size,
            seed=self.config.seed,
            epoch=epoch.number,
        )

    def train_epoch(self, epoch: Epoch, loader: CropLoader, bar: progress.Bar) -> dict[str, float]:
        """Step through an epoch and return its metrics."""
        # Dropout draws from the global generator: start it anew, so that a resumed training
        # drops the same units.
        torch.manual_seed(hash((self.config.seed, epoch.number, distributed.rank())))
        self.forward.train()
        start = time.perf_counter()
        total = torch.zeros((), device=self.device)
        # As many parts on every rank, or they wait for each other for ever; and not more than
        # leave two crops in each: batch norm needs them.
        parts = min(self.config.optim.accumulate, self._least_crops(epoch) // 2)
        for number, (images, labels) in enumerate(loader):
            lr = self._set_lr(epoch, epoch.first_step + number)
            total += self._step(images, labels, parts)
            if number % 10 == 0:  # reading the loss waits for the device: not at every step
                bar.advance(0, f"loss {float(total) / (number + 1):.3f}{self._dev_note()}")
            bar.advance()
        loss = float(total) / epoch.steps
        if not math.isfinite(loss):
            raise InputError(
                f"The loss is {loss} in epoch {epoch.number}: lower optim.lr = "
                f"{self.config.optim.lr:g}."
            )
        planned = sum(count_crops(self.config, len(self.data.real)))
        crops_seen = min(planned, epoch.steps * epoch.batch_size)
        return {
            "train/loss": loss,
            "train/lr": lr,
            "train/crop_size": epoch.crop_size,
            "train/images_per_second": crops_seen / (time.perf_counter() - start),
        }

    def _dev_note(self) -> str:
        measured = [row["dev/mIoU"] for row in self.history if "dev/mIoU" in row]
        return f", dev mIoU {measured[-1]:.3f}" if measured else ""

    def _set_lr(self, epoch: Epoch, step: int) -> float:
        optim = self.config.optim
        factor = poly(step, total_steps=self.total_steps, power=optim.power)
        # The linear rule: a batch grown by `constant_pixels` takes a proportional step.
        lr = optim.lr * factor * epoch.batch_size / optim.batch_size
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _step(self, images: Tensor, labels: Tensor, parts: int) -> Tensor:
        """Take one step on this rank's share of a batch and return the batch's mean loss.

        The loss is the mean over the labelled pixels of the whole batch, however many ranks and
        parts it is cut into: each part weighs as many pixels as it has.
        """
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        images = images.contiguous(memory_format=torch.channels_last)
        world_size = distributed.world_size()
        labelled = distributed.sum_over_ranks((labels != IGNORE_INDEX).sum()).clamp(min=1)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        cut = zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
        for part_images, part_labels in cut:
            with autocast(self.device, self.machine.precision):
                logits = self.forward(part_images)
            weight = (part_labels != IGNORE_INDEX).sum() / labelled
            loss = cross_entropy(logits, part_labels) * weight
            # Averaging over ranks divides by their number again.
            (loss * world_size).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return distributed.sum_over_ranks(total)

    def result(self) -> nn.Module:
        """Return the network that is kept: the last epoch's, or its moving average."""
        return self.average.module if self.average is not None else self.network

    def measure_dev(self) -> ConfusionMatrix:
        """Score the result on dev, whole images, single scale; an empty dev gives zeros."""
        network = self.result().eval()
        # On the CPU each rank has batch statistics of its own; rank 0's are the ones that are kept.
        distributed.share(network.buffers())
        predictor = Predictor(network, self.device, precision=self.machine.precision)
        return score(
            predictor,
            self.data.dev,
            self.data.reader,
            batch_size=batch_size_for(self.device),
            workers=count_workers(self.machine),
        )

    def card(self) -> ModelCard:
        """Describe the network for those who load it."""
        network, reader = self.config.network, self.data.reader
        return ModelCard(
            network=network.name,
            backbone=network.backbone,
            output_stride=network.output_stride,
            head_channels=network.head_channels,
            classes=list(reader.classes.names),
            colors=[list(color) for color in reader.classes.colors],
            scale=reader.scale,
            short_side=reader.short_side,
        )


def train(
    config: TrainConfig,
    data: TrainingData,
    machine: MachineConfig,
    folder: Path,
    run: tracking.Run,
    *,
    title: str,
) -> None:
    """Train a network and leave it, its history and its dev scores in `folder` and in the run.

    A checkpoint in the folder is continued. The last epoch's weights are the result: no epoch
    is chosen by its score.
    """
    training = Training(config, data, machine)
    saved = checkpoint.load_checkpoint(folder, training.device)
    if saved is not None:
        training.load_state(saved)
        progress.say(f"{title}: goes on with epoch {training.next_epoch} of {config.epochs}")
    for row in training.history:
        _log(run, row)  # the run of the interrupted attempt is not this one
    batches = EpochBatches()
    loader = make_loader(
        SegmentationDataset(
            [*data.real, *data.pseudo],
            replace(data.reader, threshold=config.data.threshold),
            _augmentation(config),
        ),
        batches,
        workers=count_workers(machine),
        pin_memory=training.device.type == "cuda",
    )
    done = sum(epoch.steps for epoch in training.epochs[: training.next_epoch])
    with progress.bar(title, training.total_steps, done=done) as bar:
        for epoch in training.epochs[training.next_epoch :]:
            batches.batches = rank_batches(
                training.crops(epoch),
                batch_size=epoch.batch_size,
                rank=distributed.rank(),
                world_size=distributed.world_size(),
            )
            row = {"epoch": float(epoch.number), **training.train_epoch(epoch, loader, bar)}
            is_last = epoch.number + 1 == config.epochs  # measured when all is done
            if data.dev and not is_last and (epoch.number + 1) % config.eval_every == 0:
                row |= _dev_metrics(training.measure_dev())
            training.history.append(row)
            training.next_epoch = epoch.number + 1
            _log(run, row)
            if distributed.rank() == 0:
                checkpoint.save_checkpoint(folder, training.state())
    matrix = training.measure_dev()  # by all ranks
    if distributed.rank() == 0:
        _finish(training, matrix, folder, run)
    distributed.barrier()


def _finish(training: Training, matrix: ConfusionMatrix, folder: Path, run: tracking.Run) -> None:
    """Write and log the product."""
    if training.data.dev:
        names = training.data.reader.classes.names
        per_class = {f"dev/IoU/{name}": iou for name, iou in zip(names, matrix.iou(), strict=True)}
        training.history[-1] |= _dev_metrics(matrix)
        run.log_metrics(_dev_metrics(matrix) | per_class, step=training.config.epochs - 1)
        run.log_figure(confusion_figure(matrix.matrix, names), "dev_confusion.png")
    table = pd.DataFrame(training.history).to_csv(index=False)
    run.log_text(table, "history.csv")
    write_atomically(folder / "history.csv", table.encode())
    checkpoint.save_network(folder, training.result(), training.card())
    run.log_model(folder)


def _dev_metrics(matrix: ConfusionMatrix) -> dict[str, float]:
    return {"dev/mIoU": matrix.miou(), "dev/accuracy": matrix.accuracy()}


def _log(run: tracking.Run, row: Mapping[str, float]) -> None:
    run.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]))


def _augmentation(config: TrainConfig) -> Augmentation:
    augment = config.augment
    return Augmentation(
        scale_min=augment.scale_min,
        scale_max=augment.scale_max,
        flip=augment.flip,
        jitter=augment.jitter,
        blur=augment.blur,
    )
