"""Who works on what: locks that end with the process that holds them, however it ends."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import time
from pathlib import Path

from selftrain.errors import InputError

_UNKNOWN = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems without locks answer."""


class FileLock:
    """A lock on a file, which says who holds it.

    The system gives it back when the process dies, and the loader's workers that may outlive the
    process do not keep it. On NFS that works among machines where lockd runs. On a file system
    without locks everybody gets the lock at once (`is_real`). One process opens a lock once: to
    close the file anywhere in the process gives the lock back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left: dict[str, str] = {}
        """What an owner has noted that died with the lock; known once it is taken."""
        self.is_real = True
        self._file: int | None = None
        self._note: dict[str, str] = {}

    def take(self, **note: str) -> bool:
        """Take the lock if nobody has it, and return whether it is taken.

        Args:
            note: For those who wait, and for the next owner if this one dies: beside the process,
                the machine and the time, which are noted anyway.

        Raises:
            InputError: the file cannot be written.
        """
        try:
            file = self._locked_file()
            if file is None:
                return False
            self._file, self.left = file, _read(file) if self.is_real else {}
            self._note = {
                "pid": str(os.getpid()),
                "host": socket.gethostname(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
            self.add(**note)
        except OSError as error:
            raise InputError(
                f"The lock {self.path} cannot be written ({error.strerror}): "
                "set machine.outputs to a folder that can be written."
            ) from error
        return True

    def _locked_file(self) -> int | None:
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                os.close(file)
                return None
            except OSError as error:
                if error.errno not in _UNKNOWN:
                    os.close(file)
                    raise
                self.is_real = False
                return file
            # The owner removes the file at last: this may be the one that it has removed.
            with contextlib.suppress(FileNotFoundError):
                if self.path.stat().st_ino == os.fstat(file).st_ino:
                    return file
            os.close(file)

    def add(self, **note: str) -> None:
        """Note something more; the lock is held."""
        if self._file is not None:
            self._note |= note
            text = json.dumps(self._note).encode()
            os.pwrite(self._file, text, 0)
            os.ftruncate(self._file, len(text))

    def holder(self) -> dict[str, str]:
        """Return what the lock's owner, another process, has noted; empty if nobody knows."""
        return read_note(self.path)

    def release(self) -> None:
        """Give the lock back, and its file with it."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


def is_held(path: Path) -> bool:
    """Say whether a living process has a lock, without taking it; where nobody knows, yes.

    Raises:
        OSError: the file cannot be opened.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(file, fcntl.F_GETLK, asked)
        return int(struct.unpack("hhqqi4x", answer)[0]) != fcntl.F_UNLCK
    except OSError:  # a file system without locks
        return True
    finally:
        os.close(file)


def read_note(path: Path) -> dict[str, str]:
    """Return what the owner of a lock has noted; empty if nobody knows."""
    try:
        return _parse(path.read_bytes())
    except OSError:
        return {}


def describe_holder(holder: dict[str, str]) -> str:
    """Say in words who holds a lock."""
    if "pid" not in holder:
        return "another process"
    return "process {pid} on {host}, since {since},".format(**{"host": "?", "since": "?", **holder})


def _read(file: int) -> dict[str, str]:
    return _parse(os.pread(file, os.fstat(file).st_size, 0))


def _parse(text: bytes) -> dict[str, str]:
    """Return a note; of half a one, nothing."""
    try:
        found = json.loads(text or b"{}")
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): str(value) for name, value in found.items()}
