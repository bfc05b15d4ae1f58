"""What every frame of a data set holds, or what is wrong with it.

Each frame is read once, by many threads at a time. What was found is remembered by the files'
names, sizes and times, so an interrupted scan goes on where it stopped, and a later one reads
only what has changed.
"""

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from selftrain.data.centroids import tile_centroids
from selftrain.data.reader import Reader, turned_hint
from selftrain.data.sample import Blob, Sample
from selftrain.data.statistics import count_label
from selftrain.errors import InputError
from selftrain.files import write_atomically

VERSION = 1
"""Part of the key of what is remembered; raise it when other facts are found in a frame."""

_Result = TypeVar("_Result")
_AHEAD = 4
"""Frames a thread that are begun before the first of them is asked for."""
_PIECE = 1000
_SECONDS = 10.0
"""What is new is written down after so many frames or seconds, whichever comes first."""


class Kind(StrEnum):
    """What can be wrong with a frame, as the heading of a list."""

    UNOPENED = "files that cannot be opened"
    DAMAGED = "damaged pictures"
    NO_LABEL = "images without a label in a split that needs labels"
    ILLEGAL = "labels that do not fit the classes"
    SIZE = "labels of another size than their image"
    SHARED = "pictures that are both trained on and held out, or held out twice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that the user has to mend."""

    kind: Kind
    sentence: str
    """What, where (file, value), and the cure after the last colon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What one image and its label were found to hold."""

    name: str
    image_digest: str = ""
    """As `digest_file`; "" if the file cannot be opened."""
    image_bytes: int = 0
    width: int = 0
    height: int = 0
    """Pixels as the reader gives them, so after scaling; 0 if the image cannot be read."""
    label_digest: str | None = None
    """Of the label file's bytes; None without a label."""
    class_pixels: NDArray[np.int64] | None = None
    """(K,) pixels of each class; None without a readable label."""
    centroids: NDArray[np.int64] | None = None
    """(K,) centroids of each class; None without a readable label."""
    problems: tuple[Problem, ...] = ()


def scan(
    samples: Iterable[Sample],
    reader: Reader,
    *,
    tile: int,
    workers: int = 0,
    cache: Path | None = None,
) -> Generator[Frame, None, None]:
    """Read every image, and every label that a sample names; yield what was found, in order.

    Args:
        samples: Taken as they are needed. Leave the label of a sample out, and it stays closed.
        reader: Its scale decides the sizes, pixels and centroids that are seen.
        tile: Side of the centroids' tiles, in pixels.
        workers: Threads, at least one. They suffice: decoding, counting and digests release the
            interpreter's lock, and threads start at once, where processes import for seconds.
        cache: Folder of what earlier scans found, made if need be; None: remember nothing.
            Frames with problems are not remembered: they are read again.

    Raises:
        InputError: `tile` is below 1, or `cache` cannot be written. What is wrong with a frame is
            not raised but stands in its `problems`.
    """
    if tile < 1:
        raise InputError(f"tile is {tile} but must be at least 1 pixel.")
    reader = replace(reader, cache=None)  # the files are what is looked at
    key = hashlib.blake2b(repr((VERSION, tile, reader)).encode(), digest_size=8).hexdigest()
    found = _Found(cache / f"scan-{key}" if cache else None)
    threads = max(workers, 1)
    waiting: deque[tuple[str | None, Frame | Future[Frame]]] = deque()

    def first() -> Frame:
        fingerprint, frame = waiting.popleft()
        if isinstance(frame, Future):
            frame = frame.result()
            found.add(fingerprint, frame)
        return frame

    with ThreadPoolExecutor(threads) as pool:
        try:
            for sample in samples:
                fingerprint = _fingerprint(sample)
                known = found.find(fingerprint)
                waiting.append(
                    (fingerprint, known or pool.submit(scan_frame, sample, reader, tile=tile))
                )
                if len(waiting) > _AHEAD * threads:
                    yield first()
            while waiting:
                yield first()
        finally:  # also when the caller stops or is interrupted
            pool.shutdown(wait=False, cancel_futures=True)
            found.write_down()


