"""How pseudo labels are written: image by image, then in shards (docs/pseudo_labels.md).

    shard-00000.part/    the labelled images of a shard that is not complete, a file each
    shard-00000.zip      the maps of its images as PNG, stored uncompressed
    shard-00000.parquet  what the manifest says of this shard, and the shard's digest
    manifest.parquet     a row for each image: where its maps lie, what they hold
    card.json            who made it and how; written last: with it the set is whole

A crash costs the image in hand. Any zip or Parquet tool opens the result. Training reads byte
ranges of the zips: a few large files move through a tracking server in seconds, thousands of
small ones in minutes. Confidence is kept at 8 bits and `Reader` selects by it, so that another
selection needs no other labels. The same labels make the same bytes.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selftrain.data.digests import digest_file
from selftrain.data.labelled_image import BIN_STARTS, LabelledImage, ShardForm, encode_image
from selftrain.data.manifest import KINDS, MANIFEST, ManifestWriter, read_metadata, read_rows
from selftrain.data.sample import Sample
from selftrain.data.scratch import read_scratch, write_scratch
from selftrain.errors import InputError, Unavailable
from selftrain.files import write_atomically

__all__ = [
    "BIN_STARTS",
    "CARD",
    "FORMAT_VERSION",
    "SHARD_NAME",
    "LabelledImage",
    "ShardForm",
    "finish",
    "finished_shards",
    "is_shard_whole",
    "keep_image",
    "kept_images",
    "write_shard",
]

FORMAT_VERSION = 2
CARD = "card.json"
LOCKS = "jobs.lock"
"""File by whose bytes processes claim shards; nothing is written into it."""
SHARD_NAME = re.compile(r"shard-\d{5}\.zip")
_DATE = (1980, 1, 1, 0, 0, 0)  # the first a zip can hold: the hour of writing is no content


def keep_image(folder: Path, index: int, place: int, item: LabelledImage, form: ShardForm) -> int:
    """Encode a labelled image and keep it until its shard is written; return the file's bytes.

    Processes may keep images of one shard at the same time, in any order.

    Args:
        folder: The set's folder; created.
        index: Of the shard, 0..99999.
        place: Of the image in its shard, from 0.
        item: What is kept.
        form: Of the set.

    Raises:
        InputError: the name leads out of the set's folder, the image cannot be read, or the file
            cannot be written.
        ValueError: a map has another type or shape than it should, or holds an id of no class.
    """
    row, pictures = encode_image(item, form)
    path = _kept_path(folder, index, place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_scratch(path, {"row": row, "form": asdict(form)}, pictures)
    except OSError as error:
        raise _unwritable(path, error) from error


def kept_images(folder: Path, index: int, samples: Sequence[Sample]) -> set[int]:
    """Return the places of a shard's images that need not be labelled again.

    Everything else that lies in the shard's scratch folder is removed: torn files, and those of
    images that have changed. So no other process may work on this shard meanwhile.

    Args:
        folder: The set's folder.
        index: Of the shard.
        samples: Its images, in their places.
    """
    kept = set()
    places = {_kept_path(folder, index, place): place for place in range(len(samples))}
    for path in sorted(_part_path(folder, index).glob("*")):
        place = places.get(path)
        if place is not None and _is_kept(path, samples[place]):
            kept.add(place)
        else:
            path.unlink(missing_ok=True)
    return kept


def write_shard(folder: Path, index: int, count: int, form: ShardForm) -> None:
    """Make a shard of its kept images, which are then removed; until the end it does not count.

    However often the work was interrupted, the shard has the same bytes. One that is there is
    replaced, and a set that was finished is unfinished from this call on. Holds one image in
    memory, and what the manifest says of the others. Several processes may write shards of one
    set, each its own.

    Args:
        folder: The set's folder; created.
        index: 0..99999.
        count: Images of the shard; all are kept, in the places 0..count-1.
        form: Of the set; that with which they were kept.

    Raises:
        InputError: two images have one name, a kept image is missing or torn, or the shard
            cannot be written.
        ValueError: an image was kept with another form.
    """
    shard, rows_path, part = (path(folder, index) for path in (_shard_path, _rows_path, _part_path))
    manifest, names = ManifestWriter(), set[str]()
    try:
        part.mkdir(parents=True, exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)
        rows_path.unlink(missing_ok=True)
        with _new_file(part, shard) as file, zipfile.ZipFile(file, "w") as archive:
            for place in range(count):
                row, pictures = _read_kept(_kept_path(folder, index, place), form)
                name = row["name"]
                if name in names:
                    raise InputError(f"Two images of {shard} are named {name}: rename one.")
                names.add(name)
                row |= {"shard": shard.name}
                for kind, png in zip(KINDS, pictures, strict=True):
                    row |= _store(archive, f"{name}.{kind}.png", kind, png)
                manifest.append(row)
        with _new_file(part, rows_path) as file:
            file.write(manifest.finish(shard_digest=_digest_large(shard)))
    except OSError as error:
        raise _unwritable(shard, error) from error
    shutil.rmtree(part, ignore_errors=True)


def finished_shards(folder: Path, among: Collection[int] | None = None) -> set[int]:
    """Return the indices of the shards that need not be written again.

    Reads every shard to compare its digest, so that one torn or damaged in any way is redone.

    Args:
        folder: Of the set.
        among: Indices that are asked about; None: all.
    """
    found = sorted(folder.glob("shard-*.zip"))
    indices = [int(path.stem[-5:]) for path in found if SHARD_NAME.fullmatch(path.name)]
    asked = set(indices) if among is None else set(indices) & set(among)
    return {index for index in asked if _is_finished(folder, index)}


@contextmanager
def claim(folder: Path, indices: Collection[int]) -> Iterator[None]:
    """Keep other processes from writing these shards while the block runs.

    The claim ends with the process, however it ends.

    Raises:
        InputError: another process has claimed one of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCKS).open("wb") as file:
        for index in sorted(indices):
            try:  # a byte for each shard: one open file for however many there are
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
            except OSError as error:
                raise InputError(
                    f"Another process is labelling shard {index} of {folder}: wait until it is "
                    "done, or give each job a K/N of its own (pseudo_label.shard)."
                ) from error
        yield


