"""How many training crops does one core make, and where does its time go?

Makes the same number of crops of 800 px from frames of 2048 x 1024, on one thread, in four ways
with the same strengths of scale (0.5 to 2), flip (half), colour jitter (0.25) and blur (half, sigma
0.15 to 1.3):

- usual: as public trainers do it with PIL and torchvision: decode the PNGs, resize the whole frame
  (bilinear; labels nearest), pad, cut, flip, jitter, blur, to float, normalise. Of the choices in
  use it takes the cheap ones: bilinear (not bicubic), Pillow's blur (not torchvision's or
  skimage's), jitter and blur on the crop (not on the frame);
- png, jpeg, cache: `SegmentationDataset` from PNG, from JPEG of quality 95 (labels PNG), and from
  the raw cache. It gives uint8, as the device normalises the batch; `float_*` are the same
  with the float conversion and normalisation of the usual way added on the CPU.

The frames are `scenes`, with their sensor noise. Their PNGs are larger than those of Cityscapes
(11 GB for 5,000), which makes decoding, and so usual and png alike, slower. All files lie in the
system's cache: disks are not measured.

    python -m experiments.speed.data_path [--record results/speed/data_path.json]

Cost: 2 minutes. Expected: png at least 2 times, cache at least 15 times as fast as usual.
"""

import argparse
import cProfile
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import albumentations
import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional

from experiments.speed.measure import machine_facts, report
from selftrain.data.augment import MEAN_COLOR, Augmentation, cut_window
from selftrain.data.cache_writing import build_raw_cache
from selftrain.data.cached_frames import CachedFrames
from selftrain.data.centroids import find_centroids
from selftrain.data.dataset import SegmentationDataset
from selftrain.data.plan import Crop, Pool, plan_epoch
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.data.scenes import COLORS, NAMES, draw
from selftrain.labels import IGNORE_INDEX

WIDTH, HEIGHT = 2048, 1024
FRAMES = 8
CROP_SIZE = 800
CROPS = 64
"""Crops in one timed call: a call averages over scales, places and frames."""
REPEATS = 3
STRENGTH = Augmentation()
STEPS = {
    "decode image": Reader.image,
    "decode label": Reader.label,
    "cut, resize": cut_window,
    "jitter": albumentations.ColorJitter.apply,
    "blur": albumentations.GaussianBlur.apply,
}
"""The parts of our way; the rest is flip, to tensor, random numbers, and calls."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Usual:
    """Makes crops the usual way and keeps count of the seconds that each step takes."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.seconds: dict[str, float] = {}
        self._last = 0.0
        jitter = STRENGTH.jitter
        self._jitter = transforms.ColorJitter(jitter, jitter, jitter, jitter)
        self._normalise = transforms.Normalize(MEAN, STD)

    def __call__(self, crop: Crop) -> tuple[Tensor, Tensor]:
        """Return image float (3, S, S), normalised, and labels int64 (S, S)."""
        # As `Augmenter` makes its own, so that both draw the same scales.
        rng = np.random.default_rng(np.random.SeedSequence(crop.seed).spawn(2)[0])
        sample = self.samples[crop.image]
        self._last = time.perf_counter()
        assert sample.label is not None
        image = Image.open(sample.image).convert("RGB")
        self._lap("decode image")
        label = Image.open(sample.label.path)
        label.load()
        self._lap("decode label")
        scale = rng.uniform(STRENGTH.scale_min, STRENGTH.scale_max)
        size = [round(HEIGHT * scale), round(WIDTH * scale)]
        image = functional.resize(image, size, transforms.InterpolationMode.BILINEAR)
        label = functional.resize(label, size, transforms.InterpolationMode.NEAREST)
        self._lap("resize")
        missing = [0, 0, max(0, crop.size - size[1]), max(0, crop.size - size[0])]
        if any(missing):
            image = functional.pad(image, missing, fill=MEAN_COLOR)
            label = functional.pad(label, missing, fill=IGNORE_INDEX)
        top = int(rng.integers(image.height - crop.size, endpoint=True))
        left = int(rng.integers(image.width - crop.size, endpoint=True))
        image = functional.crop(image, top, left, crop.size, crop.size)
        label = functional.crop(label, top, left, crop.size, crop.size)
        if rng.random() < STRENGTH.flip:
            image, label = functional.hflip(image), functional.hflip(label)
        self._lap("cut, flip")
        image = self._jitter(image)
        self._lap("jitter")
        if rng.random() < STRENGTH.blur:
            sigma = rng.uniform(STRENGTH.blur_sigma_min, STRENGTH.blur_sigma_max)
            image = image.filter(ImageFilter.GaussianBlur(sigma))
        self._lap("blur")
        pixels = self._normalise(functional.to_tensor(image))
        labels = torch.from_numpy(np.array(label, dtype=np.int64))
        self._lap("to float")
        return pixels, labels

    def _lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._last
        self._last = now


