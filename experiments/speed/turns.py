"""Trainings to be timed, and the turns that they take."""

import argparse
import ctypes
import gc
import os
import statistics
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from selftrain import progress
from selftrain.config import MachineConfig, TrainConfig
from selftrain.data.augment import Augmentation
from selftrain.data.centroids import find_centroids
from selftrain.data.dataset import EpochBatches, SegmentationDataset, make_loader
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, Sample
from selftrain.data.scenes import classes, write_split
from selftrain.distributed import choose_device
from selftrain.epochs import Epoch
from selftrain.knobs import Scalar, override
from selftrain.machine import count_workers
from selftrain.models import BACKBONES, NETWORKS
from selftrain.train import Training, TrainingData

FRAMES = 16
"""Drawn for a measurement; the system holds their files in memory."""
CROPS = 1024
"""Crops of an epoch; a longer one repeats them."""
ROUNDS, LEAST_ROUNDS = 5, 3

Batch = tuple[Tensor, ...]
Turn = Callable[[int], float]
"""Takes so many steps, waits for the device, and returns the seconds."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How one way of stepping did over all rounds."""

    seconds: float
    """Of a step; the median of the rounds."""
    steps: int
    """Of a turn."""


def take_turns(
    turns: Mapping[str, Turn], *, seconds: float, longer: Collection[str] = ()
) -> dict[str, Way]:
    """Time each way several times, one after the other in each round.

    Args:
        turns: What is timed; all have been warmed up.
        seconds: For `ROUNDS` rounds of all ways, which slow steps can exceed: there are at least
            `LEAST_ROUNDS`, and a turn has at least one step.
        longer: Ways whose turns are four times as long, for what a start of theirs costs.
    """
    weights = {name: 4 if name in longer else 1 for name in turns}
    share = seconds / ROUNDS / sum(weights.values())
    steps = {}
    for name, turn in turns.items():
        estimate = turn(1)
        if estimate < 1:  # one short step says little
            estimate = turn(4) / 4
        steps[name] = max(1, int(weights[name] * share / estimate))
    found: dict[str, list[float]] = {name: [] for name in turns}
    start = time.perf_counter()
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and time.perf_counter() - start > seconds:
            break
        for name, turn in turns.items():
            found[name].append(turn(steps[name]) / steps[name])
    return {
        name: Way(seconds=statistics.median(times), steps=steps[name])
        for name, times in found.items()
    }


def write_scenes(folder: Path, *, crop: int) -> list[Sample]:
    """Draw `FRAMES` frames as PNG files, 2.56 times as wide as a crop, at most 2048 px."""
    width = min(2048, max(64, 2 * round(1.28 * crop)))
    # Small ones are drawn before a process has started.
    workers = len(os.sched_getaffinity(0)) if width > 1024 else 0
    write_split(
        folder, seed=0, indices=range(FRAMES), width=width, height=width // 2, workers=workers
    )
    names = [f"{index:05d}.png" for index in range(FRAMES)]
    return [
        Sample(name, folder / "images" / name, Blob(folder / "labels" / name)) for name in names
    ]


def make_training(
    network: str,
    samples: Sequence[Sample],
    reader: Reader,
    *,
    machine: MachineConfig,
    crop: int,
    batch: int,
    knobs: Mapping[str, Scalar] | None = None,
) -> Training:
    """Return our training of a network by the paper's recipe, from random weights.

    Args:
        network: NAME-BACKBONE, as `deeplabv3plus-resnet50`, or `fast_scnn`.
        samples: Frames that crops are cut from.
        reader: Reads them.
        machine: Device, compilation, and so on.
        crop: Side of the crops, in pixels.
        batch: Crops of a step.
        knobs: More knobs of `TrainConfig`.
    """
    name, _, backbone = network.partition("-")
    values: dict[str, Scalar] = {
        "network.name": name,
        "network.backbone_weights": "none",
        "crop.size": crop,
        "optim.batch_size": batch,
        # Random weights with random labels must not run away while they are timed.
        "optim.lr": 1e-4,
        "data.repeat": CROPS / len(samples),
    }
    if backbone:
        values["network.backbone"] = backbone
    data = TrainingData(
        reader=reader,
        real=samples,
        real_centroids=find_centroids(samples, reader, tile=max(8, crop)),
        pseudo=[],
        pseudo_centroids={},
        dev=[],
    )
    return Training(override(TrainConfig(), {**values, **(knobs or {})}), data, machine)


