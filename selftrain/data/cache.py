"""Frames as raw pixels: decoded once, by `cache_writing`, then read by crop window only.

    images.u8       images (H, W, 3), RGB, one after the other
    labels.u8       label maps (H, W) of the labelled frames: train ids and 255
    index.parquet   a row for each frame: name, size, where it lies, digests of its pixels
    card.json       what it was made from, and how large it is

Frames have the size that the reader gives them; sizes may be mixed. The files are mapped into
memory: a crop costs the pages of its window, and all processes of a machine share them.
"""

import hashlib
import io
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from selftrain.data.reader import Reader
from selftrain.errors import InputError

FORMAT_VERSION = 1
IMAGES, LABELS, INDEX, CARD = "images.u8", "labels.u8", "index.parquet", "card.json"
NO_LABEL = -1
"""Label offset of a frame without label."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, kw_only=True)
class RawCache:
    """The frames of a cache, by their names in it.

    Its files are mapped when the first frame is asked for. Pickled, it is only a path: each
    process maps them for itself.
    """

    folder: Path
    index_digest: str
    """Of the index file, so that a process that opens it later meets the same frames."""

    @classmethod
    def open(cls, folder: Path, *, source_digest: str, reader: Reader) -> "RawCache | None":
        """Return the cache in `folder`, or None if there is none for this source.

        Compares the card, the sizes of the files and the index, but reads no pixel: `verify`
        does. Where a cache is there and does not match, one sentence is logged as a warning, so
        that the caller goes on with the data set's own files.

        Args:
            folder: Where `build_raw_cache` wrote it.
            source_digest: Digest of the samples, the same as when it was built.
            reader: How frames would be read without the cache.
        """
        if not folder.exists():
            return None
        try:
            card = json.loads((folder / CARD).read_bytes())
            wanted = {"format_version": FORMAT_VERSION, "source_digest": source_digest}
            wanted["reader"] = settings(reader)
            fault = _find_fault(folder, card, wanted)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            fault = f"it is broken ({error})"
        if fault is None:
            return cls(folder=folder, index_digest=card["index_digest"])
        logging.getLogger(__name__).warning(
            "The raw cache %s is not used, for %s: the data set's files are read instead; build "
            "the cache again.",
            folder,
            fault,
        )
        return None

    def names(self) -> list[str]:
        """Return the names of the frames."""
        return list(self._files.rows)

    def image(self, name: str) -> NDArray[np.uint8] | None:
        """Return a read-only view of the image (H, W, 3), RGB; None if the sample is not here."""
        row = self._files.rows.get(name)
        return None if row is None else self._files.image(row)

    def label(self, name: str) -> NDArray[np.uint8] | None:
        """Return a read-only view of the label map (H, W); None if there is none here."""
        row = self._files.rows.get(name)
        return None if row is None else self._files.label(row)

    def verify(self, *, workers: int = 0, advance: Callable[[], object] | None = None) -> None:
        """Compare every frame's pixels with the digests taken when they were written.

        Args:
            workers: Threads beside the caller's own; 0: none.
            advance: Called after each frame.

        Raises:
            InputError: pixels differ; names the first such frame and says how many there are.
        """
        bad = []
        rows = self._files.rows
        for row, is_intact in map_ahead(self._is_intact, rows.values(), workers):
            if not is_intact:
                bad.append(row.name)
            if advance is not None:
                advance()
        if bad:
            raise InputError(
                f"The raw cache {self.folder} is damaged: the pixels of {bad[0]} are not those "
                f"that were written ({len(bad)} of {len(rows)} frames): delete the folder and "
                "build the cache again."
            )

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "index_digest": self.index_digest}  # not the maps

    @cached_property
    def _files(self) -> "_Files":
        try:
            index = (self.folder / INDEX).read_bytes()
            images, labels = (_map(self.folder / name) for name in (IMAGES, LABELS))
        except OSError as error:
            raise InputError(
                f"The raw cache {self.folder} cannot be read ({error.strerror or error}): build "
                "it again, or delete the folder."
            ) from error
        if digest(index) != self.index_digest:
            raise InputError(
                f"The raw cache {self.folder} was built anew while it was in use: start again."
            )
        try:
            files = _Files(_read_rows(index), images, labels)
            outside = [row.name for row in files.rows.values() if not files.has(row)]
        except Exception as error:  # pyarrow and what it may hand over
            raise InputError(
                f"{self.folder / INDEX} is no index of a raw cache: delete the folder and build "
                "the cache again."
            ) from error
        if outside:
            raise InputError(
                f"The raw cache {self.folder} is damaged: {outside[0]} does not lie in its files "
                f"({len(outside)} of {len(files.rows)} frames): delete the folder and build the "
                "cache again."
            )
        return files

    def _is_intact(self, row: "Row") -> bool:
        label = self._files.label(row)
        digests = digest(self._files.image(row).data), "" if label is None else digest(label.data)
        return digests == (row.image_digest, row.label_digest)


@dataclass(frozen=True, slots=True)
class Row:
    """Where a frame lies; the columns of the index."""

    name: str
    height: int
    width: int
    image_offset: int
    label_offset: int
    image_digest: str
    label_digest: str


_TEXTS = ("name", "image_digest", "label_digest")
SCHEMA = pa.schema([(f.name, pa.string() if f.name in _TEXTS else pa.int64()) for f in fields(Row)])


@dataclass(frozen=True, slots=True)
class _Files:
    """The open files of a cache."""

    rows: Mapping[str, Row]
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def has(self, row: Row) -> bool:
        """Return whether a frame lies within the files."""
        pixels = row.height * row.width
        sides = row.height > 0 and row.width > 0 and row.image_offset >= 0
        label = row.label_offset == NO_LABEL or 0 <= row.label_offset <= len(self.labels) - pixels
        return sides and label and row.image_offset <= len(self.images) - 3 * pixels

    def image(self, row: Row) -> NDArray[np.uint8]:
        end = row.image_offset + 3 * row.height * row.width
        return self.images[row.image_offset : end].reshape(row.height, row.width, 3)

    def label(self, row: Row) -> NDArray[np.uint8] | None:
        if row.label_offset == NO_LABEL:
            return None
        end = row.label_offset + row.height * row.width
        return self.labels[row.label_offset : end].reshape(row.height, row.width)


def _read_rows(index: bytes) -> dict[str, Row]:
    # No threads: this may run in a forked process.
    rows = pq.read_table(io.BytesIO(index), use_threads=False).to_pylist()
    return {row["name"]: Row(**row) for row in rows}


def _map(path: Path) -> NDArray[np.uint8]:
    if path.stat().st_size == 0:  # no frame, or no label: nothing can be mapped
        return np.empty(0, dtype=np.uint8)
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))


def settings(reader: Reader) -> dict[str, str]:
    """Return all that decides pixels: whatever a reader has but what is not applied here."""
    names = sorted({f.name for f in fields(reader)} - {"keep_from", "cache"})
    return {name: repr(getattr(reader, name)) for name in names}


def _find_fault(
    folder: Path, card: Mapping[str, object], wanted: Mapping[str, object]
) -> str | None:
    """Return why the cache is not the wanted one, or None."""
    reasons = {
        "format_version": "it was written by another version of the program",
        "source_digest": "the images or labels have changed since it was built",
        "reader": "it was built for another scale or other classes",
    }
    for key, reason in reasons.items():
        if card[key] != wanted[key]:
            return reason
    sizes = {name: (folder / name).stat().st_size for name in (IMAGES, LABELS)}
    if sizes != card["bytes"]:
        return f"its files have {sizes} bytes instead of {card['bytes']}"
    if digest((folder / INDEX).read_bytes()) != card["index_digest"]:
        return f"its {INDEX} is damaged"
    return None


def map_ahead(f: Callable[[_T], _R], items: Iterable[_T], workers: int) -> Iterator[tuple[_T, _R]]:
    """Yield each item with f(item), in order; at most 2 results a thread wait in memory."""
    if workers == 0:
        yield from ((item, f(item)) for item in items)
        return
    # Threads suffice: decoding, digests and writing release the lock.
    pending: deque[tuple[_T, Future[_R]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            pending.append((item, pool.submit(f, item)))
            if len(pending) > 2 * workers:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()


def digest(data: bytes | memoryview) -> str:
    """Return the digest of pixels or of an index."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
