"""What this machine offers."""

import os

from selftrain import distributed
from selftrain.config import MachineConfig

MOST_WORKERS = 8


def count_workers(machine: MachineConfig) -> int:
    """Return the number of loader processes: as asked, or all of this rank's cores but one."""
    if machine.workers >= 0:
        return machine.workers
    cores = len(os.sched_getaffinity(0)) // distributed.world_size()
    return max(1, min(MOST_WORKERS, cores - 1))
