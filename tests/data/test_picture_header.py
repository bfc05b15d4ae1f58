"""Headers of pictures: format and size without decoding."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selftrain.data.picture_header import PictureHeader, is_png_intact, jpeg_segments, read_header

NAMES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WebP", ".tif": "TIFF", ".bmp": "BMP"}


def saved(kind: str, *pictures: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    if len(pictures) > 1:
        options |= {"save_all": True, "append_images": list(pictures[1:])}
    pictures[0].save(file, kind, **options)
    return file.getvalue()


@given(st.sampled_from(sorted(NAMES)), st.integers(1, 600), st.integers(1, 600), st.booleans())
def test_the_header_tells_format_and_size(
    suffix: str, width: int, height: int, is_gray: bool
) -> None:
    shape = (height, width) if is_gray else (height, width, 3)
    data = cv2.imencode(suffix, np.zeros(shape, np.uint8))[1].tobytes()
    header = read_header(data)
    assert header is not None
    assert (header.format, header.width, header.height) == (NAMES[suffix], width, height)
    assert not header.is_animated


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("WEBP", {"lossless": True}),
        ("WEBP", {"lossless": False}),
        ("WEBP", {"lossless": True, "exif": Image.Exif()}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + bytes(500)}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("TIFF", {"compression": "jpeg"}),
    ],
)
def test_all_variants_of_a_format_are_understood(kind: str, options: dict[str, object]) -> None:
    header = read_header(saved(kind, Image.new("RGB", (70, 30)), **options))
    assert header is not None
    assert (header.width, header.height, header.is_animated) == (70, 30, False)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_seen(kind: str) -> None:
    frames = [Image.new("RGB", (70, 30), color) for color in ("red", "blue")]
    header = read_header(saved(kind, *frames))
    assert header is not None
    assert header.is_animated


def test_a_png_with_any_bit_changed_is_not_intact() -> None:
    data = cv2.imencode(".png", np.eye(9, dtype=np.uint8))[1].tobytes()
    assert is_png_intact(data)
    assert is_png_intact(data + b"more")
    for bit in range(8 * 8, 8 * len(data)):  # from behind the signature on
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        assert not is_png_intact(bytes(changed))
    assert not any(is_png_intact(data[:end]) for end in range(len(data)))


def test_a_bmp_from_top_to_bottom_has_a_height_above_zero() -> None:
    data = bytearray(cv2.imencode(".bmp", np.zeros((30, 70), np.uint8))[1].tobytes())
    data[22:26] = (-30).to_bytes(4, "little", signed=True)
    assert read_header(bytes(data)) == PictureHeader("BMP", 70, 30)


@pytest.mark.parametrize("kind", ["GIF", "PPM", "JPEG2000", "ICO"])
def test_other_formats_have_no_header(kind: str) -> None:
    assert read_header(saved(kind, Image.new("RGB", (70, 30)))) is None


@given(st.sampled_from(sorted(NAMES)), st.floats(0, 1), st.binary(max_size=40))
def test_damaged_headers_raise_nothing(suffix: str, place: float, other: bytes) -> None:
    data = cv2.imencode(suffix, np.zeros((30, 70), np.uint8))[1].tobytes()[:120]
    at = int(place * len(data))
    read_header(data[:at] + other)
    read_header(data[:at] + other + data[at + len(other) :])


def test_bytes_between_the_segments_of_a_jpeg_are_passed_over_as_decoders_do() -> None:
    data = saved("JPEG", Image.new("RGB", (40, 30)))
    length = int.from_bytes(data[4:6], "big")
    stray = data[: 4 + length] + b"\x00\x01" + data[4 + length :]
    assert [kind for kind, _ in jpeg_segments(stray)] == [kind for kind, _ in jpeg_segments(data)]
    assert read_header(stray) == read_header(data)


def test_a_jpeg_of_nothing_but_padding_ends() -> None:
    assert len(list(jpeg_segments(b"\xff" * 10_000_000))) < 20_000
