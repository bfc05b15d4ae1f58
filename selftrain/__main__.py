"""`python -m selftrain COMMAND --dotted.path value ...`: run a stage and all that it needs.

What takes seconds to import, torch and mlflow among it, is imported when the words of the command
are understood: help, a misspelt knob and `doctor` need not wait for it.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from selftrain import signals, summary
from selftrain.command_line import parse, split_output
from selftrain.commands import COMMANDS
from selftrain.completion import complete
from selftrain.config import Config
from selftrain.doctor import examine
from selftrain.errors import InputError, Terminated, printable
from selftrain.next_commands import write_commands
from selftrain.progress import Output, chosen, speaking
from selftrain.summary import Summary, show, to_json


def run(argv: Sequence[str]) -> Summary | None:
    """Run the command that the words ask for.

    Args:
        argv: Without the program's name, and without `--quiet` and `--json`.

    Returns:
        What is to be said at its end; None: nothing, or another process says it.

    Raises:
        InputError: the user can mend it.
        SystemExit: other processes were started, and have ended; or the help was printed.
    """
    if argv and argv[0] == "completion":
        print(complete(argv[1:]), end="")
        return None
    stage, config = parse(argv, {name: command.line for name, command in COMMANDS.items()})
    if stage == "doctor":
        return examine(config)
    if stage == "sync":  # no stage of the pipeline, and no run
        from selftrain.sync import sync

        return sync(config.machine.outputs, config.machine.tracking_patience)
    if stage == "lineage":  # reads what there is: no run of its own
        from selftrain import tracking
        from selftrain.actions import ACTIONS
        from selftrain.pipeline import Pipeline

        tracking.connect(config.machine.outputs, config.machine.tracking_patience)
        return ACTIONS[stage](Pipeline(config), tracking.SILENT)
    return _run_stage(stage, config, [*argv, *chosen().words()])


def _run_stage(stage: str, config: Config, words: Sequence[str]) -> Summary | None:
    """Run a stage, in several processes if so wished; `words` start them."""
    from selftrain import distributed, tracking
    from selftrain.actions import ACTIONS, present
    from selftrain.launch import launch, needs_launch
    from selftrain.machine import enough_memory, enough_space
    from selftrain.pipeline import Pipeline

    by_mlflow = "MLFLOW_RUN_ID" in os.environ
    outputs, patience = config.machine.outputs, config.machine.tracking_patience
    with enough_memory(), enough_space():
        # A sweep's workers are commands of their own, one process each: it says so itself.
        if stage != "sweep" and needs_launch(config.machine.processes):
            distributed.require_devices(config.machine.device, config.machine.processes)
            sys.exit(launch(words, config.machine.processes))
        device = distributed.choose_device(config.machine.device)
        with distributed.process_group(device):
            if distributed.rank() > 0:
                distributed.barrier()
                tracking.connect(outputs, patience)
                ACTIONS[stage](Pipeline(config), tracking.SILENT)
                return None
            tracking.connect(outputs, patience)
            distributed.barrier()
            with tracking.parent_run(f"{stage} {config.benchmark}") as parent:
                present(parent, stage, config, words)
                found = ACTIONS[stage](Pipeline(config), parent)
    return found and write_commands(found, config, by_mlflow=by_mlflow)


def main() -> None:
    """Run a command; a mistake of the user's ends in one sentence and exit code 1.

    A signal that asks it to end does so with a line, and with 128 and the signal's number.
    """
    began = time.monotonic()
    summary.begin()
    output, stage, found = Output(), "", None
    status, sentence, ended = "finished", "", ""  # type: str, str, str | int
    try:
        with signals.heard(), _told_once():
            output, argv = split_output(sys.argv[1:])
            stage = argv[0] if argv and argv[0] in COMMANDS else ""
            with speaking(output):
                found = run(argv)
        if found is not None and found.failed:
            status, sentence = "failed", found.failed
    except InputError as error:
        status, sentence = "failed", printable(error)
    except Terminated as error:
        status, sentence, ended = "stopped", str(error), 128 + error.signal
    except Exception as error:
        if output.json and _is_first():
            text = f"{type(error).__name__}: {error}"
            print(to_json(stage, time.monotonic() - began, None, status="failed", error=text))
        raise
    # Not above: what the error holds, as a loader and its processes, ends before Python does.
    is_told = status == "failed" or _is_first()  # which process tells a mistake is settled
    seconds = time.monotonic() - began
    if output.json and is_told:
        print(to_json(stage, seconds, found, status=status, error=sentence), flush=True)
    elif found is not None:
        with speaking(output):
            show(stage, seconds, found)
    if status == "stopped" and is_told:
        print(sentence, file=sys.stderr)
    if status != "finished":
        sys.exit(ended or f"error: {sentence}")


def _told_once() -> AbstractContextManager[None]:
    """Let a mistake that several of torchrun's processes make be told by one of them."""
    if "RANK" not in os.environ:
        return nullcontext()
    from selftrain import distributed

    return distributed.told_once()


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    main()
