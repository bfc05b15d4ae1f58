"""Runs in MLflow, and what the rest of the code knows of them.

A command opens one parent run and its stages are the children, one level deep. Under `mlflow run`
the parent is the run that MLflow has already made. What a run logs outlasts an outage of the store:
see `delivery.py`. Questions to the store wait for it, as long as `connect` was told.
"""

import hashlib
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from selftrain import progress, signals, store
from selftrain.delivery import REGISTER, Delivered, Outbox, Undelivered
from selftrain.errors import InputError, Refused, Stopped
from selftrain.model_versions import Registration
from selftrain.passwords import hide_passwords
from selftrain.spool import Message
from selftrain.store import (
    KEY_TAG,
    MODEL,
    MODEL_ARTIFACTS,
    PRODUCT_TAG,
    STAGE_TAG,
    UPSTREAM,
    DataRead,
    Finished,
    Recorded,
    measured_on,
    read_store,
    store_uri,
)
from selftrain.system_metrics import system_metrics

__all__ = [
    "DESCRIPTION_TAG",
    "KEY_TAG",
    "MODEL",
    "MODEL_ARTIFACTS",
    "PRODUCT_TAG",
    "ROLE_TAG",
    "SILENT",
    "SPOOL",
    "STAGE_TAG",
    "UPSTREAM",
    "DataRead",
    "Finished",
    "Recorded",
    "Registration",
    "Run",
    "Undelivered",
    "active_run",
    "bury",
    "connect",
    "deliver_left",
    "describe",
    "download",
    "evaluations_of",
    "find_finished",
    "finished",
    "flush",
    "kill_runs_of",
    "measured_on",
    "metric_steps",
    "page_of",
    "parent_run",
    "read_store",
    "spools_of_others",
    "stage_run",
    "store_uri",
    "trial_run",
]

ROLE_TAG = "selftrain.role"
SPOOL = "spool"
"""Folder below the products in which messages wait for the store."""
_LONGEST_PARAM = 6000
_LONGEST_IMAGE_KEY = 120
"""Characters: a file's name has 255 at most."""
DESCRIPTION_TAG = "mlflow.note.content"
"""That MLflow shows as a run's description."""
_HAS_IMAGES_TAG = "mlflow.loggedImages"
"""Tells MLflow to look for them."""


@dataclass
class _Process:
    """What this process knows of its store and its runs, as mlflow does of its active run."""

    outbox: Outbox
    experiment: str = ""
    active: list[str] = field(default_factory=list)
    """The open runs' ids, the innermost last."""
    measured: dict[str, set[str]] = field(default_factory=dict)
    """Of the runs that this process has begun: the names of their metrics."""


_process = _Process(Outbox(Path("outputs") / SPOOL, 60))


def connect(outputs: Path = Path("outputs"), patience: float = 60) -> str:
    """Choose the tracking store, check that it answers, and return its URI.

    Args:
        outputs: Folder for products; what cannot be logged at once waits in `spool` below it.
        patience: Seconds to wait for the store, later, where nothing can go on without it.

    Raises:
        InputError: nobody answers at the URI, it is no tracking URI, or it does not let us in.
    """
    global _process
    with signals.deferred():  # mlflow makes a new database in steps, and cannot mend half a one
        experiment = store.connect()
    _process.outbox.leave()
    _process = _Process(Outbox(outputs / SPOOL, patience), experiment)
    return store_uri()


