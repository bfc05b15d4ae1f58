"""What a request to a served model holds: images as one array, or pictures as files.

A request comes from anybody, so it is bounded, and a picture's bounds are those that its header
names: nothing is decoded that is not served.
"""

import base64
import binascii
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selftrain.data.picture_header import is_png_intact, read_header
from selftrain.data.reader import decode_picture
from selftrain.errors import InputError

IMAGE = "image"
"""What the column of pictures is called, and the only input of the model's signature."""
MOST_IMAGES = 256
"""Images of a request."""
MOST_PIXELS = 2**26
"""Pixels of a request, over all its images: 192 MiB as uint8."""
MOST_PIXELS_OF_IMAGE = 2**24
"""Pixels of an image, as of 4096x4096, and of images that go through the network together: with 19
classes their probabilities take 1.2 GiB."""
LONGEST_SIDE = 2**14
"""Pixels of an image's longer side."""
MOST_BYTES = 2**26
"""Of a request's files, together: more than any picture of `MOST_PIXELS_OF_IMAGE` pixels needs."""
_WANTED = "send images as one array uint8 (B, H, W, 3), RGB, 0..255"
_WANTED_FILES = "send the bytes of PNG or JPEG files, in base64 if they are in JSON"


def require_images(found: object) -> NDArray[np.uint8]:
    """Return what a request holds if it is images of a size that is served.

    Args:
        found: An array, of type object where its numbers come from JSON.

    Raises:
        InputError: it is no array uint8 (B, H, W, 3), it holds no pixel, or more than is served.
    """
    if not isinstance(found, np.ndarray):
        raise InputError(f"The request holds {type(found).__name__}, not an array: {_WANTED}.")
    shape = "x".join(map(str, found.shape))
    is_json = found.dtype == object
    if not (is_json or found.dtype == np.uint8) or found.ndim != 4 or found.shape[3] != 3:
        kind = "" if is_json else f"{found.dtype} "
        raise InputError(f"The request is an array {kind}{shape or '()'}: {_WANTED}.")
    images, height, width = found.shape[:3]
    if found.size == 0:
        raise InputError(f"The request is an array {shape}, without a pixel: {_WANTED}.")
    if images > MOST_IMAGES:
        raise _too_many(images)
    _require_served([(width, height)] * images)
    return _to_uint8(found) if is_json else found


def require_files(found: NDArray[np.object_]) -> list[bytes]:
    """Return the files of a request if they are pictures of a kind and size that is served.

    None is decoded yet: `read_picture` may still refuse one.

    Args:
        found: (B,): bytes, or texts in base64.

    Raises:
        InputError: one is no PNG or JPEG of 8 bits, in RGB or gray, or they are none, or more than
            is served.
    """
    if len(found) == 0:
        raise InputError(f"The request holds no picture: {_WANTED_FILES}.")
    if len(found) > MOST_IMAGES:
        raise _too_many(len(found))
    # In rows (`instances`) MLflow makes an array without axes of each.
    values = [it.item() if isinstance(it, np.ndarray) and it.ndim == 0 else it for it in found]
    size = 0
    for number, it in enumerate(values, 1):
        if not isinstance(it, str | bytes) or not it:
            kind = "empty" if isinstance(it, str | bytes) else type(it).__name__
            raise InputError(f"{_name(number)} is {kind}: {_WANTED_FILES}.")
        size += len(it) if isinstance(it, bytes) else len(it) * 3 // 4
    if size > MOST_BYTES:
        raise InputError(
            f"The request's pictures are {size:,} bytes long, but at most {MOST_BYTES:,} are "
            "served at once: send fewer at a time, or smaller ones."
        )
    files = [_from_base64(it, number) for number, it in enumerate(values, 1)]
    _require_served([_size_of(file, number) for number, file in enumerate(files, 1)])
    return files


def read_picture(file: bytes, number: int) -> NDArray[np.uint8]:
    """Return a picture as RGB (H, W, 3), turned as its orientation tag says.

    Args:
        file: From `require_files`.
        number: Its place in the request, from 1.

    Raises:
        InputError: it is truncated or damaged.
    """
    if file.startswith(b"\x89PNG") and not is_png_intact(file):
        raise InputError(f"{_name(number)} is truncated or damaged: send the whole file.")
    return decode_picture(file, _name(number))


def _name(number: int) -> str:
    return f"Picture {number} of the request"


def _require_served(sizes: Sequence[tuple[int, int]]) -> None:
    """Raise InputError if images of these widths and heights are more than is served."""
    for width, height in sizes:
        if max(height, width) > LONGEST_SIDE or height * width > MOST_PIXELS_OF_IMAGE:
            raise InputError(
                f"The request holds an image of {width}x{height}, but at most "
                f"{MOST_PIXELS_OF_IMAGE} pixels and a side of {LONGEST_SIDE} are served: send "
                "smaller images, or cut them."
            )
    pixels = sum(width * height for width, height in sizes)
    if pixels > MOST_PIXELS:
        raise _too_many(len(sizes), pixels)


def _too_many(images: int, pixels: int | None = None) -> InputError:
    of_pixels = "" if pixels is None else f" of {pixels} pixels"
    return InputError(
        f"The request holds {images} images{of_pixels}, but at most {MOST_IMAGES} images and "
        f"{MOST_PIXELS} pixels are served at once: send fewer at a time."
    )


def _to_uint8(numbers: NDArray[np.object_]) -> NDArray[np.uint8]:
    """Return Python's numbers as uint8; a float counts if it is whole."""
    values = numbers.ravel().tolist()
    try:
        try:
            data = bytearray(values)
        except TypeError:
            whole = (int(it) if isinstance(it, float) and it.is_integer() else it for it in values)
            data = bytearray(whole)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"The request's array holds a value that is no whole number from 0 to 255: {_WANTED}."
        ) from error
    return np.frombuffer(data, dtype=np.uint8).reshape(numbers.shape)


def _from_base64(it: str | bytes, number: int) -> bytes:
    if isinstance(it, bytes):
        return it
    try:
        return base64.b64decode("".join(it.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{_name(number)} is no base64: {_WANTED_FILES}.") from error


def _size_of(file: bytes, number: int) -> tuple[int, int]:
    """Return width and height by a file's header.

    Raises:
        InputError: it is no PNG or JPEG, or of a kind that is not served.
    """
    header = read_header(file)
    if header is None or header.format not in ("PNG", "JPEG") or 0 in (header.width, header.height):
        raise InputError(f"{_name(number)} is no PNG or JPEG, or damaged: {_WANTED_FILES}.")
    kind = ""
    if header.is_animated:
        kind = "animated"
    elif header.depth > 8:
        kind = f"of {header.depth} bits a channel"
    elif header.is_cmyk:
        kind = "CMYK"
    if kind:
        raise InputError(
            f"{_name(number)} is {kind}: send one picture in RGB or gray, of 8 bits a channel."
        )
    return header.width, header.height
