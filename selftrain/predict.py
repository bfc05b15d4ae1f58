"""Labels for anybody's pictures and videos: index masks, colour masks and overlays."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftrain import distributed, progress
from selftrain.checkpoint import ModelCard, load_network
from selftrain.config import MachineConfig, PredictConfig
from selftrain.data.listing import PICTURES, FileSamples, list_files, pack
from selftrain.data.reader import Reader, decode_picture
from selftrain.data.sample import Blob, ClassTable, Sample
from selftrain.errors import InputError
from selftrain.files import remove_leftovers, write_atomically
from selftrain.inference import Predictor, frames
from selftrain.machine import count_workers
from selftrain.panels import MOST_ON_SHEET, contact_sheet, spread_evenly
from selftrain.pictures import colorize, encode_jpeg, encode_png, legend, overlay
from selftrain.video import SUFFIX, VIDEOS, open_video, read_frames, written_video

MASKS, COLORS, OVERLAYS = "masks", "colors", "overlays"
LEGEND, SHEET = f"{OVERLAYS}/legend.png", "contact_sheet.jpg"
_QUALITY, _SHEET_QUALITY = 95, 85


def list_pictures(place: Path, *, leave_out: Path | None = None) -> FileSamples:
    """List the pictures of a folder and its subfolders, by name; or name a single one.

    Args:
        place: Where to look, or a picture.
        leave_out: A folder inside it that is passed over: the masks of an earlier call.

    Raises:
        InputError: there is no such folder or picture, or no picture in it, or two share a name,
            or all of it would be left out.
    """
    if place.is_file() and place.suffix.lower() in PICTURES:
        require_other(place, leave_out)
        return FileSamples(str(place.parent), pack([place.name]))
    if not place.is_dir():
        raise InputError(
            f"predict.images = {place} is no folder, no picture ({', '.join(PICTURES)}) and no "
            f"video ({', '.join(VIDEOS)}): name a folder with pictures, or such a file."
        )
    if leave_out and place.resolve().is_relative_to(leave_out.resolve()):
        raise InputError(
            f"predict.output = {leave_out} is predict.images = {place} or a folder around it: "
            "name another for what is written, beside the pictures or below them."
        )
    inside = leave_out and leave_out.resolve().is_relative_to(place.resolve())
    passed = f"{leave_out.resolve().relative_to(place.resolve())}/" if leave_out and inside else ""
    files = [path for path in list_files(place) if not passed or not path.startswith(passed)]
    if not files:
        raise InputError(f"{place} holds no picture ({', '.join(PICTURES)}).")
    return FileSamples(str(place), pack(files))


def require_other(file: Path, output: Path | None) -> None:
    """Raise InputError if a file lies where the output of an earlier call does."""
    for folder in (MASKS, COLORS, OVERLAYS) if output else ():
        if output and file.resolve().is_relative_to((output / folder).resolve()):
            raise InputError(
                f"predict.images = {file} lies in {output / folder}, where the output goes: set "
                "predict.output to another folder."
            )


def predict(
    config: PredictConfig, samples: Sequence[Sample], model: Path, machine: MachineConfig
) -> None:
    """Label pictures of any sizes into `config.output`.

    For a picture `a/b.jpg` it writes `masks/a/b.png` (class ids), `colors/a/b.png` and
    `overlays/a/b.jpg`, each of the picture's own size, upright where a tag says how the camera
    was held; then `overlays/legend.png`, and for a folder a contact sheet of overlays. Nothing is
    written before every picture has been read once.

    Args:
        config: Output folder and inference settings.
        samples: From `list_pictures`.
        model: Folder of a network.
        machine: Device and workers.

    Raises:
        InputError: a picture is unreadable, or the output cannot be written.
    """
    remove_leftovers(config.output)
    predictor, card = _open(config, model, machine)
    classes = card.class_table()
    read = partial(
        frames,
        samples,
        Reader(classes, upright=True),
        with_labels=False,
        workers=count_workers(machine),
    )
    with progress.bar("check", len(samples), unit="pictures") as bar:
        for batch in read():
            bar.advance(len(batch.positions))
    with progress.bar("predict", len(samples), unit="pictures") as bar:
        for batch in read():
            labels = predictor.labels(batch.images)[0].cpu().numpy()
            for row, position in enumerate(batch.positions):
                name = samples[position].name
                image = batch.images[row].permute(1, 2, 0).numpy()
                _write(config.output, name, image, labels[row], classes)
            bar.advance(len(batch.positions))
    distributed.barrier()  # the sheet shows pictures of all ranks
    if distributed.rank() == 0:
        _write_legend(config.output, classes)
        if config.images.is_dir():
            _write_sheet(config.output, samples, classes)


def predict_video(config: PredictConfig, model: Path, machine: MachineConfig) -> int:
    """Label a video of any length into `config.output`, one frame at a time.

    For a video `a.mov` it writes `overlays/a.mp4`, of the same frame rate and size (an odd side
    loses a pixel), without sound; `overlays/legend.png`; and, if `config.video_masks` asks for
    them, `masks/a/000000.png`, ...
    Nothing is written before the video has been read once to its end.

    Returns:
        The number of frames.

    Raises:
        InputError: the video is unreadable, or the output cannot be written.
    """
    require_other(config.images, config.output)
    remove_leftovers(config.output)
    predictor, card = _open(config, model, machine)
    classes = card.class_table()
    progress.say(f"reading {config.images} once, to see that it is whole")
    video = open_video(config.images)
    if video.missing:
        progress.say(f"its header names {video.missing} more frames than can be read")
    name = config.images.stem
    path = config.output / OVERLAYS / f"{name}{SUFFIX}"
    with (
        written_video(path, size=(video.width, video.height), rate=video.rate) as append,
        progress.bar("predict", video.frames, unit="frames") as bar,
    ):
        for number, frame in enumerate(read_frames(video)):
            labels = predictor.label_picture(frame)
            append(overlay(frame, labels, classes.colors))
            if config.video_masks:
                mask = config.output / MASKS / name / f"{number:06d}.png"
                write_atomically(mask, encode_png(labels))
            bar.advance()
    _write_legend(config.output, classes)
    return video.frames


def _open(
    config: PredictConfig, model: Path, machine: MachineConfig
) -> tuple[Predictor, ModelCard]:
    """Load the network, which resizes pictures as those of its training were."""
    device = distributed.choose_device(machine.device)
    network, card = load_network(model, device)
    predictor = Predictor.of(network, device, config.inference, machine)
    return replace(predictor, frame_scale=card.scale, short_side=card.short_side), card


def _write(
    output: Path,
    name: str,
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    classes: ClassTable,
) -> None:
    """Write what there is of a picture."""
    jpeg = encode_jpeg(overlay(image, labels, classes.colors), quality=_QUALITY)
    mask, colors = encode_png(labels), encode_png(colorize(labels, classes.colors))
    write_atomically(output / OVERLAYS / f"{name}.jpg", jpeg)
    write_atomically(output / COLORS / f"{name}.png", colors)
    write_atomically(output / MASKS / f"{name}.png", mask)


def _write_legend(output: Path, classes: ClassTable) -> None:
    write_atomically(output / LEGEND, encode_png(legend(classes.names, classes.colors)))


def _write_sheet(output: Path, samples: Sequence[Sample], classes: ClassTable) -> None:
    """Draw overlays that were written, evenly chosen in the order of their names."""
    names = [samples[at].name for at in spread_evenly(len(samples), MOST_ON_SHEET)]
    paths = {name: output / OVERLAYS / f"{name}.jpg" for name in names}
    overlays = ((name, decode_picture(Blob(it).read(), str(it))) for name, it in paths.items())
    sheet = contact_sheet(overlays, classes)
    write_atomically(output / SHEET, encode_jpeg(sheet, quality=_SHEET_QUALITY))
