"""From files to arrays: pictures and label maps, or one sentence about what is wrong with them."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selftrain.data.picture_header import is_png_intact, jpeg_segments, read_header
from selftrain.data.quarter import enlarge, quarter_shape
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.errors import InputError
from selftrain.labels import IGNORE_INDEX

_PNG = b"\x89PNG"
MOST_PIXELS = 2**27
"""Of a picture, as of 16384x8192: in colours 0.4 GB. A small file can claim to hold any number."""
_TOGETHER = 2**20
"""Pixels of colours that are looked up together."""


class FrameCache(Protocol):
    """Frames that were read before, by the same reader; see `data/cached_frames.py`."""

    def image(self, sample: Sample) -> NDArray[np.uint8] | None:
        """Return the picture of a sample, or None if it is not here."""

    def label(self, sample: Sample) -> NDArray[np.uint8] | None:
        """Return the label map of a sample, or None if it is not here."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads samples of one data set into arrays."""

    classes: ClassTable
    scale: float = 1.0
    """Frames are resized by this factor when they are read, labels with them."""
    short_side: int = 0
    """Frames whose shorter side is still longer than this are resized to it; 0: no limit."""
    keep_from: tuple[int, ...] = ()
    """For each class the lowest 8-bit confidence, 0..256, at which a pixel of a pseudo label
    counts; below it becomes IGNORE_INDEX. 256: no pixel of the class counts. Empty: all count."""
    upright: bool = False
    """Turn pictures as their orientation tag says. Labels are never turned, so this is for
    pictures without any."""
    cache: FrameCache | None = None
    """Asked first; what it lacks comes from the files."""

    def image(self, sample: Sample) -> NDArray[np.uint8]:
        """Return the picture as RGB (H, W, 3)."""
        if self.cache is not None and (cached := self.cache.image(sample)) is not None:
            return cached
        turn = 0 if self.upright else cv2.IMREAD_IGNORE_ORIENTATION
        image = _decode(Blob(sample.image), cv2.IMREAD_COLOR_RGB | turn)
        height, width = self._target(image)
        shrinks = height < image.shape[0]
        return _resize(image, height, width, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def label(self, sample: Sample) -> NDArray[np.uint8]:
        """Return the label map (H, W): train ids and IGNORE_INDEX.

        Raises:
            InputError: the sample has no label, or the file holds an id or a colour that is no
                class's.
        """
        if sample.label is None:
            raise InputError(
                f"{sample.image} has no label, but a labelled image is needed here: add its label."
            )
        if sample.is_pseudo:  # the teacher saw the scaled image: never scaled again
            label = _decode_ids(sample.label)
            self._require_known(label, sample.label)
            return self._ignore_unsure(sample, label)
        if self.cache is not None and (cached := self.cache.label(sample)) is not None:
            return cached
        if self.classes.file_colors:
            label = self._colors_to_train_ids(_decode(sample.label, cv2.IMREAD_COLOR), sample.label)
        else:
            label = self._ids_to_train_ids(_decode_ids(sample.label), sample.label.path)
        return _resize(label, *self._target(label), cv2.INTER_NEAREST_EXACT)

    def pair(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return image and label map, and check that they have the same size."""
        image, label = self.image(sample), self.label(sample)
        if image.shape[:2] != label.shape:
            where = sample.label.path if sample.label else sample.name
            raise InputError(
                f"{where} is {label.shape[1]}x{label.shape[0]} but its image {sample.image} is "
                f"{image.shape[1]}x{image.shape[0]}: label and image must have the same size"
                f"{turned_hint(image.shape, label.shape)}."
            )
        return image, label

    def confidence(self, sample: Sample) -> NDArray[np.uint8]:
        """Return the confidence of a pseudo label, (H, W), 0..255 for 0..1.

        A map at a quarter of the resolution is enlarged to the label's size.

        Raises:
            InputError: the sample has no confidence map, or one that does not fit its label.
        """
        if sample.label is None:
            raise InputError(f"{sample.image} has no label, so no confidence either: label it.")
        return self._confidence(sample, _picture_size(sample.label))

    def soft(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the likeliest classes of each cell of 4x4 pixels, and their probabilities.

        Both are (ceil(H / 4), ceil(W / 4), 3), the likeliest first; probabilities are 0..255 for
        0..1. A class of probability 0 means nothing.

        Raises:
            InputError: the sample has no soft label, or one that does not fit its label or the
                classes.
        """
        if sample.label is None or sample.soft is None:
            raise InputError(
                f"The pseudo label of {sample.name} has no soft label: set loss.soft to false, or "
                "label the pool again with pseudo_label.soft = true."
            )
        # OpenCV gives the last channel first.
        pair = (_decode(blob, cv2.IMREAD_COLOR)[..., ::-1] for blob in sample.soft)
        classes, probabilities = (np.ascontiguousarray(it, dtype=np.uint8) for it in pair)
        cells = quarter_shape(*_picture_size(sample.label))
        if classes.shape[:2] != cells or probabilities.shape[:2] != cells:
            raise InputError(
                f"The soft label of {sample.name} has {classes.shape[:2]} and "
                f"{probabilities.shape[:2]} cells where its label needs {cells}: "
                "label the pool again."
            )
        if ((classes >= len(self.classes)) & (probabilities > 0)).any():
            raise InputError(
                f"The soft label of {sample.name} holds an id that is none of the "
                f"{len(self.classes)} classes: label the pool again."
            )
        return classes, probabilities

    def _confidence(self, sample: Sample, shape: tuple[int, int]) -> NDArray[np.uint8]:
        if sample.confidence is None:
            raise InputError(
                f"The pseudo label of {sample.name} has no confidence map: keep all pixels "
                "(select.rule = global, threshold = 0) with loss.confidence_gamma = 0, or label "
                "the pool again."
            )
        confidence = _decode(sample.confidence, cv2.IMREAD_GRAYSCALE)
        if confidence.shape == shape:
            return confidence
        if confidence.shape == quarter_shape(*shape):
            return enlarge(confidence, shape)
        raise InputError(
            f"The confidence of {sample.name} is {confidence.shape[1]}x{confidence.shape[0]}, "
            f"neither as large as its label of {shape[1]}x{shape[0]} nor a quarter of it: "
            "label the pool again."
        )

    def _ids_to_train_ids(self, raw: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        # cv2.LUT: a frame of 2048x1024 takes 1 ms, indexing an array with it 8.
        table = self.classes.lookup()
        if (illegal := cv2.LUT(raw, (table < 0).astype(np.uint8))).any():
            y, x = np.argwhere(illegal)[0]
            raise InputError(
                f"{path} holds the label id {raw[y, x]} at y={y}, x={x}, which is none of the "
                f"data set's ids {sorted(np.flatnonzero(table >= 0).tolist())}: "
                "correct the file or the class list."
            )
        return np.asarray(cv2.LUT(raw, table.clip(min=0).astype(np.uint8)), dtype=np.uint8)

    def _colors_to_train_ids(self, bgr: NDArray[np.uint8], blob: Blob) -> NDArray[np.uint8]:
        # Row by row, or some of them: numbers of 8 bytes for all pixels of a large map would take
        # twenty times its memory.
        label = np.empty(bgr.shape[:2], dtype=np.uint8)
        rows = max(1, _TOGETHER // bgr.shape[1])
        for top in range(0, len(bgr), rows):
            label[top : top + rows] = self._strip_to_train_ids(bgr[top : top + rows], top, blob)
        return label

    def _strip_to_train_ids(
        self, bgr: NDArray[np.uint8], top: int, blob: Blob
    ) -> NDArray[np.uint8]:
        table = self.classes.file_colors
        known = np.array([_code(*color) for color in table])
        order = np.argsort(known)
        blue, green, red = (bgr[..., channel].astype(np.int32) for channel in range(3))
        codes = _code(red, green, blue)
        found = order[np.searchsorted(known, codes, sorter=order).clip(max=len(order) - 1)]
        if (illegal := known[found] != codes).any():
            y, x = np.argwhere(illegal)[0]
            color = (int(red[y, x]), int(green[y, x]), int(blue[y, x]))
            raise InputError(
                f"{blob.path} holds the colour {color} at y={top + y}, x={x}, which is none of the "
                f"data set's {len(table)} colours: correct the file or the class list."
            )
        train_ids: NDArray[np.uint8] = np.array(list(table.values()), dtype=np.uint8)
        return np.asarray(train_ids[found])

    def _require_known(self, label: NDArray[np.uint8], blob: Blob) -> None:
        unknown = np.zeros(256, dtype=np.uint8)
        unknown[len(self.classes) : IGNORE_INDEX] = 1
        if (illegal := cv2.LUT(label, unknown)).any():
            y, x = np.argwhere(illegal)[0]
            raise InputError(
                f"A pseudo label in {blob.path} holds the id {label[y, x]} at y={y}, x={x}, which "
                f"is none of the {len(self.classes)} classes: label the pool again."
            )

    def _ignore_unsure(self, sample: Sample, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if not any(self.keep_from):
            return label
        confidence = self._confidence(sample, (label.shape[0], label.shape[1]))
        kept = np.zeros(256, dtype=np.uint8)
        kept[: len(self.classes)] = [min(level, 255) for level in self.keep_from]
        # compare gives 255 where a pixel is unsure, and 255 | x is IGNORE_INDEX. Indexing an array
        # with the label and np.where take four times as long.
        unsure = cv2.compare(confidence, cv2.LUT(label, kept), cv2.CMP_LT)
        if 256 in self.keep_from:
            never = np.zeros(256, dtype=np.uint8)
            never[: len(self.classes)] = [IGNORE_INDEX * (level > 255) for level in self.keep_from]
            unsure = cv2.bitwise_or(unsure, cv2.LUT(label, never))
        return np.asarray(cv2.bitwise_or(label, unsure), dtype=np.uint8)

    def _target(self, array: NDArray[np.uint8]) -> tuple[int, int]:
        """Return the height and width that a frame of a file's size is read at."""
        height, width = array.shape[:2]
        factor = frame_factor(height, width, self.scale, self.short_side)
        return max(1, round(height * factor)), max(1, round(width * factor))


def frame_factor(height: int, width: int, scale: float, short_side: int) -> float:
    """Return the factor by which a frame is resized: `scale`, or less to keep to the limit.

    Args:
        height: Of the file, in pixels.
        width: Of the file, in pixels.
        scale: Factor for all frames.
        short_side: Most pixels of the shorter side; 0: no limit.
    """
    return min(scale, short_side / min(height, width)) if short_side > 0 else scale


def turned_hint(image: tuple[int, ...], label: tuple[int, ...]) -> str:
    """Return what to do about a label whose sides are the image's other way round; "" if not."""
    if image[:2] != label[1::-1]:
        return ""
    return "; an orientation tag is not followed where there are labels: turn the pixels"


def _code(red: Any, green: Any, blue: Any) -> Any:
    """Return one number for a colour; for numbers and for arrays of them."""
    return (red * 256 + green) * 256 + blue


def _resize(
    array: NDArray[np.uint8], height: int, width: int, interpolation: int
) -> NDArray[np.uint8]:
    if array.shape[:2] == (height, width):
        return array
    resized = cv2.resize(array, (width, height), interpolation=interpolation)
    return resized.astype(np.uint8, copy=False)


def _decode_ids(blob: Blob) -> NDArray[np.uint8]:
    """Return the numbers that a label file holds, (H, W)."""
    data = blob.read()
    depth, kind = data[24:26] if data.startswith(_PNG) and len(data) > 26 else (8, 0)
    if kind == 3:
        # OpenCV would turn a palette's indices, which are the ids, into its colours.
        _require_whole(data, blob.path)
        if not is_png_intact(data):
            raise _unreadable(blob.path)
        try:
            with Image.open(io.BytesIO(data)) as picture:
                return np.asarray(picture, dtype=np.uint8)
        except Exception as error:  # of many kinds, by the kind of damage
            raise _unreadable(blob.path) from error
    raw = _decode(blob, cv2.IMREAD_UNCHANGED, data)
    if raw.ndim == 3 and (raw[..., :1] == raw[..., 1:3]).all():
        raw = raw[..., 0]  # gray, in a format that has colours only, such as WebP
    if raw.ndim != 2 or raw.dtype != np.uint8 or depth != 8:
        raise InputError(
            f"{blob.path} is not an 8-bit single-channel label map (shape {raw.shape}, "
            f"{raw.dtype}, {depth} bits): store class ids as gray values or as palette indices."
        )
    return raw


def _picture_size(blob: Blob) -> tuple[int, int]:
    """Return the height and width of a label, of a PNG without decoding it."""
    data = blob.read()
    if data.startswith(_PNG) and len(data) > 24:
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    height, width = _decode(blob, cv2.IMREAD_GRAYSCALE, data).shape
    return height, width


def decode_picture(data: bytes, where: str) -> NDArray[np.uint8]:
    """Return the picture in a file's bytes as RGB (H, W, 3), turned as its orientation tag says.

    Args:
        data: The whole file.
        where: What the picture is called in the sentence about what is wrong with it.

    Raises:
        InputError: it is damaged, of no known format, or too large.
    """
    return _decode_bytes(data, where, cv2.IMREAD_COLOR_RGB)


def _decode(blob: Blob, flags: int, data: bytes | None = None) -> NDArray[np.uint8]:
    """Return a picture as OpenCV reads it; `data` are the blob's bytes if they are at hand."""
    return _decode_bytes(blob.read() if data is None else data, blob.path, flags)


def _decode_bytes(data: bytes, where: Path | str, flags: int) -> NDArray[np.uint8]:
    _require_whole(data, where)
    try:
        picture = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None:
        raise _unreadable(where)
    return np.asarray(picture, dtype=picture.dtype)


def _require_whole(data: bytes, where: Path | str) -> None:
    """Raise InputError unless this is all of one picture, of a known format and a sane size."""
    # OpenCV fills what a truncated file lacks with gray and says nothing.
    if _is_truncated(data):
        raise InputError(f"{where} is truncated: make or copy it again.")
    header = read_header(data)
    if header is None or 0 in (header.width, header.height):
        raise _unreadable(where)
    if header.is_animated:
        raise InputError(
            f"{where} is an animated {header.format}: save the one picture that is meant."
        )
    if header.width * header.height > MOST_PIXELS:
        raise InputError(
            f"{where} is, or claims to be, {header.width}x{header.height} pixels, more than "
            f"the {MOST_PIXELS:,} that are read: cut it into pieces, or take it out."
        )


def _unreadable(where: Path | str) -> InputError:
    return InputError(
        f"{where} is not a readable picture, but damaged, or no PNG, JPEG, WebP, TIFF or BMP "
        "of 8 or 16 bits: make or copy it again, or take it out."
    )


def _is_truncated(data: bytes) -> bool:
    if data.startswith(b"\xff\xd8\xff"):
        # Before the pixels there may be a thumbnail with an end mark of its own; among them an
        # end mark is the image's.
        *_, (_, start) = jpeg_segments(data)
        return data.rfind(b"\xff\xd9", start) < 0
    if data.startswith(_PNG):
        return data.rfind(b"IEND\xaeB`\x82") < 0
    if data.startswith(b"RIFF"):  # WebP
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return False
