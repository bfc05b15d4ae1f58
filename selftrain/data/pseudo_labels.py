"""A finished set of pseudo labels: samples, counts and centroids, read where they lie.

`shards` writes the files; docs/pseudo_labels.md describes them.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selftrain.data.centroids import Centroids
from selftrain.data.manifest import KINDS, MANIFEST, read_rows
from selftrain.data.sample import Blob, Sample
from selftrain.data.shards import BIN_STARTS, CARD, FORMAT_VERSION, SHARD_NAME, is_shard_whole
from selftrain.errors import InputError

_FARTHEST = 2**62
"""Byte of a shard; a sum of 64 bits that is larger begins anew below 0."""


@dataclass(frozen=True, eq=False)
class PseudoLabelSet:
    """A finished set; `open` makes it. Pictures are read by `Reader`, never here."""

    folder: Path
    card: Mapping[str, Any]
    """`card.json`: what `finish` was given, and format_version, images, class_pixels (not in older
    sets) and shards."""
    manifest: pa.Table
    """The rows of `manifest.parquet`, each column in one piece."""
    rows: Mapping[str, int]
    """Name of an image -> its row in the manifest."""

    @classmethod
    def open(
        cls, folder: Path, *, verify: bool = False, shards: Collection[str] | None = None
    ) -> "PseudoLabelSet":
        """Open a set and check what can be checked without reading its shards.

        Args:
            folder: Of the set.
            verify: Read the shards too, and compare their digests.
            shards: Files of those that are checked; the others need not be there. None: all.

        Raises:
            InputError: the set is not finished, is of another version, or does not fit together:
                a column or a shard is missing, a shard is shorter than the manifest says.
        """
        card = _read_card(folder)
        manifest = read_rows(folder / MANIFEST)
        num_classes = len(card["classes"])
        _check_lists(folder, manifest, num_classes)
        _check_shards(folder, manifest, card["shards"], among=shards, verify=verify)
        if card.get("images", manifest.num_rows) != manifest.num_rows:
            raise InputError(
                f"{folder / MANIFEST} has {manifest.num_rows} images, but {CARD} lists "
                f"{card['images']!r}: make or copy the set of pseudo labels again."
            )
        rows = {name: row for row, name in enumerate(manifest["name"].to_pylist())}
        if len(rows) < manifest.num_rows:
            raise InputError(
                f"{folder / MANIFEST} has {manifest.num_rows} rows for {len(rows)} names: "
                "delete the folder and run the stage again."
            )
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
        paths = {shard: self.folder / shard for shard in self.card["shards"]}
        shards = [paths[shard] for shard in self.manifest["shard"].to_pylist()]
        places = {kind: self._places(kind) for kind in KINDS}

        def blob(kind: str, row: int) -> Blob:
            offset, length = places[kind]
            return Blob(shards[row], offset[row], length[row])

        labelled = []
        for sample in pool:
            row = self.rows[sample.name]
            soft = None
            if places["soft_classes"][1][row] > 0:
                soft = blob("soft_classes", row), blob("soft_probabilities", row)
            label, confidence = blob("label", row), blob("confidence", row)
            labelled.append(
                replace(sample, label=label, confidence=confidence, is_pseudo=True, soft=soft)
            )
        return labelled

    def histograms(self) -> NDArray[np.uint32]:
        """Return each image's pixels by class and bin of the confidence: (N, K, B).

        In the order of the manifest, whose memory it is. Bin b holds the 8-bit confidences from
        `BIN_STARTS[b]` to below the next; they are those that `Reader` selects by.
        """
        counts = _values(self.manifest, "confidence_histogram")
        return counts.reshape(len(self), self._num_classes, len(BIN_STARTS))

    def confidence_histogram(self) -> NDArray[np.int64]:
        """Return the pixels of the whole set by class and bin of the confidence: (K, B)."""
        return self._histogram

    def class_pixels(self) -> NDArray[np.int64]:
        """Return the pixels of each class over the whole set, all selected: (K,)."""
        pixels = _values(self.manifest, "class_pixels").reshape(len(self), self._num_classes)
        return np.asarray(pixels.sum(axis=0))

    def kept_share(self, keep_from: Sequence[int]) -> NDArray[np.float64]:
        """Return the share of each class's pixels with at least some confidence: (K,).

        Exact where each level is 256 or begins a bin; between, the pixels of a bin count as
        evenly spread. 0 for a class that was never predicted.

        Args:
            keep_from: For each class the lowest 8-bit confidence that counts, 0..256.
        """
        edges = np.array([*BIN_STARTS, 256])
        histogram = self.confidence_histogram()
        above = np.zeros((len(histogram), len(edges)))
        above[:, :-1] = histogram[:, ::-1].cumsum(axis=1)[:, ::-1]
        kept = [np.interp(level, edges, row) for level, row in zip(keep_from, above, strict=True)]
        return np.asarray(kept) / np.maximum(above[:, 0], 1)

    def agreement(self) -> NDArray[np.float64]:
        """Return how far the judges agreed with each image's labels, (N,); NaN: not measured."""
        return np.asarray(self.manifest["agreement"].to_numpy())

    def agreed_pixels(self) -> NDArray[np.int64] | None:
        """Return the pixels of each class on which all judges agreed, (N, K).

        None if they were not counted for every image.
        """
        counts = _values(self.manifest, "agreed_pixels")
        if len(counts) < len(self) * self._num_classes:
            return None
        return counts.reshape(len(self), self._num_classes)

    def centroids(self, samples: Sequence[Sample]) -> Centroids:
        """Return where each class is, as `find_centroids` would after reading every label.

        Args:
            samples: Gives the order: row (position, y, x) means a pixel of `samples[position]`.
                Selection plays no part: a centroid may lie on a pixel that it takes away.
        """
        points = _values(self.manifest, "centroids").reshape(-1, 3)
        ends = np.asarray(self.manifest["centroids"].chunk(0).offsets) // 3
        chosen = np.array([self.rows[sample.name] for sample in samples], dtype=np.intp)
        counts = ends[chosen + 1] - ends[chosen]
        position = np.repeat(np.arange(len(chosen)), counts)
        first = np.cumsum(counts) - counts
        found = points[np.arange(len(position)) + np.repeat(ends[chosen] - first, counts)]
        rows = np.column_stack([position, found[:, 1:]]).astype(np.int32)
        return {int(c): rows[found[:, 0] == c] for c in np.unique(found[:, 0])}

    def image_digests(self) -> frozenset[str]:
        """Return `digest_file` of every labelled image: none may be in an evaluation split."""
        return frozenset(self.manifest["image_digest"].to_pylist())

    @property
    def _num_classes(self) -> int:
        return len(self.card["classes"])

    @cached_property
    def _histogram(self) -> NDArray[np.int64]:
        return np.asarray(self.histograms().sum(axis=0, dtype=np.int64))

    def _places(self, kind: str) -> tuple[list[int], list[int]]:
        offset, length = (self.manifest[f"{kind}_{what}"] for what in ("offset", "length"))
        return offset.to_pylist(), length.to_pylist()