def write_frames(folder: Path) -> tuple[list[Sample], list[Sample]]:
    """Draw scenes; return them as samples with PNG images and with JPEG images."""
    png, jpeg = [], []
    for index in range(FRAMES):
        image, labels = draw(0, index, width=WIDTH, height=HEIGHT)
        paths = {kind: folder / f"{index}.{kind}" for kind in ("png", "jpg", "label.png")}
        picture = Image.fromarray(image)
        picture.save(paths["png"])
        picture.save(paths["jpg"], quality=95)
        Image.fromarray(labels).save(paths["label.png"])
        png.append(Sample(str(index), paths["png"], Blob(paths["label.png"])))
        jpeg.append(replace(png[-1], image=paths["jpg"]))
    return png, jpeg


def crop_ms(
    ways: Mapping[str, Callable[[Crop], object]], crops: Sequence[Crop]
) -> dict[str, float]:
    """Return the milliseconds that one crop takes in each way.

    The ways take turns, so that what else a machine does meanwhile slows all of them alike.
    """
    ms: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + REPEATS):
        for name, make in ways.items():
            start = time.perf_counter()
            for crop in crops:
                make(crop)
            ms[name].append(1000 * (time.perf_counter() - start) / len(crops))
    return {name: statistics.median(rounds[1:]) for name, rounds in ms.items()}


def normalised(dataset: SegmentationDataset) -> Callable[[Crop], tuple[Tensor, Tensor]]:
    """Return what makes of a crop what the usual way makes of it."""
    normalise = transforms.Normalize(MEAN, STD)

    def make(crop: Crop) -> tuple[Tensor, Tensor]:
        pixels, labels = dataset[crop]
        return normalise(pixels.float().div_(255)), labels.long()

    return make


def profile(make: Callable[[Crop], object], crops: Sequence[Crop]) -> dict[str, float]:
    """Return where the milliseconds of our crop go, under the profiler, which adds a little."""
    profiler = cProfile.Profile()
    for crop in crops:
        profiler.runcall(make, crop)
    ms = {entry.code: 1000 * entry.totaltime / len(crops) for entry in profiler.getstats()}
    parts = {step: ms.get(function.__code__, 0.0) for step, function in STEPS.items()}
    whole = ms[SegmentationDataset.__getitem__.__code__]
    return {**parts, "rest": whole - sum(parts.values()), "whole": whole}


def measure(folder: Path) -> dict[str, object]:
    """Time the four ways.

    Args:
        folder: For the frames and the cache, 110 MB.

    Returns:
        Crops a second on one core; how many times the usual way's; milliseconds of the parts.
    """
    # As in a loader's worker; PIL has no threads either.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    png, jpeg = write_frames(folder)
    reader = Reader(ClassTable(NAMES, COLORS))
    centroids = find_centroids(png, reader, tile=1024)
    crops = plan_epoch(
        Pool(range(FRAMES), centroids),
        None,
        real_crops=CROPS,
        pseudo_crops=0,
        centroid_fraction=0.5,
        crop_size=CROP_SIZE,
        seed=0,
        epoch=0,
    )
    cache = build_raw_cache(png, reader, folder / "raw", source_digest="")
    cached = replace(reader, cache=CachedFrames.of(cache, png))
    datasets = {
        "png": SegmentationDataset(png, reader, STRENGTH),
        "jpeg": SegmentationDataset(jpeg, reader, STRENGTH),
        "cache": SegmentationDataset(png, cached, STRENGTH),
    }
    usual = Usual(png)
    ways = {name: dataset.__getitem__ for name, dataset in datasets.items()}
    ways |= {f"float_{name}": normalised(dataset) for name, dataset in datasets.items()}
    ms = crop_ms({"usual": usual, **ways}, crops)
    done = (REPEATS + 1) * CROPS
    usual_parts = {step: 1000 * seconds / done for step, seconds in usual.seconds.items()}
    return {
        "what": f"crops of {CROP_SIZE} px from {WIDTH}x{HEIGHT}, CPU, one thread",
        "mean_bytes": _mean_bytes(png, jpeg),
        "crops_per_s": {name: 1000 / value for name, value in ms.items()},
        "ratio": {name: ms["usual"] / value for name, value in ms.items()},
        "usual_ms": {**usual_parts, "whole": ms["usual"]},
        **{f"{name}_ms": profile(ways[name], crops) for name in datasets},
        "machine": machine_facts(),
    }


def _mean_bytes(png: Sequence[Sample], jpeg: Sequence[Sample]) -> Mapping[str, int]:
    files = {
        "png": [sample.image for sample in png],
        "jpeg": [sample.image for sample in jpeg],
        "label": [sample.label.path for sample in png if sample.label is not None],
    }
    return {kind: sum(p.stat().st_size for p in paths) // FRAMES for kind, paths in files.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time the way from files to crops.")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report(measure(Path(temporary)), arguments.record)
