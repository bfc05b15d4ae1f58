"""How pseudo labels are written: in shards, so that a crash costs one of them.

    shard-00000.zip      label and confidence maps as PNG, stored uncompressed
    shard-00000.parquet  what the manifest says of this shard, and the shard's digest
    manifest.parquet     a row for each image: where its maps lie, what they hold
    card.json            who made it and how; written last: with it the set is whole

Any zip or Parquet tool opens them. Training reads byte ranges of the zips: a few large files move
through a tracking server in seconds, thousands of small ones in minutes. Confidence is kept at 8
bits and the threshold is applied by `Reader`, so that it is swept without labelling again. The
same labels make the same bytes.
"""

import hashlib
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from selftrain.data.centroids import tile_centroids
from selftrain.data.digests import digest_file
from selftrain.data.sample import Sample
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.labels import IGNORE_INDEX

FORMAT_VERSION = 1
CONFIDENCE_BINS = 32
"""Equal bins of the 8-bit confidence, LEVELS_PER_BIN wide: bin 0 counts 0..7, bin 31 248..255."""
LEVELS_PER_BIN = 256 // CONFIDENCE_BINS
MANIFEST = "manifest.parquet"
CARD = "card.json"

SCHEMA = pa.schema(  # of the manifest; centroids are flattened rows (class, y, x)
    [
        ("name", pa.string()),
        ("image_digest", pa.string()),
        ("shard", pa.string()),
        ("label_offset", pa.int64()),
        ("label_length", pa.int64()),
        ("confidence_offset", pa.int64()),
        ("confidence_length", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("class_pixels", pa.list_(pa.int64())),
        ("confidence_histogram", pa.list_(pa.int64())),
        ("centroids", pa.list_(pa.int32())),
    ]
)
SHARD_NAME = re.compile(r"shard-\d{5}\.zip")
_DATE = (1980, 1, 1, 0, 0, 0)  # the first a zip can hold: the hour of writing is no content

Labelled = tuple[Sample, NDArray[np.uint8], NDArray[np.uint8]]
"""A sample, its label map (H, W) of train ids and 255, its confidence (H, W), 0..255 for 0..1."""


def write_shard(
    folder: Path, index: int, items: Iterable[Labelled], *, num_classes: int, tile: int
) -> None:
    """Write shard `index`, replacing one that is there; until the end nothing of it counts.

    `items` is consumed one at a time and never held in memory. Shards of one set may be written
    by several processes at once. A set that was finished is unfinished from the first call on.

    Args:
        folder: The set's folder; created.
        index: 0..99999.
        items: The images of this shard, with unique names.
        num_classes: K; label maps hold 0..K-1 and 255.
        tile: Side of the centroids' tiles, in pixels (see `tile_centroids`).

    Raises:
        InputError: two samples have one name, or a name leads out of the set's folder.
        ValueError: a map is not uint8 (H, W) or holds an id that is no class.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    rows_path = _rows_path(folder, index)
    rows_path.unlink(missing_ok=True)
    shard = _shard_path(folder, index)
    unfinished = shard.with_suffix(".zip.part")
    rows: dict[str, dict[str, object]] = {}
    try:
        with unfinished.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for sample, label, confidence in items:
                    _check_item(sample, label, confidence, num_classes, taken=rows)
                    rows[sample.name] = {
                        "name": sample.name,
                        "image_digest": digest_file(sample.image),
                        "shard": shard.name,
                        **_store(archive, sample.name, "label", label),
                        **_store(archive, sample.name, "confidence", confidence),
                        **_describe(label, confidence, num_classes, tile),
                    }
            file.flush()
            os.fsync(file.fileno())
        digest = _digest_file(unfinished)
        unfinished.replace(shard)
    except OSError as error:
        raise InputError(f"{shard} cannot be written ({error.strerror or error}).") from error
    finally:
        unfinished.unlink(missing_ok=True)
    schema = SCHEMA.with_metadata({"shard_digest": digest})
    table = pa.Table.from_pylist(list(rows.values()), schema=schema)
    write_atomically(rows_path, _to_parquet(table))


def finished_shards(folder: Path) -> set[int]:
    """Return the indices of the shards that need not be written again.

    Reads every shard to compare its digest, so that one torn or damaged in any way is redone.
    """
    found = sorted(folder.glob("shard-*.zip"))
    indices = [int(path.stem[-5:]) for path in found if SHARD_NAME.fullmatch(path.name)]
    return {index for index in indices if _is_finished(folder, index)}


def finish(folder: Path, *, num_shards: int, card: Mapping[str, object]) -> None:
    """Merge the shards' rows into the manifest and write the card: the set is whole.

    Args:
        folder: Where shards 0..num_shards-1 were written.
        num_shards: How many the set has; further ones are left out.
        card: What the reader of the set should know: teacher, classes, colours, inference
            settings, digest of the pool. Must be JSON and have `classes`, the list of names.

    Raises:
        InputError: a shard is not finished, or a name occurs in two shards.
    """
    unfinished = sorted(set(range(num_shards)) - finished_shards(folder))
    if unfinished:
        raise InputError(
            f"{folder} lacks the shards {unfinished} of {num_shards}: run the stage again."
        )
    tables = [pq.read_table(_rows_path(folder, index)) for index in range(num_shards)]
    # Each table's metadata is its shard's digest: it goes to the card.
    manifest = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    names = manifest["name"].to_pylist()
    (name, times), *_ = [*Counter(names).most_common(1), ("", 0)]
    if times > 1:
        raise InputError(f"{folder} has {times} labels for {name}: names must be unique.")
    shards = {}
    for index, table in enumerate(tables):
        path = _shard_path(folder, index)
        digest = _recorded_digest(table.schema)
        shards[path.name] = {"bytes": path.stat().st_size, "digest": digest}
    whole = {
        **card,
        "format_version": FORMAT_VERSION,
        "images": len(names),
        "shards": shards,
    }
    write_atomically(folder / MANIFEST, _to_parquet(manifest))
    write_atomically(folder / CARD, (json.dumps(whole, indent=2) + "\n").encode())


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.zip"


def _rows_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.parquet"


def _check_item(
    sample: Sample,
    label: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
    num_classes: int,
    taken: Container[str],
) -> None:
    name = PurePosixPath(sample.name)
    if name.is_absolute() or ".." in name.parts or "\\" in sample.name or not name.parts:
        raise InputError(
            f"The name {sample.name!r} of {sample.image} cannot name a shard's member."
        )
    if sample.name in taken:
        raise InputError(f"Two images are named {sample.name}, one is {sample.image}: rename one.")
    if label.ndim != 2 or label.shape != confidence.shape:
        raise ValueError(
            f"label {label.shape} and confidence {confidence.shape} are not one (H, W)"
        )
    if label.dtype != np.uint8 or confidence.dtype != np.uint8:
        raise ValueError(f"label {label.dtype} and confidence {confidence.dtype} must be uint8")
    if ((label >= num_classes) & (label != IGNORE_INDEX)).any():
        raise ValueError(f"the label of {sample.name} holds ids that are none of {num_classes}")


def _store(
    archive: zipfile.ZipFile, name: str, kind: str, array: NDArray[np.uint8]
) -> dict[str, object]:
    """Append the PNG `<name>.<kind>.png`; return the byte range of its data in the zip."""
    # Level 1: a third of the time of the default level for a fifth more bytes.
    ok, png = cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise ValueError(f"the {kind} of {name}, {array.shape}, cannot be encoded as PNG")
    info = zipfile.ZipInfo(f"{name}.{kind}.png", _DATE)
    info.external_attr = 0o644 << 16
    info.create_system = 3  # else it depends on the system that writes
    archive.writestr(info, png.tobytes())
    # Uncompressed, the data are the last bytes written so far.
    return {f"{kind}_offset": archive.start_dir - png.size, f"{kind}_length": png.size}


def _describe(
    label: NDArray[np.uint8], confidence: NDArray[np.uint8], num_classes: int, tile: int
) -> dict[str, object]:
    # calcHist counts in float32: exact to 2^24 pixels of one class in one image and bin.
    bins, ranges = [num_classes, CONFIDENCE_BINS], [0, num_classes, 0, 256]
    histogram = cv2.calcHist([label, confidence], [0, 1], None, bins, ranges).astype(np.int64)
    return {
        "height": label.shape[0],
        "width": label.shape[1],
        "class_pixels": histogram.sum(axis=1).tolist(),
        "confidence_histogram": histogram.ravel().tolist(),
        "centroids": tile_centroids(label, num_classes=num_classes, tile=tile).ravel().tolist(),
    }


def _to_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _recorded_digest(schema: pa.Schema) -> str:
    return str((schema.metadata or {}).get(b"shard_digest", b"").decode())


def _is_finished(folder: Path, index: int) -> bool:
    rows = _rows_path(folder, index)
    try:
        recorded = _recorded_digest(pq.read_schema(rows))
        return recorded == _digest_file(_shard_path(folder, index))
    except (OSError, pa.ArrowInvalid):  # missing, or cut off
        return False