def _values(manifest: pa.Table, column: str) -> NDArray[Any]:
    """Return the numbers in the lists of a column, one list after the other."""
    return np.asarray(manifest[column].chunk(0).flatten().to_numpy())


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / CARD).read_bytes())
    except OSError as error:
        raise InputError(
            f"{folder / CARD} cannot be read: there is no finished set of pseudo labels; "
            "run the stage pseudo_label to the end."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{folder / CARD} is not JSON: delete the folder and run the stage again."
        ) from error
    if not isinstance(card, dict) or card.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{folder / CARD} is not of format version {FORMAT_VERSION}: label again.")
    listed = {
        "classes": isinstance(card.get("classes"), list)
        and all(isinstance(name, str) for name in card["classes"]),
        "shards": isinstance(card.get("shards"), dict)
        and all(isinstance(facts, dict) for facts in card["shards"].values())
        and all(isinstance(facts.get("bytes"), int) for facts in card["shards"].values()),
    }
    for key, is_listed in listed.items():
        if not is_listed:
            raise InputError(
                f"{folder / CARD} lists no {key}: delete the folder and run the stage again."
            )
    return card


def _check_lists(folder: Path, manifest: pa.Table, num_classes: int) -> None:
    """Raise InputError unless the manifest has as many numbers as the card's classes ask for."""
    for column, length, may_be_empty in [
        ("class_pixels", num_classes, False),
        ("confidence_histogram", num_classes * len(BIN_STARTS), False),
        ("agreed_pixels", num_classes, True),
    ]:
        lengths = np.diff(manifest[column].chunk(0).offsets)
        right = (lengths == length) | (may_be_empty & (lengths == 0))
        if not right.all():
            row = int(np.flatnonzero(~right)[0])
            raise InputError(
                f"{folder / MANIFEST} has {lengths[row]} values of {column} for "
                f"{manifest['name'][row].as_py()}, but the {num_classes} classes of {CARD} ask "
                f"for {length}: delete the folder and run the stage again."
            )


def _check_shards(
    folder: Path,
    manifest: pa.Table,
    shards: Mapping[str, Mapping[str, Any]],
    *,
    among: Collection[str] | None,
    verify: bool,
) -> None:
    """Raise InputError unless each byte range of the manifest lies in a shard of this folder.

    Args:
        folder: Of the set.
        manifest: Its rows.
        shards: What its card says of them.
        among: Files that are looked at; None: all.
        verify: Compare their digests too.
    """
    coded = manifest["shard"].chunk(0).dictionary_encode()
    names, of_row = coded.dictionary.to_pylist(), np.asarray(coded.indices)
    ends = np.zeros(len(names), dtype=np.int64)
    legal = np.array([bool(SHARD_NAME.fullmatch(name)) for name in names], dtype=bool)
    for kind in KINDS:
        offset, length = (manifest[f"{kind}_{what}"].to_numpy() for what in ("offset", "length"))
        wrong = ~legal[of_row] | (offset < 0) | (length < 0) | (offset > _FARTHEST - length)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"{folder / MANIFEST} points at {length[row]} bytes from {offset[row]} of "
                f"{names[of_row[row]]!r}, which is no place in a shard of this folder: "
                "delete the folder and run the stage again."
            )
        np.maximum.at(ends, of_row, offset + length)
    for name, end in zip(names, ends.tolist(), strict=True):
        if among is not None and name not in among:
            continue
        path, listed = folder / name, shards.get(name, {})
        size = path.stat().st_size if path.is_file() else -1
        if size < end or size != listed.get("bytes"):
            fault = "missing" if size < 0 else f"cut off or altered ({size} bytes)"
        elif verify and not is_shard_whole(path, listed.get("digest", "")):
            fault = f"not the file that {CARD} lists: its digest is another"
        else:
            continue
        raise InputError(f"{path} is {fault}: make or copy the set of pseudo labels again.")
