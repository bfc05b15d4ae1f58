"""Where the classes are: the points that centroid sampling aims at (paper, section 3.2).

They are found once for a set of labels and cached by the labels' content, so that an edited
label or another selection of pseudo labels never meets old centroids.
"""

import hashlib
import io
import logging
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.errors import InputError
from selftrain.files import write_atomically

Centroids = dict[int, NDArray[np.int32]]
"""Class -> (n, 3) rows: image index, y, x, in pixels of the full (scaled) image.
Holds only classes that occur."""

VERSION = 2
"""Part of the cache key; raise it when the points found in the same labels change."""


def find_centroids(
    samples: Sequence[Sample],
    reader: Reader,
    *,
    tile: int,
    cache: Path | None = None,
    workers: int = 0,
) -> Centroids:
    """Find the centroids of every class in a set of labelled samples.

    Args:
        samples: All labelled; the image index of a centroid is a position in this sequence.
        reader: Its scale and `keep_from` decide what is seen: a pixel that it ignores is nothing.
        tile: Side of the tiles, in pixels (see `tile_centroids`).
        cache: Folder of results of earlier calls, made if need be; None: search afresh.
        workers: Threads beside the caller's own; 0: none.

    Raises:
        InputError: a sample has no label or one that cannot be read, or `tile` is below 1.
    """
    if tile < 1:
        raise InputError(f"tile is {tile} but must be at least 1 pixel.")

    def search(sample: Sample) -> NDArray[np.int32]:
        return tile_centroids(reader.label(sample), num_classes=len(reader.classes), tile=tile)

    # Threads suffice: decoding and counting run in OpenCV and NumPy, which release the lock.
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        if cache is None:
            return _group_by_class(list(pool.map(search, samples)))
        path = cache / f"centroids-{_content_key(samples, reader, tile, pool)}.npz"
        found = _load(path)
        if found is None:
            found = _group_by_class(list(pool.map(search, samples)))
            _save(path, found)
        return found


def tile_centroids(label: NDArray[np.uint8], *, num_classes: int, tile: int) -> NDArray[np.int32]:
    """Find, in each tile of one label map, one point for every class that the tile shows.

    The tiles cover the whole map: what is left over at the right and at the bottom is a tile
    of its own, and `tile` is clipped to the map's shorter side.

    Args:
        label: (H, W); values from `num_classes` on, such as 255, are no class.
        num_classes: Number of classes, K.
        tile: Side of a tile, in pixels.

    Returns:
        (n, 3) rows: class, y, x. The point is the pixel of the class that lies nearest to the
        centre of mass of its pixels in the tile: always on the class, as the centre of a
        ring or of two separate poles is not.
    """
    side = min(tile, *label.shape)
    found = []
    for top in range(0, label.shape[0], side):
        for left in range(0, label.shape[1], side):
            block = np.ascontiguousarray(label[top : top + side, left : left + side])
            in_strip = _classes_by_strip(block, num_classes)
            for class_id in np.flatnonzero(in_strip.any(axis=0)).tolist():
                strips = np.flatnonzero(in_strip[:, class_id])
                first = int(strips[0]) * _STRIP
                rows = block[first : (int(strips[-1]) + 1) * _STRIP]
                y, x = _central_pixel((rows == class_id).view(np.uint8), first)
                found.append((class_id, top + y, left + x))
    return np.array(found, dtype=np.int32).reshape(-1, 3)


_STRIP = 64
"""Rows that are asked together which classes they show: most classes are not in most rows."""


def _classes_by_strip(block: NDArray[np.uint8], num_classes: int) -> NDArray[np.bool_]:
    strips = [block[top : top + _STRIP] for top in range(0, len(block), _STRIP)]
    counts = [cv2.calcHist([strip], [0], None, [256], [0, 256]).ravel() for strip in strips]
    return np.asarray(np.stack(counts)[:, :num_classes] > 0)


