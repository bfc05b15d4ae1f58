"""How fast is a pool labelled, how much of that is the network, and what does the rest cost?

Labels a pool of drawn scenes by `selftrain.pseudo_label.label_shards`, from PNG files to finished
shards, in turns with the bare forward: `Predictor.labels` of the same frames, which are tensors
already, to uint8 labels and confidences on the device. Ways:

- flip: the image and its mirror image (how the teacher labels by default);
- scales: at 0.5, 1 and 2 times its size.

The network is trained on the frames for a moment first, so that its labels have regions as a
teacher's have: what they look like decides how long they take to encode. The goal is a share of
0.9. `encode` is what keeping an image takes and its parts, on one core; `manifest` what opening a
made-up set and choosing thresholds for all classes by each rule takes.

    python -m experiments.speed.pseudo_label --record results/speed/pseudo_label.json
    python -m experiments.speed.pseudo_label --network deeplabv3plus-mobilenet_v2

Cost: 11 minutes on 2 CPU cores. Expected: with a network of which a frame takes long the share is
near 1. Fast-SCNN on a GPU is faster than the cores decode and encode.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from experiments.speed.measure import machine_facts, median_seconds, report
from experiments.speed.turns import (
    Feed,
    device_name,
    make_training,
    read_arguments,
    scenes_reader,
    synchronize,
    time_epoch,
)
from selftrain import progress
from selftrain.config import InferenceConfig, MachineConfig, PseudoLabelConfig
from selftrain.data.centroids import tile_centroids
from selftrain.data.digests import digest_file
from selftrain.data.labelled_image import BIN_STARTS, count_confidence, encode_map
from selftrain.data.manifest import KINDS, MANIFEST, ManifestWriter
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, Sample
from selftrain.data.scenes import write_split
from selftrain.data.selection import select
from selftrain.data.shards import CARD, FORMAT_VERSION, LabelledImage, ShardForm, keep_image
from selftrain.inference import Predictor, pixels_together
from selftrain.labelling import Teachers, Voice
from selftrain.pseudo_label import label_shards

FRAMES = 16
"""Drawn; the pool repeats them under other names, and the system holds their files in memory."""
ROUNDS = 3
WAYS = {"flip": InferenceConfig(flip=True), "scales": InferenceConfig(scales="0.5,1,2")}
CROP, BATCH = 256, 8
"""Of the training before."""
TILE = 1024


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured, and how large."""

    device: torch.device
    network: str = "fast_scnn"
    """NAME-BACKBONE."""
    width: int
    """Of the frames in pixels; the height is half of it."""
    images: int
    """Of the pool, in each turn: more than a start-up weighs."""
    steps: int = 60
    """Of the training before."""
    manifest: int = 20_000
    """Images of the made-up set."""
    workers: int = -1
    """As `machine.workers`."""


def default_setting(device: torch.device) -> Setting:
    """Return what is measured unless something else is asked for."""
    if device.type == "cuda":
        return Setting(
            device=device, network="deeplabv3plus-resnext50_32x4d", width=2048, images=512
        )
    return Setting(device=device, width=512, images=320)


def measure(folder: Path, setting: Setting) -> dict[str, object]:
    """Time the labelling, the encoding of an image, and a manifest.

    Returns:
        Under each way images a second of both, and their quotient; under "encode" milliseconds
        for an image and its bytes; under "manifest" seconds.
    """
    size = f"{setting.width}x{setting.width // 2}"
    reader = scenes_reader()
    frames = _draw(folder / "frames", setting)
    network = _train(frames, reader, setting)
    record: dict[str, object] = {
        "what": f"labelling of {setting.images} frames of {size} by {setting.network}",
        "device": device_name(setting.device),
    }
    for way, config in WAYS.items():
        progress.say(f"{way} ...")
        predictor = Predictor.of(network, setting.device, config, _machine(setting))
        record[way] = _compare(predictor, frames, reader, folder / way, setting)
    record["encode"] = _time_encoding(predictor, frames, reader, folder)
    if setting.manifest:
        record["manifest"] = time_manifest(folder / "made up", setting.manifest)
    return {**record, "machine": machine_facts()}


