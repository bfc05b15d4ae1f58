"""What each process of `test_processes.py` does; one process or one of torchrun's.

python -m torch.distributed.run --nproc-per-node 2 rank_work.py FOLDER
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selftrain import distributed, progress
from selftrain.config import (
    CropConfig,
    EpochConfig,
    LossConfig,
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
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.pictures import encode_png
from selftrain.train import Training, TrainingData

CLASSES = ClassTable(("road", "car", "sky"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
CONFIG = TrainConfig(
    epochs=1,
    seed=3,
    network=NetworkConfig(name="fast_scnn", backbone_weights="none"),
    data=EpochConfig(repeat=2.0),
    sampling=SamplingConfig(centroid_fraction=0.0),
    crop=CropConfig(size=32),
    optim=OptimConfig(batch_size=4, lr=0.05),
)
CLIPPED = replace(
    CONFIG,
    loss=LossConfig(name="boundary", label_smoothing=0.1, class_weights="median"),
    optim=OptimConfig(name="adamw", batch_size=4, lr=0.002, clip_norm=0.1, ema=0.5),
)
DIVERGING = replace(CONFIG, optim=OptimConfig(batch_size=4, lr=1e30))
MACHINE = MachineConfig(device="cpu", workers=0)


def draw_samples(folder: Path, *, images: int) -> list[Sample]:
    """Write coloured squares with random labels, some of them ignored, and list them."""
    samples = []
    for number in range(images):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
        label = rng.integers(0, 3, (48, 64), dtype=np.uint8)
        label[:, : number * 10] = 255  # ranks get different numbers of labelled pixels
        write_atomically(folder / f"{number}.png", encode_png(image))
        write_atomically(folder / f"{number}.label.png", encode_png(label))
        blob = Blob(folder / f"{number}.label.png")
        samples.append(Sample(str(number), folder / f"{number}.png", blob))
    return samples


def work(folder: Path) -> dict[str, Any]:
    """Return what this rank sees of a training, of two scores and of a mistake."""
    samples = draw_samples(folder, images=5)
    data = TrainingData(Reader(CLASSES), samples, {}, [], {}, samples)
    return {
        "untrained": score(lively(Training(CONFIG, data, MACHINE))),
        "disagreeing": score(with_statistics_of_this_rank(lively(Training(CONFIG, data, MACHINE)))),
        "refusal": refusal(data),
        "plain": train_one_epoch(Training(CONFIG, data, MACHINE)),
        "clipped": train_one_epoch(Training(CLIPPED, data, MACHINE)),
        "divergence": divergence(Training(DIVERGING, data, MACHINE)),
    }


def score(training: Training) -> Tensor:
    """Return the confusion matrix on dev."""
    return torch.from_numpy(training.measure_dev().matrix)


def lively(training: Training) -> Training:
    """Let an untrained network call some pixels this and some that."""
    torch.manual_seed(0)
    for parameter in training.network.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    return training


def with_statistics_of_this_rank(training: Training) -> Training:
    """Let the batch statistics differ from rank to rank, as a step on the CPU leaves them."""
    for buffer in training.network.buffers():
        if buffer.is_floating_point():
            buffer.add_(torch.rand_like(buffer) * distributed.rank())
    return training


def refusal(data: TrainingData) -> str:
    """Return what is said to a step of two crops: enough for one process, too few for two."""
    try:
        Training(replace(CONFIG, optim=OptimConfig(batch_size=2)), data, MACHINE)
    except InputError as error:
        return str(error)
    return ""


def divergence(training: Training) -> str:
    """Return what is said when the loss becomes infinite."""
    try:
        train_one_epoch(training)
    except InputError as error:
        return str(error)
    return ""


def train_one_epoch(training: Training) -> dict[str, Any]:
    """Train on this rank's share and return its crops, the loss and the weights.

    Batch norm keeps to its running statistics and nothing is dropped: on the CPU each process
    would see statistics of its own share, and only the gradients are meant to be compared.
    """
    for module in training.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(_hold_still)
        elif isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    (epoch,) = training.epochs
    batches = EpochBatches(training.batches(epoch))
    data = training.data
    dataset = SegmentationDataset(data.real, data.reader, Augmentation())
    loader = make_loader(dataset, batches, workers=0, pin_memory=False)
    with progress.bar("train", epoch.steps) as bar:
        row = training.train_epoch(epoch, loader, bar)
    return {
        "crops": [[crop.seed for crop in batch] for batch in batches],
        "loss": row["train/loss"],
        "weights": training.engine.result().state_dict(),
    }


def _hold_still(module: nn.Module, images: object) -> None:
    module.eval()


def main(folder: Path) -> None:
    """Leave what each rank has seen in `folder`."""
    with distributed.process_group(torch.device("cpu")):
        rank = distributed.rank()
        torch.save(work(folder / f"data {rank}"), folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
