"""Label maps: of another size, of wrong numbers or colours, of another kind, missing."""

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from miniature import camvid_tree, listed, truncate, write_picture
from numpy.typing import NDArray
from PIL import Image

from bad_input.world import Cases, Found, World, png_that_claims, two_ids

CASES = case = Cases()

COLORED = {
    "classes": [
        {"name": "road", "color": [128, 64, 128]},
        {"name": "car", "color": [0, 0, 142]},
    ],
    "masks": "colors",
}


def spoil_camvid_label(world: World, label: NDArray[np.uint8]) -> Path:
    camvid_tree(world.folder / "camvid")
    path = world.folder / "camvid" / "trainannot" / f"{listed('labelled_1_16.txt')[3]}.png"
    write_picture(path, label)
    return path


@case
def a_label_of_another_size(world: World) -> Found:
    path = spoil_camvid_label(world, np.zeros((40, 46), np.uint8))
    # Three crops of each image: the spoilt one is among those that are read.
    return world.camvid("teacher", **{"teacher.data.repeat": 3.0}), [
        str(path),
        "46x40",
        "48x40",
        "same size",
    ]


@case
def a_label_id_that_is_no_class(world: World) -> Found:
    path = spoil_camvid_label(world, np.full((40, 48), 99, np.uint8))
    return world.camvid("teacher"), [str(path), "99", "correct"]


@case
def a_wrong_label_found_by_prepare(world: World) -> Found:
    path = spoil_camvid_label(world, np.zeros((40, 46), np.uint8))
    return world.camvid("prepare"), [str(path), "46x40"]


@case
def a_label_of_three_channels(world: World) -> Found:
    path = spoil_camvid_label(world, np.tile(np.arange(3, dtype=np.uint8), (40, 48, 1)))
    return world.camvid("teacher"), [str(path), "single-channel", "gray"]


@case
def a_labelled_image_without_a_label(world: World) -> Found:
    camvid_tree(world.folder / "camvid")
    gone = world.folder / "camvid" / "trainannot" / f"{listed('labelled_1_16.txt')[3]}.png"
    gone.unlink()
    return world.camvid("teacher"), [str(gone), "copy"]


def replaced(data: bytes, *words: str) -> Callable[[World], Found]:
    """Return a case in which one of the masks holds other bytes."""

    def make(world: World) -> Found:
        path = world.own_pictures() / "labels" / "2.png"
        path.write_bytes(data)
        return world.pictures("prepare"), [str(path), *words]

    return make


def png(label: NDArray[np.integer]) -> bytes:
    return cv2.imencode(".png", label)[1].tobytes()


def palette_png() -> bytes:
    picture, file = Image.fromarray(two_ids()), io.BytesIO()
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(file, "PNG")
    return file.getvalue()


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


CASES |= {
    "a_label_of_16_bits": replaced(png(two_ids().astype(np.uint16)), "uint16", "8-bit"),
    "a_label_of_4_bits": replaced(png_that_claims(48, 40)[:24] + b"\4\0" + bytes(200), "truncated"),
    "a_label_of_zero_bytes": replaced(b"", "not a readable picture", "again"),
    "a_label_cut_short": replaced(png(two_ids())[:-20], "truncated", "again"),
    "a_palette_label_cut_short": replaced(palette_png()[:-20], "truncated", "again"),
    "a_palette_label_with_one_bit_changed": replaced(
        changed(palette_png(), len(palette_png()) - 30), "not a readable picture", "again"
    ),
    "a_label_that_is_a_bomb": replaced(
        png_that_claims(60_000, 60_000, color_type=0), "60000x60000", "cut it into pieces"
    ),
    "a_palette_label_that_is_a_bomb": replaced(
        png_that_claims(60_000, 60_000, color_type=3), "60000x60000", "cut it into pieces"
    ),
    "a_label_one_id_beyond_the_classes": replaced(
        png(two_ids() + 1), "label id 2 at y=20, x=0", "[0, 1, 255]", "correct"
    ),
}


@case
def a_color_that_is_in_no_palette(world: World) -> Found:
    root = world.own_pictures(COLORED)
    for path in (root / "labels").glob("*.png"):
        write_picture(path, np.full((40, 48, 3), (142, 0, 0), np.uint8))  # OpenCV: blue first
    wrong = np.full((40, 48, 3), (142, 0, 0), np.uint8)
    wrong[7, 9] = (3, 2, 1)
    write_picture(root / "labels" / "2.png", wrong)
    return world.pictures("prepare"), [
        str(root / "labels" / "2.png"),
        "(1, 2, 3) at y=7, x=9",
        "correct",
    ]


@case
def ids_where_colors_are_wanted(world: World) -> Found:
    root = world.own_pictures(COLORED)
    for path in (root / "labels").glob("[013-9].png"):
        write_picture(path, np.full((40, 48, 3), (142, 0, 0), np.uint8))
    return world.pictures("prepare"), [str(root / "labels" / "2.png"), "(1, 1, 1)", "correct"]


@case
def labels_of_nothing_but_void(world: World) -> Found:
    root = world.own_pictures()
    for path in (root / "labels").glob("*.png"):
        write_picture(path, np.full((40, 48), 255, np.uint8))
    return world.pictures("teacher"), ["3 labels", str(root / "labels"), "ignored", "correct"]


@case
def a_mask_that_is_a_jpeg(world: World) -> Found:
    root = world.own_pictures()
    (root / "labels" / "2.png").unlink()
    write_picture(root / "labels" / "2.jpg", two_ids())
    return world.pictures("prepare"), [str(root / "labels"), "2.jpg", "export them anew as PNG"]


@case
def a_mask_without_a_picture(world: World) -> Found:
    root = world.own_pictures()
    (root / "images" / "2.png").unlink()
    return world.pictures("prepare"), [str(root / "labels"), "2.png", "name each mask"]


@case
def a_truncated_label_found_by_a_training(world: World) -> Found:
    path = world.own_pictures() / "labels" / "2.png"
    truncate(path)
    return world.pictures("teacher", **{"teacher.data.repeat": 3.0}), [str(path), "truncated"]
