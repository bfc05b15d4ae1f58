"""How long does the main job take, and how much memory does it hold?

Runs a command, by default the demo's without MLflow's wrapper, in a fresh folder, and adds up the
memory of all its processes once a second (proportional set size: shared pages count once).

    python -m experiments.speed.demo [--record FILE] [-- KNOBS ...]

Cost: what the command costs. Goal: at most 6 minutes and 4 GB on 2 cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from experiments.speed.measure import machine_facts, report


def measure(knobs: list[str]) -> dict[str, object]:
    """Run `python -m selftrain main KNOBS` on an empty store and return seconds and peak memory.

    Raises:
        CalledProcessError: the command failed.
    """
    command = [sys.executable, "-m", "selftrain", "main", *knobs]
    root = str(Path(__file__).parents[2])
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env={**environment, "PYTHONPATH": root}, stdout=sys.stderr
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(1)
        seconds = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {
        "what": " ".join(["python -m selftrain main", *knobs]),
        "seconds": seconds,
        "peak_gib": peak / 2**30,
        "machine": machine_facts(),
    }


def _memory(pid: int) -> int:
    """Return the bytes that a process and its children hold together."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for member in family:
            total += member.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        pass  # it ended between the listing and the look
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time the main job and measure its memory.")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("knobs", nargs="*", help="knobs for `python -m selftrain main`, after --")
    arguments = parser.parse_args()
    report(measure(arguments.knobs), arguments.record)
