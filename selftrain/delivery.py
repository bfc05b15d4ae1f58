"""How a run's messages reach the tracking store: at once, or when it is back.

To deliver a message twice changes nothing: the store may have taken it while its answer was lost,
and a process may die between an answer and its note of it.
"""

import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import mlflow
import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from selftrain import model_versions, progress, signals, store
from selftrain.checkpoint import CHECKPOINT, NETWORK, OLDER
from selftrain.errors import InputError, Refused, Unavailable
from selftrain.model_versions import Registration
from selftrain.request import IMAGE
from selftrain.spool import Message, Spool

T = TypeVar("T")

_PAUSE = 2.0
"""Seconds between two attempts, at least."""
_RELUCTANCE = 10
"""The next attempt waits so many times as long as the last one took: that costs a tenth."""
_PING = 2.0
"""Seconds in which a server that was away must answer before more is tried."""
_SLOWEST = 2**20
"""Bytes a second that a server must take of an artifact."""
_MOST_METRICS = 1000
"""In one request."""
REGISTER = "register"
"""Kind of the messages that take several steps: they are on disk before the first."""
_FORMS = {
    "images": "array uint8 (B, H, W, 3), RGB -> class ids uint8 (B, H, W)",
    "files": f"column {IMAGE} of PNG or JPEG files, in base64 if in JSON -> a record for each: "
    "mask (PNG of class ids in base64), classes (names), shares (of the pixels)",
}
"""What a model takes and gives, which its signature cannot say."""


class Undelivered(Unavailable):
    """The store has not come back: what was logged waits on disk."""


@dataclass
class Delivered:
    """What has become of a spool that a dead process had left."""

    run_id: str
    messages: int = 0
    """Delivered."""
    status: str | None = None
    """That the run was ended with, if it was."""
    left: str | None = None
    """Why some are left, if some are."""


