"""Labels for anybody's pictures: index masks, colour masks and overlays."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2

from selftrain import distributed, progress
from selftrain.checkpoint import load_network
from selftrain.config import MachineConfig, PredictConfig
from selftrain.data.listing import PICTURES, FileSamples, list_files, pack
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.errors import InputError
from selftrain.files import remove_leftovers, write_atomically
from selftrain.inference import Predictor, frames
from selftrain.machine import count_workers
from selftrain.pictures import colorize, encode_png, overlay


def list_pictures(folder: Path, *, leave_out: Path | None = None) -> FileSamples:
    """List the pictures of a folder and its subfolders, by name.

    Args:
        folder: Where to look.
        leave_out: A folder inside it that is passed over: the masks of an earlier call.

    Raises:
        InputError: there is no such folder, or no picture in it, or two share a name, or all of
            it would be left out.
    """
    if not folder.is_dir():
        raise InputError(f"predict.images = {folder} is no folder: name one with pictures.")
    if leave_out and folder.resolve().is_relative_to(leave_out.resolve()):
        raise InputError(
            f"predict.output = {leave_out} is predict.images = {folder} or a folder around it: "
            "name another for what is written, beside the pictures or below them."
        )
    inside = leave_out and leave_out.resolve().is_relative_to(folder.resolve())
    passed = f"{leave_out.resolve().relative_to(folder.resolve())}/" if leave_out and inside else ""
    files = [path for path in list_files(folder) if not passed or not path.startswith(passed)]
    if not files:
        raise InputError(f"{folder} holds no picture ({', '.join(PICTURES)}).")
    return FileSamples(str(folder), pack(files))


def predict(
    config: PredictConfig, samples: Sequence[Sample], model: Path, machine: MachineConfig
) -> None:
    """Label pictures of any sizes into `config.output`.

    For a picture `a/b.jpg` it writes `masks/a/b.png` (class ids), `colors/a/b.png` and
    `overlays/a/b.jpg`, each of the picture's own size, upright where a tag says how the camera
    was held. Nothing is written before every picture has been read once.

    Args:
        config: Output folder and inference settings.
        samples: From `list_pictures`.
        model: Folder of a network.
        machine: Device and workers.

    Raises:
        InputError: a picture is unreadable, or the output cannot be written.
    """
    remove_leftovers(config.output)
    device = distributed.choose_device(machine.device)
    network, card = load_network(model, device)
    classes = card.class_table()
    predictor = replace(
        Predictor.of(network, device, config.inference, machine),
        frame_scale=card.scale,
        short_side=card.short_side,
    )
    read = partial(
        frames,
        samples,
        Reader(classes, upright=True),
        with_labels=False,
        workers=count_workers(machine),
    )
    with progress.bar("check", len(samples), unit="images") as bar:
        for batch in read():
            bar.advance(len(batch.positions))
    with progress.bar("predict", len(samples), unit="images") as bar:
        for batch in read():
            labels = predictor.labels(batch.images)[0].cpu().numpy()
            for row, position in enumerate(batch.positions):
                name = samples[position].name
                image = batch.images[row].permute(1, 2, 0).numpy()
                painted = overlay(image, labels[row], classes.colors)
                ok, jpeg = cv2.imencode(".jpg", cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))
                assert ok  # any 8-bit colour picture can be a JPEG
                mask, colors = (
                    encode_png(labels[row]),
                    encode_png(colorize(labels[row], classes.colors)),
                )
                write_atomically(config.output / "overlays" / f"{name}.jpg", jpeg.tobytes())
                write_atomically(config.output / "colors" / f"{name}.png", colors)
                write_atomically(config.output / "masks" / f"{name}.png", mask)
            bar.advance(len(batch.positions))