@dataclass(frozen=True)
class Run:
    """A run, or none at all on the ranks that do not log."""

    run_id: str

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log the params that the run lacks."""
        if params:
            texts = {name: hide_passwords(str(v))[:_LONGEST_PARAM] for name, v in params.items()}
            self._send("params", {"params": texts})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log finite metrics; a class that does not occur has no IoU and is left out."""
        now = int(time.time() * 1000)
        rows = [[name, float(v), now, step or 0] for name, v in metrics.items() if np.isfinite(v)]
        if rows and self.run_id:
            self._send("metrics", {"metrics": rows})
            _process.measured.get(self.run_id, set()).update(str(name) for name, *_ in rows)

    def has_metric(self, name: str) -> bool:
        """Return whether the metric was logged before."""
        if not self.run_id:
            return False
        if self.run_id in _process.measured:
            return name in _process.measured[self.run_id]
        return name in _process.outbox.patiently(lambda: store.metric_names(self.run_id))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        if tags:
            texts = {name: hide_passwords(str(value)) for name, value in tags.items()}
            self._send("tags", {"tags": texts})

    def describe(self, lines: Sequence[str]) -> None:
        """Set the description that MLflow shows with the run, in Markdown."""
        self.set_tags({DESCRIPTION_TAG: "\n".join(lines)})

    def log_text(self, text: str, file: str) -> None:
        """Log a text artifact, e.g. "config.json"."""
        if self.run_id:
            with self._file(file) as path:
                path.write_text(text, encoding="utf-8")

    def log_json(self, value: object, file: str) -> None:
        """Log a JSON artifact."""
        self.log_text(json.dumps(value, indent=2, default=str), file)

    def log_figure(self, figure: Figure, file: str) -> None:
        """Log a matplotlib figure as a picture."""
        if self.run_id:
            with self._file(file) as path:
                figure.savefig(path)

    def log_picture(self, picture: np.ndarray, file: str) -> None:
        """Log an RGB picture (H, W, 3), uint8."""
        if self.run_id:
            with self._file(file) as path:
                Image.fromarray(picture).save(path)

    def log_images(self, pictures: Mapping[str, bytes], step: int) -> None:
        """Log pictures of one step, which MLflow shows with a slider over the steps.

        Args:
            pictures: Name -> WebP file; those of one name belong together.
            step: As of a metric.
        """
        if not pictures or not self.run_id:
            return
        with self._file("images") as folder:
            folder.mkdir()
            for name, file in pictures.items():
                stem = _image_stem(name, step)
                # MLflow shows the second in grids, and the first enlarged.
                (folder / f"{stem}.webp").write_bytes(file)
                (folder / f"{stem}+compressed.webp").write_bytes(file)
        self.set_tags({_HAS_IMAGES_TAG: "True"})

    def log_files(self, folder: Path, artifact_path: str) -> None:
        """Log every file of a folder."""
        self._send("files", {"path": artifact_path}, folder)

    def log_dataset(self, names: Sequence[str], *, name: str, digest: str, context: str) -> None:
        """Log which samples were read and the digest of their content (36 characters at most)."""
        if not self.run_id:
            return
        frame = pd.DataFrame({"sample": list(names)})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "can be interpreted in multiple ways"
            data = mlflow.data.from_pandas(frame, name=name, digest=digest[:36])
        self._send("dataset", {"dataset": data.to_dict(), "context": context})

    def log_model(self, folder: Path) -> None:
        """Log the network in `folder` as a model that needs nothing but its own artifacts."""
        self._send("model", {}, folder)

    def register(self, wanted: Registration) -> None:
        """Make the logged model a version of a registered one; once, however often it is asked."""
        value = asdict(wanted) | {"description": hide_passwords(wanted.description)}
        self._send(REGISTER, value)

    def _send(self, kind: str, value: Mapping[str, Any], files: Path | None = None) -> None:
        if self.run_id:
            _process.outbox.send(self.run_id, Message(kind=kind, value=value, files=files))

    @contextmanager
    def _file(self, name: str) -> Iterator[Path]:
        """Give the block a path to write an artifact to."""
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            yield path
            self._send("files", {"path": ""}, Path(temporary))


SILENT = Run("")
"""Logs nothing: for processes of a distributed training other than the first."""


@contextmanager
def parent_run(name: str) -> Iterator[Run]:
    """Open the command's own run; under `mlflow run` adopt the one that it made.

    What dead processes have left for the store is delivered first.

    Raises:
        InputError: the store, or the place of its artifacts, cannot be written.
        Undelivered: the store went away and is not back.
    """
    for done in deliver_left():
        progress.say(describe(done))
    words = hide_passwords(" ".join(sys.argv))
    tags = {STAGE_TAG: "pipeline"}
    with _open(lambda: store.begin_command(_process.experiment, name, tags, words)) as run:
        yield run


@contextmanager
def stage_run(stage: str, role: str, key: str, name: str = "") -> Iterator[Run]:
    """Open a child run for a stage; it ends FINISHED only if the block does.

    Args:
        stage: The kind of work, e.g. "train".
        role: What its product is to the pipeline, e.g. "student".
        key: Of the product.
        name: Of the run; "" makes one of role and key.

    Raises:
        InputError: the store is away, and is not back in time for the run to begin.
        Undelivered: the store went away and is not back.
    """
    parent = {"mlflow.parentRunId": _process.active[-1]} if _process.active else {}
    tags = {KEY_TAG: key, STAGE_TAG: stage, ROLE_TAG: role, **parent}
    begin = store.begin_run(_process.experiment, name or f"{role} {key[:6]}", tags)
    with _open(partial(_process.outbox.patiently, begin), is_watched=True) as run:
        yield run


@contextmanager
def trial_run(parent: Run, name: str, tags: Mapping[str, str]) -> Iterator[Run]:
    """Open a run for a sweep's trial, beside the stages that it makes.

    It is never the active one: stages begun in the block are its siblings, one level deep. It
    ends FINISHED, KILLED if the block stops the trial early or is interrupted, or FAILED.

    Args:
        parent: The command's own run.
        name: Of the trial.
        tags: What the trial is.

    Raises:
        Stopped: by the block.
        Undelivered: the store went away and is not back.
    """
    tags = {**tags, STAGE_TAG: "trial", "mlflow.parentRunId": parent.run_id}
    begin = store.begin_run(_process.experiment, name, tags)
    with _open(partial(_process.outbox.patiently, begin), is_active=False) as run:
        yield run


