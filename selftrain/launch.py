"""One command, several processes: `machine.processes`, or `nproc`, above 1 starts torchrun.

The command starts itself again in each process. These inherit the environment: under `mlflow run`
the first of them adopts the run that MLflow has made (MLFLOW_RUN_ID), and the others log nothing.

On several machines start the same command once on each of them, with the same `machine.processes`
and torchrun's own variables: how many machines they are, and where they meet, a free port of one
of them. Data and outputs lie on a disk that all of them see; docs/cluster.md has it for Slurm.

    export PET_NNODES=2 PET_RDZV_ENDPOINT=ADDRESS:29500 PET_RDZV_ID=any-word
    python -m selftrain student --benchmark cityscapes --machine.processes 4
"""

import os
from collections.abc import Sequence

from selftrain.errors import InputError
from selftrain.signals import ENDING

_MOST_TO_KEEP = 600
"""Seconds in which the processes may keep the training after a signal. torchrun's own 30 would cut
a large checkpoint off on a slow disk; whoever has sent the signal knows better how long to wait."""
_MACHINES, _MEETING_POINT = "PET_NNODES", "PET_RDZV_ENDPOINT"


def needs_launch(processes: int) -> bool:
    """Tell whether this process should start others: several are wanted, and it is none of them.

    Args:
        processes: That are wanted on this machine.
    """
    return (processes > 1 or _MACHINES in os.environ) and "RANK" not in os.environ


def launch(argv: Sequence[str], processes: int) -> int:
    """Run `python -m selftrain` in several processes and wait for them.

    The cores are dealt evenly to the processes, unless OMP_NUM_THREADS says otherwise. If one
    process fails the others are stopped.

    Args:
        argv: The words after `python -m selftrain`.
        processes: How many on this machine; on CUDA each takes the GPU of its number.

    Returns:
        The exit code: 0, or that of the process that failed first (1 if a signal killed it);
        128 and a signal's number if that signal ended this process.

    Raises:
        InputError: the machines do not meet.
    """
    # Imported here: whoever needs one process need not wait for it.
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    # By the variable: an older torch has no such option, and would refuse the word.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_MOST_TO_KEEP))
    options = [f"--nproc-per-node={processes}", "--rdzv-backend=c10d", *_meeting_options()]
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
    except RendezvousError as error:
        raise InputError(
            f"The {os.environ.get(_MACHINES, 1)} machines did not meet at "
            f"{os.environ.get(_MEETING_POINT, 'a port of this one')} ({error}): start the same "
            "command on all of them, with the same PET_RDZV_ID and a port that all can reach."
        ) from error
    return 0


def _meeting_options() -> list[str]:
    """Return where the processes meet; among machines the environment has told torchrun."""
    if _MEETING_POINT in os.environ:
        return []
    machines = os.environ.get(_MACHINES, "1")
    if machines != "1":
        raise InputError(
            f"{_MACHINES} = {machines} asks for several machines, but {_MEETING_POINT} does not "
            "say where they meet: set it to an address and a free port of one of them."
        )
    # Any free port of this machine, by its number: its name may not be known to itself.
    return ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
