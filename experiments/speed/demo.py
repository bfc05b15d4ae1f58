"""How long does the main job take, and how much memory does it hold?

Runs a command, by default the demo's without MLflow's wrapper, in a fresh folder, and adds up the
memory of all its processes once a second (proportional set size: shared pages count once).

    python -m experiments.speed.demo [--record FILE] [-- KNOBS ...]

Cost: what the command costs. Goal: at most 6 minutes and 4 GB on 2 cores.
"""

import argparse
import tempfile
from pathlib import Path

from experiments.speed.measure import machine_facts, report, watch


def measure(knobs: list[str]) -> dict[str, object]:
    """Run `python -m selftrain main KNOBS` on an empty store and return seconds and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, peak = watch(["main", *knobs], Path(folder))
    return {
        "what": " ".join(["python -m selftrain main", *knobs]),
        "seconds": seconds,
        "peak_gib": peak / 2**30,
        "machine": machine_facts(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time the main job and measure its memory.")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("knobs", nargs="*", help="knobs for `python -m selftrain main`, after --")
    arguments = parser.parse_args()
    report(measure(arguments.knobs), arguments.record)