@contextmanager
def _open(
    begin: Callable[[], str], *, is_active: bool = True, is_watched: bool = False
) -> Iterator[Run]:
    """Begin a run, keep it open while the block works, and end it as the block ends.

    Signals wait while it begins and ends: it would stay RUNNING for ever.
    """
    outbox, run = _process.outbox, SILENT
    status = "FAILED"
    try:
        with signals.deferred():
            run = Run(begin())
            outbox.own(run.run_id)
            _process.measured[run.run_id] = set()
            if is_active:
                _process.active.append(run.run_id)
        with system_metrics(run.log_metrics) if is_watched else nullcontext():
            yield run
        status = "FINISHED"
    except (Stopped, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        if run.run_id:
            with signals.deferred():
                if is_active:
                    _process.active.remove(run.run_id)
                try:
                    _end(run.run_id, status)
                except Exception:
                    if status == "FINISHED":
                        raise
                    # What has ended the block is said, and not that this could not be noted.
    outbox.flush()


def active_run() -> Run:
    """Return the run of the innermost block: while a stage works, its own."""
    return Run(_process.active[-1]) if _process.active else SILENT


def flush() -> None:
    """Deliver what waits for the store, and wait for it.

    Raises:
        Undelivered: it is not back in time.
    """
    _process.outbox.flush()


def kill_runs_of(parent_id: str, tags: Mapping[str, str]) -> None:
    """End what a dead command has left RUNNING, its own run and its children, as KILLED.

    Args:
        parent_id: The command's own run; nothing is done if this store does not have it.
        tags: Set on the children.
    """
    for run_id in _process.outbox.patiently(lambda: store.running_children(parent_id)) or ():
        if run_id != parent_id:
            Run(run_id).set_tags(tags)
        _end(run_id, "KILLED")


def bury(command_id: str, run_id: str) -> None:
    """End the runs of a dead process as KILLED, after what it had still to say is delivered.

    Args:
        command_id: Its command's own run; "" if it had none.
        run_id: The run of the stage at which it died; "" if it had none yet.
    """
    deliver_left()
    if command_id:
        kill_runs_of(command_id, {})
    if run_id:
        try:
            is_running = _process.outbox.patiently(lambda: store.is_running(run_id))
        except Refused:
            return  # this store does not have it
        if is_running:
            _end(run_id, "KILLED")


def _end(run_id: str, status: str) -> None:
    end = Message(kind="end", value={"status": status, "time": int(time.time() * 1000)})
    _process.outbox.send(run_id, end)


def _image_stem(name: str, step: int) -> str:
    """Return what the names of a picture's files begin with, as MLflow reads them."""
    # Its own log_image writes PNGs, and under a random name: twice if it is delivered twice.
    key = re.sub(r"[^\w\-. ~]", "_", name.replace("/", "~"), flags=re.ASCII)[:_LONGEST_IMAGE_KEY]
    identity = hashlib.blake2b(f"{step} {name}".encode(), digest_size=8).hexdigest()
    return f"{key}+step+{step}+timestamp+{int(time.time() * 1000)}+{identity}"


def deliver_left() -> list[Delivered]:
    """Deliver what dead processes have left for the store, and end their runs."""
    return _process.outbox.deliver_left()


def spools_of_others() -> list[Path]:
    """Return the folders in which messages wait that this process may not deliver."""
    return _process.outbox.spools_of_others()


def describe(done: Delivered) -> str:
    """Say what has become of what a dead process had left."""
    ended = f", which ends {done.status}" if done.status else ""
    said = f"run {done.run_id}{ended}: {done.messages} messages delivered"
    return said if done.left is None else f"{said}; {done.left}"


def metric_steps(run_id: str, name: str) -> dict[int, float]:
    """Return {step: value} of a metric of a run."""
    return _process.outbox.patiently(lambda: store.metric_steps(run_id, name))


def page_of(run_id: str) -> str:
    """Return the link to a run's page, for descriptions in the same store."""
    experiment = _process.outbox.patiently(lambda: store.experiment_of(run_id))
    return f"#/experiments/{experiment}/runs/{run_id}"


def find_finished(key: str) -> str | None:
    """Return the id of the newest FINISHED run with this key, in any experiment."""
    return _process.outbox.patiently(lambda: store.find_finished(key))


def evaluations_of(run_id: str) -> list[Finished]:
    """Return the finished evaluations of a network, the newest first, in any experiment."""
    return _process.outbox.patiently(lambda: store.evaluations_of(run_id))


def finished(name: str) -> Finished:
    """Look a stage's run up.

    Args:
        name: A run id, `runs:/ID`, or a registered model's `models:/NAME@ALIAS` or
            `models:/NAME/VERSION`.

    Raises:
        InputError: there is no such run, it is no stage's run, or it is not FINISHED.
    """
    return _process.outbox.patiently(lambda: store.finished(name))


def download(uri: str, folder: Path, other_store: str | None = None) -> Path:
    """Fetch an artifact folder (`runs:/ID/path`, `models:/name@alias/path`) into `folder`.

    Args:
        uri: Of the artifact folder, or of a file.
        folder: Where it goes.
        other_store: That has the run; None: the one that is written to.

    Returns:
        The path of the fetched folder, inside `folder`.

    Raises:
        InputError: it cannot be fetched.
    """

    def fetch() -> Path:
        try:
            return store.download(uri, folder, other_store)
        except InputError:
            store.ping(other_store or store_uri(), timeout=2)  # what it raises is an outage
            raise

    return _process.outbox.patiently(fetch)
