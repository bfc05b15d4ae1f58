"""How many processes load images."""

import os

from selftrain.config import MachineConfig

MOST_WORKERS = 8


def count_workers(machine: MachineConfig) -> int:
    """Return the number of loader processes: as asked, or all of this rank's cores but one."""
    if machine.workers >= 0:
        return machine.workers
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) // ranks_here
    return max(1, min(MOST_WORKERS, cores - 1))