def _machine(setting: Setting) -> MachineConfig:
    on_gpu = setting.device.type == "cuda"
    return MachineConfig(device="cuda" if on_gpu else "cpu", workers=setting.workers)


def _draw(folder: Path, setting: Setting) -> list[Sample]:
    """Draw the frames, with the labels that the network learns from."""
    workers = len(os.sched_getaffinity(0)) if setting.width > 1024 else 0
    write_split(
        folder,
        seed=0,
        indices=range(FRAMES),
        width=setting.width,
        height=setting.width // 2,
        workers=workers,
    )
    names = [f"{index:05d}.png" for index in range(FRAMES)]
    return [
        Sample(name, folder / "images" / name, Blob(folder / "labels" / name)) for name in names
    ]


def _train(frames: Sequence[Sample], reader: Reader, setting: Setting) -> nn.Module:
    training = make_training(
        setting.network,
        frames,
        reader,
        machine=_machine(setting),
        crop=min(CROP, setting.width // 2),
        batch=BATCH,
        knobs={"optim.lr": 0.05},
    )
    epoch = replace(training.epochs[0], steps=setting.steps)
    time_epoch(training, Feed(training).start(epoch), epoch)
    return training.engine.result().eval()


def _compare(
    predictor: Predictor, frames: Sequence[Sample], reader: Reader, folder: Path, setting: Setting
) -> dict[str, object]:
    """Time both, in turns."""
    images = setting.images
    names = [f"{number:06d}" for number in range(images)]
    pool = [Sample(name, frames[i % FRAMES].image) for i, name in enumerate(names)]
    pixels = [torch.from_numpy(reader.image(frame)).permute(2, 0, 1) for frame in frames]
    fitting = pixels_together(setting.device) // pixels[0][0].numel()
    together = max(1, min(fitting, FRAMES))
    batches = [
        torch.stack(pixels[first : first + together]).to(setting.device)
        for first in range(0, FRAMES - together + 1, together)
    ]
    config = PseudoLabelConfig()
    teachers = Teachers(setting.device, [Voice(predictor)])

    def forward() -> None:
        for number in range(images // together):
            predictor.labels(batches[number % len(batches)])
        synchronize(setting.device)

    def label() -> None:
        machine = _machine(setting)
        label_shards(config, pool, reader, teachers, machine, folder, job=(0, 1), tile=TILE)

    predictor.labels(batches[0])
    bare, labelled = [], []
    for _ in range(ROUNDS):
        bare.append((images // together) * together / _seconds(forward))
        labelled.append(images / _seconds(label))
        shutil.rmtree(folder)
    speeds = statistics.median(bare), statistics.median(labelled)
    return {
        "bare_images_per_s": speeds[0],
        "labelled_images_per_s": speeds[1],
        "share": speeds[1] / speeds[0],
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _time_encoding(
    predictor: Predictor, frames: Sequence[Sample], reader: Reader, folder: Path
) -> dict[str, object]:
    """Time what keeping an image takes, on one core, and its parts."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    form = ShardForm(num_classes=len(reader.classes), tile=TILE)
    items = []
    for frame in frames:
        image = torch.from_numpy(reader.image(frame)).permute(2, 0, 1)[None]
        label, confidence = (maps[0].cpu().numpy() for maps in predictor.labels(image))
        items.append(LabelledImage(sample=frame, label=label, confidence=confidence))

    def each(work: Callable[[LabelledImage], object]) -> float:
        return 1000 * median_seconds(lambda: [work(it) for it in items], ROUNDS) / len(items)

    classes = form.num_classes
    record: dict[str, object] = {
        "all_ms": each(lambda it: keep_image(folder / "kept", 0, 0, it, form)),
        "label_png_ms": each(lambda it: encode_map(it.label)),
        "confidence_png_ms": each(lambda it: encode_map(it.confidence)),
        "histogram_ms": each(lambda it: count_confidence(it.label, it.confidence, classes)),
        "centroids_ms": each(lambda it: tile_centroids(it.label, num_classes=classes, tile=TILE)),
        "digest_ms": each(lambda it: digest_file(it.sample.image)),
        "bytes": statistics.mean(keep_image(folder / "kept", 0, 0, it, form) for it in items),
    }
    cv2.setNumThreads(threads)
    return record


def time_manifest(folder: Path, images: int) -> dict[str, object]:
    """Make up a set of so many images and time what a training does with it before it starts.

    Returns:
        Seconds to open the set, and to choose the thresholds of all classes, by each rule at a
        share of one half.
    """
    pixels = make_up_set(folder, images)
    labels = PseudoLabelSet.open(folder)
    found: dict[str, object] = {
        "images": images,
        "open_s": median_seconds(lambda: PseudoLabelSet.open(folder), ROUNDS),
    }
    histograms = labels.histograms()
    choices: dict[str, Callable[[], object]] = {
        "global": partial(select, histograms, rule="global", threshold=0.9),
        "cbst": partial(select, histograms, rule="cbst", share=0.5),
        "dars": partial(select, histograms, rule="dars", share=0.5, real_pixels=pixels),
    }
    for rule, choose in choices.items():
        found[f"{rule}_s"] = median_seconds(choose, ROUNDS)
    return found


def make_up_set(folder: Path, images: int) -> NDArray[np.int64]:
    """Write a set that can be opened, with a manifest of random counts and a shard of nothing.

    Returns:
        Pixels of each class: (K,).
    """
    rng = np.random.default_rng(0)
    table, bins = scenes_reader().classes, len(BIN_STARTS)
    writer = ManifestWriter()
    total = np.zeros(len(table), dtype=np.int64)
    for first in range(0, images, 256):
        rows = range(first, min(first + 256, images))
        counts = rng.integers(0, 3000, (len(rows), len(table), bins), dtype=np.uint32)
        class_pixels = counts.sum(axis=2, dtype=np.int64)
        total += class_pixels.sum(axis=0)
        points = rng.integers(0, 1024, (len(rows), 3 * 40), dtype=np.int32)
        for row, number in enumerate(rows):
            writer.append(
                {
                    "name": f"city/{number:06d}",
                    "image_digest": f"{number:032x}",
                    "shard": "shard-00000.zip",
                    **{f"{kind}_{what}": 0 for kind in KINDS for what in ("offset", "length")},
                    "height": 1024,
                    "width": 2048,
                    "class_pixels": class_pixels[row],
                    "confidence_histogram": counts[row].ravel(),
                    "centroids": points[row],
                    "agreement": float(rng.random()),
                    "agreed_pixels": class_pixels[row],
                }
            )
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_bytes(writer.finish())
    (folder / "shard-00000.zip").touch()
    card = {
        "format_version": FORMAT_VERSION,
        "classes": list(table.names),
        "shards": {"shard-00000.zip": {"bytes": 0}},
    }
    (folder / CARD).write_text(json.dumps(card))
    return total


def _parse() -> tuple[Setting, Path | None]:
    parser = argparse.ArgumentParser(description="Time the labelling of a pool and its parts.")
    parser.add_argument("--network", metavar="NAME-BACKBONE")
    parser.add_argument("--width", type=int, help="of the frames, twice their height")
    parser.add_argument("--images", type=int, help="of the pool")
    parser.add_argument("--manifest", type=int, help="images of the made-up set; 0: none")
    parser.add_argument("--workers", type=int, help="as machine.workers")
    device, chosen, record = read_arguments(parser)
    return replace(default_setting(device), **chosen), record


if __name__ == "__main__":
    # Processes that encode would import this script, and torch with it, before they start. Under
    # `python -m selftrain` they import no main module: multiprocessing passes these names over.
    assert __spec__ is not None
    __spec__.name = "experiments.speed.__main__"
    chosen, file = _parse()
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(Path(temporary), chosen)
    report(found, file)
