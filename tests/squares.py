"""Pictures of coloured squares, from which a network learns in a few steps what is where."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from selftrain import progress
from selftrain.config import (
    AugmentConfig,
    CropConfig,
    EpochConfig,
    MachineConfig,
    NetworkConfig,
    OptimConfig,
    SamplingConfig,
    TrainConfig,
)
from selftrain.data.augment import Augmentation
from selftrain.data.dataset import EpochBatches, SegmentationDataset, make_loader
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.files import write_atomically
from selftrain.pictures import encode_png
from selftrain.train import Training, TrainingData

CLASSES = ClassTable(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
RECIPE = TrainConfig(
    epochs=5,
    seed=1,
    network=NetworkConfig(name="fast_scnn", backbone_weights="none"),
    data=EpochConfig(repeat=4.0),
    sampling=SamplingConfig(centroid_fraction=0.0),
    crop=CropConfig(size=64),
    augment=AugmentConfig(jitter=0.1, blur=0.5),
    optim=OptimConfig(batch_size=8, lr=0.02),
)

GOLDEN = (1.108354, 1.083882, 1.025526, 0.998183, 0.968416)
"""Losses of the epochs of `RECIPE` on the CPU in fp32 (torch 2.15).

Batch normalisation of eight pooled values makes much of little: sums in another order (the
compiler's) changed the last one by 2.4 %, bf16 by 1.3 %.
"""


def draw_squares(folder: Path, *, images: int = 8) -> TrainingData:
    """Write pictures of 96x128 pixels, squares of 16 in noisy colours of three classes."""
    samples = []
    for number in range(images):
        rng = np.random.default_rng(number)
        label = rng.integers(0, 3, (6, 8), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
        colors = np.array(CLASSES.colors, dtype=np.int64)[label]
        noisy = (colors // 2 + rng.integers(0, 128, colors.shape)).astype(np.uint8)
        label[:4] = 255
        write_atomically(folder / f"{number}.png", encode_png(noisy))
        write_atomically(folder / f"{number}.label.png", encode_png(label))
        blob = Blob(folder / f"{number}.label.png")
        samples.append(Sample(f"squares {number}", folder / f"{number}.png", blob))
    return TrainingData(Reader(CLASSES), samples, {}, [], {}, samples)


@dataclass(frozen=True)
class Trained:
    """A training after its last epoch."""

    training: Training
    losses: list[float]
    """Of each epoch."""


def fit_squares(config: TrainConfig, data: TrainingData, machine: MachineConfig) -> Trained:
    """Train through all epochs, without dropout, dev score or checkpoint."""
    training = Training(config, data, machine)
    for module in training.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # each kind of device drops other units
    batches = EpochBatches()
    augment = config.augment
    loader = make_loader(
        SegmentationDataset(
            data.real, data.reader, Augmentation(jitter=augment.jitter, blur=augment.blur)
        ),
        batches,
        workers=0,
        pin_memory=training.device.type == "cuda",
    )
    training.warm()
    losses = []
    with progress.bar("squares", training.total_steps) as bar:
        for epoch in training.epochs:
            batches.batches = training.batches(epoch)
            losses.append(training.train_epoch(epoch, loader, bar)["train/loss"])
    return Trained(training, losses)
