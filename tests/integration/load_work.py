"""Large sets of pseudo labels, fabricated; and what it costs to plan an epoch of one.

python load_work.py FOLDER REAL     measures in a process of its own, and prints JSON
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from selftrain.data.labelled_image import BIN_STARTS
from selftrain.data.listing import FileSamples, pack
from selftrain.data.manifest import KINDS, MANIFEST, ManifestWriter
from selftrain.data.plan import Pool, plan_epoch
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.selection import select
from selftrain.data.shards import CARD, FORMAT_VERSION
from selftrain.files import write_atomically

T = TypeVar("T")
NUM_CLASSES = 19
PER_IMAGE = 30
"""Centroids of an image, as Cityscapes' frames have about."""
BYTES = 40_000
"""Of an image's picture in a shard."""


def fabricate_set(folder: Path, images: int, *, shard_size: int = 256) -> None:
    """Write a set of pseudo labels whose shards hold nothing but zeros, and take no space.

    Args:
        folder: Of the set; made.
        images: In it.
        shard_size: Images of a shard.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    # Some of each, taken again and again: to draw them all takes longer than to write them.
    histograms = rng.integers(0, 2000, (64, NUM_CLASSES * len(BIN_STARTS))).tolist()
    points = rng.integers(0, 1024, (64, PER_IMAGE, 3))
    points[..., 0] = rng.integers(0, NUM_CLASSES, (64, PER_IMAGE))
    centroids = points.reshape(64, -1).tolist()
    writer, sizes = ManifestWriter(), dict[str, int]()
    for number in range(images):
        shard = f"shard-{number // shard_size:05d}.zip"
        row: dict[str, object] = {
            "name": name_of(number),
            "image_digest": f"{number:032x}",
            "shard": shard,
            "height": 1024,
            "width": 2048,
            "class_pixels": [1000] * NUM_CLASSES,
            "confidence_histogram": histograms[number % 64],
            "centroids": centroids[number * 7 % 64],
            "agreement": number % 100 / 100,
            "agreed_pixels": [],
        }
        for kind in KINDS:
            row |= {f"{kind}_offset": sizes.get(shard, 0), f"{kind}_length": BYTES}
            sizes[shard] = sizes.get(shard, 0) + BYTES
        writer.append(row)
    for shard, size in sizes.items():
        with (folder / shard).open("wb") as file:
            file.truncate(size)
    write_atomically(folder / MANIFEST, writer.finish())
    card = {
        "format_version": FORMAT_VERSION,
        "classes": [f"class {k}" for k in range(NUM_CLASSES)],
        "images": images,
        "shards": {shard: {"bytes": size, "digest": ""} for shard, size in sizes.items()},
    }
    write_atomically(folder / CARD, json.dumps(card).encode())


def name_of(number: int) -> str:
    """Return an image's name, of a length that names have."""
    return f"train_extra/city{number % 23}/city{number % 23}_{number:06d}_000019_leftImg8bit"


def measure(folder: Path, num_real: int) -> dict[str, float]:
    """Open a set, select from it and plan epochs; return seconds of the CPU, and memory.

    Args:
        folder: Of the set.
        num_real: Labelled images beside it.

    Returns:
        Seconds by what was done, crops, and `megabytes` above those of the imports.
    """
    found: dict[str, float] = {}

    def clock(what: str, work: Callable[[], T]) -> T:
        start = time.process_time()
        result = work()
        found[what] = time.process_time() - start
        return result

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    labels = clock("open", lambda: PseudoLabelSet.open(folder))
    listed = FileSamples("/data", pack(f"{name_of(i)}.png" for i in range(num_real + len(labels))))
    pool = clock("samples", lambda: labels.samples(listed[: len(labels)].without_labels()))
    for rule, share in (("global", 1.0), ("cbst", 0.3), ("dars", 0.3)):
        chosen = clock(
            f"select {rule}",
            lambda rule=rule, share=share: select(  # type: ignore[misc]
                labels.histograms(),
                rule=rule,
                threshold=0.5,
                share=share,
                images="agreement",
                images_share=0.9,
                agreement=labels.agreement(),
                real_pixels=np.full(NUM_CLASSES, 1000),
            ),
        )
    kept = [pool[row] for row in chosen.rows.tolist()]
    centroids = clock("centroids", lambda: labels.centroids(kept))
    rng = np.random.default_rng(1)
    per_class = num_real * PER_IMAGE // NUM_CLASSES
    real = {
        k: rng.integers(0, num_real, (per_class, 3)).astype(np.int32) for k in range(NUM_CLASSES)
    }
    for what, cutmix in (("plan", 0.0), ("plan with mixes", 1.0)):
        plan = clock(
            what,
            lambda cutmix=cutmix: plan_epoch(  # type: ignore[misc]
                Pool(range(num_real), real),
                Pool(range(num_real, num_real + len(kept)), centroids),
                real_crops=num_real,
                pseudo_crops=len(kept),
                centroid_fraction=0.5,
                crop_size=800,
                seed=0,
                epoch=0,
                cutmix=cutmix,
            ),
        )
    found["crops"] = len(plan)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["megabytes"] = (after - before) / 1024
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
