"""Run a stage once: its key, its folder, its MLflow run; reuse a finished one.

The key is a hash of what decides the product: the stage's name and version, its config
without `machine.*`, and the digest of the data it reads. A FINISHED run with the key stands
for the product; its files come from `outputs/<stage>-<key>/` or, if that folder is gone, from
the run's artifacts. A folder without a finished run is work in progress: the stage goes on
from what it finds there. One process works on it at a time; others wait for it.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from selftrain import distributed, progress, tracking
from selftrain.errors import InputError, Unavailable
from selftrain.files import remove_leftovers, scratch_folder, write_atomically
from selftrain.locks import FileLock, describe_holder
from selftrain.passwords import hide_passwords

PRODUCT = "product"
"""Artifact folder of the stages whose product is files."""
_MARK = "product.json"
_POLL = 0.5
"""Seconds between two looks whether another process is done."""


@dataclass(frozen=True)
class Stage:
    """A kind of work whose product can be found again."""

    name: str
    version: int
    """Raised when the code changes what the same config makes."""
    artifacts: str = PRODUCT
    """Artifact path from which the product's folder is restored."""

    def folder(self, outputs: Path, key: str) -> Path:
        """Return where the product of a key lies."""
        return outputs / f"{self.name}-{key}"


@dataclass(frozen=True)
class Product:
    """What a stage has made."""

    key: str
    folder: Path
    run_id: str
    is_reused: bool


Make = Callable[[Path, tracking.Run], None]


