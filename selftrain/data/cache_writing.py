"""How the raw cache is written: every frame once, into two large files."""

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from selftrain.data.cache import (
    CARD,
    FORMAT_VERSION,
    IMAGES,
    INDEX,
    LABELS,
    NO_LABEL,
    SCHEMA,
    RawCache,
    Row,
    digest,
    map_ahead,
    settings,
)
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.errors import InputError
from selftrain.files import remove_leftovers, scratch_folder, write_atomically

_MEASURED = 16  # frames read to foresee the size of all


def build_raw_cache(
    samples: Sequence[Sample],
    reader: Reader,
    folder: Path,
    *,
    source_digest: str,
    workers: int = 0,
    advance: Callable[[], object] | None = None,
) -> RawCache:
    """Decode every sample once and write its pixels.

    The files are written beside the folder and moved into place at the end, so `folder` holds a
    whole cache, an older one, or nothing. A pseudo label is not kept, for it depends on a
    threshold that is applied when it is read; of such a sample the cache has the image alone.

    Args:
        samples: Frames of all splits that the cache shall hold, with unique names.
        reader: Reads the data set's files, never another cache; its scale is this cache's.
        folder: Does not exist yet or holds a cache, which is replaced.
        source_digest: Digest of the samples, as of `digest_samples`.
        workers: Threads that decode beside the caller's own, which writes; 0: none.
        advance: Called after each frame.

    Raises:
        InputError: a file cannot be read, two samples have one name, the disk has too little
            space, the folder holds something else, or another process builds this cache.
    """
    reader = replace(reader, cache=None)
    (name, times), *_ = [*Counter(s.name for s in samples).most_common(1), ("", 0)]
    if times > 1:
        raise InputError(f"{times} samples are named {name}: a cache needs unique names.")
    if folder.exists() and not (folder / CARD).exists():
        raise InputError(f"{folder} is no raw cache: move it away, or name another folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            remove_leftovers(folder.parent, deep=False)  # of attempts that were killed
            _require_space(samples, reader, folder)
            with scratch_folder(beside=folder) as unfinished:
                rows = _write_frames(samples, reader, unfinished, workers, advance)
                index_digest = _write_index(unfinished, rows, reader, source_digest)
                _replace(folder, unfinished)
    except OSError as error:
        raise InputError(
            f"The raw cache {folder} cannot be written ({error.strerror or error}): free some "
            "space, choose a folder that you may write to, or go on without a cache."
        ) from error
    return RawCache(folder=folder, index_digest=index_digest)


def _read_frame(
    sample: Sample, reader: Reader
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, str, str]:
    """Return image, label and the digests of both."""
    if sample.label is None or sample.is_pseudo:
        image = np.ascontiguousarray(reader.image(sample))
        return image, None, digest(image.data), ""
    image, label = (np.ascontiguousarray(array) for array in reader.pair(sample))
    return image, label, digest(image.data), digest(label.data)


def _write_frames(
    samples: Sequence[Sample],
    reader: Reader,
    folder: Path,
    workers: int,
    advance: Callable[[], object] | None,
) -> list[Row]:
    """Write IMAGES and LABELS in the order of the samples, and say where each frame lies."""
    rows = []
    with (folder / IMAGES).open("wb") as images, (folder / LABELS).open("wb") as labels:
        for sample, frame in map_ahead(lambda s: _read_frame(s, reader), samples, workers):
            image, label, *digests = frame
            rows.append(
                Row(
                    name=sample.name,
                    height=image.shape[0],
                    width=image.shape[1],
                    image_offset=images.tell(),
                    label_offset=NO_LABEL if label is None else labels.tell(),
                    image_digest=digests[0],
                    label_digest=digests[1],
                )
            )
            images.write(image.data)
            if label is not None:
                labels.write(label.data)
            if advance is not None:
                advance()
        for file in (images, labels):
            file.flush()
            os.fsync(file.fileno())
    return rows


def _write_index(folder: Path, rows: Sequence[Row], reader: Reader, source_digest: str) -> str:
    """Write INDEX and CARD; return the digest of the index."""
    columns = {f.name: [getattr(row, f.name) for row in rows] for f in fields(Row)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd")
    index = bytes(sink.getvalue())
    card = {
        "format_version": FORMAT_VERSION,
        "source_digest": source_digest,
        "reader": settings(reader),
        "classes": list(reader.classes.names),
        "frames": len(rows),
        "labelled": sum(row.label_offset != NO_LABEL for row in rows),
        "bytes": {name: (folder / name).stat().st_size for name in (IMAGES, LABELS)},
        "index_digest": digest(index),
    }
    write_atomically(folder / INDEX, index)
    write_atomically(folder / CARD, (json.dumps(card, indent=2) + "\n").encode())
    return digest(index)


def _require_space(samples: Sequence[Sample], reader: Reader, folder: Path) -> None:
    # Sizes may be mixed, and only reading tells them: some, spread over all, stand for the rest.
    chosen = samples[:: max(1, -(-len(samples) // _MEASURED))]
    if not chosen:
        return
    pixels = sum(reader.image(s)[..., 0].size for s in chosen) / len(chosen)
    labelled = sum(s.label is not None and not s.is_pseudo for s in samples)
    needed = pixels * (3 * len(samples) + labelled)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"The raw cache {folder} needs about {needed / 1e6:,.0f} MB but {free / 1e6:,.0f} MB "
            "are free: free some space, choose another folder, or go on without a cache."
        )


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keep other processes from building the same cache; a killed one lets go by itself."""
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"Another process is building the raw cache {folder}: wait for it to end."
            ) from error
        yield


def _replace(folder: Path, finished: Path) -> None:
    # Processes that have the old files mapped keep them.
    with scratch_folder(beside=folder) as old:
        if folder.exists():
            folder.rename(old / folder.name)
        finished.rename(folder)
