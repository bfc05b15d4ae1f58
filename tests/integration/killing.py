"""Commands that are killed again and again, and what they leave when they are done at last."""

import hashlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
from dying import Death
from miniature import TINY, flags
from mlflow import MlflowClient
from mlflow.entities import Run

from selftrain.knobs import Scalar

SECONDS = 900
"""After which a command counts as hung; a busy machine is not."""
UNHARMED = Death(step=0)
_TIMES = ["train/images_per_second", "train/epoch_seconds"]


class KillServer:
    """Starts commands by forks of a process that has imported all they need."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("kill_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._unread = b""
        self._started: list[int] = []
        self._codes: dict[int, int] = {}

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(SECONDS)

    def start(self, request: Mapping[str, object]) -> int:
        """Start a command and return its process id."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        stop_at = time.monotonic() + SECONDS
        while not self._started:
            self._read(stop_at - time.monotonic())
        return self._started.pop()

    def wait(self, pid: int, seconds: float) -> int | None:
        """Return a command's exit code, negative for a signal; None if it goes on."""
        stop_at = time.monotonic() + seconds
        while pid not in self._codes and (left := stop_at - time.monotonic()) > 0:
            self._read(left)
        return self._codes.get(pid)

    def _read(self, seconds: float) -> None:
        assert self._server.stdout is not None
        file = self._server.stdout.fileno()
        ready, _, _ = select.select([file], [], [], max(seconds, 0.0))
        if not ready:
            return
        data = os.read(file, 1 << 16)
        assert data, "the server of commands has died"
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in map(json.loads, lines):
            if "started" in line:
                self._started.append(line["started"])
            else:
                self._codes[line["ended"]] = line["code"]


@dataclass(frozen=True)
class Place:
    """A folder with a tracking store, from which commands are started."""

    server: KillServer
    folder: Path
    values: Mapping[str, Scalar] = field(default_factory=dict)
    """Knobs, over those of `TINY`."""
    tracking_uri: str = ""
    """The store; "": a database in the folder."""

    @property
    def outputs(self) -> Path:
        """Where products go."""
        return self.folder / "outputs"

    @property
    def data(self) -> Path:
        """Where scenes are drawn, unless the values say another place."""
        return self.folder / "data"

    @property
    def client(self) -> MlflowClient:
        """A client of the store."""
        return MlflowClient(self.tracking_uri or f"sqlite:///{self.folder / 'mlflow.db'}")

    def start(self, stage: str, death: Death = UNHARMED, *, grace: int = 0) -> int:
        """Start a stage and return its process id; what it prints is appended to `output`."""
        temporary = self.folder / "temporary"
        temporary.mkdir(exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        environment = {
            **kept,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.2",
            "MLFLOW_TRACKING_URI": self.tracking_uri or f"sqlite:///{self.folder / 'mlflow.db'}",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(temporary),  # what a killed process leaves there is the system's
        }
        places = {"machine.outputs": self.outputs, "machine.data_root": self.data}
        return self.server.start(
            {
                "words": [stage, *flags({**TINY, **places, **self.values})],
                "folder": str(self.folder),
                "environment": environment,
                "output": str(self.output),
                "watched": [str(self.outputs), str(self.data)],
                "death": asdict(death),
                "counted": str(self.folder / "steps"),
                "grace": grace,
            }
        )

    @property
    def output(self) -> Path:
        """What the commands have printed."""
        return self.folder / "output"

    def run(self, stage: str) -> "Whole":
        """Run a stage to its end, unharmed."""
        start = time.monotonic()
        code = self.server.wait(self.start(stage), SECONDS)
        assert code == 0, f"{stage}: exit code {code}\n{self.output.read_text()[-4000:]}"
        steps = int((self.folder / "steps").read_text())
        return Whole(time.monotonic() - start, steps)

    def runs(self) -> list[Run]:
        """Return all runs of the store."""
        client = self.client
        experiments = [found.experiment_id for found in client.search_experiments()]
        return list(client.search_runs(experiments))


@dataclass(frozen=True)
class Whole:
    """What an unharmed command took."""

    seconds: float
    steps: int
    """Of writing, as `dying` counts them."""


@dataclass(frozen=True)
class Blow:
    """A moment at which a command is killed."""

    seconds: float
    """After its start; 0: it kills itself, at a step of its writing."""
    death: Death


def draw_blow(rng: random.Random, whole: Whole) -> Blow:
    """Draw a moment: one in three anywhere in time, the others in the middle of writing."""
    is_alone = rng.random() < 0.5
    if rng.random() < 1 / 3:
        return Blow(rng.uniform(0.0, whole.seconds), Death(step=0, is_alone=is_alone))
    death = Death(
        step=rng.randint(1, whole.steps),
        when=rng.choice(("before", "within", "after")),
        tears=rng.random() < 1 / 3,
        is_alone=is_alone,
        seed=rng.getrandbits(32),
    )
    return Blow(0.0, death)


def kill_until_done(
    place: Place, stage: str, whole: Whole, rng: random.Random, most: int
) -> list[Blow]:
    """Start a stage, kill it, and start it again, until it is done; after `most` kills let it be.

    Returns:
        The kills that met the command before it ended.
    """
    blows: list[Blow] = []
    while len(blows) < most:
        blow = draw_blow(rng, whole)
        pid = place.start(stage, blow.death)
        with _said(place, stage, [*blows, blow]):
            code = place.server.wait(pid, blow.seconds or SECONDS)
            if code is None and blow.seconds:
                (os.kill if blow.death.is_alone else os.killpg)(pid, signal.SIGKILL)
                code = place.server.wait(pid, SECONDS)
            assert code in (0, -signal.SIGKILL), f"exit code {code}"
        if code == 0:
            return blows
        blows.append(blow)
    with _said(place, stage, blows):
        place.run(stage)
    return blows


@contextmanager
def _said(place: Place, stage: str, blows: Sequence[Blow]) -> Iterator[None]:
    """Add to an error what was done to the stage until then."""
    try:
        yield
    except AssertionError as error:
        done = "\n".join(map(str, blows))
        raise AssertionError(
            f"{stage} in {place.folder} after\n{done}\n{error}\n{place.output.read_text()[-4000:]}"
        ) from error


def contents(folder: Path, leave_out: Sequence[str] = ()) -> dict[str, str]:
    """Return {path: digest} of every file, without what differs between any two runs.

    Those are times in histories, and the run's id in the mark of a product.

    Args:
        folder: Of the files.
        leave_out: Patterns of paths, relative to the folder, that are not looked at.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir() or any(name.match(pattern) for pattern in leave_out):
            continue
        data = path.read_bytes()
        if path.name == "history.csv":
            data = pd.read_csv(path).drop(columns=_TIMES).to_csv().encode()
        if path.name == "product.json":
            data = json.dumps({**json.loads(data), "run_id": ""}).encode()
        found[str(name)] = hashlib.blake2b(data, digest_size=8).hexdigest()
    return found


def require_one_run_each(place: Place) -> None:
    """Require that the store has one FINISHED run for each key, and none that still goes on."""
    stages = [run for run in place.runs() if "selftrain.key" in run.data.tags]
    finished = [it.data.tags["selftrain.key"] for it in stages if it.info.status == "FINISHED"]
    assert finished
    assert len(finished) == len(set(finished)), finished
    assert not [it for it in stages if it.info.status == "RUNNING"]


def discard(place: Place) -> None:
    """Remove the folder of a place that has done what it should."""
    shutil.rmtree(place.folder)
