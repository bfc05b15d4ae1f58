"""What this machine offers, and what is said where it is too little."""

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EDQUOT, EFBIG, ENOSPC, EROFS
from importlib.metadata import version

import cv2
import torch

from selftrain import distributed
from selftrain.config import MachineConfig
from selftrain.cores import count_workers as count_workers  # for those who ask the machine
from selftrain.errors import InputError


def describe(machine: MachineConfig) -> dict[str, str]:
    """Return what computes: no part of a key, but of the record of a number."""
    device = distributed.choose_device(machine.device)
    is_gpu = device.type == "cuda"
    cores = f"{len(os.sched_getaffinity(0))} cores {platform.machine()}"
    switches = {"compile": machine.compile, "checkpointing": machine.checkpointing}
    return {
        "selftrain.hardware": torch.cuda.get_device_name(device) if is_gpu else cores,
        "selftrain.processes": str(distributed.world_size()),
        "selftrain.precision": machine.precision,
        "selftrain.torch": version("torch"),
        **{f"selftrain.{name}": "true" for name, is_on in switches.items() if is_on},
    }


@contextmanager
def enough_memory(cure: str = "") -> Iterator[None]:
    """Say what saves memory where there is too little: the GPU's, the machine's, shared.

    Args:
        cure: For those who have no knobs to set, as the sender of a request; "": the knobs.

    Raises:
        InputError: the block, or a process that loads for it, needs more than there is.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"The GPU has too little memory: {cure or _KNOBS}.") from error
    except (MemoryError, RuntimeError, OSError, cv2.error) as error:
        if _says(error, _NO_SHARED_MEMORY):
            raise InputError(
                "The processes that load images find no room in the shared memory (/dev/shm): "
                "enlarge it, in a container by --shm-size, or lower machine.workers (0 needs none)."
            ) from error
        if not isinstance(error, MemoryError) and not _says(error, _NO_MEMORY):
            raise
        cure = cure or f"lower machine.workers; {_KNOBS}"
        raise InputError(f"This machine has too little memory: {cure}.") from error


@contextmanager
def enough_space() -> Iterator[None]:
    """Say what cannot be written, wherever no more is known of it than a library's own error.

    What the program writes itself raises InputError already. This is for all that is written by
    others: MLflow's database and artifacts, temporary files, caches.

    Raises:
        InputError: a disk is full or read-only, or a file is longer than is allowed. It is the
            first one where, on the way out, further files could not be written.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        errors = list(_chain(error))
        sentence = next((said for it in errors if (said := _unwritable(it)) is not None), None)
        if sentence is None:
            raise
        # To end a run on a full disk fails as well: what came first says more.
        for earlier in errors:
            if isinstance(earlier, InputError | KeyboardInterrupt):
                raise earlier from None
        raise InputError(sentence) from error


_KNOBS = (
    "to train with less raise optim.accumulate, set machine.checkpointing to true or lower "
    "crop.size; to label or measure images with less set inference.window, as in 1024"
)
_NO_MEMORY = (
    "can't allocate memory",  # torch
    "std::bad_alloc",
    "Insufficient memory",  # OpenCV
    "Unable to allocate",  # NumPy, by way of a loader's process
    "Cannot allocate memory",  # the system: a process or a memory map
    "can't start new thread",
)
_NO_SHARED_MEMORY = ("unable to allocate shared memory", "unable to write to file </torch_")
_NO_SPACE = tuple(os.strerror(it) for it in (ENOSPC, EDQUOT, EFBIG, EROFS))
_LITTLE = 2**20
"""Bytes; a disk with less free counts as full, for what has failed to be written is gone."""
_NO_SPACE_IN_DATABASE = (
    "database or disk is full",
    "attempt to write a readonly database",
    "disk I/O error",
)


def _says(error: BaseException, sentences: Iterable[str]) -> bool:
    text = str(error)
    return any(sentence in text for sentence in sentences)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those before it, the last one first."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        yield found
        seen.append(found)
        found = found.__cause__ or found.__context__


def _unwritable(error: BaseException) -> str | None:
    """Return what cannot be written, if that is what an error says."""
    if _says(error, _NO_SPACE_IN_DATABASE):
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        where = f" {uri.removeprefix('sqlite:///')}" if uri.startswith("sqlite:///") else ""
        reason = next(it for it in _NO_SPACE_IN_DATABASE if it in str(error))
        return (
            f"The tracking store{where} cannot be written ({reason}): free some space on its "
            "disk, see that you may write to it, or set MLFLOW_TRACKING_URI to another one."
        )
    if not _says(error, _NO_SPACE):
        return None
    reason = next(it for it in _NO_SPACE if it in str(error))
    name = error.filename2 or error.filename if isinstance(error, OSError) else None
    full = "" if name else _full_disks()
    return (
        f"{name or 'A file'} cannot be written ({reason}{full}): free some space there, or choose "
        "another place: machine.outputs for products, MLFLOW_TRACKING_URI for runs and their "
        "artifacts, the variable TMPDIR for temporary files."
    )


def _full_disks() -> str:
    """Name the disks without room; to write into an open file fails without a name."""
    import psutil  # a model that is served does without it

    full = []
    for disk in psutil.disk_partitions(all=True):
        try:
            usage = psutil.disk_usage(disk.mountpoint)
        except OSError:
            continue
        if usage.total and usage.free < _LITTLE and "rw" in disk.opts.split(","):
            full.append(disk.mountpoint)
    return f"; full: {', '.join(full)}" if full else ""
