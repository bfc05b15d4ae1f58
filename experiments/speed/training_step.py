r"""How fast does a network train, and how much of the machine does that use?

Trains each network on square crops in several ways, in one process, in turns, so that what else
the machine does slows all of them alike:

- ours: `selftrain.train.Training` as it comes: uint8 crops, normalised on the device;
  channels_last; fused SGD; bf16 autocast on CUDA, fp32 on the CPU;
- ours_compiled, ours_checkpointed: with `machine.compile`, with `machine.checkpointing`;
- usual_fp32: the same network in the step of torchvision's references/segmentation/train.py:
  eager, NCHW, normalised float crops, SGD as torch chooses it, cudnn.benchmark, the loss read at
  every step (on CUDA torch's default computes fp32 convolutions in TF32);
- usual_amp (CUDA): the same with its `--amp`: fp16 autocast and GradScaler;
- end_to_end: ours, fed by our loader from drawn frames in PNG files (or, by `--cache`, from the raw
  cache), 2.56 times as wide as the crop, as Cityscapes' are; loader: that loader alone.

A matrix product (bf16 on CUDA, fp32 on the CPU) takes turns with them, and a network's operations
a second are given as a share of its own. `end_to_end_share` is end_to_end over ours; the wait for
an epoch's first batch counts, and does not in `..._after_first`, which is what a long epoch comes
near to. `peak_gib` is the memory that a training adds: on CUDA what torch allocated, on the CPU
what the process held. Weights are random: they change neither.

    python -m experiments.speed.training_step [--record results/speed/training_step_cpu.json]

Cost: 2 minutes a small network on 2 CPU cores. On a GPU half a minute of turns for each network,
and the time to compile it; `--networks` and `--ways` make shorter runs of it. Networks of an older
record of the same machine and crops stay in it, so that one can be measured again.
Goal: ours faster than usual everywhere; end_to_end_share at least 0.95. On the CPU step and loader
share the cores; the record was made with a core for each, so that what is measured is whether the
step waits:

    OMP_NUM_THREADS=1 python -m experiments.speed.training_step --workers 1 --seconds 60 \
        --networks fast_scnn deeplabv3plus-mobilenet_v2 deeplabv3plus-resnet50 \
        deeplabv3plus-resnext50_32x4d deeplabv3plus-resnet101 pspnet-resnet50 pspnet-resnet101 \
        deeplabv3plus-convnext_tiny linear-convnext_tiny deeplabv3plus-swin_t pspnet-swin_t \
        deeplabv3plus-wide_resnet38 --record results/speed/training_step.json
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.speed.measure import keep_others, machine_facts, report
from experiments.speed.turns import (
    Feed,
    Product,
    Turn,
    Way,
    device_name,
    held_bytes,
    is_there,
    make_training,
    peak_bytes,
    read_arguments,
    scenes_reader,
    synthetic_batch,
    take_turns,
    time_epoch,
    write_scenes,
)
from experiments.speed.usual_step import Usual, require_equal
from selftrain import progress
from selftrain.config import MachineConfig
from selftrain.data.cache_writing import build_raw_cache
from selftrain.data.cached_frames import CachedFrames
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.knobs import Scalar, override
from selftrain.models import SegmentationNetwork
from selftrain.train import Training

CPU_NETWORKS = ("fast_scnn", "deeplabv3plus-mobilenet_v2", "deeplabv3plus-resnext50_32x4d")
CUDA_NETWORKS = (
    "deeplabv3plus-resnext50_32x4d",
    "deeplabv3plus-wide_resnet38",
    "pspnet-resnet101",
    "fast_scnn",
)
"""Table 3."""
STRIDES = {"swin_t": 32}
"""Output strides of backbones that cannot be had at the paper's 8."""
OURS: dict[str, dict[str, Scalar]] = {
    "ours": {},
    "ours_compiled": {"compile": True},
    "ours_checkpointed": {"checkpointing": True},
}
USUAL = {"usual_fp32": False, "usual_amp": True}
CPU_WAYS = ("ours", "usual_fp32", "end_to_end", "loader")
CUDA_WAYS = ("ours", "ours_compiled", "usual_fp32", "usual_amp", "end_to_end", "loader")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured, and how large."""

    device: torch.device
    networks: Sequence[str]
    """NAME-BACKBONE; what this version does not have is left out."""
    ways: Sequence[str]
    """Ours, without options, is always among them."""
    crop: int
    batch: int
    """Halved for a network that does not fit on the GPU so, in all its ways."""
    seconds: float
    """Of turns for each network."""
    workers: int = -1
    cache: bool = False


def default_setting(device: torch.device) -> Setting:
    """Return what is measured unless asked otherwise: the paper's setting if there is a GPU."""
    if device.type == "cuda":
        return Setting(
            device=device,
            networks=CUDA_NETWORKS,
            ways=CUDA_WAYS,
            crop=800,
            batch=16,
            seconds=30,
        )
    return Setting(
        device=device, networks=CPU_NETWORKS, ways=CPU_WAYS, crop=192, batch=4, seconds=90
    )


