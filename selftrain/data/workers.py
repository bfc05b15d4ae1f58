"""Processes that read images beside this one: how they begin, and how they fail."""

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import cv2
import torch
from torch.utils.data import DataLoader

from selftrain import signals
from selftrain.errors import InputError, LostWorker, from_worker

T = TypeVar("T")
_LOST = ("DataLoader worker", "Pin memory thread exited")
"""How torch's words begin when a process is gone."""


def use_one_thread(worker: int) -> None:
    """Settle a process of many: they are the parallelism, and threads would fight for the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signals.outlast()


def iterate(loader: DataLoader[T]) -> Iterator[T]:
    """Iterate a loader; what its processes fail by comes as one sentence, and with a batch.

    Raises:
        LostWorker: a process was killed. Found when its batch is awaited: torch's own handler of
            SIGCHLD would raise wherever this process stands, also in the middle of a step.
        InputError: of a process, or of the data set.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    with _explained(loader.num_workers):
        # Not iter(loader), which a class derived from DataLoader may have replaced by this.
        batches = DataLoader.__iter__(loader)
        is_main = threading.current_thread() is threading.main_thread()
        if loader.num_workers > 0 and is_main and handler is not None:
            signal.signal(signal.SIGCHLD, handler)
        yield from batches


@contextmanager
def _explained(workers: int) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        if workers == 0:
            raise
        raise from_worker(error) from None
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A connection is lost where a batch of a process that was just killed is fetched. An
        # error that was raised in a process begins with "Caught".
        is_lost = not isinstance(error, RuntimeError) and not str(error).startswith("Caught")
        if workers == 0 or not (is_lost or str(error).startswith(_LOST)):
            raise
        traceback.clear_frames(error.__traceback__)  # why: see `from_worker`
        raise LostWorker(
            "A process that reads images was killed by the system, probably for want of memory: "
            f"lower machine.workers (there were {workers}), or enlarge /dev/shm if that is full; "
            "the same command goes on from what is done."
        ) from None
