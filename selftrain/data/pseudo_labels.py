"""A finished set of pseudo labels: samples, counts and centroids, read where they lie.

`shards` describes the files and writes them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from selftrain.data.centroids import Centroids
from selftrain.data.sample import Blob, Sample
from selftrain.data.shards import (
    CARD,
    CONFIDENCE_BINS,
    FORMAT_VERSION,
    LEVELS_PER_BIN,
    MANIFEST,
    SCHEMA,
    SHARD_NAME,
)
from selftrain.errors import InputError


@dataclass(frozen=True, eq=False)
class PseudoLabelSet:
    """A finished set; `open` makes it. Pictures are read by `Reader`, never here."""

    folder: Path
    card: Mapping[str, Any]
    """`card.json`: what `finish` was given, and format_version, images, shards."""
    manifest: pa.Table
    """The rows of `manifest.parquet`."""
    rows: Mapping[str, int]
    """Name of an image -> its row in the manifest."""

    @classmethod
    def open(cls, folder: Path) -> "PseudoLabelSet":
        """Open a set and check what can be checked without reading its shards.

        Raises:
            InputError: the set is not finished, is of another version, or does not fit together:
                a column or a shard is missing, a shard is shorter than the manifest says.
        """
        card = _read_card(folder)
        manifest = _read_manifest(folder)
        num_classes = len(card["classes"])
        for column, length in [
            ("class_pixels", num_classes),
            ("confidence_histogram", num_classes * CONFIDENCE_BINS),
        ]:
            if len(manifest[column].combine_chunks().flatten()) != length * manifest.num_rows:
                raise InputError(
                    f"{folder / MANIFEST} has not {length} values of {column} for each image, as "
                    f"the {num_classes} classes of {CARD} ask for: make the set again."
                )
        _check_shards(folder, manifest, card["shards"])
        rows = {name: row for row, name in enumerate(manifest["name"].to_pylist())}
        return cls(folder, card, manifest, rows)

    def __len__(self) -> int:
        return len(self.rows)

    def samples(self, pool: Sequence[Sample]) -> list[Sample]:
        """Return the pool's samples, in its order, with their pseudo labels.

        Args:
            pool: The images, wherever they lie on this machine; joined by name. A part of the
                labelled pool is allowed.

        Raises:
            InputError: the set has no label for an image of the pool.
        """
        if missing := [sample.name for sample in pool if sample.name not in self.rows]:
            raise InputError(
                f"{self.folder} has no pseudo label for {missing[0]} ({len(missing)} of the "
                f"{len(pool)} images of the pool lack one): it was made from another pool."
            )
        columns = {
            name: self.manifest[name].to_pylist()
            for name in SCHEMA.names
            if name == "shard" or name.endswith(("_offset", "_length"))
        }

        def blob(kind: str, row: int) -> Blob:
            path = self.folder / columns["shard"][row]
            return Blob(path, columns[f"{kind}_offset"][row], columns[f"{kind}_length"][row])

        return [
            replace(
                sample, label=blob("label", row), confidence=blob("confidence", row), is_pseudo=True
            )
            for sample in pool
            for row in [self.rows[sample.name]]
        ]

    def class_pixels(self) -> NDArray[np.int64]:
        """Return the pixels of each class over the whole set, without a threshold: (K,)."""
        return self._sum("class_pixels").reshape(-1)

    def confidence_histogram(self) -> NDArray[np.int64]:
        """Return how many pixels of each class have which confidence: (K, CONFIDENCE_BINS)."""
        return self._sum("confidence_histogram").reshape(-1, CONFIDENCE_BINS)

    def kept_share(self, threshold: float) -> NDArray[np.float64]:
        """Return the share of each class's pixels that `Reader` keeps at a threshold: (K,).

        Exact where the lowest 8-bit confidence that is kept, ceil(255 threshold), begins a bin;
        between, the pixels of a bin count as evenly spread. 0 for a class that was never predicted.
        """
        lowest = math.ceil(threshold * 255)
        kept = np.clip(
            (np.arange(CONFIDENCE_BINS) + 1) * LEVELS_PER_BIN - lowest, 0, LEVELS_PER_BIN
        )
        histogram = self.confidence_histogram()
        total = histogram.sum(axis=1)
        return np.asarray(histogram @ (kept / LEVELS_PER_BIN) / np.maximum(total, 1))

    def centroids(self, samples: Sequence[Sample]) -> Centroids:
        """Return where each class is, as `find_centroids` would after reading every label.

        Args:
            samples: Gives the order: row (position, y, x) means a pixel of `samples[position]`.
                A threshold plays no part: a centroid may lie on a pixel that it takes away.
        """
        columns = self.manifest["centroids"].to_pylist()
        blocks = []
        for position, sample in enumerate(samples):
            found = np.asarray(columns[self.rows[sample.name]], dtype=np.int32).reshape(-1, 3)
            at = np.full((len(found), 1), position, dtype=np.int32)
            blocks.append(np.hstack([found[:, :1], at, found[:, 1:]]))
        rows = np.concatenate([np.empty((0, 4), dtype=np.int32), *blocks])
        return {int(c): rows[rows[:, 0] == c, 1:] for c in np.unique(rows[:, 0])}

    def image_digests(self) -> frozenset[str]:
        """Return `digest_file` of every labelled image: none may be in an evaluation split."""
        return frozenset(self.manifest["image_digest"].to_pylist())

    def _sum(self, column: str) -> NDArray[np.int64]:
        values = self.manifest[column].combine_chunks().flatten().to_numpy()
        per_image = values.reshape(len(self), len(values) // max(len(self), 1))
        return np.asarray(per_image.sum(axis=0), dtype=np.int64)


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / CARD).read_bytes())
    except OSError as error:
        raise InputError(
            f"{folder / CARD} cannot be read: there is no finished set of pseudo labels; "
            "run the stage pseudo_label to the end."
        ) from error
    except ValueError as error:
        raise InputError(f"{folder / CARD} is not JSON: make the set again.") from error
    if not isinstance(card, dict) or card.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{folder / CARD} is not of format version {FORMAT_VERSION}: label again.")
    for key, kind in [("classes", list), ("shards", dict)]:
        if not isinstance(card.get(key), kind):
            raise InputError(f"{folder / CARD} lists no {key}: make the set again.")
    return card


def _read_manifest(folder: Path) -> pa.Table:
    path = folder / MANIFEST
    try:
        manifest = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{path} cannot be read as Parquet: make or copy the set again."
        ) from error
    for expected in SCHEMA:
        if expected.name not in manifest.column_names:
            raise InputError(f"{path} has no column {expected.name}: make the set again.")
        if manifest[expected.name].null_count:
            raise InputError(f"{path} has gaps in the column {expected.name}: make the set again.")
    try:
        # Other tools write the same values under other types: pandas 3 makes large strings.
        return manifest.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{path} has a column of another type: {error}.") from error


def _check_shards(
    folder: Path, manifest: pa.Table, shards: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise InputError unless each byte range of the manifest lies in a shard of this folder."""
    for kind in ("label", "confidence"):
        ranges = manifest.select(["shard", f"{kind}_offset", f"{kind}_length"]).to_pydict()
        ends: dict[str, int] = {}
        for shard, offset, length in zip(*ranges.values(), strict=True):
            if not SHARD_NAME.fullmatch(shard) or offset < 0 or length < 0:
                raise InputError(
                    f"{folder / MANIFEST} points at {length} bytes from {offset} of {shard!r}, "
                    "which is no place in a shard of this folder: make the set again."
                )
            ends[shard] = max(ends.get(shard, 0), offset + length)
        for shard, end in ends.items():
            path = folder / shard
            size = path.stat().st_size if path.is_file() else -1
            if size < end or size != shards.get(shard, {}).get("bytes"):
                raise InputError(
                    f"{path} is {'missing' if size < 0 else f'cut off or altered ({size} bytes)'}: "
                    "make or copy the set of pseudo labels again."
                )