def scan_frame(sample: Sample, reader: Reader, *, tile: int) -> Frame:
    """Read one image and, where the sample names one, its label."""
    problems: list[Problem] = []

    def attempt(read: Callable[[], _Result], kind: Kind) -> _Result | None:
        try:
            return read()
        except InputError as error:
            problems.append(Problem(kind=kind, sentence=str(error)))
            return None

    data = attempt(Blob(sample.image).read, Kind.UNOPENED)
    image = attempt(lambda: reader.image(sample), Kind.DAMAGED) if data is not None else None
    height, width = image.shape[:2] if image is not None else (0, 0)
    pixels = centroids = label_data = None
    if sample.label is not None:
        label_data = attempt(sample.label.read, Kind.UNOPENED)
    if sample.label is not None and label_data is not None:
        try:
            label = reader.label(sample)
        except InputError as error:
            kind = _what_ails(sample.label, reader)
            problems.append(Problem(kind=kind, sentence=str(error)))
        else:
            if image is not None and label.shape != (height, width):
                sentence = (
                    f"{sample.label.path} is {label.shape[1]}x{label.shape[0]} but its image "
                    f"{sample.image} is {width}x{height}: label and image must have the same size"
                    f"{turned_hint((height, width), label.shape)}."
                )
                problems.append(Problem(kind=Kind.SIZE, sentence=sentence))
            pixels = count_label(label, len(reader.classes))
            points = tile_centroids(label, num_classes=len(reader.classes), tile=tile)
            centroids = np.bincount(points[:, 0], minlength=len(reader.classes))
    return Frame(
        name=sample.name,
        image_digest=_digest(data) if data is not None else "",
        image_bytes=len(data or b""),
        width=width,
        height=height,
        label_digest=_digest(label_data) if label_data is not None else None,
        class_pixels=pixels,
        centroids=centroids,
        problems=tuple(problems),
    )


def digest_frames(frames: Iterable[Frame], *, labels: bool) -> str:
    """Return what `digest_samples` returns for the same samples, without reading them again."""
    digest = hashlib.blake2b(digest_size=8)
    for frame in sorted(frames, key=lambda frame: frame.name):
        parts = [frame.name, frame.image_digest]
        if labels and frame.label_digest is not None:
            parts.append(frame.label_digest)
        digest.update(("\t".join(parts) + "\n").encode())
    return digest.hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _what_ails(label: Blob, reader: Reader) -> Kind:
    # A label file that opens as a picture is whole: what is wrong is what it holds.
    try:
        reader.image(Sample("label", label.path))
    except InputError:
        return Kind.DAMAGED
    return Kind.ILLEGAL


def _fingerprint(sample: Sample) -> str | None:
    """Return what changes when a file does; None if a file is missing."""
    blobs = [Blob(sample.image), *([sample.label] if sample.label else [])]
    facts: list[object] = [sample.name]
    try:
        for blob in blobs:
            stat = blob.path.stat()
            # The time of change, which no program sets back, beside that of modification, which
            # a copy may bring along.
            times = (stat.st_mtime_ns, stat.st_ctime_ns)
            facts += [str(blob.path.absolute()), blob.offset, blob.length, stat.st_size, *times]
    except OSError:
        return None
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


class _Found:
    """Frames by fingerprint, in a folder of files that are there in full or not at all."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, Frame] = {}
        self._new: list[str] = []
        self._written = time.monotonic()
        for path in sorted(folder.glob("*.json")) if folder else ():
            try:
                rows = json.loads(path.read_bytes())
                self._known |= {fingerprint: _to_frame(row) for fingerprint, row in rows.items()}
            except Exception as error:  # of many kinds, by what stands there instead
                logging.getLogger(__name__).warning("%s is broken (%s): left out.", path, error)

    def find(self, fingerprint: str | None) -> Frame | None:
        return self._known.get(fingerprint) if fingerprint else None

    def add(self, fingerprint: str | None, frame: Frame) -> None:
        # An error may pass, as that of a network drive does: it is never remembered.
        if fingerprint is None or frame.problems:
            return
        self._known[fingerprint] = frame
        self._new.append(fingerprint)
        if len(self._new) >= _PIECE or time.monotonic() - self._written >= _SECONDS:
            self.write_down()

    def write_down(self) -> None:
        if self._folder is not None and self._new:
            rows = {fingerprint: _to_row(self._known[fingerprint]) for fingerprint in self._new}
            name = hashlib.blake2b("".join(self._new).encode(), digest_size=8).hexdigest()
            data = json.dumps(rows, default=np.ndarray.tolist).encode()
            write_atomically(self._folder / f"{name}.json", data)
        self._new = []
        self._written = time.monotonic()


def _to_row(frame: Frame) -> dict[str, object]:
    return {
        item.name: getattr(frame, item.name) for item in fields(Frame) if item.name != "problems"
    }


def _to_frame(row: dict[str, Any]) -> Frame:
    counts = {
        name: None if row[name] is None else np.array(row[name], dtype=np.int64)
        for name in ("class_pixels", "centroids")
    }
    return Frame(**(row | counts))
