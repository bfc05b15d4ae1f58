"""Files and folders that are there in full or not at all.

What is being made has another name until it is whole: a temporary one, that its maker has locked.
The system gives the lock back when the process ends, however it ends. So a temporary file that
nobody has locked has no maker, and anybody may remove it at any time.
"""

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from selftrain.errors import Unavailable

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that no reader, and no crash, ever meets half of it.

    The bytes go to a temporary file in the same folder, reach the disk, and only then take
    the name; an older file of that name stays whole until that moment. Missing folders are
    made. Several processes may write the same path: the last one wins.

    Raises:
        Unavailable: the file cannot be written (disk full, read-only, a plain file where a
            folder should be, ...). No temporary file is left and the old file is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path.parent, is_folder=False) as (temporary, descriptor):
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be written ({error.strerror or error}): "
            "free some space or choose a folder that you may write to."
        ) from error


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Make a folder for the block to fill, and to move to its place when it is whole.

    It is removed in the end unless it was moved. What a killed process leaves is removed by
    `remove_leftovers`.

    Args:
        beside: The scratch folder is made in the same folder as this one; parents are made.

    Raises:
        OSError: it cannot be made.
    """
    beside.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(beside.parent, is_folder=True) as (temporary, _):
        yield temporary


def remove_leftovers(folder: Path, *, deep: bool = True) -> None:
    """Remove what killed processes have left in a folder: temporary files and scratch folders.

    Safe at any time: what another process works on stays. What cannot be removed stays too.

    Args:
        folder: Need not exist.
        deep: Look into its folders too.
    """
    for path in list(folder.rglob(".*.tmp") if deep else folder.glob(".*.tmp")):
        if not _TEMPORARY.fullmatch(path.name):
            continue
        with suppress(OSError):  # gone meanwhile, or somebody works on it
            is_folder = path.is_dir()
            descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(descriptor)


@contextmanager
def _temporary(folder: Path, *, is_folder: bool) -> Iterator[tuple[Path, int]]:
    """Make a file or folder under a name of its own, locked; it is removed unless it was moved."""
    # Not tempfile: its files are readable by their owner only, and outputs are shared.
    # Not the target's name in front: with it a name of full length would become too long.
    while True:
        path = folder / f".{uuid.uuid4().hex}.tmp"
        if is_folder:
            path.mkdir()
            descriptor = os.open(path, os.O_RDONLY)
        else:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks: nothing there is ever a leftover
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_there(path, descriptor):
            break
        os.close(descriptor)  # taken for a leftover in the moment before it was locked
    try:
        yield path, descriptor
    finally:
        if _is_there(path, descriptor):
            _remove(path)
        os.close(descriptor)


def _is_there(path: Path, descriptor: int) -> bool:
    """Return whether the name still stands for what was opened by it."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_folder(name: str) -> bool:
    """Return whether there is a folder of this name; of none that no file system can hold."""
    try:
        return Path(name).is_dir()
    except OSError:  # longer than a name can be, for example
        return False
