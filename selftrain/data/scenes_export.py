"""Drawn street scenes written to disk in the layout of Cityscapes, at its size.

So the paper's recipe can be rehearsed in full without the data that need a registration:

    leftImg8bit/{train,val,test,train_extra}/<town>/<town>_<sequence>_000019_leftImg8bit.png
    gtFine/{train,val}/<town>/<town>_<sequence>_000019_gtFine_labelIds.png

The towns are invented, so that no frame is taken for a real one, and `cityscapes.splits` draws dev
and the labelled shares of such a tree by the rule that drew the official lists. A frame is a
function of seed, split and place: with larger counts a folder grows, and what it holds stays.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from selftrain.data import scenes
from selftrain.data.cityscapes import CLASSES
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.labels import IGNORE_INDEX

SPLITS = {"train": "town", "val": "port", "test": "dale", "train_extra": "hill"}
"""Split -> beginning of the names of its towns; no split shares a town with another."""
FRAMES = 1_000_000
"""A split's scenes begin this many indices after those of the split before it."""
TOWNS = 20
"""In a split; the frames are dealt to them in turn."""
LABELLED = ("train", "val")
NOTE = "scenes.json"
"""Says what the folder holds; written first, so that an interrupted export can go on."""
BYTES_PER_PIXEL = 1.8
"""Of a full-size frame's files together, on average and rounded up; most of it is sensor noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """One scene and where it goes."""

    index: int
    image: Path
    label: Path | None

    def is_there(self) -> bool:
        """Return whether its files exist; none of them is ever there by half."""
        return self.image.exists() and (self.label is None or self.label.exists())


def export_cityscapes(
    folder: Path,
    *,
    seed: int,
    counts: Mapping[str, int],
    width: int = 2048,
    height: int = 1024,
    workers: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Write scenes of the style "city" to `folder`, frames that are there already left out.

    Label files hold Cityscapes' ids; what has no class has the id 0. The frames of test and
    train_extra get no labels.

    Args:
        folder: Does not exist yet, is empty, or is what this function wrote for the same seed and
            size: then it is completed.
        seed: As for `scenes.draw`.
        counts: Frames of each of `SPLITS`; one that is not named is left as it is.
        width: As for `scenes.draw`.
        height: Likewise; 1024 is Cityscapes' own.
        workers: Processes that draw; 0 draws in this one.
        advance: Called once for every frame, those that were there included.

    Raises:
        InputError: the folder holds something else, a count or the size cannot be, the disk has
            too little room, or a file cannot be written. What was written stays, each file whole.
    """
    _require_possible(counts, width, height)
    content = {
        "content": "street scenes drawn by selftrain in the layout of Cityscapes",
        "version": scenes.version(),
        "seed": seed,
        "width": width,
        "height": height,
    }
    _require_own(folder, content)
    frames = list(_list_frames(folder, counts))
    missing = [frame for frame in frames if not frame.is_there()]
    _require_room(folder, len(missing), width * height)
    write_atomically(folder / NOTE, json.dumps(content, indent=1).encode())
    for _ in range(len(frames) - len(missing)):
        advance()
    with _mapping(workers) as run:
        for _ in run(partial(_write, seed=seed, width=width, height=height), missing):
            advance()


def _list_frames(folder: Path, counts: Mapping[str, int]) -> Iterator[_Frame]:
    for nth, (split, town) in enumerate(SPLITS.items()):
        for i in range(counts.get(split, 0)):
            place = f"{town}{i % TOWNS + 1:02d}"
            path = Path(split, place, f"{place}_{i // TOWNS:06d}_000019")
            label = folder / "gtFine" / f"{path}_gtFine_labelIds.png"
            yield _Frame(
                index=nth * FRAMES + i,
                image=folder / "leftImg8bit" / f"{path}_leftImg8bit.png",
                label=label if split in LABELLED else None,
            )


def _to_label_ids() -> NDArray[np.uint8]:
    """Return, for each train id and IGNORE_INDEX, the id in Cityscapes' files."""
    table = np.zeros(256, np.uint8)
    for file_id, train_id in CLASSES.train_ids.items():
        if train_id != IGNORE_INDEX:
            table[train_id] = file_id
    return table


def _write(frame: _Frame, *, seed: int, width: int, height: int) -> None:
    image, labels = scenes.draw(seed, frame.index, width=width, height=height)
    # The label first: of an unfinished export, no image lacks one.
    if frame.label is not None:
        write_atomically(frame.label, _encode(_to_label_ids()[labels]))
    write_atomically(frame.image, _encode(image[:, :, ::-1]))


def _encode(picture: NDArray[np.uint8]) -> bytes:
    # Stronger compression takes up to three times as long and saves 4 %: noise does not shrink.
    done, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f"a picture of shape {picture.shape} cannot be encoded")
    return data.tobytes()


_Run = Callable[[Callable[[_Frame], None], list[_Frame]], Iterator[None]]


@contextmanager
def _mapping(workers: int) -> Iterator[_Run]:
    """Give a `map` over processes of its own; leaving early, it drops what has not begun."""
    if workers <= 0:
        yield map
        return
    # Not fork: OpenCV's and PyTorch's threads do not survive it. One thread for each process:
    # more would only wait for each other.
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    )
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _require_possible(counts: Mapping[str, int], width: int, height: int) -> None:
    for split, count in counts.items():
        if split not in SPLITS:
            raise InputError(
                f"Cityscapes has no split {split!r}: choose among {', '.join(SPLITS)}."
            )
        if not 0 <= count <= FRAMES:
            raise InputError(f"{split} = {count} frames cannot be: choose 0 to {FRAMES}.")
    if height < 16 or width != 2 * height:
        raise InputError(
            f"A frame of {width}x{height} cannot be drawn: choose a width of twice the height, "
            "and a height of 16 or more."
        )


def _require_own(folder: Path, content: Mapping[str, object]) -> None:
    """Refuse a folder that holds something else than an export of this content."""
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return
        note = folder / NOTE
        found = json.loads(note.read_text()) if note.exists() else None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} cannot be exported to ({error}): choose another folder."
        ) from error
    if not isinstance(found, dict):
        raise InputError(
            f"{folder} holds something else than exported scenes: choose another folder."
        )
    if differing := [key for key in content if found.get(key) != content[key]]:
        old, new = (", ".join(f"{k} {c.get(k)}" for k in differing) for c in (found, content))
        raise InputError(
            f"{folder} holds scenes of {old} instead of {new}: choose another folder, "
            "or delete this one."
        )


def _require_room(folder: Path, frames: int, pixels: int) -> None:
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    needed, free = frames * pixels * BYTES_PER_PIXEL, shutil.disk_usage(there).free
    if needed > free:
        raise InputError(
            f"{folder} would need {needed / 1e6:,.0f} MB for {frames} more frames, but "
            f"{free / 1e6:,.0f} MB are free there: free some space, choose another disk, or export "
            "fewer or smaller frames."
        )