def make_key(stage: Stage, identity: Mapping[str, object]) -> str:
    """Return the key: 16 hexadecimal digits."""
    text = json.dumps([stage.name, stage.version, identity], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def run_stage(
    stage: Stage,
    identity: Mapping[str, object],
    make: Make,
    *,
    outputs: Path,
    title: str,
    name: str = "",
    config: Mapping[str, object] | None = None,
) -> Product:
    """Return the product of a stage; make it only if no finished run has made it before.

    While another process makes it, this one waits; if that one dies, this one goes on from what it
    has left.

    Args:
        stage: What kind of work.
        identity: Everything that decides the product, JSON-like.
        make: Fills the folder and logs to the run. It finds in the folder what an
            interrupted attempt has left, and continues from that.
        outputs: Folder for all products.
        title: What the product is to the pipeline, e.g. "student".
        name: Of the run; "" makes one of title and key.
        config: Every knob by its dotted path, from which the run can be started again; logged
            as `config.json`, beside the key's own `identity.json`.

    Raises:
        InputError: the folder cannot be made, or the tracking store has gone away and has not come
            back. The product is then whole, and the next command finds it once the store has been
            told of it.
    """
    key = make_key(stage, identity)
    folder = stage.folder(outputs, key)
    run_id = _find(key)
    if run_id is not None:
        return open_product(stage, key, run_id, outputs)
    _make_folder(folder)
    with alone(folder, title) as lock:
        run_id = _find(key)  # another process may have made it meanwhile
        if run_id is None:
            make = _recorded(make, identity, config)
            return _carry_out(stage, key, folder, title, lock, make, name)
    return open_product(stage, key, run_id, outputs)


def _find(key: str) -> str | None:
    return distributed.broadcast(tracking.find_finished(key) if distributed.rank() == 0 else None)


def _recorded(
    make: Make, identity: Mapping[str, object], config: Mapping[str, object] | None
) -> Make:
    """Return what makes a product and logs from what."""

    def make_and_log(folder: Path, run: tracking.Run) -> None:
        run.log_json(identity, "identity.json")
        run.log_json({knob: _plain(value) for knob, value in (config or {}).items()}, "config.json")
        make(folder, run)

    return make_and_log


def _carry_out(
    stage: Stage, key: str, folder: Path, title: str, lock: FileLock, make: Make, name: str
) -> Product:
    """Make a product; the folder's lock is held."""
    if distributed.rank() > 0:
        make(folder, tracking.SILENT)
        return Product(key, folder, distributed.broadcast(""), is_reused=False)
    (folder / _MARK).unlink(missing_ok=True)  # its run is gone: the mark stands for nothing
    try:
        with tracking.stage_run(stage.name, title, key, name) as run:
            lock.add(run=run.run_id)
            make(folder, run)
            if stage.artifacts == PRODUCT:
                run.log_files(folder, PRODUCT)
            # Before the run ends: if the store cannot be told now, `sync` will tell it.
            _mark(stage, key, run.run_id, folder)
    except tracking.Undelivered as error:
        if not (folder / _MARK).exists():
            raise
        raise tracking.Undelivered(
            f"{title} is made, and whole in {folder}, but nobody knows of it yet. {error} The same "
            "command then finds it."
        ) from error
    return Product(key, folder, distributed.broadcast(run.run_id), is_reused=False)


def _plain(value: object) -> object:
    return hide_passwords(str(value)) if isinstance(value, str | Path) else value


@contextmanager
def alone(folder: Path, title: str) -> Iterator[FileLock]:
    """Keep other processes from a product's folder while the block works on it.

    The first rank holds the lock; the others wait with it. What a dead owner has left RUNNING in
    the store is ended first.
    """
    lock = FileLock(lock_file(folder))
    is_told = False
    # Told at every look: ranks that wait for hours for one word would give up.
    while not distributed.broadcast(_take(lock) if distributed.rank() == 0 else False):
        if not is_told and distributed.rank() == 0:
            holder = describe_holder(lock.holder())
            progress.say(f"{title}: {holder} works on {folder}: waiting until it is done")
        is_told = True
        time.sleep(_POLL)
    try:
        if lock.left:
            progress.say(f"{title}: {describe_holder(lock.left)} has died at it: going on")
            tracking.bury(lock.left.get("command", ""), lock.left.get("run", ""))
        if distributed.rank() == 0:
            remove_leftovers(folder)
            remove_leftovers(folder.parent, deep=False)
        yield lock
    finally:
        lock.release()


def lock_file(folder: Path) -> Path:
    """Return where the lock of a product's folder lies."""
    return folder.with_name(f"{folder.name}.lock")


def _take(lock: FileLock) -> bool:
    return lock.take(command=tracking.active_run().run_id)


def open_product(stage: Stage, key: str, run_id: str, outputs: Path) -> Product:
    """Return the product of a finished run; fetch its files if they are not here."""
    folder = stage.folder(outputs, key)
    # A lock file that was left: somebody was killed when all was done but its run's end.
    is_settled = (folder / _MARK).exists() and not lock_file(folder).exists()
    if not distributed.broadcast(is_settled):
        _make_folder(outputs)
        with alone(folder, f"{stage.name} {key[:6]}"):
            if distributed.rank() == 0 and not (folder / _MARK).exists():
                _restore(stage, key, run_id, folder)
    distributed.barrier()
    return Product(key, folder, run_id, is_reused=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"The folder {folder} cannot be made ({error.strerror}): "
            "set machine.outputs to a folder that can be written."
        ) from error


def _mark(stage: Stage, key: str, run_id: str, folder: Path) -> None:
    mark = {"stage": stage.name, "key": key, "run_id": run_id}
    write_atomically(folder / _MARK, json.dumps(mark, indent=2).encode())


def _restore(stage: Stage, key: str, run_id: str, folder: Path) -> None:
    """Fetch the product beside its place and move it there whole."""
    _make_folder(folder.parent)
    with scratch_folder(beside=folder) as temporary:
        # mlflow resolves `runs:/ID/model` by its first path component alone: fetch that.
        first, *inside = stage.artifacts.split("/")
        try:
            fetched = tracking.download(f"runs:/{run_id}/{first}", temporary)
        except InputError as error:
            free = shutil.disk_usage(folder.parent).free / 2**20
            raise InputError(
                f"{error} {folder.parent} has {free:.0f} MiB free: make room if that is too "
                "little. If the run's artifacts are gone, delete the run (mlflow runs delete "
                f"--run-id {run_id}), and the stage is made anew."
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        fetched.joinpath(*inside).rename(folder)
    _mark(stage, key, run_id, folder)
