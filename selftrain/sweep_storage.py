"""Where the trials of a search lie, and how its workers keep out of each other's way.

Workers of one machine share a journal, a file; workers of many share a PostgreSQL database. Either
gives locks by name, which end with the process that holds them, and tells whose worker is dead:
a journal's worker holds a lock while it lives, a database's tells that it lives every few seconds.
"""

import fcntl
import hashlib
import os
import re
import threading
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import Trial, TrialState

from selftrain.errors import InputError
from selftrain.passwords import hide_passwords

Direction = Literal["minimize", "maximize"]
WORKER = "worker"
"""Attribute of a trial: who works on it."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class SharedStudy(Protocol):
    """A study of Optuna's that several workers carry out together."""

    @property
    def study(self) -> Study:
        """The trials."""

    def lock(self, name: str, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold a lock of the study's; it is free again when the block ends or the process dies.

        Args:
            name: Of the lock.
            wait: For the worker that holds it now; without, the block is told False at once.
        """

    def claim(self, trial: Trial) -> None:
        """Note that this worker works on a trial."""

    def at_work(self, trial: Trial) -> AbstractContextManager[None]:
        """Let the others know that this worker lives while the block works on a trial."""

    def fail_dead(self) -> None:
        """Let the trials fail that are RUNNING while their workers are dead.

        Call it, and `claim`, under one lock: a trial that nobody has claimed counts as dead.
        """


def open_study(
    storage: str,
    name: str,
    folder: Path,
    *,
    directions: Sequence[Direction],
    pruner: BasePruner,
    interval: int = 15,
    grace: int = 120,
) -> SharedStudy:
    """Open a study, or make it; several workers may do so at once.

    Args:
        storage: "journal", or the URI of a PostgreSQL database.
        name: Of the study.
        folder: Where journals lie.
        directions: For each objective "maximize" or "minimize".
        pruner: Stops trials early.
        interval: Of a database: seconds between a worker's signs of life.
        grace: Of a database: seconds without one after which a worker is dead.

    Raises:
        InputError: the storage is neither of the two or cannot be used.
    """
    make = partial(
        optuna.create_study,
        study_name=name,
        directions=list(directions),
        pruner=pruner,
        load_if_exists=True,
    )
    if storage == "journal":
        return JournalStudy(folder / f"{name}.journal", make)
    if not storage.startswith("postgresql://"):
        raise InputError(
            f"sweep.storage = {hide_passwords(storage)} is no storage: write journal, or a "
            "database as in postgresql://user@host/name."
        )
    return DatabaseStudy(storage, name, make, interval=interval, grace=grace)


class _MakeStudy(Protocol):
    def __call__(self, *, storage: BaseStorage) -> Study: ...


def _number(text: str) -> int:
    """Return 62 bits of a text's hash: what both kinds of locks are named by."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 2


class _Bytes:
    """Locks on single bytes of a file: one for each name.

    They belong to the process, so that a loader's worker that outlives it does not keep them.
    """

    def __init__(self, path: Path) -> None:
        # Open until the process ends: to close it anywhere would give all its locks back.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def take(self, name: str, *, wait: bool = True) -> bool:
        """Take a lock, and return whether it was to be had."""
        how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
        try:
            fcntl.lockf(self._file, how, 1, _number(name))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def give(self, name: str) -> None:
        """Give a lock back."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _number(name))


class _JournalLock(JournalFileOpenLock):
    """Held while a line is written; Optuna's own locks outlive a killed process by 30 s."""

    def __init__(self, locks: _Bytes) -> None:
        self._locks = locks

    def acquire(self) -> bool:
        """Wait for the lock."""
        return self._locks.take("journal")

    def release(self) -> None:
        """Give it back."""
        self._locks.give("journal")


class JournalStudy:
    """A study in a file, for workers of one machine."""

    def __init__(self, path: Path, make: _MakeStudy) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._locks = _Bytes(path.with_suffix(".locks"))
        except OSError as error:
            raise InputError(
                f"The journal {path} cannot be written ({error.strerror}): set machine.outputs to "
                "a folder that can be."
            ) from error
        self._worker = uuid.uuid4().hex
        self._locks.take(self._worker)
        lock = _JournalLock(self._locks)
        lock.acquire()
        _mend(path)
        lock.release()
        backend = JournalFileBackend(str(path), lock_obj=lock)
        with self.lock("study"):
            self._study = make(storage=JournalStorage(backend))

    @property
    def study(self) -> Study:
        """The trials."""
        return self._study

    @contextmanager
    def lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock of the study's."""
        taken = self._locks.take(f"lock {name}", wait=wait)
        try:
            yield taken
        finally:
            if taken:
                self._locks.give(f"lock {name}")

    def claim(self, trial: Trial) -> None:
        """Note that this worker works on a trial."""
        trial.set_user_attr(WORKER, self._worker)

    def at_work(self, trial: Trial) -> AbstractContextManager[None]:
        """Do nothing: the lock that the worker holds says that it lives."""
        return nullcontext()

    def fail_dead(self) -> None:
        """Let the RUNNING trials fail whose workers hold their locks no more."""
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            if self._is_dead(trial.user_attrs.get(WORKER)):
                self._study.tell(trial.number, state=TrialState.FAIL)

    def _is_dead(self, worker: str | None) -> bool:
        if worker is None:
            return True
        if worker == self._worker or not self._locks.take(worker, wait=False):
            return False
        self._locks.give(worker)
        return True


def _mend(path: Path) -> None:
    """Cut off the half line of a worker killed while writing; the journal's lock is held.

    With the next line behind it, it would make the whole journal unreadable.
    """
    text = path.read_bytes() if path.exists() else b""
    if not text.endswith(b"\n") and text:
        os.truncate(path, text.rfind(b"\n") + 1)


class DatabaseStudy:
    """A study in a PostgreSQL database, for workers of many machines."""

    def __init__(self, uri: str, name: str, make: _MakeStudy, *, interval: int, grace: int) -> None:
        self._uri, self._name, self._interval = uri, name, interval
        self._worker = uuid.uuid4().hex
        with self.lock("schema", of="optuna"), _quiet():
            try:
                self._storage = RDBStorage(
                    uri.replace("postgresql://", "postgresql+psycopg://", 1),
                    heartbeat_interval=interval,
                    grace_period=grace,
                    engine_kwargs={"pool_pre_ping": True},  # idle for hours while a trial trains
                )
            except RuntimeError as error:  # it looks for its version where MLflow keeps its own
                raise InputError(
                    "The database of sweep.storage holds the tables of another version of Optuna, "
                    "or of another program such as MLflow: give the sweep a database of its own."
                ) from error
            self._study = make(storage=self._storage)

    @property
    def study(self) -> Study:
        """The trials."""
        return self._study

    @contextmanager
    def lock(self, name: str, *, wait: bool = True, of: str | None = None) -> Iterator[bool]:
        """Hold a lock of the study's, or of what `of` names."""
        import psycopg

        call = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
        try:
            connection = psycopg.connect(self._uri, autocommit=True, connect_timeout=20)
        except psycopg.Error as error:
            raise InputError(
                f"The database of sweep.storage cannot be used ({_reason(error, self._uri)}): "
                "start it, or write another URI, as in postgresql://user@host/name."
            ) from None  # it may show the password
        with closing(connection):
            # The server gives the lock back when the connection ends, however it ends.
            found = connection.execute(
                f"select {call}(%s)", [_number(f"{of or self._name}/{name}")]
            )
            row = found.fetchone()
            yield wait or bool(row and row[0])

    def claim(self, trial: Trial) -> None:
        """Note that this worker works on a trial, and give the first sign of life."""
        self._storage.record_heartbeat(trial._trial_id)  # Optuna wants its own id, not the number
        trial.set_user_attr(WORKER, self._worker)

    @contextmanager
    def at_work(self, trial: Trial) -> Iterator[None]:
        """Give signs of life while the block works on a trial."""
        is_done = threading.Event()

        def beat() -> None:
            while not is_done.wait(self._interval):
                try:
                    self._storage.record_heartbeat(trial._trial_id)
                except optuna.exceptions.StorageInternalError:
                    continue  # the database is away for a moment: the next one may be in time

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_done.set()
            thread.join()

    def fail_dead(self) -> None:
        """Let the RUNNING trials fail that have given no sign of life for too long."""
        with _quiet():
            optuna.storages.fail_stale_trials(self._study)
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            if WORKER not in trial.user_attrs:
                self._study.tell(trial.number, state=TrialState.FAIL)


def _reason(error: Exception, uri: str) -> str:
    """Return why a database cannot be used, without a part of its password."""
    password = uri.partition("://")[2].rpartition("@")[0].partition(":")[2]
    if re.search(r"[^\w.~%-]|%(?![0-9A-Fa-f]{2})", password):  # a part is taken for a host, say
        return "the password in its URI has characters to be percent-encoded, as %40 for @"
    return hide_passwords(" ".join(str(error).split()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from warning that heartbeats are an experiment."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
