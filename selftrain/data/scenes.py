"""Street scenes drawn by numpy and OpenCV: the benchmark that needs no download.

A scene is a function of (style, seed, index) and nothing else. It is laid out in metres and seen
through a camera, so it shows the same street at every picture size.

The style "city" has the classes of Cityscapes, their order, their colours and their imbalance: the
road has several hundred times the pixels of the motorcycles. The style "abroad" is another country,
where a network from home must learn again: other light, surfaces, plants and houses, traffic on the
left, and 8 more classes, of which the lines on the road are in every picture and animals in few.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from selftrain.data.sample import ClassTable
from selftrain.errors import InputError
from selftrain.files import remove_leftovers, scratch_folder, write_atomically
from selftrain.scenery import abroad, layout
from selftrain.scenery.abroad import ABROAD
from selftrain.scenery.canvas import UP, VOID, Camera, Canvas, Label, between, hsv
from selftrain.scenery.street import Scene, pave, plan
from selftrain.scenery.style import CITY, Style
from selftrain.scenery.weather import develop, draw_light, paint_sky, settle_ground
from selftrain.signals import leave_to_parent


@dataclass(frozen=True, slots=True, kw_only=True)
class _Country:
    """A style, and what there is besides what every country has."""

    style: Style
    paint_far: Callable[[Scene], None] = lambda scene: None
    """Paints what rises behind everything else."""
    furnish: Callable[[Scene], None] = lambda scene: None
    """Queues things along the street and on it."""


_COUNTRIES = {
    "city": _Country(style=CITY),
    "abroad": _Country(style=ABROAD, paint_far=abroad.paint_far, furnish=abroad.furnish),
}
STYLES: tuple[str, ...] = tuple(_COUNTRIES)
"""The values of `style`."""
VERSION = CITY.version
"""Part of the name of the folder with the pictures."""

_NAMES = tuple(label.name.lower().replace("_", " ") for label in Label)
_COLORS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
    (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
    (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    (255, 255, 255), (140, 140, 200), (150, 100, 60), (0, 170, 180), (90, 20, 90),
    (220, 150, 220), (255, 100, 0), (0, 192, 0),
)  # fmt: skip
NAMES: tuple[str, ...] = _NAMES[: CITY.classes]
COLORS: tuple[tuple[int, int, int], ...] = _COLORS[: CITY.classes]


def classes(style: str = "city") -> ClassTable:
    """Return the classes of a style; those of "city" are the first 19 of "abroad"."""
    count = _country(style).style.classes
    return ClassTable(_NAMES[:count], _COLORS[:count])


def version(style: str = "city") -> int:
    """Return the number that changes whenever the drawing of a style does."""
    return _country(style).style.version


def _country(style: str) -> _Country:
    if style not in _COUNTRIES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
    return _COUNTRIES[style]


def _hood(scene: Scene) -> None:
    """Paint the hood of our own car over the bottom edge; it has no class."""
    rng, canvas = scene.rng, scene.canvas
    top = between(rng, 0.92, 0.97)
    x = np.linspace(-0.05, 2.05, 15)
    curve = top + 0.08 * (x - 1.0) ** 4
    outline = np.concatenate([np.stack([x, curve], 1), [[2.05, 1.1], [-0.05, 1.1]]])
    polygon = canvas.to_pixels(outline)
    color = hsv(rng.random(), between(rng, 0.0, 0.3), between(rng, 0.1, 0.6))
    canvas.color_pixels([polygon], canvas.light.on(color, UP, 0.0))
    canvas.label_pixels(polygon, VOID)


def draw(
    seed: int, index: int, *, width: int = 256, height: int = 128, style: str = "city"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one scene.

    The result depends on the arguments alone; at another size the same scene is only finer or
    coarser. Another style is another street.

    Args:
        seed: Of the set of scenes.
        index: Of the scene in its set.
        width: Pixels, twice the height.
        height: Pixels, up to 1024.
        style: One of `STYLES`.

    Returns:
        Picture (H, W, 3), RGB, and labels (H, W): train ids of `classes(style)`, 255 for void.

    Raises:
        ValueError: The picture is not twice as wide as it is high, or there is no such style.
    """
    if height < 16 or width != 2 * height:
        raise ValueError(f"width must be twice the height (16 or more), got {width} x {height}")
    country = _country(style)
    look = country.style
    view, chance = look.view, look.difficulty.chance
    rng = np.random.default_rng([seed, index, *look.stream])
    camera = Camera(
        height=between(rng, *view.height),
        focal=between(rng, *view.focal),
        horizon=between(rng, *view.horizon),
        center=between(rng, 0.85, 1.15),
        bend=between(rng, -0.0012, 0.0012) * (rng.random() < 0.6),
    )
    fog, rain = rng.random() < chance["fog"], rng.random() < chance["rain"]
    light, zenith = draw_light(
        rng, look.skies, fog=fog, rain=rain, spread=look.difficulty.light_spread
    )
    canvas = Canvas(camera, light, width, height)
    scene = plan(rng, canvas, look)
    paint_sky(canvas, zenith)
    country.paint_far(scene)
    pave(scene)
    for side in scene.sides:
        layout.line_with_plots(scene, side)
        layout.furnish(scene, side)
    layout.drive(scene)
    country.furnish(scene)
    canvas.flush()
    settle_ground(canvas, scene.shadows)
    layout.paint_backdrop(scene)
    for _, _, _, paint in sorted(scene.things, key=lambda thing: thing[:3]):
        paint()
    canvas.flush()
    if scene.has("hood"):
        _hood(scene)
    image, labels = develop(
        canvas,
        rng,
        look,
        rain=rain,
        blur=between(rng, *look.difficulty.blur),
        noise=between(rng, *look.difficulty.noise),
    )
    if look.layout.left_hand:  # the mirror image of a street where traffic keeps to the right
        return np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])
    return image, labels