class Outbox:
    """Sends what this process logs; what the store does not take waits on disk, in order."""

    def __init__(self, root: Path, patience: float) -> None:
        """Make one.

        Args:
            root: Where messages wait, in a folder for each run.
            patience: Seconds to wait for the store where nothing can go on without it.
        """
        self.root, self.patience = root, patience
        self._lock = threading.RLock()  # the thread that logs the system's metrics sends too
        self._spools: dict[str, Spool] = {}
        self._refused: dict[str, tuple[Spool, str]] = {}
        """Of runs that the store takes nothing of, with what is said of that: this process does
        not try again."""
        self._own: set[str] = set()
        self._retry_at = 0.0
        self._is_away = False
        self._has_given_up = False

    def own(self, run_id: str) -> None:
        """Note that this process has begun a run: if it dies, the run is dead."""
        self._own.add(run_id)

    def send(self, run_id: str, message: Message) -> None:
        """Deliver a message, or keep it for later; one of several steps is kept first.

        Raises:
            Refused: the store does not take it, or what waits of the run. It is kept all the same.
            InputError: it cannot be written to disk.
        """
        with self._lock:
            if run_id in self._refused:
                spool, said = self._refused[run_id]
                spool.append(message)
                raise Refused(said)
            if not self._spools and not self._is_away and message.kind != REGISTER:
                try:
                    deliver(run_id, [message])
                    return
                except Exception as error:
                    if store.is_refusal(error):
                        self._keep(run_id, message)
                        self._set_aside(run_id, error)
                    if not store.is_outage(error):
                        raise
                    self._note_outage(error)
            self._keep(run_id, message)
            if time.monotonic() >= self._retry_at:
                failed = self._try()
                if failed is not None and not self._is_away:
                    self._note_outage(failed)

    def _keep(self, run_id: str, message: Message) -> None:
        if run_id not in self._spools:
            about = {"store": store.shown_uri(), "is_own": str(run_id in self._own)}
            self._spools[run_id] = Spool.begin(self.root, run_id, about)
        self._spools[run_id].append(message)

    def flush(self, patience: float | None = None) -> None:
        """Deliver all that waits.

        Args:
            patience: Seconds to wait for the store; None: those of this outbox.

        Raises:
            Undelivered: the store has not come back.
            Refused: it does not take what waits.
        """
        with self._lock:
            if not self._spools:
                return
            seconds = 0.0 if self._has_given_up else patience
            seconds = self.patience if seconds is None else seconds
            deadline = time.monotonic() + seconds
            if seconds >= _PAUSE:
                progress.say(f"waiting up to {seconds:.0f} s for the tracking store")
            while (error := self._try()) is not None:
                if time.monotonic() >= deadline:
                    self._has_given_up = self._has_given_up or seconds > 0
                    raise Undelivered(
                        f"The tracking store {store.shown_uri()} does not take what was logged "
                        f"({store.reason_of(error)}): it waits in {self.root}. Start the store, "
                        f"then `python -m selftrain sync --machine.outputs {self.root.parent}` "
                        "delivers it."
                    )
                time.sleep(max(0.0, min(_PAUSE, deadline - time.monotonic())))

    def leave(self) -> None:
        """Leave what waits to `sync`, or to the next command, as if this process had ended."""
        with self._lock:
            for spool in self._mine():
                spool.close()
            self._spools.clear()
            self._refused.clear()

    def patiently(self, ask: Callable[[], T]) -> T:
        """Ask the store something, and wait for it if it is away.

        What waits for it is delivered first, so that the answer knows of it.

        Raises:
            Unavailable: it is away for too long, or does not let us in.
            Refused: it refuses.
        """
        deadline: float | None = None
        while True:
            try:
                with self._lock:
                    if self._spools and (undelivered := self._try()) is not None:
                        raise undelivered
                with signals.deferred():  # what a session of the database leaves torn locks it
                    found = ask()
            except Exception as error:
                if store.is_refusal(error):
                    raise Refused(
                        f"The tracking store {store.shown_uri()} refuses what it is asked "
                        f"({store.reason_of(error)}): {_RESTORE}, and give the same command again, "
                        "which goes on from what there is."
                    ) from error
                if not store.is_outage(error):
                    raise
                now = time.monotonic()
                if deadline is None:
                    is_denied = store.is_denial(error) or self._has_given_up
                    deadline = now + (0.0 if is_denied else self.patience)
                    if now < deadline:
                        progress.say(
                            f"the tracking store {store.shown_uri()} does not answer "
                            f"({store.reason_of(error)}): waiting up to {self.patience:.0f} s"
                        )
                if now >= deadline:
                    self._has_given_up = True
                    raise Unavailable(
                        f"The tracking store {store.shown_uri()} does not answer "
                        f"({store.reason_of(error)}): start it, see that it lets us in, and give "
                        "the same command again, which goes on from what there is."
                    ) from error
                time.sleep(max(0.0, min(_PAUSE, deadline - now)))
            else:
                self._has_given_up = False
                return found

    def deliver_left(self) -> list[Delivered]:
        """Deliver what dead processes have left, and end their runs; the store answers."""
        with self._lock:
            found: list[Delivered] = []
            for folder in sorted(self.spools_of_others(), key=_age):
                try:
                    spool = Spool.open_left(folder)
                except InputError as error:  # one that is damaged does not keep others waiting
                    found.append(Delivered(folder.name, left=str(error)))
                    continue
                if spool is not None:
                    try:
                        found.append(_deliver_left(spool))
                    finally:
                        spool.close()
            return found

    def spools_of_others(self) -> list[Path]:
        """Return the folders that hold messages of other processes, or of dead ones still."""
        mine = {spool.folder for spool in self._mine()}
        return sorted(path for path in self.root.glob("*") if path.is_dir() and path not in mine)

    def _mine(self) -> list[Spool]:
        return [*self._spools.values(), *(spool for spool, _ in self._refused.values())]

    def _try(self) -> Exception | None:
        """Deliver what waits; return why it could not be."""
        began = time.monotonic()
        sent = 0
        try:
            store.ping(store.store_uri(), timeout=_PING)
            for run_id, spool in list(self._spools.items()):
                for numbers, messages in _batches(spool):
                    try:
                        _deliver_alone(self.root, run_id, messages)
                    except Exception as error:
                        if store.is_refusal(error):
                            self._set_aside(run_id, error)
                        raise
                    for number in numbers:
                        spool.drop(number)
                    sent += len(messages)
                spool.close()
                del self._spools[run_id]
        except Exception as error:
            if not store.is_outage(error):
                raise
            now = time.monotonic()
            self._retry_at = now + max(_PAUSE, _RELUCTANCE * (now - began))
            return error
        if self._is_away:
            progress.say(f"the tracking store is back and has got what waited: {sent} messages")
        self._is_away = self._has_given_up = False
        return None

    def _note_outage(self, error: Exception) -> None:
        self._is_away = True
        self._retry_at = time.monotonic() + _PAUSE
        progress.say(
            f"the tracking store {store.shown_uri()} does not answer ({store.reason_of(error)}): "
            f"what is logged waits in {self.root} until it does"
        )

    def _set_aside(self, run_id: str, error: Exception) -> NoReturn:
        """Leave a spool that the store refuses to `sync`, which says so again."""
        spool = self._spools.pop(run_id)
        said = (
            f"The tracking store {store.shown_uri()} refuses what run {run_id} logs "
            f"({store.reason_of(error)}): what it has made is on the disk, and the same command "
            f"goes on from that in a new run; to have this one too, {_RESTORE}, then "
            f"`python -m selftrain sync --machine.outputs {self.root.parent}` delivers what waits "
            f"in {spool.folder}."
        )
        self._refused[run_id] = spool, said
        raise Refused(said) from error


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # its process has just delivered it
        return 0.0


