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
    without locks (`is_real`) everybody gets it but from a process of this machine that has noted
    itself and lives; two that come at one moment both get it. One process opens a lock once: to
    close the file anywhere in the process gives the lock back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left: dict[str, str] = {}
        """What an owner has noted that died with the lock; known once it is taken."""
        self.is_real = True
        self._file: int | None = None
        self._note: dict[str, str] = {}

    def take(self, *, spares_others: bool = False, **note: str) -> bool:
        """Take the lock if nobody has it, and return whether it is taken.

        Args:
            spares_others: On a file system without locks, do not take it from a process of another
                machine either, of which nobody knows whether it lives.
            note: For those who wait, and for the next owner if this one dies: beside the process,
                the machine and the time, which are noted anyway.

        Raises:
            InputError: the file cannot be written.
        """
        try:
            file = self._locked_file()
            if file is None:
                return False
            found = _read(file)
            if not self.is_real and _may_live(found, if_elsewhere=spares_others):
                os.close(file)
                return False
            self._file, self.left = file, found if self.is_real else {}
            self._note = {
                "pid": str(os.getpid()),
                "host": socket.gethostname(),
                "begun": _begun(os.getpid()),
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


def _may_live(holder: dict[str, str], *, if_elsewhere: bool) -> bool:
    """Say whether the process of a note may be alive, and is another than this one."""
    if not holder.get("pid", "").isdecimal():
        return False
    if holder.get("host") != socket.gethostname():
        return if_elsewhere
    pid = int(holder["pid"])
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return _begun(pid) == holder.get("begun", "")  # else its id is another's by now


def _begun(pid: int) -> str:
    """Return when a process began, as no other of its id has; "" if it is dead, or without Linux.

    In ticks since the boot, not as a time of day: clocks are set.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # After the program's name, which may hold anything: the process's state is the first.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{boot} {fields[19]}"


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