def finish(folder: Path, *, num_shards: int, card: Mapping[str, object]) -> None:
    """Merge the shards' rows into the manifest and write the card: the set is whole.

    Args:
        folder: Where shards 0..num_shards-1 were written.
        num_shards: How many the set has; further ones are left out.
        card: What the reader of the set should know: teachers, classes, colours, inference
            settings, digest of the pool. Must be JSON and have `classes`, the list of names.

    Raises:
        InputError: a shard is not finished, or a name occurs in two shards.
    """
    unfinished = sorted(set(range(num_shards)) - finished_shards(folder))
    if unfinished:
        raise InputError(
            f"{folder} lacks {len(unfinished)} of {num_shards} shards, the first of them "
            f"{unfinished[:10]}: run the stage again."
        )
    manifest, names, shards = ManifestWriter(), Counter[str](), {}
    pixels = np.zeros(len(cast(list[str], card["classes"])), dtype=np.int64)
    for index in range(num_shards):
        rows = read_rows(_rows_path(folder, index))
        manifest.extend(rows)
        names.update(rows["name"].to_pylist())
        pixels += _class_pixels(rows, len(pixels), _rows_path(folder, index))
        path = _shard_path(folder, index)
        shards[path.name] = {
            "bytes": path.stat().st_size,
            "digest": _recorded_digest(folder, index),
        }
        # A crash may have come between the shard and the removal of what it was made of.
        shutil.rmtree(_part_path(folder, index), ignore_errors=True)
    (name, times), *_ = [*names.most_common(1), ("", 0)]
    if times > 1:
        raise InputError(f"{folder} has {times} labels for {name}: names must be unique.")
    whole = {
        **card,
        "format_version": FORMAT_VERSION,
        "images": names.total(),
        "class_pixels": pixels.tolist(),
        "shards": shards,
    }
    write_atomically(folder / MANIFEST, manifest.finish())
    write_atomically(folder / CARD, (json.dumps(whole, indent=2) + "\n").encode())


def _class_pixels(rows: pa.Table, num_classes: int, path: Path) -> NDArray[np.int64]:
    """Return the pixels of each class in a shard, by its rows, which were read from `path`."""
    pixels = np.asarray(rows["class_pixels"].chunk(0).flatten())
    if len(pixels) != rows.num_rows * num_classes:
        raise InputError(
            f"{path} counts the pixels of other classes than the {num_classes} of the set: delete "
            "it, and run the stage again."
        )
    return np.asarray(pixels.reshape(rows.num_rows, num_classes).sum(axis=0))


def is_shard_whole(path: Path, digest: str) -> bool:
    """Return whether a shard has the digest that its set's card lists for it."""
    try:
        return _digest_large(path) == digest
    except OSError:
        return False


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.zip"


def _rows_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.parquet"


def _part_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.part"


def _kept_path(folder: Path, index: int, place: int) -> Path:
    return _part_path(folder, index) / f"{place:05d}.kept"


@contextmanager
def _new_file(part: Path, path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its name when all is written and lies on the disk."""
    # Not write_atomically: a shard is too large for the memory. In the scratch folder, so that
    # what a crash leaves is removed with it.
    temporary = part / f"{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"{path} cannot be written ({error.strerror or error}): "
        "free some space or choose another machine.outputs."
    )


def _is_kept(path: Path, sample: Sample) -> bool:
    if (found := read_scratch(path)) is None:
        return False
    row = found[0]["row"]
    return bool(row["name"] == sample.name and row["image_digest"] == digest_file(sample.image))


def _read_kept(path: Path, form: ShardForm) -> tuple[dict[str, Any], list[bytes]]:
    if (found := read_scratch(path)) is None:
        raise InputError(f"{path} is missing or torn: run the stage again.")
    facts, pictures = found
    if facts["form"] != asdict(form):
        raise ValueError(f"{path} was kept as {facts['form']}, not {form}")
    return facts["row"], pictures


def _store(archive: zipfile.ZipFile, member: str, kind: str, png: bytes) -> dict[str, int]:
    """Append a picture, unless it is empty; return the byte range of its data in the zip."""
    if png:
        info = zipfile.ZipInfo(member, _DATE)
        info.external_attr = 0o644 << 16
        info.create_system = 3  # else it depends on the system that writes
        archive.writestr(info, png)
    # Uncompressed, the data are the last bytes written so far.
    return {f"{kind}_offset": archive.start_dir - len(png), f"{kind}_length": len(png)}


def _digest_large(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _recorded_digest(folder: Path, index: int) -> str:
    return read_metadata(_rows_path(folder, index)).get("shard_digest", "")


def _is_finished(folder: Path, index: int) -> bool:
    try:
        recorded = _recorded_digest(folder, index)
        read_rows(_rows_path(folder, index))
    except InputError:
        return False
    return is_shard_whole(_shard_path(folder, index), recorded)