_RESTORE = (
    "restore the run or its experiment if that was deleted (mlflow runs restore --run-id ID, "
    "mlflow experiments restore --experiment-id ID)"
)


def _refused(spool: Spool, error: Exception) -> str:
    return (
        f"The tracking store {store.shown_uri()} refuses what run {spool.run_id} has logged "
        f"({store.reason_of(error)}): {_RESTORE}, or set MLFLOW_TRACKING_URI to the store that "
        f"has it ({spool.about.get('store', 'unknown')}); to give the messages up, delete "
        f"{spool.folder}."
    )


def _deliver_left(spool: Spool) -> Delivered:
    """Deliver a dead process's messages, and end the run if it was the process's own."""
    done = Delivered(spool.run_id)
    try:
        for numbers, messages in _batches(spool):
            _deliver_alone(spool.folder.parent, spool.run_id, messages)
            for number in numbers:
                spool.drop(number)
            done.messages += len(messages)
            for message in messages:
                done.status = message.value["status"] if message.kind == "end" else done.status
        is_own = spool.about.get("is_own") == str(True)
        if done.status is None and is_own and store.is_running(spool.run_id):
            done.status = "KILLED"
            mlflow.MlflowClient().set_terminated(spool.run_id, done.status)
    except InputError as error:
        done.left = str(error)
    except Exception as error:
        if store.is_refusal(error):
            done.left = _refused(spool, error)
        elif store.is_outage(error):
            done.left = f"{spool.folder} is left ({store.reason_of(error)})."
        else:
            raise
    return done


def _batches(spool: Spool) -> list[tuple[list[int], list[Message]]]:
    """Return the messages in order, metrics that follow each other together."""
    batches: list[tuple[list[int], list[Message]]] = []
    size = 0
    for number, message in spool.messages():
        count = len(message.value["metrics"]) if message.kind == "metrics" else 0
        if batches and count and batches[-1][1][-1].kind == "metrics":
            size += count
            if size <= _MOST_METRICS:
                batches[-1][0].append(number)
                batches[-1][1].append(message)
                continue
        size = count
        batches.append(([number], [message]))
    return batches


