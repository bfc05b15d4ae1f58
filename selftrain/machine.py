"""What this machine offers."""

import os
import platform
from importlib.metadata import version

import torch

from selftrain import distributed
from selftrain.config import MachineConfig

MOST_WORKERS = 8


def count_workers(machine: MachineConfig) -> int:
    """Return the number of loader processes: as asked, or all of this rank's cores but one."""
    if machine.workers >= 0:
        return machine.workers
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) // ranks_here
    return max(1, min(MOST_WORKERS, cores - 1))


def describe(machine: MachineConfig) -> dict[str, str]:
    """Return what computes: no part of a key, but of the record of a number."""
    device = distributed.choose_device(machine.device)
    is_gpu = device.type == "cuda"
    cores = f"{len(os.sched_getaffinity(0))} cores {platform.machine()}"
    return {
        "selftrain.hardware": torch.cuda.get_device_name(device) if is_gpu else cores,
        "selftrain.processes": str(distributed.world_size()),
        "selftrain.precision": machine.precision,
        "selftrain.torch": version("torch"),
    }