class Contest:
    """One network, and the ways to train it, warmed up."""

    def __init__(
        self, network: str, samples: Sequence[Sample], reader: Reader, setting: Setting
    ) -> None:
        self.turns: dict[str, Turn] = {}
        self.peaks: dict[str, int] = {}
        """Bytes that each training adds."""
        self._device = setting.device
        self._batch = synthetic_batch(
            setting.crop, setting.batch, len(reader.classes), setting.device
        )
        self.ours: dict[str, Training] = {}
        self._add_ours("ours", network, samples, reader, setting)
        self.training = self.ours["ours"]
        """As it comes: what the others are compared with."""
        self._add_usual([way for way in setting.ways if way in USUAL])
        for way in setting.ways:
            if way in OURS and way != "ours":
                self._add_ours(way, network, samples, reader, setting)
        self.feed = Feed(self.training)
        if "end_to_end" in setting.ways:
            self.turns["end_to_end"] = self._train_from_files
            self._train_from_files(1)  # starts the loader's workers
        if "loader" in setting.ways:
            self.turns["loader"] = self._only_load

    def _add_ours(
        self, way: str, network: str, samples: Sequence[Sample], reader: Reader, setting: Setting
    ) -> None:
        before = held_bytes(self._device)
        stride = STRIDES.get(network.partition("-")[2])
        places: dict[str, Scalar] = {"device": self._device.type, "workers": setting.workers}
        training = self.ours[way] = make_training(
            network,
            samples,
            reader,
            machine=override(MachineConfig(), {**places, **OURS[way]}),
            crop=setting.crop,
            batch=setting.batch,
            knobs={"network.output_stride": stride} if stride else {},
        )

        def turn(steps: int) -> float:
            epoch = replace(training.epochs[0], steps=steps)
            return time_epoch(training, [self._batch] * steps, epoch)

        self._warm_up(way, turn, before)

    def _add_usual(self, ways: Sequence[str]) -> None:
        for way in ways:
            before = held_bytes(self._device)
            network = cast(SegmentationNetwork, self.training.network)
            usual = Usual(network, self._batch, amp=USUAL[way])
            require_equal(network, usual, self._batch[0])
            self._warm_up(way, usual, before)

    def _warm_up(self, way: str, turn: Turn, before: int) -> None:
        turn(1)  # compiles, tries algorithms, fills caches
        self.peaks[way] = peak_bytes(self._device, lambda: turn(1)) - before
        self.turns[way] = turn

    def _train_from_files(self, steps: int) -> float:
        epoch = replace(self.training.epochs[0], steps=steps)
        return time_epoch(self.training, self.feed.start(epoch), epoch)

    def _only_load(self, steps: int) -> float:
        batches = self.feed.start(replace(self.training.epochs[0], steps=steps))
        start = time.perf_counter()
        for _ in batches:
            pass
        return time.perf_counter() - start


