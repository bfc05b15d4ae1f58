"""Pictures: damaged, of other kinds, absurdly large, not to be read."""

import io
import os
import struct
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from miniature import camvid_tree, listed, truncate, write_picture
from PIL import Image

from bad_input.world import Cases, Found, World, chunk, noise, png_that_claims
from selftrain.data.sample import MOST_BYTES
from selftrain.knobs import Scalar
from selftrain.trained_runs import TRAIN

CASES = case = Cases()


def save(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def cut_short(suffix: str) -> Callable[[World], Found]:
    def make(world: World) -> Found:
        path = world.picture(f"one{suffix}")
        truncate(path)
        fault = "truncated" if suffix in (".png", ".jpg", ".webp") else "damaged"
        return world.predict(), [str(path), fault, "again"]

    return make


for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp"):
    CASES[f"a_truncated_{suffix[1:]}"] = cut_short(suffix)


def refused(data: bytes, *words: str) -> Callable[[World], Found]:
    return lambda world: (world.predict(), [str(world.picture_of(data)), *words])


def webp_that_claims(width: int, height: int) -> bytes:
    sizes = struct.pack("<I", (width - 1) | (height - 1) << 14)
    body = b"WEBPVP8L" + struct.pack("<I", 6) + b"\x2f" + sizes + b"\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_that_claims(width: int, height: int) -> bytes:
    entries = struct.pack("<HHII", 256, 4, 1, width) + struct.pack("<HHII", 257, 4, 1, height)
    return b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = cv2.imencode(".jpg", noise())[1].tobytes()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def bmp_that_claims(width: int, height: int) -> bytes:
    data = cv2.imencode(".bmp", noise())[1].tobytes()
    return data[:18] + struct.pack("<ii", width, -height) + data[26:]


def frames() -> list[Image.Image]:
    return [Image.fromarray(noise()), Image.fromarray(255 - noise())]


def animated(kind: str) -> bytes:
    first, *others = frames()
    return save(first, kind, save_all=True, append_images=others)


def bad_checksum() -> bytes:
    data = bytearray(cv2.imencode(".png", noise())[1].tobytes())
    data[len(data) // 2] ^= 1
    return bytes(data)


AGAIN = ("not a readable picture", "make or copy it again")
TOO_LARGE = ("134,217,728", "cut it into pieces")
CASES |= {
    "a_picture_of_zero_bytes": refused(b"", *AGAIN),
    "a_text_called_png": refused(b"no picture at all", *AGAIN),
    "a_gif_called_png": refused(save(frames()[0], "GIF"), "no PNG, JPEG, WebP, TIFF or BMP"),
    "an_animated_gif": refused(animated("GIF"), "no PNG, JPEG, WebP, TIFF or BMP"),
    "an_animated_png": refused(animated("PNG"), "animated PNG", "save the one picture"),
    "an_animated_webp": refused(animated("WEBP"), "animated WebP", "save the one picture"),
    "a_png_with_one_bit_changed": refused(bad_checksum(), *AGAIN),
    "a_png_without_a_header": refused(b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), *AGAIN),
    "a_png_of_no_size": refused(png_that_claims(0, 0), *AGAIN),
    "a_tiff_of_floats": refused(
        cv2.imencode(".tif", noise().astype(np.float32))[1].tobytes(), "8 or 16 bits"
    ),
    "a_decompression_bomb": refused(png_that_claims(60_000, 60_000), "60000x60000", *TOO_LARGE),
    "a_smaller_decompression_bomb": refused(
        png_that_claims(30_000, 30_000), "30000x30000", *TOO_LARGE
    ),
    "a_bomb_with_a_palette": refused(
        png_that_claims(20_000, 20_000, color_type=3), "20000x20000", *TOO_LARGE
    ),
    "a_bomb_of_jpeg": refused(jpeg_that_claims(65_500, 65_500), "65500x65500", *TOO_LARGE),
    "a_bomb_of_webp": refused(webp_that_claims(16_383, 16_383), "16383x16383", *TOO_LARGE),
    "a_bomb_of_tiff": refused(tiff_that_claims(10**9, 10**9), "1000000000x1", *TOO_LARGE),
    "a_bomb_of_bmp": refused(bmp_that_claims(10**6, 10**6), "1000000x1000000", *TOO_LARGE),
}


@case
def a_file_larger_than_any_picture(world: World) -> Found:
    path = world.picture()
    os.truncate(path, MOST_BYTES + 1)  # takes no room on the disk
    return world.predict(), [str(path), "1,073,741,825 bytes", "take it out"]


@case
def a_pipe_called_png(world: World) -> Found:
    path = world.picture().with_name("pipe.png")
    os.mkfifo(path)
    return world.predict(), [str(path), "a pipe or a device", "take it out"]


@case
def a_device_called_png(world: World) -> Found:
    path = world.picture().with_name("zero.png")
    path.symlink_to("/dev/zero")
    return world.predict(), [str(path), "a pipe or a device", "take it out"]


@case
def a_link_that_leads_nowhere(world: World) -> Found:
    path = world.picture().with_name("lost.png")
    path.symlink_to("nowhere.png")
    return world.predict(), [str(path), "No such file", "copy it there"]


@case
def a_link_to_the_folder_that_it_lies_in(world: World) -> Found:
    path = world.picture().with_name("again")
    path.symlink_to(path.parent)
    return world.predict(), [str(path), "remove the link"]


@case
def a_picture_that_may_not_be_read(world: World) -> Found:
    path = world.picture()
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    return world.predict(), [str(path), "Permission denied", "may read it"]


@case
def a_folder_called_png(world: World) -> Found:
    (world.folder / "pictures" / "x.png").mkdir(parents=True)
    return world.predict(), [str(world.folder / "pictures"), "holds no picture"]


@case
def a_folder_in_the_place_of_a_picture(world: World) -> Found:
    camvid_tree(world.folder / "camvid")
    path = world.folder / "camvid" / "train" / f"{listed('labelled_1_16.txt')[3]}.png"
    path.unlink()
    path.mkdir()
    return world.camvid("teacher"), [str(path), "Is a directory"]


@case
def a_name_that_is_not_utf_8(world: World) -> Found:
    path = world.picture()
    os.rename(path, os.fsencode(path.parent) + b"/caf\xe9.png")  # noqa: PTH104  (bytes)
    return world.predict(), ["caf\\xe9.png", "rename the file"]


@case
def a_damaged_picture_with_a_strange_name(world: World) -> Found:
    path = world.picture("..a \t\x1b[31m 😀.png".lstrip("."))
    truncate(path)
    return world.predict(), ["a \\t\\x1b[31m 😀.png is truncated", "again"]


@case
def a_damaged_picture_with_a_line_break_in_its_name(world: World) -> Found:
    truncate(world.picture("a\nb.png"))
    return [*world.predict(), "--predict.inference.scales=1\n"], ["a\nb.png is truncated"]


@case
def pictures_that_would_get_the_same_mask(world: World) -> Found:
    world.picture("one.jpg")
    world.picture("one.png")
    return world.predict(), ["one.jpg", "one.png", "rename"]


@case
def a_truncated_labelled_image(world: World) -> Found:
    path = world.own_scenes() / "train-8" / "images" / "00001.png"
    truncate(path)
    values: dict[str, Scalar] = {"machine.data_root": world.folder / "scenes"}
    return world.scenes("teacher", **values), [str(path), "truncated", "again"]


@case
def a_truncated_image_met_by_a_worker(world: World) -> Found:
    command, words = a_truncated_labelled_image(world)
    return [*command, "--machine.workers=1"], words


@case
def a_truncated_image_in_the_pool(world: World) -> Found:
    path = world.own_scenes() / "train-8" / "images" / "00006.png"
    truncate(path)
    values: dict[str, Scalar] = {
        "machine.data_root": world.folder / "scenes",
        "pseudo_label.teacher": world.product(TRAIN, world.scenes_classes()),
    }
    return world.scenes("pseudo_label", **values), [str(path), "truncated", "again"]


@case
def a_bomb_among_the_labelled_images(world: World) -> Found:
    path = world.own_pictures() / "images" / "2.png"
    path.write_bytes(png_that_claims(60_000, 60_000))
    return world.pictures("prepare"), [str(path), "60000x60000", "cut it into pieces"]


@case
def an_image_that_stands_on_its_side(world: World) -> Found:
    # The label was drawn on the picture as a viewer shows it: turned by its orientation tag.
    root = world.own_pictures()
    (root / "images" / "2.png").unlink()
    tag = Image.Exif()
    tag[0x0112] = 6
    path = root / "images" / "2.jpg"
    path.write_bytes(save(Image.fromarray(noise()), "JPEG", exif=tag))
    label = root / "labels" / "2.png"
    write_picture(label, np.zeros((48, 40), np.uint8))
    return world.pictures("prepare"), [str(label), "40x48", "48x40", "orientation", "turn"]


@case
def no_video(world: World) -> Found:
    path = world.picture_of(b"words that no player plays", "one.mp4")
    return [*world.predict(), f"--predict.images={path}"], [str(path), "is no video", "again"]