_NOTE = "scenes.json"
"""Says what a split's folder holds; written last."""


def _write_one(folder: Path, seed: int, index: int, width: int, height: int, style: str) -> None:
    image, labels = draw(seed, index, width=width, height=height, style=style)
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    for kind, picture in (("images", image[:, :, ::-1]), ("labels", labels)):
        path = folder / kind / f"{index:05d}.png"
        _, png = cv2.imencode(".png", picture, fast)  # imwrite would not say why it fails
        try:
            with path.open("wb") as file:
                file.write(png.tobytes())
                file.flush()
                os.fsync(file.fileno())  # the folder's name will say that all are whole
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror or error}): free some space, or set "
                "machine.data_root to a folder that you may write to."
            ) from error


def write_split(
    folder: Path,
    *,
    seed: int,
    indices: range,
    width: int,
    height: int,
    style: str = "city",
    workers: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Draw scenes to folder/images/00000.png and folder/labels/00000.png.

    The files are written beside the folder and moved into place at the end, so `folder` is either
    complete or absent. A complete folder is left as it is.

    Args:
        folder: Does not exist yet, or is what this function wrote for the same arguments.
        seed: As for `draw`.
        indices: Scenes to draw; the index is the file's name.
        width: As for `draw`.
        height: As for `draw`.
        style: As for `draw`.
        workers: Processes that draw; 0 draws in this one.
        advance: Called when a scene is drawn.

    Raises:
        InputError: The folder holds something else.
    """
    content = {
        "version": version(style),
        "seed": seed,
        "width": width,
        "height": height,
        "indices": [indices.start, indices.stop, indices.step],
    }
    if style != "city":  # the notes of cities were written before there was another style
        content["style"] = style
    if folder.exists():
        if _holds(folder, content):
            return
        raise InputError(
            f"{folder} holds something else than the scenes {content}: move it away or delete it."
        )
    remove_leftovers(folder.parent, deep=False)
    with scratch_folder(beside=folder) as partial_folder:
        for kind in ("images", "labels"):
            (partial_folder / kind).mkdir()
        write = partial(_write_one, partial_folder, seed, width=width, height=height, style=style)
        if workers > 0:
            # Not fork: OpenCV's and PyTorch's threads do not survive it.
            with ProcessPoolExecutor(
                workers, mp_context=get_context("spawn"), initializer=leave_to_parent
            ) as pool:
                for _ in pool.map(write, indices, chunksize=16):
                    advance()
        else:
            for index in indices:
                write(index)
                advance()
        write_atomically(partial_folder / _NOTE, json.dumps(content).encode())
        try:
            partial_folder.rename(folder)
        except OSError:  # another process was faster: the same arguments draw the same scenes
            if not _holds(folder, content):
                raise


def _holds(folder: Path, content: dict[str, object]) -> bool:
    """Return whether the folder is a finished split of just these scenes."""
    note = folder / _NOTE
    return note.exists() and json.loads(note.read_text()) == content
