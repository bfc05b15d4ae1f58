"""What does the paper's recipe cost on this machine, in time and memory?

Draws a few scenes in Cityscapes' layout and size, and trains the teacher of the benchmark
`cityscapes` on them for an epoch: DeepLabV3+ on ResNeXt50, crop 800, output stride 8, batch 16 (in
parts of 2 on a CPU, as `optim.accumulate` says), from random weights. Weights to start from change
the result, and neither time nor memory.

    python -m experiments.speed.rehearsal [--record FILE] [-- KNOBS ...]

Cost: 8 minutes on 2 CPU cores; on a GPU not measured. On a GPU give
`-- --teacher.optim.accumulate 1`; GPU memory is then in the run's system metrics.
"""

import argparse
import tempfile
from pathlib import Path

from experiments.speed.measure import machine_facts, report, watch

FRAMES = 18
"""Of train; two of its towns are dev, and 16 make one step."""
RECIPE = [
    "--benchmark=cityscapes",
    f"--data.scenes.images={FRAMES}",
    "--data.scenes.dev=1",
    "--data.scenes.test=1",
    "--teacher.epochs=1",
    "--teacher.network.backbone_weights=none",
    "--teacher.optim.accumulate=8",
]


def measure(knobs: list[str]) -> dict[str, object]:
    """Export, then train for an epoch; return seconds and peak memory of both."""
    recipe = [*RECIPE, *knobs]
    with tempfile.TemporaryDirectory() as folder:
        drawn, _ = watch(["prepare", "--export=cityscapes", *recipe], Path(folder))
        seconds, peak = watch(["teacher", *recipe], Path(folder))
    return {
        "what": " ".join(["python -m selftrain teacher", *recipe]),
        "export_and_prepare_seconds": drawn,
        "seconds": seconds,
        "peak_gib": peak / 2**30,
        "machine": machine_facts(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Rehearse the paper's recipe on drawn scenes.")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("knobs", nargs="*", help="knobs of the recipe, after --")
    arguments = parser.parse_args()
    report(measure(arguments.knobs), arguments.record)
