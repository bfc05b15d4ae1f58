"""How fast are images labelled, in which way, and how much of the machine does that use?

Asks each network, through `selftrain.inference.Predictor`, for the labels of one image at a time,
from pixels in memory to uint8 labels and confidences:

- whole: the image as it is;
- usual: likewise, as torchvision's references/segmentation/train.py evaluates: the normalised image
  through the same network, eager, NCHW, fp32 (on CUDA as torch computes it by default), argmax, and
  no confidence; `ours_over_usual` is whole over it;
- flip: and its mirror image, averaged (how the teacher labels);
- scales: at 0.5, 1 and 2 times its size;
- window: in windows of 0.78 of its height, a third overlapping (800 pixels of 1024);
- all: windows at three scales, with mirror images (unless asked for, on CUDA only).

The ways take turns in one process, with a matrix product among them (bf16 on CUDA, fp32 on the
CPU), so that what else the machine does slows all of them alike; the operations a second of each
way are given as a share of the product's. `peak_gib` is the memory that a way adds to the
network's: on CUDA what torch allocated, on the CPU what the process held. Weights are random: they
change neither.

At the end, what a 4096x2048 image needs: the labels of one, each way in a process of its own.

    python -m experiments.speed.inference [--record results/speed/inference.json]

Cost: 6 minutes on 2 CPU cores. `--networks` takes any of the project's:

    python -m experiments.speed.inference --record results/speed/inference.json --networks \
        fast_scnn deeplabv3plus-mobilenet_v2 deeplabv3plus-resnet50 deeplabv3plus-resnet101 \
        deeplabv3plus-resnext50_32x4d deeplabv3plus-wide_resnet38 deeplabv3plus-convnext_tiny \
        deeplabv3plus-swin_t pspnet-resnet50 pspnet-resnet101 linear-convnext_tiny linear-swin_t

Networks of an older record of the same machine stay in it, so that one can be measured again.
Expected: ours faster than usual; windows cost the share of pixels that they see twice, and hold
less memory than the whole; a 4096x2048 image needs under 3 GB, also whole where the network is a
small one.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from experiments.speed.measure import keep_others, machine_facts, report
from experiments.speed.turns import (
    Product,
    Turn,
    device_name,
    held_bytes,
    is_there,
    peak_bytes,
    read_arguments,
    synchronize,
    take_turns,
)
from experiments.speed.usual_step import UsualLabels, require_equal
from selftrain import progress
from selftrain.checkpoint import on_device
from selftrain.inference import Predictor
from selftrain.models import BACKBONES, SegmentationNetwork, build_network

CPU_NETWORKS = (
    "fast_scnn",
    "deeplabv3plus-mobilenet_v2",
    "deeplabv3plus-resnext50_32x4d",
    "pspnet-resnet50",
)
CUDA_NETWORKS = (
    "deeplabv3plus-resnext50_32x4d",
    "deeplabv3plus-wide_resnet38",
    "pspnet-resnet101",
    "linear-convnext_tiny",
    "fast_scnn",
)
STRIDES = {"swin_t": 32}
"""Output strides of backbones that cannot be had at 16."""
NUM_CLASSES = 19
SCALES = (0.5, 1.0, 2.0)
WINDOW = 800 / 1024
"""Side of the windows over the height of the image."""
WAYS = ("whole", "usual", "flip", "scales", "window", "all")
LARGE_WAYS = (
    ("fast_scnn", "whole"),
    ("deeplabv3plus-mobilenet_v2", "whole"),
    ("deeplabv3plus-mobilenet_v2", "window"),
    ("deeplabv3plus-resnext50_32x4d", "window"),
)
"""What a large image is asked of, and how: the probabilities alone are 0.6 GiB."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured, and how large."""

    device: torch.device
    networks: Sequence[str]
    """NAME-BACKBONE; what this version does not have is left out."""
    ways: Sequence[str] = WAYS
    size: int
    """Height of the image in pixels; it is twice as wide, as Cityscapes' are."""
    seconds: float = 20
    """Of turns for each network."""
    large: int = 2048
    """Height of the image that is labelled once, for its memory; 0: none is."""


def default_setting(device: torch.device) -> Setting:
    """Return what is measured unless something else is asked for."""
    if device.type == "cuda":
        return Setting(device=device, networks=CUDA_NETWORKS, size=1024)
    # All at once take a minute an image on a CPU, and say no more than each by itself.
    return Setting(device=device, networks=CPU_NETWORKS, ways=WAYS[:-1], size=256)


def how(way: str, size: int) -> dict[str, Any]:
    """Return the arguments by which a `Predictor` goes this way, which is not the usual one."""
    window = max(32, round(WINDOW * size))
    ways: dict[str, dict[str, Any]] = {
        "whole": {},
        "flip": {"flip": True},
        "scales": {"scales": SCALES},
        "window": {"window": window},
        "all": {"scales": SCALES, "flip": True, "window": window},
    }
    return ways[way]


