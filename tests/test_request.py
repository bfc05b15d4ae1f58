"""Requests to a served model: what is let through, and one sentence on everything else."""

import base64
import io

import cv2
import numpy as np
import pytest
from bad_input.world import noise, png_that_claims
from numpy.typing import NDArray
from PIL import Image

from selftrain import request
from selftrain.errors import InputError
from selftrain.request import read_picture, require_files, require_images


def encoded(picture: NDArray[np.uint8], suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, picture)[1].tobytes())


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def column(*values: object) -> NDArray[np.object_]:
    """Return values as MLflow hands a column over."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def text(file: bytes) -> str:
    return base64.b64encode(file).decode()


PNG = encoded(noise())
DEEP = cv2.imencode(".png", np.full((8, 8, 3), 999, np.uint16))[1].tobytes()
FRAMES = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
REFUSED: dict[str, tuple[object, str]] = {
    "null": (None, "is NoneType"),
    "not a number": (float("nan"), "is float"),
    "a number": (3, "is int"),
    "a list": ([1, 2], "is list"),
    "an empty text": ("", "is empty"),
    "no bytes": (b"", "is empty"),
    "no base64": ("?!", "is no base64"),
    "base64 of other letters": (text(PNG) + "é", "is no base64"),
    "half a group of base64": (text(PNG)[:-3], "is no base64"),
    "an address of data": (f"data:image/png;base64,{text(PNG)}", "is no base64"),
    "a path": ("/etc/passwd", "is no base64"),
    "another text": (text(b"hello world"), "is no PNG or JPEG"),
    "a PNG's first bytes": (PNG[:20], "is no PNG or JPEG"),
    "a BMP": (encoded(noise(), ".bmp"), "is no PNG or JPEG"),
    "a TIFF": (encoded(noise(), ".tif"), "is no PNG or JPEG"),
    "a WebP": (encoded(noise(), ".webp"), "is no PNG or JPEG"),
    "a GIF": (saved(FRAMES[0], "GIF"), "is no PNG or JPEG"),
    "no pixel": (png_that_claims(0, 8), "is no PNG or JPEG"),
    "16 bits": (DEEP, "is of 16 bits a channel"),
    "CMYK": (saved(Image.new("CMYK", (8, 8)), "JPEG"), "is CMYK"),
    "an animation": (
        saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
        "is animated",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_that_is_served_is_refused_by_its_place_in_the_request(
    name: str,
) -> None:
    value, words = REFUSED[name]
    with pytest.raises(InputError, match=f"^Picture 2 of the request {words}") as caught:
        require_files(column(PNG, value))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (60_000, 60_000, "an image of 60000x60000"),
        (4096, 4097, "at most 16777216 pixels"),
        (1, 16_385, "a side of 16384"),
    ],
)
def test_a_small_file_that_claims_to_be_huge_is_refused_by_its_header(
    width: int, height: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *given: pytest.fail("decoded"))
    with pytest.raises(InputError, match=words):
        require_files(column(text(png_that_claims(width, height))))


def test_pictures_that_are_too_many_together_are_refused() -> None:
    large = png_that_claims(4096, 4096)
    assert len(require_files(column(*[large] * 4))) == 4
    with pytest.raises(InputError, match="5 images of 83886080 pixels"):
        require_files(column(*[large] * 5))
    assert len(require_files(column(*[PNG] * 256))) == 256
    with pytest.raises(InputError, match="257 images, but at most 256"):
        require_files(column(*[PNG] * 257))
    with pytest.raises(InputError, match="holds no picture"):
        require_files(column())


@pytest.mark.parametrize("form", [text, bytes])
def test_files_that_are_too_long_are_refused_before_they_are_decoded_from_base64(
    form: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(form)
    monkeypatch.setattr(request, "MOST_BYTES", 2 * len(PNG) - 4)
    assert require_files(column(form(PNG))) == [PNG]
    monkeypatch.setattr(base64, "b64decode", lambda *given, **more: pytest.fail("decoded"))
    with pytest.raises(InputError, match="bytes long, but at most"):
        require_files(column(form(PNG), form(PNG)))


def test_base64_may_be_in_lines() -> None:
    lines = base64.encodebytes(PNG).decode()
    assert "\n" in lines.strip()
    assert require_files(column(lines, text(PNG), PNG)) == [PNG] * 3


@pytest.mark.parametrize(
    "picture",
    [noise(), noise()[..., 0], np.dstack([noise(), noise()[..., :1]])],
    ids=["colours", "gray", "transparent"],
)
def test_a_picture_is_read_in_three_channels(picture: NDArray[np.uint8]) -> None:
    found = read_picture(encoded(picture), 1)
    bgr = np.dstack([picture] * 3) if picture.ndim == 2 else picture[..., :3]
    np.testing.assert_array_equal(found, bgr[..., ::-1])


def test_a_photo_is_read_upright() -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    photo = saved(Image.fromarray(noise(40, 48)), "JPEG", exif=tag, quality=100)
    (file,) = require_files(column(photo))
    assert read_picture(file, 1).shape == (48, 40, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_file_that_is_cut_off_anywhere_is_refused(suffix: str) -> None:
    whole = encoded(noise(), suffix)
    for length in range(len(whole) * 9 // 10, len(whole) - 1, 37):
        (file,) = require_files(column(whole[:length]))
        with pytest.raises(InputError, match="Picture 3 of the request is truncated"):
            read_picture(file, 3)


def test_a_png_with_a_wrong_pixel_is_refused() -> None:
    spoilt = bytearray(PNG)
    spoilt[len(PNG) // 2] ^= 1
    with pytest.raises(InputError, match="is truncated or damaged"):
        read_picture(bytes(spoilt), 1)


def numbers(*values: object) -> NDArray[np.object_]:
    """Return one image of one pixel, as it comes from JSON."""
    return np.array([[[list(values)]]], dtype=object)


def test_numbers_of_json_become_bytes() -> None:
    found = require_images(numbers(0, 128.0, 255))
    assert found.dtype == np.uint8
    assert found.tolist() == [[[[0, 128, 255]]]]


@pytest.mark.parametrize(
    "value", [256, -1, 1.7, float("nan"), float("inf"), 1e300, 10**30, None, "7", [7], {}]
)
def test_a_value_that_is_no_byte_is_refused(value: object) -> None:
    found = numbers(1, 2, 3)
    found[0, 0, 0, 1] = value
    with pytest.raises(InputError, match="no whole number from 0 to 255"):
        require_images(found)


def test_the_size_of_an_array_is_judged_before_its_values() -> None:
    with pytest.raises(InputError, match="an image of 4096x4097"):
        require_images(np.broadcast_to(np.array(None, dtype=object), (1, 4097, 4096, 3)))
