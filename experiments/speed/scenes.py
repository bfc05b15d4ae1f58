"""How many training images does one core draw in a second?

Draws street scenes of 256 x 128 with their labels, `selftrain.data.scenes.draw`, one after the
other in one thread.

    python -m experiments.speed.scenes [--record results/speed/scenes.json]

Cost: 15 seconds. Expected: at least 100 images/s on one core.
"""

import argparse
import time
from pathlib import Path

import cv2

from experiments.speed.measure import machine_facts, median_seconds, report
from selftrain.data import scenes

WIDTH, HEIGHT = 256, 128
SEED = 0
SCENES = 200
"""Scenes in one timed call: they differ in how much there is to draw."""
REPEATS = 5


def measure() -> dict[str, object]:
    """Time the same scenes several times.

    Returns:
        Images per second and milliseconds per image by the clock, and the milliseconds of
        processor time per image, which on a shared machine is what the core really needed.
    """
    cv2.setNumThreads(0)  # as in a worker of `write_split` or of a loader
    cpu: list[float] = []

    def draw_all() -> None:
        start = time.process_time()
        for index in range(SCENES):
            scenes.draw(SEED, index, width=WIDTH, height=HEIGHT)
        cpu.append(time.process_time() - start)

    ms = 1000 * median_seconds(draw_all, REPEATS) / SCENES
    return {
        "what": f"street scenes of {WIDTH}x{HEIGHT} with labels, drawn on one core",
        "images_per_second": 1000 / ms,
        "ms_per_image": ms,
        "cpu_ms_per_image": 1000 * min(cpu) / SCENES,
        "scenes_version": scenes.VERSION,
        "machine": machine_facts(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Count the scenes that one core draws a second.")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result as JSON")
    report(measure(), parser.parse_args().record)
