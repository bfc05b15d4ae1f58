"""A process that kills itself at a chosen step of its own writing.

Every call that changes a file below the watched folders is counted: opening, writing, flushing to
the disk, renaming, removing, making folders. At the chosen one the process sends itself SIGKILL:
before it, after it, or when half the bytes are written.
"""

import builtins
import io
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

CALLS = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "truncate", "fsync")
"""Functions of `os` that are counted; `Path` and `shutil` call them."""


@dataclass(frozen=True, kw_only=True)
class Death:
    """When and how a process kills itself."""

    step: int
    """Counts from 1; 0: never, the steps are only counted."""
    when: Literal["before", "within", "after"] = "before"
    """Within: with half the bytes of a write on disk; of other steps it means before."""
    tears: bool = False
    """Files that were not flushed lose their ends, as when the machine loses its power."""
    is_alone: bool = True
    """Its children are left to find out; else the whole process group dies with it."""
    seed: int = 0
    """Of what a torn file keeps."""


class Dying:
    """Counts a process's steps of writing, and ends it at one of them."""

    def __init__(self, watched: Sequence[Path], death: Death) -> None:
        self._watched = tuple(f"{folder.resolve()}{os.sep}" for folder in watched)
        self._death = death
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._unflushed: dict[tuple[int, int], tuple[int, int]] = {}
        """(device, inode) -> a descriptor of the file, and the bytes of it that are safe."""
        self.steps = 0

    def install(self) -> None:
        """Take the place of what Python's own modules write with."""
        io.open = builtins.open = self._opening(io.open)  # type: ignore[assignment]
        for name in CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))

    @contextmanager
    def step(self) -> Iterator[bool]:
        """Count what the block does; it is told whether the process ends in its middle."""
        with self._lock:
            self.steps += 1
            is_last = self.steps == self._death.step and os.getpid() == self._owner
        if is_last and self._death.when == "before":
            self.die()
        yield is_last and self._death.when == "within"
        if is_last:
            self.die()

    def die(self) -> None:
        """End this process as the system would."""
        if self._death.tears:
            rng = random.Random(self._death.seed)
            for file, safe in self._unflushed.values():
                os.ftruncate(file, rng.randint(safe, max(safe, os.fstat(file).st_size)))
        if self._death.is_alone:
            os.kill(os.getpid(), signal.SIGKILL)
        os.killpg(0, signal.SIGKILL)

    def wrote(self, file: int) -> None:
        """Note that a file is about to have bytes which may not have reached the disk."""
        status = os.fstat(file)
        with self._lock:
            key = (status.st_dev, status.st_ino)
            if key not in self._unflushed:
                self._unflushed[key] = (os.dup(file), status.st_size)

    def _flushed(self, file: int) -> None:
        status = os.fstat(file)
        with self._lock:
            kept = self._unflushed.pop((status.st_dev, status.st_ino), None)
        if kept is not None:
            os.close(kept[0])

    def _watches(self, path: object, folder: int | None = None) -> bool:
        if isinstance(path, int):
            path = _path_of(path)
        if not isinstance(path, str | os.PathLike):
            return False
        text = os.fspath(path)
        beside = _path_of(folder) if folder is not None else str(Path.cwd())
        return os.path.join(beside, text).startswith(self._watched)  # noqa: PTH118

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *more: Any, **named: Any) -> Any:
            if not self._watches(path, named.get("dir_fd")):
                return real(path, *more, **named)
            with self.step() as is_last:
                if is_last:
                    self.die()
                result = real(path, *more, **named)
                if name == "fsync":
                    self._flushed(path)
                return result

        return call

    def _opening(self, real: Callable[..., IO[Any]]) -> Callable[..., IO[Any]]:
        def open_(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            closefd: bool = True,
            opener: Any = None,
        ) -> IO[Any]:
            is_write = bool(set(mode) & set("wxa")) and "+" not in mode and buffering != 0
            if not is_write or not self._watches(file):
                return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
            with self.step() as is_last:
                if is_last:
                    self.die()
                raw = io.FileIO(file, mode.translate({ord("b"): None, ord("t"): None}), closefd)
            writer = _Writer(raw, self)
            if "b" in mode:
                return writer
            return io.TextIOWrapper(writer, encoding, errors, newline)

        return open_


class _Writer(io.BufferedWriter):
    """A file whose writes are counted."""

    def __init__(self, raw: io.RawIOBase, dying: Dying) -> None:
        super().__init__(raw)
        self._dying = dying

    def write(self, data: Any) -> int:
        with self._dying.step() as is_last:
            self._dying.wrote(self.fileno())
            if is_last:
                view = memoryview(data).cast("B")
                super().write(view[: len(view) // 2])
                self.flush()
                self._dying.die()
            return super().write(data)


def _path_of(file: int) -> str:
    return os.readlink(f"/proc/self/fd/{file}")  # noqa: PTH115
