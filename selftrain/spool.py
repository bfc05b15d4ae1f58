"""What a run has not told its tracking store yet: on disk, in order, each message whole.

A message is a file `NUMBER.json` and, if it comes with files, the folder `NUMBER` beside it. The
folder comes first, so that a message that is there is there with its files. It is dropped when it
is delivered; a process that dies in between leaves it to be delivered once more, which changes
nothing in the store.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.locks import FileLock

_ABOUT = "run.json"
_OURS = re.compile("[0-9a-f]{32}-[0-9a-f]{8}")


@dataclass(frozen=True, kw_only=True)
class Message:
    """Something that a run logs."""

    kind: str
    """Says what is meant: params, metrics, tags, dataset, files, model, register, end."""
    value: Mapping[str, Any]
    """Like JSON."""
    files: Path | None = None
    """Folder of the files that belong to it."""


class Spool:
    """The messages of one run from one process, which holds a lock on them while it lives."""

    def __init__(self, folder: Path, lock: FileLock, about: Mapping[str, str]) -> None:
        self.folder, self.about = folder, about
        self._lock = lock
        self._last = max(_numbers(folder), default=0)

    @classmethod
    def begin(cls, root: Path, run_id: str, about: Mapping[str, str]) -> "Spool":
        """Make an empty one for messages of this process.

        Args:
            root: Where spools lie.
            run_id: Of the run that the messages belong to.
            about: What else is to be known of the run.

        Raises:
            InputError: it cannot be written.
        """
        about = {"run_id": run_id, **about}
        while True:
            folder = root / f"{run_id}-{uuid.uuid4().hex[:8]}"
            try:
                folder.mkdir(parents=True)
            except OSError as error:
                raise InputError(
                    f"The folder {folder} cannot be made ({error.strerror}), in which waits what "
                    "the tracking store does not take: set machine.outputs to a folder that can be "
                    "written."
                ) from error
            lock = FileLock(folder / "lock")
            try:
                if lock.take():
                    break
            except InputError:
                if folder.is_dir():
                    raise
            # Taken for a dead process's in the moment before it was locked.
        write_atomically(folder / _ABOUT, json.dumps(about, indent=2).encode())
        return cls(folder, lock, about)

    @classmethod
    def open_left(cls, folder: Path) -> "Spool | None":
        """Open what a dead process has left; None if its process lives, or it is gone.

        A folder without a message whose process has died is removed.

        Raises:
            InputError: it cannot be read.
        """
        path = folder / _ABOUT
        lock = FileLock(folder / "lock")
        try:
            if not lock.take(spares_others=True):
                return None
        except InputError:
            if path.is_file():
                raise
            return None  # its process has just delivered it, and removed the folder
        if not path.is_file():  # its process was killed as it began, or when all was delivered
            numbers = _numbers(folder)
            if _OURS.fullmatch(folder.name) and not numbers and lock.is_real:
                shutil.rmtree(folder, ignore_errors=True)
            lock.release()
            if numbers:
                about = json.dumps({"run_id": folder.name.partition("-")[0]})
                raise InputError(
                    f"{path} is lost: write {about} into it, and the messages are delivered, or "
                    f"delete {folder}."
                )
            return None
        try:
            about = json.loads(path.read_bytes())
            return cls(folder, lock, {"run_id": "", **{k: str(v) for k, v in about.items()}})
        except FileNotFoundError:  # its process has just delivered it
            lock.release()
            return None
        except (OSError, ValueError, AttributeError) as error:
            lock.release()
            raise InputError(f"{path} is damaged ({error}): delete {folder}.") from error

    @property
    def run_id(self) -> str:
        """Of the run that the messages belong to."""
        return self.about["run_id"]

    def append(self, message: Message) -> None:
        """Write a message behind the others; its files are copied, or linked where they can be.

        Raises:
            InputError: it cannot be written.
        """
        number = self._last + 1
        if message.files is not None:
            _keep_files(message.files, self.folder / f"{number:08d}")
        text = json.dumps({"kind": message.kind, "value": message.value})
        write_atomically(self.folder / f"{number:08d}.json", text.encode())
        self._last = number

    def messages(self) -> Iterator[tuple[int, Message]]:
        """Yield the messages with their numbers, the oldest first.

        Raises:
            InputError: one cannot be read.
        """
        for number in _numbers(self.folder):
            path = self.folder / f"{number:08d}.json"
            files = path.with_suffix("")
            try:
                found = json.loads(path.read_bytes())
                kind, value = found["kind"], found["value"]
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise InputError(
                    f"{path} is damaged ({error}): delete it, and the others are delivered."
                ) from error
            yield number, Message(kind=kind, value=value, files=files if files.is_dir() else None)

    def drop(self, number: int) -> None:
        """Remove a message that is delivered."""
        path = self.folder / f"{number:08d}.json"
        path.unlink(missing_ok=True)
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)

    def is_empty(self) -> bool:
        """Say whether nothing waits."""
        return not _numbers(self.folder)

    def close(self) -> None:
        """Give the lock back, and remove the folder if nothing waits in it."""
        if self.is_empty():
            (self.folder / _ABOUT).unlink(missing_ok=True)  # first: it is no spool any more
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())


def _keep_files(source: Path, target: Path) -> None:
    """Make a folder of the same files, which outlasts the source."""
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        shutil.copytree(source, temporary, copy_function=_link_or_copy)
        shutil.rmtree(target, ignore_errors=True)  # of a message that was never finished
        temporary.rename(target)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"{target} cannot be written ({reason}): free some space, or choose a machine.outputs "
            "that you may write to."
        ) from error


def _link_or_copy(source: str, target: str) -> None:
    """Files of ours are replaced and never written into: a link keeps what is there now."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
        with Path(target).open("rb") as file:
            os.fsync(file.fileno())
