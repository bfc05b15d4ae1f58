"""What a picture's first bytes say of it, so that it need not be decoded to be refused.

A file of a few hundred bytes can claim to be 60,000x60,000 pixels, and a decoder believes it.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_PNG = b"\x89PNG\r\n\x1a\n"
_NO_SIZE = (0xC4, 0xC8, 0xCC)
"""Of a JPEG's segments C0 to CF those that are no start of frame."""
_MOST_SEGMENTS = 10_000


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """Format and size of a picture, and what the pixels of a PNG or a JPEG are made of."""

    format: Literal["PNG", "JPEG", "WebP", "TIFF", "BMP"]
    width: int
    height: int
    is_animated: bool = False
    depth: int = 8
    """Bits of a channel; of other formats it is not looked at."""
    is_cmyk: bool = False
    """Whether a JPEG holds four channels, for printing."""


def read_header(data: bytes) -> PictureHeader | None:
    """Return what the header says; None if it is of none of the formats, or damaged.

    Of a TIFF with several pages it is the first.
    """
    try:
        if data.startswith(_PNG):
            return _read_png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _read_jpeg(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _read_webp(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _read_tiff(data)
        if data.startswith(b"BM"):
            return _read_bmp(data)
    except IndexError:  # the file ends within its header
        pass
    return None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield kind and start of a JPEG's segments; the last is that of the pixels, 0xDA.

    A segment is FF, its kind, its length (2 bytes), and so many bytes less 2. Where there are no
    pixels, or too many segments, the last one starts where they should.
    """
    at = 2
    for _ in range(_MOST_SEGMENTS):
        at = max(at, data.find(b"\xff", at))  # as decoders do, over bytes that belong to none
        if at + 4 > len(data) or (kind := data[at + 1]) == 0xDA:
            break
        yield kind, at
        at += 1 if kind == 0xFF else 2 + _big(data, at + 2, 2)  # FF before FF is padding
    yield 0xDA, at


def is_png_intact(data: bytes) -> bool:
    """Return whether each chunk of a PNG has its checksum: Pillow does not look at the pixels'."""
    at = len(_PNG)
    while at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 8 + _big(data, at, 4)
        if end + 4 > len(data) or zlib.crc32(data[at + 4 : end]) != _big(data, end, 4):
            return False
        if kind == b"IEND":
            return True
        at = end + 4
    return False


def _read_png(data: bytes) -> PictureHeader | None:
    if data[12:16] != b"IHDR":
        return None
    # An animation says so before its pixels, in a chunk of its own.
    at, is_animated = len(_PNG), False
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        is_animated |= data[at + 4 : at + 8] == b"acTL"
        at += 12 + _big(data, at, 4)  # length and kind before the chunk, a sum behind it
    depth = _big(data, 24, 1)
    return PictureHeader("PNG", _big(data, 16, 4), _big(data, 20, 4), is_animated, depth)


def _read_jpeg(data: bytes) -> PictureHeader | None:
    for kind, at in jpeg_segments(data):
        if 0xC0 <= kind <= 0xCF and kind not in _NO_SIZE:
            depth, channels = _big(data, at + 4, 1), _big(data, at + 9, 1)
            return PictureHeader(
                "JPEG",
                _big(data, at + 7, 2),
                _big(data, at + 5, 2),
                depth=depth,
                is_cmyk=channels == 4,
            )
    return None


def _read_webp(data: bytes) -> PictureHeader | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = 1 + _little(data, 24, 3), 1 + _little(data, 27, 3)
        return PictureHeader("WebP", width, height, bool(data[20] & 2))
    if kind == b"VP8L":  # 14 bits each, behind a byte that is always the same
        both = _little(data, 21, 4)
        return PictureHeader("WebP", 1 + (both & 0x3FFF), 1 + (both >> 14 & 0x3FFF))
    if kind == b"VP8 ":
        return PictureHeader("WebP", _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF)
    return None


def _read_tiff(data: bytes) -> PictureHeader | None:
    read = _little if data.startswith(b"II") else _big
    first = read(data, 4, 4)
    sides: dict[int, int] = {}
    for number in range(read(data, first, 2)):
        at = first + 2 + 12 * number
        # 256 is the width and 257 the height, as a short (3) or a long.
        if (tag := read(data, at, 2)) in (256, 257):
            sides[tag] = read(data, at + 8, 2 if read(data, at + 2, 2) == 3 else 4)
    return PictureHeader("TIFF", sides[256], sides[257]) if len(sides) == 2 else None


def _read_bmp(data: bytes) -> PictureHeader | None:
    if _little(data, 14, 4) == 12:  # OS/2
        return PictureHeader("BMP", _little(data, 18, 2), _little(data, 20, 2))
    height = int.from_bytes(_some(data, 22, 4), "little", signed=True)
    return PictureHeader("BMP", _little(data, 18, 4), abs(height))  # below 0: from the top


def _some(data: bytes, at: int, length: int) -> bytes:
    if at + length > len(data):
        raise IndexError
    return data[at : at + length]


def _big(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(_some(data, at, length), "big")


def _little(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(_some(data, at, length), "little")
