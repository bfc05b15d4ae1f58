"""Pictures in folders, listed by the hundred thousand without an object for each.

A `Sample` with its paths takes about half a kilobyte. A pool of 300,000 pictures is therefore kept
as one buffer of names, and a `Sample` is made when it is asked for.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from selftrain.data.sample import Blob, Sample
from selftrain.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Suffixes of the files that count as pictures, in lower case."""


@dataclass(frozen=True, eq=False, slots=True)
class PackedNames(Sequence[str]):
    """Strings in one buffer, in the order they were given."""

    data: bytes
    """All of them in UTF-8, with nothing in between."""
    ends: NDArray[np.int64]
    """(n + 1): where each starts, and where the last ends."""

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "PackedNames": ...
    def __getitem__(self, index: int | slice) -> "str | PackedNames":
        if isinstance(index, slice):
            chosen = range(*index.indices(len(self)))
            return self._cut(chosen) if chosen.step == 1 else self.take(chosen)
        position = range(len(self))[index]
        return self.data[self.ends[position] : self.ends[position + 1]].decode()

    def take(self, positions: Iterable[int]) -> "PackedNames":
        """Return the strings at these positions, in this order."""
        ends = self.ends.tolist()  # numbers of Python's own are quicker to look up one by one
        valid = map(range(len(self)).__getitem__, positions)
        return _join([self.data[ends[i] : ends[i + 1]] for i in valid])

    def _cut(self, chosen: range) -> "PackedNames":
        first, stop = chosen.start, max(chosen.start, chosen.stop)
        ends = self.ends[first : stop + 1]
        return PackedNames(self.data[ends[0] : ends[-1]], ends - ends[0])


def pack(names: Iterable[str]) -> PackedNames:
    """Pack strings into one buffer."""
    return _join([name.encode() for name in names])


def _join(parts: Sequence[bytes]) -> PackedNames:
    ends = np.fromiter(accumulate(map(len, parts), initial=0), np.int64, len(parts) + 1)
    return PackedNames(b"".join(parts), ends)


@dataclass(frozen=True, eq=False, slots=True)
class FileSamples(Sequence[Sample]):
    """Samples whose files lie below one folder, each made when it is asked for.

    A slice is another `FileSamples`. Pickling one, for a loader's worker, copies two buffers.
    A sample's name is its image's path from `folder`, without the suffix.
    """

    folder: str
    """Where the paths of the images start."""
    images: PackedNames
    """Path of each image from `folder`, with / between its parts."""
    label_folder: str = ""
    """Where the paths of the labels start."""
    labels: PackedNames | None = None
    """Path of each image's label from `label_folder`, empty where it has none; None: no image has
    one."""

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "FileSamples": ...
    def __getitem__(self, index: int | slice) -> "Sample | FileSamples":
        if isinstance(index, slice):
            labels = None if self.labels is None else self.labels[index]
            return FileSamples(self.folder, self.images[index], self.label_folder, labels)
        image = self.images[index]
        label = self.labels[index] if self.labels is not None else ""
        return Sample(
            name_of(image),
            Path(self.folder, image),
            Blob(Path(self.label_folder, label)) if label else None,
        )

    def take(self, positions: Sequence[int]) -> "FileSamples":
        """Return the samples at these positions, in this order."""
        labels = None if self.labels is None else self.labels.take(positions)
        return FileSamples(self.folder, self.images.take(positions), self.label_folder, labels)

    def without_labels(self) -> "FileSamples":
        """Return the same images as a pool has them."""
        return FileSamples(self.folder, self.images)

    def has_label(self) -> NDArray[np.bool_]:
        """Return for each image whether it has a label, without making the samples."""
        if self.labels is None:
            return np.zeros(len(self), dtype=np.bool_)
        return np.diff(self.labels.ends) > 0


def list_pictures(folder: Path, suffixes: Sequence[str] = PICTURES) -> FileSamples:
    """List the pictures in a folder and its subfolders as unlabelled samples, sorted by name.

    Args:
        folder: Searched with the folders that links in it lead to. Whatever has a name that
            starts with a dot is left out.
        suffixes: In lower case; the files' own may be in any case.

    Raises:
        InputError: the folder cannot be read, two pictures differ in their suffix only, or a file
            name is no Unicode.
    """
    return FileSamples(str(folder), pack(list_files(folder, suffixes)))


def list_files(folder: Path, suffixes: Sequence[str] = PICTURES) -> list[str]:
    """Return what `list_pictures` lists as paths from `folder`."""
    found = sorted(_walk(str(folder), "", tuple(suffixes)), key=name_of)
    check_names(paths=found, place=folder)
    return found


def check_names(*, paths: Sequence[str], place: Path) -> None:
    """Raise InputError if two of the paths, sorted by name, give their samples the same name."""
    twice = [pair for pair in pairwise(paths) if name_of(pair[0]) == name_of(pair[1])]
    if twice:
        first, second = twice[0]
        raise InputError(
            f"{place} holds both {first} and {second}, which would have the same name "
            f"({len(twice)} such pairs): rename or remove one of them."
        )


def name_of(path: str) -> str:
    """Return the name of the sample whose image has this path: the path without the suffix."""
    return path.rpartition(".")[0]


def _walk(root: str, below: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths of the pictures in root/below from `root`, in the order of the disk."""
    folder = os.path.join(root, below)  # noqa: PTH118  (a Path for each of many folders is slow)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    _refuse_loop(entry)
                    yield from _walk(root, f"{below}{_checked(entry)}/", suffixes)
                elif entry.name.lower().endswith(suffixes):
                    yield below + _checked(entry)
    except OSError as error:
        raise InputError(
            f"{folder.rstrip('/')} cannot be listed ({error.strerror}): "
            "give a folder that is there and that you may read."
        ) from error


def _checked(entry: os.DirEntry[str]) -> str:
    """Return the name of an entry; raise InputError if it cannot be written in Unicode."""
    try:
        entry.name.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The file name {os.fsencode(entry.path)!r} is not valid UTF-8: rename the file."
        ) from error
    return entry.name


def _refuse_loop(entry: os.DirEntry[str]) -> None:
    """Raise InputError if the entry is a link to a folder that holds it: a walk has no end."""
    if entry.is_symlink():
        target, place = Path(entry.path).resolve(), Path(entry.path).parent.resolve()
        if place.is_relative_to(target):
            raise InputError(
                f"{entry.path} is a link to {target}, in which it lies itself: remove the link."
            )
