"""Street scenes drawn by numpy and OpenCV: the benchmark that needs no download.

A scene is a function of (seed, index) and nothing else. It is laid out in metres and seen through
a camera, so it shows the same street at every picture size. The classes, their order and their
colours are those of Cityscapes, and so is the imbalance: the road has several hundred times the
pixels of the motorcycles.
"""

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from selftrain.data import scenery_layout as layout
from selftrain.data.scenery_canvas import UP, VOID, Camera, Canvas, Label, between, hsv
from selftrain.data.scenery_street import Difficulty, Scene, pave, plan
from selftrain.data.scenery_weather import develop, draw_light, paint_sky, settle_ground
from selftrain.errors import InputError

VERSION = 3
"""Part of the name of the folder with the pictures; raise it whenever the drawing changes."""

DIFFICULTY = Difficulty(
    light_spread=0.8,
    color_spread=0.25,
    texture_contrast=1.0,
    noise=(1.0, 4.0),
    blur=(0.0, 0.0035),
    crowd=5.0,
    parked=0.45,
    chance={
        "fog": 0.12, "rain": 0.15, "crossing street": 0.5, "hood": 0.3,
        "wall": 0.35, "fence": 0.45, "lawn": 0.4, "signs": 0.75, "lamps": 0.7, "clutter": 0.4,
        "truck": 0.22, "bus": 0.22, "tram": 0.2,
        "motorcycle": 0.13, "cyclist": 0.4, "parked bicycle": 0.4,
    },
)  # fmt: skip

NAMES: tuple[str, ...] = tuple(label.name.lower().replace("_", " ") for label in Label)
COLORS: tuple[tuple[int, int, int], ...] = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
    (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
    (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip


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
    seed: int, index: int, *, width: int = 256, height: int = 128
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one scene.

    The result depends on the arguments alone; at another size the same scene is only finer or
    coarser.

    Args:
        seed: Of the set of scenes.
        index: Of the scene in its set.
        width: Pixels, twice the height.
        height: Pixels, up to 1024.

    Returns:
        Picture (H, W, 3), RGB, and labels (H, W): train ids 0 to 18, 255 for void.

    Raises:
        ValueError: The picture is not twice as wide as it is high.
    """
    if height < 16 or width != 2 * height:
        raise ValueError(f"width must be twice the height (16 or more), got {width} x {height}")
    rng = np.random.default_rng([seed, index])
    camera = Camera(
        height=between(rng, 1.3, 2.1),
        focal=between(rng, 1.7, 2.2),
        horizon=between(rng, 0.36, 0.48),
        center=between(rng, 0.85, 1.15),
        bend=between(rng, -0.0012, 0.0012) * (rng.random() < 0.6),
    )
    chance = DIFFICULTY.chance
    fog, rain = rng.random() < chance["fog"], rng.random() < chance["rain"]
    light, zenith = draw_light(rng, fog=fog, rain=rain, spread=DIFFICULTY.light_spread)
    canvas = Canvas(camera, light, width, height)
    scene = plan(rng, canvas, DIFFICULTY)
    paint_sky(canvas, zenith)
    pave(scene)
    for side in scene.sides:
        layout.line_with_plots(scene, side)
        layout.furnish(scene, side)
    layout.drive(scene)
    canvas.flush()
    settle_ground(canvas, scene.shadows)
    layout.paint_backdrop(scene)
    for _, _, _, paint in sorted(scene.things, key=lambda thing: thing[:3]):
        paint()
    canvas.flush()
    if scene.has("hood"):
        _hood(scene)
    return develop(
        canvas,
        rng,
        rain=rain,
        contrast=DIFFICULTY.texture_contrast,
        blur=between(rng, *DIFFICULTY.blur),
        noise=between(rng, *DIFFICULTY.noise),
    )


_NOTE = "scenes.json"
"""Says what a split's folder holds; written last."""


def _write_one(folder: Path, seed: int, index: int, width: int, height: int) -> None:
    image, labels = draw(seed, index, width=width, height=height)
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    for kind, picture in (("images", image[:, :, ::-1]), ("labels", labels)):
        path = folder / kind / f"{index:05d}.png"
        if not cv2.imwrite(str(path), picture, fast):
            raise OSError(f"cannot write {path}")


def write_split(
    folder: Path, *, seed: int, indices: range, width: int, height: int, workers: int = 0
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
        workers: Processes that draw; 0 draws in this one.

    Raises:
        InputError: The folder holds something else.
    """
    content = {
        "version": VERSION,
        "seed": seed,
        "width": width,
        "height": height,
        "indices": [indices.start, indices.stop, indices.step],
    }
    if folder.exists():
        if _holds(folder, content):
            return
        raise InputError(
            f"{folder} holds something else than the scenes {content}: move it away or delete it."
        )
    partial_folder = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial_folder, ignore_errors=True)
    try:
        for kind in ("images", "labels"):
            (partial_folder / kind).mkdir(parents=True)
        write = partial(_write_one, partial_folder, seed, width=width, height=height)
        if workers > 0:
            # Not fork: OpenCV's and PyTorch's threads do not survive it.
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                list(pool.map(write, indices, chunksize=16))
        else:
            for index in indices:
                write(index)
        (partial_folder / _NOTE).write_text(json.dumps(content))
        try:
            partial_folder.rename(folder)
        except OSError:  # another process was faster: the same arguments draw the same scenes
            if not _holds(folder, content):
                raise
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _holds(folder: Path, content: dict[str, object]) -> bool:
    """Return whether the folder is a finished split of just these scenes."""
    note = folder / _NOTE
    return note.exists() and json.loads(note.read_text()) == content
