"""What there is: images, where their labels lie, and what they may be used for.

A `Sample` names files and opens none, so an unlabelled pool is listed without touching a
label.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftrain.errors import InputError
from selftrain.labels import IGNORE_INDEX

MOST_BYTES = 2**30
"""Of a file that is read whole."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes in a file: all of it, or a range (a picture inside a shard)."""

    path: Path
    offset: int = 0
    length: int = -1
    """-1: to the end of the file."""

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            InputError: the file is missing, cannot be read, is none but a pipe or a device, is
                larger than any picture, or is shorter than the range.
        """
        try:
            with open(self.path, "rb", opener=_open_at_once) as file:
                self._require_file(os.fstat(file.fileno()))
                file.seek(self.offset)
                data = file.read(self.length)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror}): "
                "copy it there, and see that you may read it."
            ) from error
        if self.length >= 0 and len(data) != self.length:
            raise InputError(
                f"{self.path} ends before byte {self.offset + self.length}: "
                "it is truncated; make or copy it again."
            )
        return data

    def _require_file(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{self.path} is no file but a pipe or a device: take it out.")
        if self.length < 0 and status.st_size > MOST_BYTES:
            raise InputError(
                f"{self.path} has {status.st_size:,} bytes, more than the {MOST_BYTES:,} of any "
                "picture that is read: cut it into pieces, or take it out."
            )


def _open_at_once(path: str, flags: int) -> int:
    # A pipe would otherwise let its reader wait for somebody who writes.
    return os.open(path, flags | os.O_NONBLOCK)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and, where there is one, its label map."""

    name: str
    """Unique in its data set; names the outputs made from the image."""
    image: Path
    label: Blob | None = None
    """None: unlabelled."""
    confidence: Blob | None = None
    """Confidence of a pseudo label, 0..255 for 0..1, of the label's size or of a quarter of it."""
    is_pseudo: bool = False
    """True: the label was predicted and holds train ids already."""
    soft: tuple[Blob, Blob] | None = None
    """The three likeliest classes of each cell of 4x4 pixels and their probabilities, 0..255 for
    0..1: two PNGs, whose red is the likeliest (OpenCV gives blue first)."""

    def without_label(self) -> "Sample":
        """Return the sample as a pool has it."""
        return Sample(self.name, self.image)


@dataclass(frozen=True, slots=True)
class ClassTable:
    """The classes of a data set, in the order of their train ids 0..K-1."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    """RGB, one for each class."""
    train_ids: Mapping[int, int] = field(default_factory=dict)
    """File id -> train id or IGNORE_INDEX; empty: files hold train ids and 255."""
    file_colors: Mapping[tuple[int, int, int], int] = field(default_factory=dict)
    """RGB in the label files -> train id or IGNORE_INDEX; empty: the files hold ids."""

    def __len__(self) -> int:
        return len(self.names)

    def lookup(self) -> NDArray[np.int16]:
        """Return, for each file id 0..255, its train id, IGNORE_INDEX, or -1 for an illegal id."""
        table = np.full(256, -1, dtype=np.int16)
        ids = self.train_ids or {**{i: i for i in range(len(self))}, IGNORE_INDEX: IGNORE_INDEX}
        for file_id, train_id in ids.items():
            table[file_id] = train_id
        return table


@dataclass(frozen=True)
class Splits:
    """A benchmark's samples by what they may be used for."""

    classes: ClassTable
    labelled: Sequence[Sample]
    """Trains teacher, control and student."""
    unlabelled: Sequence[Sample]
    """The pool for pseudo labels; its samples have no label."""
    dev: Sequence[Sample]
    """Held out from train; every choice is made on it."""
    evaluation: Mapping[str, Sequence[Sample]]
    """Split name -> samples, measured by `evaluate` alone; `prepare` only checks them. "test" is
    the first."""
    pool_with_labels: Sequence[Sample] = ()
    """The pool with its hidden labels, where there are any; opened only to measure pseudo labels
    against them."""
    to_submit: Sequence[Sample] = ()
    """Images whose labels only a test server has."""
    rule: str = ""
    """How the splits came about, where the data set itself does not say it; for a person."""
