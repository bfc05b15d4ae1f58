"""Digests of files, remembered: a data set of a hundred gigabytes is hashed once.

A file is known by its path, its size and the time of its last change. One that was copied or
touched is hashed again; what is remembered of it is replaced.
"""

import hashlib
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from selftrain.data.sample import Blob, Sample
from selftrain.errors import InputError

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS digests"
    "(path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest TEXT) WITHOUT ROWID"
)
_TOGETHER = 4096
_DIGEST = re.compile("[0-9a-f]{32}")
_DAMAGE = sqlite3.Error, UnicodeDecodeError
"""What a database raises that is none, or is damaged."""
_INSERT = "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)"


class FileDigests:
    """Digests of files' bytes, kept in a database that several processes may share."""

    def __init__(self, database: Path) -> None:
        """Open the database, or make it.

        Raises:
            InputError: it cannot be made, or it is no such database.
        """
        self._database = database
        self._lock = threading.Lock()
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit: a digest is kept as soon as it is known. Threads take turns by the lock.
            self._connection = sqlite3.connect(
                database, timeout=60, isolation_level=None, check_same_thread=False
            )
            # Written at leisure: after a crash of the machine the last digests are made again.
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=OFF")
            self._connection.execute(_SCHEMA)
        except (OSError, *_DAMAGE) as error:
            raise InputError(
                f"{database} cannot be used to remember digests ({error}): delete it, or set "
                "machine.outputs to a folder that can be written."
            ) from error

    def digest(self, path: Path) -> str:
        """Return the digest of a whole file: 32 hexadecimal digits.

        Raises:
            InputError: the file cannot be read.
        """
        try:
            status = path.stat()
        except OSError:
            return digest_file(path)  # which says what is wrong
        key = _key(path, status)
        with self._lock, suppress(*_DAMAGE):  # damaged: what it cannot tell is made again
            found = self._connection.execute(
                "SELECT digest FROM digests WHERE path = ? AND size = ? AND mtime_ns = ?", key
            ).fetchone()
            if found is not None and _DIGEST.fullmatch(str(found[0])):
                return str(found[0])
        digest = digest_file(path)
        with self._lock, suppress(sqlite3.Error):  # a full disk: it is made again next time
            self._connection.execute(_INSERT, (*key, digest))
        return digest

    def remember(self, found: Iterable[tuple[Path, str]]) -> None:
        """Keep digests of files that somebody else has just read."""
        rows = [(*_key(path, path.stat()), digest) for path, digest in found]
        with self._lock, suppress(sqlite3.Error):  # a full disk: they are made again next time
            self._connection.execute("BEGIN")
            self._connection.executemany(_INSERT, rows)
            self._connection.execute("COMMIT")


def _key(path: Path, status: os.stat_result) -> tuple[str, int, int]:
    # Path has no such function that leaves links alone.
    return os.path.abspath(path), status.st_size, status.st_mtime_ns  # noqa: PTH100


def digest_file(path: Path) -> str:
    """Return the digest of a whole file: 32 hexadecimal digits.

    Raises:
        InputError: the file cannot be read.
    """
    return hashlib.blake2b(Blob(path).read(), digest_size=16).hexdigest()


def digest_samples(
    samples: Sequence[Sample], *, labels: bool, digest: Callable[[Path], str] = digest_file
) -> str:
    """Return a short digest of the samples' content, independent of where they lie.

    Args:
        samples: In any order, with files of their own; the digest depends on names and bytes.
        labels: Whether the labels' bytes count; False opens no label.
        digest: Of a file: `FileDigests.digest`, or one that remembers nothing.
    """

    def line(sample: Sample) -> str:
        paths = [sample.image]
        if labels and sample.label is not None:
            paths.append(sample.label.path)
        return "\t".join([sample.name, *map(digest, paths)]) + "\n"

    total = hashlib.blake2b(digest_size=8)
    names = [sample.name for sample in samples]
    ordered = sorted(range(len(names)), key=names.__getitem__)
    with ThreadPoolExecutor() as pool:
        # Some at a time: the samples may be a long list that makes its objects when asked.
        for start in range(0, len(ordered), _TOGETHER):
            some = [samples[i] for i in ordered[start : start + _TOGETHER]]
            for text in pool.map(line, some):
                total.update(text.encode())
    return total.hexdigest()
