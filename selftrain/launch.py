"""One command, several processes: `machine.processes`, or `nproc`, above 1 starts torchrun.

The command starts itself again in each process. These inherit the environment: under `mlflow run`
the first of them adopts the run that MLflow has made (MLFLOW_RUN_ID), and the others log nothing.

For several machines call torchrun on each of them, with one machine's address as the meeting
point, and leave `machine.processes` alone. Data and outputs lie on a disk that all of them see.

    python -m torch.distributed.run --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d \
        --rdzv-endpoint=ADDRESS:29500 -m selftrain student --benchmark cityscapes
"""

import os
from collections.abc import Sequence

from selftrain.signals import ENDING


def needs_launch(processes: int) -> bool:
    """Tell whether this process should start others: several are wanted, and it is none of them."""
    return processes > 1 and "RANK" not in os.environ


def launch(argv: Sequence[str], processes: int) -> int:
    """Run `python -m selftrain` in several processes and wait for them.

    The cores are dealt evenly to the processes, unless OMP_NUM_THREADS says otherwise. If one
    process fails the others are stopped.

    Args:
        argv: The words after `python -m selftrain`.
        processes: How many; on CUDA each takes the GPU of its number.

    Returns:
        The exit code: 0, or that of the process that failed first (1 if a signal killed it);
        128 and a signal's number if that signal ended this process.
    """
    # Imported here: whoever needs one process need not wait for it.
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    options = [
        f"--nproc-per-node={processes}",
        "--rdzv-backend=c10d",
        # Any free port of this machine, by its number: its name may not be known to itself.
        "--rdzv-endpoint=127.0.0.1:0",
        "--local-addr=127.0.0.1",
    ]
    # What else torchrun does not hear would end it, and leave its processes alone.
    os.environ.setdefault("PET_SIGNALS_TO_HANDLE", ",".join(number.name for number in ENDING))
    try:
        # torch gives these no types.
        arguments = run.parse_args([*options, "-m", "selftrain", *argv])  # type: ignore[no-untyped-call]
        run.run(arguments)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return max(1, failure.exitcode)
    except SignalException as error:  # the processes have been stopped
        return 128 + error.sigval
    return 0