def count_flop(network: nn.Module, crop: int) -> float:
    """Return the floating-point operations of a training step's crop, without computing it.

    Three times the forward pass's: the backward pass has a product of the same size for the
    weights and one for the features. (torch's counter takes grouped convolutions' gradients
    for ungrouped, so that it is asked about the forward pass alone.) Only convolutions and
    matrix products count, with two operations for a multiplication and an addition.
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    images = torch.empty(1, 3, crop, crop, dtype=torch.uint8, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(images)
    return 3 * float(counter.get_total_flops())


def measure_network(
    network: str, samples: Sequence[Sample], reader: Reader, setting: Setting
) -> dict[str, object]:
    """Time one network in all ways; `measure` says what is returned."""
    contest = Contest(network, samples, reader, setting)
    product = Product(setting.device)
    product(1)
    ways = take_turns(
        {**contest.turns, "product": product}, seconds=setting.seconds, longer=["end_to_end"]
    )
    flop = count_flop(contest.training.network, setting.crop)
    speed = {way: setting.batch / found.seconds for way, found in ways.items()}
    found: dict[str, object] = {
        "parameters_m": sum(p.numel() for p in contest.training.network.parameters()) / 1e6,
        "gflop_per_crop": flop / 1e9,
        "product_gflop_per_s": product.flop_per_s(ways["product"]) / 1e9,
        "batch": setting.batch,
    }
    for way in contest.turns:
        found[f"{way}_images_per_s"] = speed[way]
    for way, peak in contest.peaks.items():
        found[f"{way}_peak_gib"] = peak / 2**30
        found[f"{way}_share_of_product"] = speed[way] * flop / product.flop_per_s(ways["product"])
        if way != "ours":
            found[f"ours_over_{way}"] = speed["ours"] / speed[way]
    if "end_to_end" in ways:
        found |= _compare_fed(ways["ours"], ways["end_to_end"], contest.feed)
    return found


def _compare_fed(ours: Way, fed: Way, feed: Feed) -> dict[str, object]:
    """Compare an epoch from files with one of synthetic batches."""
    wait = statistics.median(feed.first_waits)
    after_first = fed.seconds - wait / fed.steps
    return {
        "end_to_end_steps": fed.steps,
        "end_to_end_share": ours.seconds / fed.seconds,
        "end_to_end_share_after_first": ours.seconds / after_first,
        "first_batch_s": wait,
    }


def measure(folder: Path, setting: Setting) -> dict[str, object]:
    """Time the networks, one after the other.

    Args:
        folder: For the drawn frames, up to 60 MB, twice that with a cache.
        setting: What is measured.

    Returns:
        Under each network's name its parameters in millions, operations of a crop, operations a
        second of the product, crops of a step (`batch`); for each way crops a second, share
        of the product, GiB, and how many times faster ours is; and what the loader makes of it.
    """
    samples = write_scenes(folder / "frames", crop=setting.crop)
    reader = scenes_reader()
    if setting.cache:
        cache = build_raw_cache(samples, reader, folder / "raw", source_digest="")
        reader = replace(reader, cache=CachedFrames.of(cache, samples))
    record: dict[str, object] = {
        "what": f"training on crops of {setting.crop} px, {len(reader.classes)} classes",
        "device": device_name(setting.device),
        "frames": "raw cache" if setting.cache else "PNG",
    }
    for network in filter(is_there, setting.networks):
        progress.say(f"{network} ...")
        record[network] = _measure_fitting(network, samples, reader, setting)
    return {**record, "machine": machine_facts()}


def _measure_fitting(
    network: str, samples: Sequence[Sample], reader: Reader, setting: Setting
) -> dict[str, object]:
    """Measure with the largest batch, halved as often as need be, that fits on the device."""
    while True:
        try:
            return measure_network(network, samples, reader, setting)
        except torch.OutOfMemoryError:
            if setting.batch < 4:  # batch normalisation needs two
                raise
        # Not while the error holds on to the tensors.
        setting = replace(setting, batch=setting.batch // 2)


def _parse() -> tuple[Setting, Path | None]:
    parser = argparse.ArgumentParser(description="Time training steps, ours and the usual ones.")
    parser.add_argument("--networks", nargs="+", metavar="NAME-BACKBONE")
    parser.add_argument("--ways", nargs="+", choices=(*CUDA_WAYS, "ours_checkpointed"))
    parser.add_argument("--crop", type=int, help="side of the crops in pixels")
    parser.add_argument("--batch", type=int, help="crops of a step")
    parser.add_argument("--seconds", type=float, help="of turns, for each network")
    parser.add_argument("--workers", type=int, help="of the loader; default: as in a training")
    parser.add_argument("--cache", action="store_true", default=None, help="feed from a raw cache")
    device, chosen, record = read_arguments(parser)
    return replace(default_setting(device), **chosen), record


if __name__ == "__main__":
    chosen, file = _parse()
    with tempfile.TemporaryDirectory() as temporary:
        report(keep_others(measure(Path(temporary), chosen), file), file)
