"""`data.csv`: a table of somebody's own pictures with the columns image, label and split.

    image,label,split
    photos/a b.jpg,masks/a b.png,train
    photos/c.jpg,,unlabelled

Paths start at the table's folder and stay in it. A label may be left empty, and so may a split,
which is otherwise train, dev, val, test or unlabelled. Further columns are passed over.
"""

import csv
import io
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PureWindowsPath

from selftrain.data.listing import PICTURES, check_names, name_of
from selftrain.errors import InputError

TABLE = "data.csv"
COLUMNS = ("image", "label", "split")

_USES = {
    **{use: use for use in ("train", "dev", "val", "test", "unlabelled")},
    # As others spell them: an unknown name would quietly make an image one to train on.
    "training": "train",
    "valid": "val",
    "validation": "val",
    "testing": "test",
    "unlabeled": "unlabelled",
}
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Row:
    """One image as a table or a folder has it."""

    image: str
    label: str
    """Empty: unlabelled."""
    use: str
    """train, dev, val, test or unlabelled; empty: not said."""


def use_named(name: str) -> str:
    """Return what a split of this name is for, or an empty string if it is no split's name."""
    return _USES.get(name.lower(), "")


def read_table(path: Path, *, with_labels: bool) -> list[Row]:
    """Read a table, sorted by the images' names.

    Args:
        path: The table, in UTF-8.
        with_labels: False passes the labels over, and looks into none of their folders.

    Raises:
        InputError: the table cannot be read, a row is not as it should be (its line is named), or
            a file in it is missing (all of the table is checked; no file is opened).
    """
    rows = [_checked(row, place, with_labels) for row, place in _rows(path)]
    if not rows:
        raise InputError(f"{path} lists no image: add a row for each.")
    images = _on_disk(path, [row.image for row in rows])
    shown = [row.label for row in rows if row.label and row.use != "unlabelled"]
    check_lossless(shown, path)
    labels = _on_disk(path, shown)
    found = [Row(images[row.image], labels.get(row.label, row.label), row.use) for row in rows]
    found.sort(key=lambda row: name_of(row.image))
    check_names(paths=[row.image for row in found], place=path)
    return found


def check_lossless(labels: Sequence[str], place: Path) -> None:
    """Raise InputError if a label is a JPEG."""
    if lossy := [label for label in labels if label.lower().endswith(_LOSSY)]:
        raise InputError(
            f"{place} has masks that are JPEGs, which blurs ids and colours: {first_ten(lossy)}: "
            "export them anew as PNG (to convert the JPEGs would keep the damage)."
        )


def first_ten(items: Sequence[str]) -> str:
    """Return the first ten with commas between, and how many there are if that is not all."""
    shown = ", ".join(items[:10])
    return shown if len(items) <= 10 else f"{shown}, ... ({len(items)} in all)"


def _rows(path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the cells of each row by column, and its place for an error to name."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(cells, reader.line_num) for cells in reader if any(map(str.strip, cells))]
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give a table with the columns "
            f"{','.join(COLUMNS)}."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save the table in that encoding.") from error
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}: correct the row.") from error
    header = [cell.strip().lower() for cell in lines[0][0]] if lines else []
    if missing := [column for column in COLUMNS if column not in header]:
        raise InputError(
            f"{path} has no column {missing[0]}: its first line must be {','.join(COLUMNS)}, with "
            f"commas, and is {','.join(header)!r}."
        )
    for cells, number in lines[1:]:
        if len(cells) != len(header):
            raise InputError(
                f"{path}, line {number} has {len(cells)} values for {len(header)} columns: put a "
                "value that holds a comma in quotation marks."
            )
        yield dict(zip(header, map(str.strip, cells), strict=True)), f"{path}, line {number}"


def _checked(row: dict[str, str], place: str, with_labels: bool) -> Row:
    use = use_named(row["split"])
    if row["split"] and not use:
        raise InputError(
            f"{place} has the split {row['split']!r}: give train, dev, val, test or unlabelled, or "
            "leave it empty."
        )
    if not row["image"]:
        raise InputError(f"{place} names no image: fill the column, or remove the row.")
    label = _inside(row["label"], place) if with_labels and row["label"] else ""
    return Row(_inside(row["image"], place), label, use)


def _inside(path: str, place: str) -> str:
    """Return a path with / between its parts; raise InputError if it leaves the folder."""
    normal = posixpath.normpath(path.replace("\\", "/"))
    if normal.startswith(("/", "../")) or normal == ".." or PureWindowsPath(path).drive:
        raise InputError(
            f"{place} has the path {path!r}, which leaves the table's folder: give a path from "
            "there, and put (or link) the pictures below it."
        )
    if not normal.lower().endswith(PICTURES) or "\0" in normal:
        raise InputError(
            f"{place} has the path {path!r}, which is no picture ({', '.join(PICTURES)}): "
            "correct it."
        )
    return normal


def _on_disk(table: Path, paths: Iterable[str]) -> dict[str, str]:
    """Return for each path how the disk spells it; raise InputError if any is missing.

    Each folder is listed once: to ask for every file by itself is slow on a network disk.
    """
    spelled: dict[str, str] = {}
    missing: list[str] = []
    for folder, inside in groupby(sorted(set(paths), key=_split), key=lambda p: _split(p)[0]):
        try:
            with os.scandir(table.parent / folder) as entries:
                there = [entry.name for entry in entries]
        except OSError:
            there = []
        by_name = {unicodedata.normalize("NFC", name): name for name in there}
        exact = set(there)
        for path in inside:
            name = _split(path)[1]
            real = name if name in exact else by_name.get(unicodedata.normalize("NFC", name))
            if real is None:
                missing.append(path)
            else:
                spelled[path] = posixpath.join(folder, real)
    if missing:
        total = len(missing) + len(spelled)
        raise InputError(
            f"{table} lists files that are not there ({len(missing)} of {total}): "
            f"{first_ten(sorted(missing))}: copy them, or correct the table."
        )
    return spelled


def _split(path: str) -> tuple[str, str]:
    return posixpath.split(path)
