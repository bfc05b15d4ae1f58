"""How many frames a second does `prepare` read, and where does the time go?

Scans Cityscapes-sized frames (2048 x 1024, PNG, 19 classes) from files that the system holds in
memory, with `selftrain.data.scan`, on the CPU, with OpenCV on one thread:

- the parts of one frame's label (decode to train ids, histogram, centroids, digest), and what
  the image adds (digest of its bytes; decoding, which only finds damaged files and sizes);
- all frames by one thread, by a thread a core, and by a process a core (spawned, started before
  the clock, so that only their work is compared; their start is given apart).

The labels are large regions with patches and specks in all of them: every class is everywhere in
the frame, which is as slow as centroids get. Street scenes take less.

    python -m experiments.speed.scan [--record results/speed/scan.json]

Cost: 30 seconds. Expected: at least 8 frames a second and core for the labels.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from experiments.speed.confusion_matrix import HEIGHT, NUM_CLASSES, WIDTH
from experiments.speed.confusion_matrix import draw_frame as draw_labels
from experiments.speed.measure import machine_facts, median_seconds, report
from selftrain.data.centroids import tile_centroids
from selftrain.data.digests import digest_file
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.data.scan import scan, scan_frame
from selftrain.data.statistics import count_label

FRAMES = 8
REPEATS = 5
TILE = 1024
CLASSES = ClassTable(tuple(map(str, range(NUM_CLASSES))), ((0, 0, 0),) * NUM_CLASSES)


def write_frames(folder: Path) -> list[Sample]:
    """Write frames: smooth images with a camera's noise, about 3 MB, and labels in regions."""
    samples = []
    for seed in range(FRAMES):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(40, 216, (HEIGHT // 64, WIDTH // 64, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        image = smooth + rng.normal(0, 1.5, smooth.shape)
        label, _ = draw_labels(seed)
        sample = Sample(str(seed), folder / f"{seed}.png", Blob(folder / f"{seed}-label.png"))
        cv2.imwrite(str(sample.image), image.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / f"{seed}-label.png"), label)
        samples.append(sample)
    return samples


def measure() -> dict[str, object]:
    """Time the parts of a frame, and whole scans.

    Returns:
        Milliseconds of each part for a frame; `per_core`: frames a second and core for labels
        alone, with the images' digests, and with the images decoded; `scan_per_s`: frames a
        second of whole scans, by threads and by processes.
    """
    cv2.setNumThreads(0)
    reader = Reader(CLASSES)
    with tempfile.TemporaryDirectory() as temporary:
        samples = write_frames(Path(temporary))
        labels = [reader.label(sample) for sample in samples]
        blobs = [sample.label for sample in samples if sample.label is not None]

        def per_frame(work: Callable[[int], object]) -> float:
            return 1000 * median_seconds(lambda: [work(i) for i in range(FRAMES)], REPEATS) / FRAMES

        tiles = partial(tile_centroids, num_classes=NUM_CLASSES, tile=TILE)
        parts = {
            "label_decode_ms": per_frame(lambda i: reader.label(samples[i])),
            "label_histogram_ms": per_frame(lambda i: count_label(labels[i], NUM_CLASSES)),
            "label_centroids_ms": per_frame(lambda i: tiles(labels[i])),
            "label_digest_ms": per_frame(lambda i: digest_file(blobs[i].path)),
            "image_digest_ms": per_frame(lambda i: digest_file(samples[i].image)),
            "image_decode_ms": per_frame(lambda i: reader.image(samples[i])),
        }
        label_ms = sum(ms for part, ms in parts.items() if part.startswith("label"))
        megabytes = sum(sample.image.stat().st_size for sample in samples) / FRAMES / 1e6
        whole = _compare_workers(samples, reader)
    return {
        "what": f"scan of {WIDTH}x{HEIGHT} PNG frames of {megabytes:.1f} MB with labels, CPU",
        **parts,
        "per_core": {
            "labels": 1000 / label_ms,
            "with_digests": 1000 / (label_ms + parts["image_digest_ms"]),
            "with_images": 1000 / sum(parts.values()),
        },
        **whole,
        "machine": machine_facts(),
    }


def _compare_workers(samples: list[Sample], reader: Reader) -> dict[str, object]:
    """Scan frames, images and all, by one thread, by a thread a core, by a process a core."""
    cores = len(os.sched_getaffinity(0))
    many = samples * cores

    def by_threads(workers: int, some: list[Sample]) -> float:
        work = partial(scan, reader=reader, tile=TILE, workers=workers)
        # Under names of their own, or the second time a file would be remembered.
        named = [Sample(f"{i}", sample.image, sample.label) for i, sample in enumerate(some)]
        return len(some) / median_seconds(lambda: list(work(named)), REPEATS)

    one, threads = by_threads(1, samples), by_threads(cores, many)
    start = time.perf_counter()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, spawn, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        work = partial(scan_frame, reader=reader, tile=TILE)
        list(pool.map(work, samples[:cores]))
        started = time.perf_counter() - start
        processes = len(many) / median_seconds(lambda: list(pool.map(work, many)), REPEATS)
    return {
        "scan_per_s": {"1 thread": one, f"{cores} threads": threads}
        | {f"{cores} processes": processes},
        "threads_speedup": threads / one,
        "processes_speedup": processes / one,
        "processes_start_s": started,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time the scan of frames and its parts.")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result as JSON")
    report(measure(), parser.parse_args().record)