def build(network: str, device: torch.device) -> SegmentationNetwork:
    """Build NAME-BACKBONE with random weights, as a trained one is loaded."""
    name, _, backbone = network.partition("-")
    backbone = backbone or BACKBONES[0]  # Fast-SCNN has none, and does not look
    built = build_network(
        name,
        num_classes=NUM_CLASSES,
        backbone=backbone,
        output_stride=STRIDES.get(backbone, 16),
        backbone_weights="none",
    )
    return on_device(built, device).eval()


def measure_network(network: str, images: Tensor, setting: Setting) -> dict[str, object]:
    """Time one network in all ways; `measure` says what is returned."""
    asked = build(network, setting.device)
    turns: dict[str, Turn] = {}
    peaks: dict[str, int] = {}
    flop: dict[str, float] = {}
    for way in setting.ways:
        label = _labeller(way, asked, images, setting)
        before = held_bytes(setting.device)
        # The first call warms up; what is measured of it are its memory and its operations.
        counter = FlopCounterMode(display=False)
        with counter:
            peaks[way] = peak_bytes(setting.device, label) - before
        flop[way] = float(counter.get_total_flops())
        turns[way] = partial(_label, label, setting.device)
    product = Product(setting.device)
    product(1)
    ways = take_turns({**turns, "product": product}, seconds=setting.seconds)
    most = product.flop_per_s(ways["product"])
    found: dict[str, object] = {"product_gflop_per_s": most / 1e9}
    for way in setting.ways:
        found[f"{way}_images_per_s"] = 1 / ways[way].seconds
        found[f"{way}_gflop"] = flop[way] / 1e9
        found[f"{way}_share_of_product"] = flop[way] / ways[way].seconds / most
        found[f"{way}_peak_gib"] = peaks[way] / 2**30
    if {"whole", "usual"} <= set(setting.ways):
        found["ours_over_usual"] = ways["usual"].seconds / ways["whole"].seconds
    return found


def _labeller(
    way: str, network: SegmentationNetwork, images: Tensor, setting: Setting
) -> Callable[[], object]:
    """Return what labels the images in a way."""
    if way != "usual":
        predictor = Predictor(network, setting.device, **how(way, setting.size))
        return partial(predictor.labels, images)
    usual = UsualLabels(network, images)
    require_equal(network, usual, images)
    return usual.labels


def _label(label: Callable[[], object], device: torch.device, times: int) -> float:
    """Label so many times and return the seconds."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        label()
    synchronize(device)
    return time.perf_counter() - start


def _noise(height: int) -> Tensor:
    shape = (1, 3, height, 2 * height)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def measure_large(network: str, way: str, setting: Setting) -> dict[str, object]:
    """Label one large image in a new process, which holds nothing from other work.

    Returns:
        `peak_gib`, beside the network and the image, and `seconds`.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_label_large, network, way, setting).result()


def _label_large(network: str, way: str, setting: Setting) -> dict[str, object]:
    images = _noise(setting.large)
    asked = build(network, setting.device)
    predictor = Predictor(asked, setting.device, **how(way, setting.large))
    before, start = held_bytes(setting.device), time.perf_counter()
    peak = peak_bytes(setting.device, partial(predictor.labels, images))
    return {"peak_gib": (peak - before) / 2**30, "seconds": time.perf_counter() - start}


def measure(setting: Setting) -> dict[str, object]:
    """Time the networks, one after the other.

    Returns:
        Under each network's name the product's operations a second and, for each way, images a
        second, operations of an image (two for a multiplication and an addition; convolutions
        and matrix products only), their share of the product, and GiB; and how many times faster
        than the usual way ours is. Under the name, way and size of a large image what
        `measure_large` found.
    """
    images = _noise(setting.size)
    shape = images.shape
    record: dict[str, object] = {
        "what": f"labels of {shape[3]}x{shape[2]} images, one at a time, {NUM_CLASSES} classes",
        "device": device_name(setting.device),
    }
    for network in filter(is_there, setting.networks):
        progress.say(f"{network} ...")
        record[network] = measure_network(network, images, setting)
    for network, way in LARGE_WAYS if setting.large else ():
        name = f"{network} {way} {2 * setting.large}x{setting.large}"
        progress.say(f"{name} ...")
        record[name] = measure_large(network, way, setting)
    return {**record, "machine": machine_facts()}


def _parse() -> tuple[Setting, Path | None]:
    parser = argparse.ArgumentParser(description="Time the labelling of images, in several ways.")
    parser.add_argument("--networks", nargs="+", metavar="NAME-BACKBONE")
    parser.add_argument("--ways", nargs="+", choices=WAYS)
    parser.add_argument("--size", type=int, help="height of the image; it is twice as wide")
    parser.add_argument("--seconds", type=float, help="of turns, for each network")
    parser.add_argument("--large", type=int, help="height of the image measured for its memory")
    device, chosen, record = read_arguments(parser)
    return replace(default_setting(device), **chosen), record


if __name__ == "__main__":
    chosen, file = _parse()
    report(keep_others(measure(chosen), file), file)
