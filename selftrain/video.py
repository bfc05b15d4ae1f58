"""Videos, frame by frame: read as RGB pictures, written as MP4; never a whole one in memory.

Sound is not kept.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from selftrain.data.reader import MOST_PIXELS
from selftrain.errors import InputError, Unavailable
from selftrain.files import scratch_folder
from selftrain.pictures import Picture

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm")
"""Suffixes of the files that count as videos, in lower case."""
SUFFIX = ".mp4"
"""Of the videos that are written."""
_CODEC = "mp4v"
_FASTEST = 1000
"""Frames a second that a header is believed."""
_LOST = 0.02
"""Share of the frames that a header may name too many, besides one."""

# Read when OpenCV opens its first video: FFmpeg would print what is said here in a sentence.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """A video that can be read to its end."""

    path: Path
    width: int
    """Of a frame in pixels, upright; likewise the height."""
    height: int
    rate: float
    """Frames a second."""
    frames: int
    missing: int
    """Frames that its header names beyond these: a few, which some formats only estimate."""


def is_video(path: Path) -> bool:
    """Return whether a path is that of a file which counts as a video by its suffix."""
    return path.suffix.lower() in VIDEOS and path.is_file()


def open_video(path: Path, tell: Callable[[int], None] = lambda frames: None) -> Video:
    """Read a video once to its end, without keeping a frame.

    Args:
        path: Of the file.
        tell: Called with the number of frames, each time that some more have been read.

    Raises:
        InputError: it cannot be read, is no video, holds no frame, or is truncated.
    """
    with _opened(path) as capture:
        named = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        first = _next(capture, path)
        if first is None:
            raise InputError(f"{path} holds no frame that can be read: copy or make it again.")
        frames = 1
        while capture.grab():
            frames += 1
            tell(1)
    if not (math.isfinite(rate) and 0 < rate <= _FASTEST):
        raise InputError(
            f"{path} names no usual number of frames a second ({rate:g}): make it again, for "
            f"example by `ffmpeg -i {path.name} -r 25 again.mp4`."
        )
    missing = max(0, round(named) - frames) if math.isfinite(named) else 0
    if missing > 1 + _LOST * named:
        raise InputError(
            f"{path} is truncated: it ends after {frames} of {named:.0f} frames; copy it again."
        )
    height, width = first.shape[:2]
    return Video(path=path, width=width, height=height, rate=rate, frames=frames, missing=missing)


def read_frames(video: Video) -> Iterator[Picture]:
    """Yield a video's frames, upright, one at a time.

    Raises:
        InputError: the file has changed since it was opened.
    """
    with _opened(video.path) as capture:
        for _ in range(video.frames):
            frame = _next(capture, video.path)
            if frame is None or frame.shape[:2] != (video.height, video.width):
                raise InputError(f"{video.path} has changed while it was read: start again.")
            yield frame


@contextmanager
def written_video(
    path: Path, *, size: tuple[int, int], rate: float
) -> Iterator[Callable[[Picture], None]]:
    """Give the block a function that appends a frame; the file is there when all of it is.

    It has been read back then. An older file of that name stays whole until that moment.

    Args:
        path: Of the file, ending in `SUFFIX`; folders are made.
        size: Width and height of the frames in pixels; the last column or row of an odd one is
            left out, which the codec cannot hold.
        rate: Frames a second.

    Raises:
        Unavailable: it cannot be written, or not be read back.
    """
    try:
        with scratch_folder(path) as folder:
            file = folder / f"video{SUFFIX}"
            code = cv2.VideoWriter.fourcc(*_CODEC)
            width, height = (side - side % 2 for side in size)
            writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, code, rate, (width, height))
            appended = 0

            def append(frame: Picture) -> None:
                nonlocal appended
                writer.write(cv2.cvtColor(frame[:height, :width], cv2.COLOR_RGB2BGR))
                appended += 1

            try:
                if not writer.isOpened():
                    raise Unavailable(f"{path} cannot be written: {_WHY}.")
                yield append
            finally:
                writer.release()
            _require_readable(file, appended, (width, height), path)
            with file.open("rb") as written:
                os.fsync(written.fileno())
            file.replace(path)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be written ({error.strerror or error}): {_WHY}."
        ) from error


_WHY = "free some space, or choose a folder that you may write to"


def digest_video(path: Path) -> str:
    """Return the digest of a whole file: 32 hexadecimal digits.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            blake = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
            return blake.hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): see that you may.") from error


def _require_readable(file: Path, frames: int, size: tuple[int, int], path: Path) -> None:
    """Raise Unavailable unless a video has so many frames: OpenCV says nothing of a full disk."""
    try:
        found = open_video(file)
    except InputError as error:
        raise Unavailable(f"{path} was not written in full: {_WHY}.") from error
    if (found.frames, found.width, found.height) != (frames, *size):
        raise Unavailable(
            f"{path} was not written in full ({found.frames} of {frames} frames of "
            f"{found.width}x{found.height}): {_WHY}."
        )


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """Open a video; its kind is told by its first bytes, not by its name."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): see that you may.") from error
    if not start:
        raise InputError(f"{path} is empty: copy or make it again.")
    # FFmpeg would take anything that it knows, such as a list of other files to read.
    is_mp4 = start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    is_avi = start.startswith(b"RIFF") and start[8:12] == b"AVI "
    is_matroska = start.startswith(b"\x1a\x45\xdf\xa3")
    capture = cv2.VideoCapture()
    try:
        if is_mp4 or is_avi or is_matroska:
            _open_silently(capture, path)
        if not capture.isOpened():
            raise InputError(
                f"{path} is no video that can be read, or a damaged or truncated one (MP4, MOV, "
                "AVI, MKV and WebM are): copy or make it again."
            )
        width, height = (
            capture.get(it) for it in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > MOST_PIXELS:
            raise InputError(
                f"{path} is, or claims to be, {width:.0f}x{height:.0f} pixels, more than the "
                f"{MOST_PIXELS:,} that are read: make it smaller."
            )
        yield capture
    finally:
        capture.release()


def _open_silently(capture: cv2.VideoCapture, path: Path) -> None:
    """Open a video without a word of OpenCV's on what it cannot read."""
    logging = cv2.utils.logging
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        capture.open(str(path.resolve()), cv2.CAP_FFMPEG)
    finally:
        logging.setLogLevel(before)


def _next(capture: cv2.VideoCapture, path: Path) -> Picture | None:
    ok, frame = capture.read()
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8) if ok else None