def scenes_reader() -> Reader:
    """Return the reader of `write_scenes`' frames."""
    return Reader(classes())


def synthetic_batch(crop: int, batch: int, num_classes: int, device: torch.device) -> Batch:
    """Return noise as the loader gives crops: uint8, on the host, page-locked for CUDA."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 3, crop, crop), dtype=torch.uint8, generator=generator)
    labels = torch.randint(num_classes, (batch, crop, crop), dtype=torch.uint8, generator=generator)
    if device.type == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()
    return images, labels


class Feed:
    """Our loader on a training's frames: one epoch after the other, of any size."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self.first_waits: list[float] = []
        """Seconds until the first batch, of each epoch."""
        self._batches = EpochBatches()
        self._loader = make_loader(
            SegmentationDataset(training.data.real, training.data.reader, Augmentation()),
            self._batches,
            workers=count_workers(training.machine),
            pin_memory=training.device.type == "cuda",
        )
        self._number = 0

    def start(self, epoch: Epoch) -> Iterator[Batch]:
        """Draw the crops of an epoch like this, but new ones, and yield its batches."""
        batches = self._training.batches(replace(epoch, number=self._number))
        self._number += 1
        self._batches.batches = list(islice(cycle(batches), epoch.steps))
        return self._iterate()

    def _iterate(self) -> Iterator[Batch]:
        start = time.perf_counter()
        for index, batch in enumerate(self._loader):
            if index == 0:
                self.first_waits.append(time.perf_counter() - start)
            yield batch


def time_epoch(training: Training, batches: Iterable[Batch], epoch: Epoch) -> float:
    """Train on an epoch's batches and return the seconds."""
    synchronize(training.device)
    start = time.perf_counter()
    training.train_epoch(epoch, batches, progress.Bar("step", epoch.steps, 0))
    synchronize(training.device)
    return time.perf_counter() - start


class Product:
    """A matrix product, the most that a processor can be asked to compute."""

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self.side = 8192 if on_gpu else 2048
        dtype = torch.bfloat16 if on_gpu else torch.float32
        self.name = f"{self.side} x {self.side}, {'bf16' if on_gpu else 'fp32'}"
        self._device = device
        self._factors = torch.randn(2, self.side, self.side, device=device).to(dtype)
        self._out = torch.empty_like(self._factors[0])

    def __call__(self, steps: int) -> float:
        """Multiply so many times and return the seconds."""
        synchronize(self._device)
        start = time.perf_counter()
        for _ in range(steps):
            torch.mm(self._factors[0], self._factors[1], out=self._out)
        synchronize(self._device)
        return time.perf_counter() - start

    def flop_per_s(self, way: Way) -> float:
        """Return the floating-point operations a second of its turns."""
        return 2 * float(self.side) ** 3 / way.seconds


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def held_bytes(device: torch.device) -> int:
    """Give unused memory back and return the bytes held: by torch on CUDA, else by the process."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(device)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; else what was freed counts
    if trim is not None:
        trim(0)
    return psutil.Process().memory_info().rss


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """Do some work and return the most bytes that were held meanwhile, as by `held_bytes`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    process, done = psutil.Process(), threading.Event()
    peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak


def device_name(device: torch.device) -> str:
    """Return what computes, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def is_there(network: str) -> bool:
    """Return whether this version has the network."""
    name, _, backbone = network.partition("-")
    return name in NETWORKS and (not backbone or backbone in BACKBONES)


def read_arguments(
    parser: argparse.ArgumentParser,
) -> tuple[torch.device, dict[str, Any], Path | None]:
    """Read the command line of an experiment that has a setting for each kind of device.

    Args:
        parser: Knows the fields of the setting, all without a default; `--record` and `--device`
            are added.

    Returns:
        The device, the fields that were given, and the file for the record.
    """
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    given = vars(parser.parse_args())
    record = given.pop("record")
    device = choose_device(given.pop("device"))
    return device, {name: value for name, value in given.items() if value is not None}, record
