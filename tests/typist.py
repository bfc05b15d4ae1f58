"""Somebody who types the commands of a page into a small copy of the repository."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from urllib.error import URLError

import mlflow
import pyarrow.parquet as pq
from miniature import TINY
from mlflow.cli import cli as mlflow_commands
from mlflow.projects._project_spec import load_project
from shorten import shorten

from selftrain.__main__ import run as selftrain

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
COPIED = (
    *("selftrain", "analysis", "experiments", "results", "docs"),
    *("MLproject", "conda.yaml", "Makefile", "README.md", "pyproject.toml", "mkdocs.yml"),
)
PATIENCE = 300
"""Seconds until a server must answer."""

_PYTHON = """#!{python}
import json, os, sys
sys.path.insert(0, {tests!r})
from shorten import shorten
words = sys.argv[1:]
if words[:2] == ["-m", "selftrain"]:
    words[2:] = shorten(words[2:], json.loads({knobs!r}))
os.execv({python!r}, [{python!r}, *words])
"""
_PROGRAM = """#!/bin/sh
exec {python} -m {module} "$@"
"""


def small_knobs() -> dict[str, object]:
    """Return the knobs that make every command small."""
    return {**TINY, "export.height": 64, "export.width": 128}


@dataclass
class Typist:
    """Types commands; each must succeed.

    Where a command is `python -m` one of `INSIDE`, or `mlflow run`, it is carried out in this
    process: imports take longer than all the rest of it. MLflow's own parser reads the command and
    MLproject then. All other commands get a shell, and the PATH of one in which .venv is active.
    """

    folder: Path
    """A copy of the repository; the current folder, in which the store is too (`own_store`)."""
    words: Mapping[str, str | Callable[["Typist"], str]] = field(default_factory=dict)
    """Words of the page that a reader replaces, as patterns -> what is put in their place."""
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    """Of the shell, that commands before have set."""
    copies: Sequence[str] = COPIED
    """Of the repository, into `folder`."""

    def __post_init__(self) -> None:
        ignored = shutil.ignore_patterns("__pycache__", "pictures")
        for name in self.copies:
            if (REPOSITORY / name).is_dir():
                shutil.copytree(REPOSITORY / name, self.folder / name, ignore=ignored)
            else:
                shutil.copy(REPOSITORY / name, self.folder)
        programs = self.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        python = _PYTHON.format(
            python=sys.executable, tests=str(TESTS), knobs=json.dumps(small_knobs())
        )
        _write_program(programs / "python", python)
        for module in ("mlflow", "mkdocs"):
            program = _PROGRAM.format(python=sys.executable, module=module)
            _write_program(programs / module, program)
        (self.folder / ".venv" / "installed").touch()  # what `make setup` would leave

    def type(self, command: str) -> None:
        """Carry out a command of a page.

        Raises:
            AssertionError: it fails.
        """
        command = self.filled_in(command)
        if setting := re.fullmatch(r"(?:export )?([A-Za-z_]\w*)=(\S*)", command):
            self.variables[setting[1]] = os.path.expandvars(setting[2])
            return
        words = shlex.split(command) if "\n" not in command else []
        inside = {"python": self._python, "mlflow": self._mlflow}.get(words[0] if words else "")
        plain = not re.search(r"[|&;<>]", command)
        if inside is None or not plain or not inside([self._expanded(word) for word in words]):
            self.in_shell(command)

    def in_shell(self, command: str) -> str:
        """Carry out a command in a shell and return what it has said."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def serve(self, command: str, url: str, *, stop: bool = False) -> None:
        """Start a command that ends when it is told to, and wait until it answers.

        Args:
            command: Of the page.
            url: Where it answers.
            stop: Whether it is ended as soon as it has; else by `leave`.
        """
        command, url = self.filled_in(command), self.filled_in(url)
        log = self.folder / "server.log"
        with log.open("wb") as file:
            server = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", command],
                env=self._environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.servers.append(server)
        deadline = time.monotonic() + PATIENCE
        while not _answers(url):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        if stop:
            self.leave()

    def leave(self) -> None:
        """End the servers."""
        for server in self.servers:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait()
        self.servers.clear()

    def filled_in(self, text: str) -> str:
        """Return a text of the page with what a reader puts in place of its words."""
        for word, value in self.words.items():
            pattern = rf"(?<!\w){word}(?!\w)"
            if re.search(pattern, text):
                given = value if isinstance(value, str) else value(self)
                text = given.join(re.split(pattern, text))
        return text

    def made(self, role: str) -> str:
        """Return the first run that has made something; it is made now if there is none."""
        stages = {"pseudo labels": "pseudo_label"}
        if not (found := self._runs(role)):
            selftrain(shorten([stages.get(role, role)], small_knobs()))
            found = self._runs(role)
        return found[0]

    def labelled_image(self) -> str:
        """Return the name of an image in the first set of pseudo labels."""
        run = mlflow.get_run(self.made("pseudo labels"))
        folder = self.folder / "outputs" / f"pseudo_label-{run.data.tags['selftrain.key']}"
        names = pq.read_table(folder / "manifest.parquet", columns=["name"])["name"]
        return str(names[0].as_py())

    def _runs(self, role: str) -> list[str]:
        found = mlflow.search_runs(
            search_all_experiments=True,
            filter_string=f"tags.`selftrain.role` = '{role}' and attributes.status = 'FINISHED'",
            order_by=["start_time ASC"],
            output_format="list",
        )
        return [str(run.info.run_id) for run in found]

    def _python(self, words: list[str]) -> bool:
        """Carry out `python -m MODULE ...` here, if that can be done."""
        if words[1:2] != ["-m"] or words[2] not in INSIDE:
            return False
        try:
            INSIDE[words[2]](words[3:])
        except SystemExit as end:
            if end.code:  # the help ends with none
                raise
        return True

    def _mlflow(self, words: list[str]) -> bool:
        """Carry out `mlflow run . -e NAME ...` here, as MLflow's own parser reads it."""
        if words[1] != "run":
            return False
        command = mlflow_commands.get_command(None, "run")
        assert command is not None
        given = command.make_context("mlflow run", words[2:]).params
        assert given["uri"] == "."
        assert given["env_manager"] == "local"
        parameters = dict(text.split("=", 1) for text in given["param_list"])
        entry_point = load_project(".").get_entry_point(given["entry_point"])
        line = entry_point.compute_command(parameters, str(self.folder))
        assert self._python(shlex.split(line)), line
        return True

    def _expanded(self, word: str) -> str:
        return re.sub(r"\$(\w+)", lambda found: self._environment()[found[1]], word)

    def _environment(self) -> dict[str, str]:
        paths = [self.folder / ".venv" / "bin", Path(sys.executable).parent]
        path = os.pathsep.join([*map(str, paths), os.environ["PATH"]])
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return {**kept, **self.variables, "PATH": path, "PORT": self.filled_in("5000")}


def _report(words: list[str]) -> None:
    import_module("analysis.report").main(words)


def _splice(words: list[str]) -> None:
    import_module("analysis.splice").main(words)


INSIDE: Mapping[str, Callable[[list[str]], object]] = {
    "selftrain": lambda words: selftrain(shorten(words, small_knobs())),
    "analysis.report": _report,
    "analysis.splice": _splice,
}
"""Modules that are carried out in this process."""


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
