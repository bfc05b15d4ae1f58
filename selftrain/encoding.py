"""Labelled images become files in processes of their own, so that the device is not kept waiting.

No module that is imported here knows torch: a process that encodes starts within a second.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from selftrain import signals
from selftrain.data.agreement import measure_agreement
from selftrain.data.cityscapes import is_frame, outside_hood
from selftrain.data.sample import Sample
from selftrain.data.shards import LabelledImage, ShardForm, keep_image, write_shard
from selftrain.errors import InputError
from selftrain.labels import IGNORE_INDEX

_WAITING = 2
"""Images under way for each process: one that it encodes and one that it finds when it is done."""
_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image of the pool stands in its set."""

    shard: int
    number: int
    """Of the image in its shard, from 0."""
    sample: Sample


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What the teachers say of an image."""

    label: NDArray[np.uint8]
    """(H, W), train ids."""
    confidence: NDArray[np.uint8]
    """(H, W), 0..255 for 0..1."""
    judges: NDArray[np.uint8]
    """(J, H, W), train ids: other answers, to be compared with the label; there may be none."""
    soft_classes: NDArray[np.uint8] | None = None
    """As `LabelledImage` has them."""
    soft_probabilities: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How answers become files."""

    folder: Path
    """Of the set."""
    form: ShardForm
    hood: bool = False
    """Take the labels away where Cityscapes' frames show the car that carries the camera."""

    def keep(self, place: Place, answer: Answer) -> int:
        """Encode an image, keep it until its shard is complete, and return its bytes."""
        label, confidence = answer.label, answer.confidence
        if self.hood and is_frame(place.sample.image):
            is_street = outside_hood(*label.shape)
            label = np.where(is_street, label, IGNORE_INDEX).astype(np.uint8)
            confidence = np.where(is_street, confidence, 0).astype(np.uint8)
        item = LabelledImage(
            sample=place.sample,
            label=label,
            confidence=confidence,
            soft_classes=answer.soft_classes,
            soft_probabilities=answer.soft_probabilities,
        )
        if len(answer.judges):
            classes = self.form.num_classes
            agreement, agreed = measure_agreement(label, answer.judges, num_classes=classes)
            item = replace(item, agreement=agreement, agreed=agreed)
        return keep_image(self.folder, place.shard, place.number, item, self.form)

    def write(self, shard: int, count: int) -> int:
        """Write a shard of which all images are kept; return 0 bytes, for they were counted."""
        write_shard(self.folder, shard, count, self.form)
        return 0


class Encoder:
    """Keeps images as they come, in any order, and writes each shard that is complete.

    Used in a `with` statement: at its end everything is written. When it is left by an error,
    images that wait are dropped, and those that are kept stay for the next attempt.
    """

    def __init__(
        self,
        encoding: Encoding,
        counts: Mapping[int, int],
        missing: Mapping[int, int],
        advance: Callable[[], object],
    ) -> None:
        """Set it up to work in this process.

        Args:
            encoding: How images become files.
            counts: Images of each shard that is to be written.
            missing: How many of them are not kept yet, where there are any.
            advance: Called after each image.
        """
        self._encoding, self._counts = encoding, counts
        self._missing = {shard: missing.get(shard, 0) for shard in counts}
        self._advance = advance
        self._pool: ProcessPoolExecutor | None = None
        self._under_way: deque[tuple[int | None, Future[int]]] = deque()
        self._most_under_way = 0
        self.images = 0
        """Images kept so far."""
        self.bytes = 0
        """Their files' bytes."""

    def __enter__(self) -> Self:
        """Write the shards of which all images were kept before."""
        for shard in [shard for shard, missing in self._missing.items() if missing == 0]:
            self._write(shard)
        return self

    def start(self, workers: int) -> None:
        """Encode in so many processes from now on; 0: go on in this one."""
        if workers > 0:
            self._most_under_way = _WAITING * workers
            # Not fork: CUDA and torch's threads do not survive it.
            self._pool = ProcessPoolExecutor(
                workers, get_context("spawn"), initializer=_settle, initargs=(os.getpid(),)
            )

    def keep(self, place: Place, answer: Answer) -> None:
        """Encode an image: elsewhere, or in this process if enough are under way.

        So this process need not wait where the others are still starting, or too slow.

        Raises:
            InputError: this image, or one before it, cannot be written, or a process was killed.
        """
        while self._under_way and self._under_way[0][1].done():
            self._wait_for_first()
        if self._pool is None or len(self._under_way) >= self._most_under_way:
            self._note(place.shard, self._encoding.keep(place, answer))
            return
        with _explained():
            future = self._pool.submit(self._encoding.keep, place, answer)
        self._under_way.append((place.shard, future))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is under way, unless an error came."""
        try:
            while kind is None and self._under_way:
                self._wait_for_first()
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def _wait_for_first(self) -> None:
        shard, future = self._under_way.popleft()
        with _explained():
            size = future.result()
        if shard is not None:
            self._note(shard, size)

    def _note(self, shard: int, size: int) -> None:
        self.images += 1
        self.bytes += size
        self._advance()
        self._missing[shard] -= 1
        if self._missing[shard] == 0:
            self._write(shard)

    def _write(self, shard: int) -> None:
        if self._pool is None:
            self._encoding.write(shard, self._counts[shard])
            return
        with _explained():
            future = self._pool.submit(self._encoding.write, shard, self._counts[shard])
        self._under_way.append((None, future))


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise InputError(
            "A process that encodes pseudo labels was killed, perhaps for want of memory: lower "
            "machine.workers and run the stage again; images that are labelled stay so."
        ) from error


def _settle(parent: int) -> None:
    """Prepare a process that encodes."""
    cv2.setNumThreads(1)  # the processes are the parallelism
    signals.leave_to_parent()  # Ctrl-C is the parent's, which ends the others
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    # A parent that is killed cannot end its children, and they would wait for work for ever.
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)
