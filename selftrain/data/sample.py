"""What there is: images, where their labels lie, and how both are read.

A `Sample` names files and opens none, so an unlabelled pool is listed without touching a
label. `Reader` opens them, one sample at a time, in any process.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from selftrain.errors import InputError
from selftrain.labels import IGNORE_INDEX


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes in a file: all of it, or a range (a picture inside a shard)."""

    path: Path
    offset: int = 0
    length: int = -1
    """-1: to the end of the file."""

    def read(self) -> bytes:
        """Return the bytes; raise InputError if the file is missing or shorter than the range."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.length)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror}): "
                "copy it there, and see that you may read it."
            ) from error
        if self.length >= 0 and len(data) != self.length:
            raise InputError(
                f"{self.path} ends before byte {self.offset + self.length}: "
                "it is truncated; make or copy it again."
            )
        return data


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and, where there is one, its label map."""

    name: str
    """Unique in its data set; names the outputs made from the image."""
    image: Path
    label: Blob | None = None
    """None: unlabelled."""
    confidence: Blob | None = None
    """Confidence of a pseudo label, 0..255 for 0..1, of the label's size."""
    is_pseudo: bool = False
    """True: the label was predicted and holds train ids already."""


@dataclass(frozen=True, slots=True)
class ClassTable:
    """The classes of a data set, in the order of their train ids 0..K-1."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    """RGB, one for each class."""
    train_ids: Mapping[int, int] = field(default_factory=dict)
    """File id -> train id or IGNORE_INDEX; empty: files hold train ids and 255."""

    def __len__(self) -> int:
        return len(self.names)

    def lookup(self) -> NDArray[np.int16]:
        """Return, for each file id 0..255, its train id, IGNORE_INDEX, or -1 for an illegal id."""
        table = np.full(256, -1, dtype=np.int16)
        ids = self.train_ids or {**{i: i for i in range(len(self))}, IGNORE_INDEX: IGNORE_INDEX}
        for file_id, train_id in ids.items():
            table[file_id] = train_id
        return table


@dataclass(frozen=True)
class Splits:
    """A benchmark's samples by what they may be used for."""

    classes: ClassTable
    labelled: Sequence[Sample]
    """Trains teacher, control and student."""
    unlabelled: Sequence[Sample]
    """The pool for pseudo labels; its samples have no label."""
    dev: Sequence[Sample]
    """Held out from train; every choice is made on it."""
    evaluation: Mapping[str, Sequence[Sample]]
    """Split name -> samples, measured by `evaluate` alone; `prepare` only checks them. "test" is
    the first."""
    pool_with_labels: Sequence[Sample] = ()
    """The pool with its hidden labels, where there are any; opened only to measure pseudo labels
    against them."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads samples of one data set into arrays."""

    classes: ClassTable
    scale: float = 1.0
    """Frames are resized by this factor when they are read, labels with them."""
    threshold: float = 0.0
    """In [0, 1]: pixels of pseudo labels below this confidence become IGNORE_INDEX."""
    upright: bool = False
    """Turn pictures as their orientation tag says. Labels are never turned, so this is for
    pictures without any."""

    def image(self, sample: Sample) -> NDArray[np.uint8]:
        """Return the picture as RGB (H, W, 3)."""
        flags = cv2.IMREAD_COLOR | (0 if self.upright else cv2.IMREAD_IGNORE_ORIENTATION)
        image = _decode(Blob(sample.image), flags)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        return self._resize(image, cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR)

    def label(self, sample: Sample) -> NDArray[np.uint8]:
        """Return the label map (H, W): train ids and IGNORE_INDEX.

        Raises:
            InputError: the sample has no label, or the file holds an id that is no class.
        """
        if sample.label is None:
            raise InputError(
                f"{sample.image} has no label, but a labelled image is needed here: add its label."
            )
        raw = _decode(sample.label, cv2.IMREAD_UNCHANGED)
        if raw.ndim != 2 or raw.dtype != np.uint8:
            raise InputError(
                f"{sample.label.path} is not an 8-bit single-channel label map "
                f"(shape {raw.shape}, {raw.dtype}): store class ids as gray values."
            )
        if sample.is_pseudo:  # the teacher saw the scaled image: never scaled again
            return self._apply_threshold(sample, raw)
        return self._resize(self._to_train_ids(raw, sample.label.path), cv2.INTER_NEAREST_EXACT)

    def pair(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return image and label map, and check that they have the same size."""
        image, label = self.image(sample), self.label(sample)
        if image.shape[:2] != label.shape:
            where = sample.label.path if sample.label else sample.name
            raise InputError(
                f"{where} is {label.shape[1]}x{label.shape[0]} but its image {sample.image} is "
                f"{image.shape[1]}x{image.shape[0]}: label and image must have the same size."
            )
        return image, label

    def _to_train_ids(self, raw: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        mapped = self.classes.lookup()[raw]
        if (illegal := mapped < 0).any():
            y, x = np.argwhere(illegal)[0]
            raise InputError(
                f"{path} holds the label id {raw[y, x]} at y={y}, x={x}, which is none of the "
                f"data set's ids {sorted(np.flatnonzero(self.classes.lookup() >= 0).tolist())}: "
                "correct the file or the class list."
            )
        return mapped.astype(np.uint8)

    def _apply_threshold(self, sample: Sample, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.threshold <= 0:
            return label
        if sample.confidence is None:
            raise InputError(
                f"The pseudo label of {sample.name} has no confidence map: set threshold to 0, or "
                "label the pool again."
            )
        confidence = _decode(sample.confidence, cv2.IMREAD_UNCHANGED)
        return np.where(confidence >= self.threshold * 255, label, IGNORE_INDEX).astype(np.uint8)

    def _resize(self, array: NDArray[np.uint8], interpolation: int) -> NDArray[np.uint8]:
        if self.scale == 1:
            return array
        height, width = (max(1, round(side * self.scale)) for side in array.shape[:2])
        resized = cv2.resize(array, (width, height), interpolation=interpolation)
        return resized.astype(np.uint8, copy=False)


def _decode(blob: Blob, flags: int) -> NDArray[np.uint8]:
    data = blob.read()
    # OpenCV fills what a truncated file lacks with gray and says nothing, so look before.
    if _is_truncated(data):
        raise InputError(f"{blob.path} is truncated: make or copy it again.")
    try:
        picture = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags) if data else None
    except cv2.error:
        picture = None
    if picture is None:
        raise InputError(
            f"{blob.path} is not a readable picture, but damaged or no image: "
            "make or copy it again, or take it out."
        )
    return np.asarray(picture, dtype=picture.dtype)


def _is_truncated(data: bytes) -> bool:
    if data.startswith(b"\xff\xd8\xff"):
        return data.rfind(b"\xff\xd9", _jpeg_pixels_start(data)) < 0
    if data.startswith(b"\x89PNG"):
        return data.rfind(b"IEND\xaeB`\x82") < 0
    if data.startswith(b"RIFF"):  # WebP
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return False


def _jpeg_pixels_start(data: bytes) -> int:
    # Before the pixels there may be a thumbnail with an end mark of its own; among them an end
    # mark is the image's. Each segment is FF, its kind, and its length (2 bytes, big-endian).
    at = 2
    while at + 4 <= len(data) and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # padding
            at += 1
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def digest_image(sample: Sample) -> str:
    """Return a digest of the image file's bytes, to recognise it under another name."""
    return hashlib.blake2b(Blob(sample.image).read(), digest_size=16).hexdigest()


def digest_samples(
    samples: Iterable[Sample], *, labels: bool, image: Callable[[Sample], str] = digest_image
) -> str:
    """Return a short digest of the samples' content, independent of where they lie.

    Args:
        samples: In any order; the digest depends on names and bytes.
        labels: Whether label (and confidence) bytes count; False opens no label.
        image: `digest_image`, or what remembers its answers.
    """

    def line(sample: Sample) -> str:
        parts = [sample.name, image(sample)]
        if labels:
            blobs = [blob for blob in (sample.label, sample.confidence) if blob is not None]
            parts += [hashlib.blake2b(blob.read(), digest_size=16).hexdigest() for blob in blobs]
        return "\t".join(parts) + "\n"

    digest = hashlib.blake2b(digest_size=8)
    ordered = sorted(samples, key=lambda sample: sample.name)
    with ThreadPoolExecutor() as pool:
        for text in pool.map(line, ordered):
            digest.update(text.encode())
    return digest.hexdigest()