def _deliver_alone(root: Path, run_id: str, messages: Sequence[Message]) -> None:
    """Deliver; while a network is registered, the other processes of this root wait."""
    registers = messages[-1].kind == REGISTER
    with model_versions.one_at_a_time(root) if registers else nullcontext():
        deliver(run_id, messages)


def deliver(run_id: str, messages: Sequence[Message]) -> None:
    """Deliver a message, or several with metrics.

    Raises:
        Exception: of many kinds; `store.is_outage` says which may pass.
    """
    client = mlflow.MlflowClient()
    for message in messages[:-1]:
        assert message.kind == messages[-1].kind == "metrics"
    value, kind = messages[-1].value, messages[-1].kind
    if kind == "metrics":
        metrics = [Metric(*row) for message in messages for row in message.value["metrics"]]
        # With its timestamp a metric is known again: the store has it once.
        client.log_batch(run_id, metrics=metrics)
    elif kind == "params":
        # `mlflow run` has logged the values of -P before our code starts: the same in another
        # spelling (1e-2, then 0.01) would raise.
        present = client.get_run(run_id).data.params
        fresh = [Param(name, it) for name, it in value["params"].items() if name not in present]
        client.log_batch(run_id, params=fresh)
    elif kind == "tags":
        client.log_batch(run_id, tags=[RunTag(name, it) for name, it in value["tags"].items()])
    elif kind == "dataset":
        tags = [InputTag("mlflow.data.context", value["context"])]
        client.log_inputs(run_id, datasets=[DatasetInput(Dataset(**value["dataset"]), tags)])
    elif kind == "end":
        client.set_terminated(run_id, value["status"], value["time"])
    elif kind == REGISTER:
        model_versions.register(run_id, Registration(**value))
    else:
        _deliver_files(client, run_id, messages[-1])


def _deliver_files(client: mlflow.MlflowClient, run_id: str, message: Message) -> None:
    folder = message.files
    if folder is None:
        raise InputError(f"The files that run {run_id} has logged are lost: give the message up.")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    # The answer to an upload comes when the server has stored it.
    with store.http_settings(timeout=10 + size // _SLOWEST):
        if message.kind == "model":
            _deliver_model(client, run_id, folder)
        else:
            client.log_artifacts(run_id, str(folder), message.value["path"] or None)


def _deliver_model(client: mlflow.MlflowClient, run_id: str, folder: Path) -> None:
    """Log the network in a folder as a model, unless the run has it; a half one is replaced."""
    experiment = client.get_run(run_id).info.experiment_id
    query = f"source_run_id = '{run_id}' AND name = '{store.MODEL}'"
    for earlier in client.search_logged_models([experiment], query):
        if earlier.status == "READY":
            return
        client.delete_logged_model(earlier.model_id)
    package = Path(__file__).parent
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        network = Path(temporary) / NETWORK  # mlflow keeps the folder's own name
        shutil.copytree(folder, network, ignore=shutil.ignore_patterns(CHECKPOINT, OLDER))
        warnings.simplefilter("ignore")  # hints on type hints: a model from code has none
        Model.log(
            artifact_path=None,
            name=store.MODEL,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            python_model=str(package / "serving.py"),
            artifacts={NETWORK: str(network)},
            code_paths=[str(package)],
            signature=_signature(),
            metadata=_FORMS,
            pip_requirements=_requirements(),
        )


def _signature() -> ModelSignature:
    """Return a signature by which MLflow takes an array of images, and a column of files too.

    It has one for a model. One that says uint8 (B, H, W, 3) refuses every column of texts; one of
    columns, every array of four axes. MLflow passes on whatever it can make a tensor of objects
    of, and `request.py` says what is wrong with it.
    """
    return ModelSignature(Schema([TensorSpec(np.dtype(object), (-1,), IMAGE)]))


def _requirements() -> list[str]:
    """Name the installed versions; left to itself mlflow takes 16 s to infer them."""
    from importlib.metadata import version

    packages = ("mlflow", "torch", "torchvision", "numpy", "safetensors", "opencv-python-headless")
    return [f"{name}=={version(name)}" for name in packages]
