"""Time a piece of code and say on which machine it was timed."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import psutil

VERSIONED = ("torch", "torchvision", "torchmetrics", "albumentations", "numpy")
"""Distributions whose versions a timing depends on."""


def median_seconds(f: Callable[[], object], repeats: int = 20) -> float:
    """Time one call of `f`.

    One call goes before the timed ones, because the first pays for caches, lazy imports and
    the clock of the processor. The median is reported because a shared machine only ever adds
    time, and adds it in bursts that would pull a mean along.

    Args:
        f: Called without arguments, `repeats` + 1 times. Work that it leaves running (a CUDA
            kernel) is not timed.
        repeats: Timed calls, at least 1.

    Returns:
        Median wall-clock seconds of a call.
    """
    f()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def watch(words: Sequence[str], folder: Path) -> tuple[float, int]:
    """Run `python -m selftrain` with these words in a folder, on a store of its own there.

    Returns:
        Seconds by the clock, and the most bytes that all its processes held together, looked at
        once a second (proportional set size: shared pages count once).

    Raises:
        CalledProcessError: the command failed.
    """
    command = [sys.executable, "-m", "selftrain", *words]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=sys.stderr)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        time.sleep(1)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, peak


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


def machine_facts() -> dict[str, str]:
    """Describe what a timing depends on: processor, cores, Python, library versions.

    Returns:
        Short strings, without the name of the host or its user. `cores` counts the cores this
        process may run on, which in a container are fewer than the machine has.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": str(cores),
        "python": platform.python_version(),
        # OpenCV is asked itself, because it is distributed under several names.
        "opencv": cv2.__version__,
        **{name: found for name in VERSIONED if (found := _version(name))},
    }


def _version(name: str) -> str:
    """Return a distribution's version; "" where it is not there, as torchmetrics need not be."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def keep_others(record: dict[str, object], path: Path | None) -> dict[str, object]:
    """Add to a record what an older one in its file has measured of other networks.

    So one network can be measured again, and the file keeps the others. Only where all is the same
    that holds for a whole record: what was done, on which device, by which machine. An older record
    of something else is replaced, and that is said.

    Args:
        record: Its dictionaries but "machine" are of a network each.
        path: JSON file of the older one; None, or one that is not there: there is none.
    """
    if path is None or not path.exists():
        return record
    older: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    if _conditions(older) != _conditions(record):
        print(f"{path} was made under other conditions: it is replaced", file=sys.stderr)
        return record
    return {**older, **record, "machine": record["machine"]}


def _conditions(record: dict[str, object]) -> dict[str, object]:
    return {k: v for k, v in record.items() if not isinstance(v, dict) or k == "machine"}


def report(record: dict[str, object], path: Path | None) -> None:
    """Print a measurement as a table, and keep it if asked to.

    Args:
        record: Name and value of what was measured; numbers, strings and dictionaries of them.
        path: JSON file to write, or None to print only. Its folder is made.
    """
    flat = _flatten(record)
    width = max(24, *(len(name) + 2 for name in flat))
    for name, value in flat.items():
        print(
            f"{name:<{width}}{value:.3f}" if isinstance(value, float) else f"{name:<{width}}{value}"
        )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _flatten(record: dict[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": it for inner, it in _flatten(value).items()}
        else:
            flat[name] = value
    return flat


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