def _central_pixel(mask: NDArray[np.uint8], top: int) -> tuple[int, int]:
    """Return the pixel of the mask nearest to its centre of mass; `top` is added to every y."""
    # Row and column sums by cv2.reduce: np.bincount with coordinate weights takes longer and
    # holds the interpreter's lock.
    in_row = cv2.reduce(mask, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    in_column = cv2.reduce(mask, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    pixels = int(in_row.sum(dtype=np.int64))
    y = float(np.arange(top, top + len(in_row)) @ in_row) / pixels
    x = float(np.arange(len(in_column)) @ in_column) / pixels
    if mask[round(y) - top, round(x)]:
        return round(y), round(x)
    return _nearest_pixel(mask, top, y, x)


def _nearest_pixel(mask: NDArray[np.uint8], top: int, y: float, x: float) -> tuple[int, int]:
    """Return the first of the mask's pixels that lie nearest to a point."""
    # In a window about the point, as to list all pixels of a large class takes most of the time:
    # 130 ms instead of 30 for a 2048x1024 frame with 19 classes everywhere.
    reach = 16
    while True:
        first_y, first_x = max(int(y) - top - reach, 0), max(int(x) - reach, 0)
        window = mask[first_y : int(y) - top + reach + 1, first_x : int(x) + reach + 1]
        ys, xs = np.nonzero(window)
        ys, xs = ys + first_y + top, xs + first_x
        squares = (ys - y) ** 2 + (xs - x) ** 2
        # Outside the window nothing is nearer than its reach, nor as near.
        if len(ys) and (squares.min() < reach**2 or window.size == mask.size):
            nearest = np.argmin(squares)
            return int(ys[nearest]), int(xs[nearest])
        reach *= 4


def _group_by_class(per_image: Sequence[NDArray[np.int32]]) -> Centroids:
    images = np.repeat(np.arange(len(per_image)), [len(rows) for rows in per_image])
    rows = np.concatenate([np.empty((0, 3), dtype=np.int32), *per_image])
    classes, points = rows[:, 0], np.column_stack([images, rows[:, 1:]]).astype(np.int32)
    return {int(c): points[classes == c] for c in np.unique(classes)}


def _content_key(
    samples: Sequence[Sample], reader: Reader, tile: int, pool: ThreadPoolExecutor
) -> str:
    classes = reader.classes
    ids = (len(classes), classes.lookup().tolist(), sorted(classes.file_colors.items()))
    keep_from = reader.keep_from if any(reader.keep_from) else ()
    facts = (VERSION, tile, reader.scale, reader.short_side, keep_from, ids)
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=16)
    selects = bool(keep_from)
    for line in pool.map(lambda sample: _label_digest(sample, selects=selects), samples):
        digest.update(line)
    return digest.hexdigest()


def _label_digest(sample: Sample, *, selects: bool) -> bytes:
    if sample.label is None:
        raise InputError(f"{sample.image} has no label, but centroids are found in labels.")
    digest = hashlib.blake2b(b"pseudo" if sample.is_pseudo else b"real", digest_size=16)
    digest.update(hashlib.blake2b(sample.label.read()).digest())
    if sample.is_pseudo and selects and sample.confidence is not None:
        digest.update(hashlib.blake2b(sample.confidence.read()).digest())
    return digest.digest()


def _save(path: Path, found: Centroids) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{str(c): rows for c, rows in found.items()})
    write_atomically(path, buffer.getvalue())


def _load(path: Path) -> Centroids | None:
    try:
        # What was saved is not compressed: no member is larger than the file (a zip bomb is).
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise zipfile.BadZipFile(f"{member.filename} is compressed")
        with np.load(path, allow_pickle=False) as stored:
            found = {int(name): stored[name] for name in stored.files}
        if any(rows.dtype != np.int32 or rows.shape[1:] != (3,) for rows in found.values()):
            raise ValueError("it holds something else")
        return found
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds
        logging.getLogger(__name__).warning("%s is broken (%s): made again.", path, error)
        return None
