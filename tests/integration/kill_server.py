"""Imports what a command needs, once, and forks for every command; started by `killing.py`.

It reads a request for each command from its input, a line of JSON, and answers with the process
id, then with the exit code. A start of Python with torch and mlflow would take seconds.
"""

import atexit
import json
import os
import random
import select
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import alembic.command
import git
import mlflow.pyfunc
import mlflow.store.tracking.sqlalchemy_store
import optuna.samplers
import optuna.visualization.matplotlib
import psycopg
import pyarrow.dataset
import pyarrow.pandas_compat
import tabulate  # type: ignore[import-untyped]
import torch.utils.data.dataloader
import torchvision.models
from dying import Death, Dying

import selftrain.actions
import selftrain.sweep
from selftrain import __main__ as command
from selftrain import sweep_storage

LOADED = (
    *(alembic.command, git, mlflow.pyfunc, optuna.samplers, psycopg, pyarrow.dataset, tabulate),
    *(torch, torchvision, selftrain.actions, selftrain.sweep),
)
"""Commands import them only when they need them."""


def serve() -> None:
    """Answer requests until the input ends; then end with what still runs."""
    assert threading.active_count() == 1  # a lock that another thread holds would stay locked
    running: set[int] = set()
    unread = b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.02)
        if ready:
            data = os.read(0, 1 << 16)
            if not data:
                for pid in running:
                    os.killpg(pid, signal.SIGKILL)
                return
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    _be_command(json.loads(line))
                running.add(pid)
                _answer({"started": pid})
        for pid in tuple(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                running.remove(pid)
                _answer({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _answer(words: dict[str, int]) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


def _be_command(request: dict[str, Any]) -> None:
    """Become the process that a user would have started; never returns."""
    code = 1
    try:
        os.setsid()
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(output, standard)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        random.seed()
        sys.argv = ["selftrain", *request["words"]]
        grace = request["grace"]
        if grace:  # how long a sweep's worker may be silent, and how often it speaks
            defaults = sweep_storage.open_study.__kwdefaults__ or {}
            defaults |= {"interval": 1, "grace": grace}
        dying = Dying([Path(folder) for folder in request["watched"]], Death(**request["death"]))
        dying.install()
        try:
            command.main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
        atexit._run_exitfuncs()
        Path(request["counted"]).write_text(str(dying.steps))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
