"""Pictures that are unusual and right: read as a viewer shows them."""

import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bad_input.images import save
from bad_input.world import FEW, World, noise
from selftrain.__main__ import main
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.labels import IGNORE_INDEX

DEEP = np.random.default_rng(0).integers(0, 65536, (40, 48, 3), dtype=np.uint16)
SMOOTH = cv2.resize(noise()[:5, :6], (48, 40)).astype(np.uint8)
MEMORY = 400 * 2**20


def turned() -> Image.Exif:
    tag = Image.Exif()
    tag[0x0112] = 6  # the camera was turned: it is to be shown by a quarter turn
    return tag


def photo() -> Image.Image:
    return Image.fromarray(SMOOTH)


PICTURES: dict[str, bytes] = {
    "deep.png": cv2.imencode(".png", DEEP[..., ::-1])[1].tobytes(),
    "deep pages.tif": cv2.imencode(".tif", DEEP[..., ::-1])[1].tobytes(),
    "deep and gray.png": cv2.imencode(".png", DEEP[..., 0])[1].tobytes(),
    "cmyk.jpg": save(photo().convert("CMYK"), "JPEG", quality=95),
    "inks.tif": save(photo().convert("CMYK"), "TIFF"),
    "palette.png": save(photo().convert("P"), "PNG"),
    "bits.png": save(photo().convert("1"), "PNG"),
    "transparent.png": save(Image.fromarray(np.dstack([SMOOTH, SMOOTH[..., 0]])), "PNG"),
    "gray.webp": save(photo().convert("L"), "WEBP", lossless=True),
    "turned.jpg": save(photo(), "JPEG", quality=95, exif=turned()),
    "turned too.png": save(photo(), "PNG", exif=turned()),
    "progressive.jpg": save(photo(), "JPEG", progressive=True),
    "a png.jpg": save(photo(), "PNG"),
    "a jpeg.png": save(photo(), "JPEG"),
    "pages.tif": save(photo(), "TIFF", save_all=True, append_images=[Image.fromarray(noise())]),
    "one pixel.png": cv2.imencode(".png", noise(1, 1))[1].tobytes(),
    "one row.png": cv2.imencode(".png", noise(1, 200))[1].tobytes(),
    "line\nbreak.png": save(photo(), "PNG"),
    "😀 straße/a ..dots...png": save(photo(), "PNG"),
    "UPPER.PNG": save(photo(), "PNG"),
}


def shown(name: str) -> NDArray[np.uint8]:
    """Return a picture as a viewer shows it: upright, RGB, 8 bits."""
    if name.startswith("deep"):  # Pillow has no 16 bits of colours, and clips gray ones
        deep = DEEP[..., :1].repeat(3, -1) if "gray" in name else DEEP
        return (deep >> 8).astype(np.uint8)
    with Image.open(io.BytesIO(PICTURES[name])) as picture:
        flat = np.asarray(picture.convert("RGB"))
    return np.rot90(flat, -1) if name.startswith("turned") else flat


@pytest.mark.parametrize("name", PICTURES)
def test_an_unusual_picture_is_read_as_it_is_shown(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(PICTURES[name])
    found = Reader(FEW, upright=True).image(Sample("picture", path)).astype(int)
    expected = shown(name).astype(int)
    assert found.shape == expected.shape
    # Two decoders may round differently, and turn inks into colours differently.
    assert np.abs(found - expected).max() <= (4 if name.endswith((".jpg", "jpeg.png")) else 1)


def memory(kind: str) -> int:
    """Return this process's memory in bytes: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(kind))


def test_all_of_them_are_labelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in PICTURES.items():
        world.picture_of(data, name)
    monkeypatch.setattr(sys, "argv", ["selftrain", *world.predict()])
    main()
    masks = world.folder / "predictions" / "masks"
    assert len([path for path in masks.rglob("*") if path.is_file()]) == len(PICTURES)
    for name in PICTURES:
        mask = cv2.imdecode(
            np.frombuffer((masks / f"{name.rpartition('.')[0]}.png").read_bytes(), np.uint8), -1
        )
        assert mask is not None
        assert mask.shape == shown(name).shape[:2]


def test_a_picture_20000_pixels_wide_takes_little_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = np.zeros((400, 20_000, 3), np.uint8)
    wide[100:, ::7] = 255
    world.picture_of(cv2.imencode(".png", wide)[1].tobytes())
    command = [*world.predict(), "--predict.inference.window=512"]
    monkeypatch.setattr(sys, "argv", ["selftrain", *command])
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory is counted anew
    before = memory("VmRSS")
    main()
    assert memory("VmHWM") - before < MEMORY
    mask = cv2.imread(str(world.folder / "predictions" / "masks" / "one.png"), -1)
    assert mask is not None
    assert mask.shape == (400, 20_000)


def test_a_label_of_many_colors_takes_no_multiple_of_its_memory(tmp_path: Path) -> None:
    colors = {(1, 2, 3): 0, (4, 5, 6): 1, (0, 0, 0): IGNORE_INDEX}
    table = ClassTable(("road", "car"), ((1, 2, 3), (4, 5, 6)), file_colors=colors)
    path = tmp_path / "label.png"
    painted = np.zeros((2_000, 20_000, 3), np.uint8)
    painted[1_000:] = (6, 5, 4)
    path.write_bytes(cv2.imencode(".png", painted)[1].tobytes())
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    label = Reader(table).label(Sample("a", path, Blob(path)))
    assert memory("VmHWM") - before < MEMORY
    assert np.unique(label[:1_000]).tolist() == [IGNORE_INDEX]
    assert np.unique(label[1_000:]).tolist() == [1]
