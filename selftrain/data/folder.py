"""Anybody's own pictures: folders of images and masks, or a table that names them.

    images/**/NAME.jpg  labels/**/NAME.png  classes.json         the same path below both folders
    data.csv  classes.json                                       columns image, label, split

`class_file` says what stands in classes.json. Names may hold spaces and any letters; pictures are
PNG, JPEG, WebP, TIFF or BMP, gray or coloured, of any sizes. A mask must be lossless: a JPEG is
refused.

What an image is for:

* If the folders below images/ are called train, dev, val, test and unlabelled (not all need be
  there), they say it; in a table the column `split` does. Otherwise, or where it is empty, an image
  with a mask is train and one without is the pool.
* Where nothing is dev, the last tenth of train, sorted by name, is. Where nothing is val or test,
  the tenth before it is test. They are cut in one piece because neighbours may be near copies,
  frames of a film for example. `Pictures.rule` says for a data set what was done.
* Of a share of train, the labelled images are blocks from the middle of every stretch of 60
  neighbours, so that a smaller share lies within a larger one.
* Masks of unlabelled/ are never looked for. A test folder without any mask is one to submit.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from selftrain.data.class_file import read_classes
from selftrain.data.listing import PICTURES, FileSamples, list_files, list_pictures, name_of, pack
from selftrain.data.sample import Splits
from selftrain.data.table import TABLE, Row, check_lossless, first_ten, read_table, use_named
from selftrain.errors import InputError

IMAGES, LABELS, CLASS_FILE = "images", "labels", "classes.json"
HELD_OUT = ("dev", "val", "test")
STRETCH = 60
"""Neighbours that give one block of labelled images: a minute of a film at one frame a second."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pictures:
    """All pictures of a data set and what they are for."""

    samples: FileSamples
    """Sorted by name, with the labels that are known."""
    uses: Mapping[str, Sequence[int]]
    """train, dev, val, test, unlabelled or to_submit -> positions in `samples`; none is empty."""
    rule: str
    """How the uses came about, for a person to read."""

    def used_for(self, use: str) -> FileSamples:
        """Return the samples of one use; none where there is no such."""
        return self.samples.take(self.uses.get(use, ()))


def splits(root: Path, *, labelled_fraction: float, table: Path | None = None) -> Splits:
    """List a data set by what its images may be used for; no picture is opened.

    Args:
        root: The folder with images/, or with data.csv.
        labelled_fraction: In (0, 1], the share of train whose labels are used; the rest of train
            joins the unlabelled images in the pool.
        table: A table anywhere instead of root/data.csv; its paths start at its own folder, where
            classes.json is too.

    Returns:
        With `evaluation` of "test" and "val", whichever there is.

    Raises:
        InputError: there is no such layout, or it contradicts itself; the sentence names the files.
    """
    if not 0 < labelled_fraction <= 1:
        raise InputError(
            f"labelled_fraction {labelled_fraction:g} is no share of the labelled images: "
            "give a number above 0, and 1 at most."
        )
    pictures = list_uses(root, table=table)
    classes = read_classes((table.parent if table else root) / CLASS_FILE)
    train = pictures.uses["train"]
    size = max(1, round(labelled_fraction * len(train)))
    chosen = order_in_blocks(len(train))
    labelled = sorted(train[i] for i in chosen[:size])
    hidden = [train[i] for i in chosen[size:]]
    pool = pictures.samples.take(sorted([*hidden, *pictures.uses.get("unlabelled", ())]))
    known = pool.has_label().nonzero()[0].tolist()
    return Splits(
        classes=classes,
        labelled=pictures.samples.take(labelled),
        unlabelled=pool.without_labels(),
        dev=pictures.used_for("dev"),
        evaluation={use: pictures.used_for(use) for use in ("test", "val") if use in pictures.uses},
        pool_with_labels=pool.take(known),
        to_submit=pictures.used_for("to_submit").without_labels(),
        rule=pictures.rule,
    )


def pool(root: Path, *, table: Path | None = None) -> FileSamples:
    """List pictures as a pool; no folder of labels is looked into, nor need there be any.

    Args:
        root: A folder as for `splits`, of which dev, val and test are left out; or any folder of
            pictures, which needs neither labels nor classes.
        table: As for `splits`.

    Raises:
        InputError: there is no picture, or no telling which of them are meant.
    """
    if table := _find_table(root, table):
        rows = read_table(table, with_labels=False)
        images = [row.image for row in rows if row.use not in HELD_OUT]
        found, place = FileSamples(str(table.parent), pack(images)), table
    elif (root / IMAGES).is_dir():
        place = root / IMAGES
        paths = list_files(place)
        uses = _uses_of_folders(place, paths)
        kept = [path for path in paths if uses.get(_top(path)) not in HELD_OUT]
        found = FileSamples(str(place), pack(kept))
    elif (root / LABELS).is_dir():
        raise InputError(
            f"{root} has a folder {LABELS}/ but none called {IMAGES}/, so that pictures and masks "
            f"cannot be told apart: move the pictures to {IMAGES}/."
        )
    else:
        found, place = list_pictures(root), root
    if not found:
        raise InputError(
            f"{place} has no picture ({', '.join(PICTURES)}) for a pool: name another folder."
        )
    return found


def list_uses(root: Path, *, table: Path | None = None) -> Pictures:
    """Find out what each picture is for, as the module's docstring says.

    Raises:
        InputError: as `splits`, except for what classes.json holds.
    """
    if table := _find_table(root, table):
        rows, folders = read_table(table, with_labels=True), (table.parent, table.parent)
        said = f"The column split of {table.name} says what an image is for"
    else:
        rows, named = _read_folders(root)
        folders = (root / IMAGES, root / LABELS)
        said = f"The folders in {IMAGES}/ say what an image is for" if named else ""
    place = table or root
    uses: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        uses.setdefault(row.use or ("train" if row.label else "unlabelled"), []).append(i)
    _require_labels(rows, uses, place)
    rule = said or "Images with a mask are train, those without are the pool"
    if not all(row.use for row in rows) and said:
        rule += "; where it is empty, those with a mask are train, the others the pool"
    rule += _cut_held_out(uses, place) + "."
    samples = FileSamples(
        str(folders[0]),
        pack(row.image for row in rows),
        str(folders[1]),
        pack(row.label for row in rows),
    )
    return Pictures(samples=samples, uses=uses, rule=rule)


def order_in_blocks(count: int) -> list[int]:
    """Return the positions 0..count-1 in the order in which a growing share takes them.

    They are cut into equal stretches of about `STRETCH`. Every stretch gives a block around its
    middle, and all blocks grow alike.
    """
    stretches = max(1, round(count / STRETCH))
    edges = [count * i // stretches for i in range(stretches + 1)]
    places: list[tuple[float, int]] = []
    for start, stop in pairwise(edges):
        middle = (start + stop - 1) / 2
        outwards = sorted(range(start, stop), key=lambda i: (abs(i - middle), i))
        places += [((rank + 0.5) / (stop - start), i) for rank, i in enumerate(outwards)]
    return [position for _, position in sorted(places)]


def _find_table(root: Path, table: Path | None) -> Path | None:
    if table is None and (root / TABLE).is_file():
        return root / TABLE
    return table


def _read_folders(root: Path) -> tuple[list[Row], bool]:
    """Return the images with their labels, sorted by name, and whether folders name the splits."""
    if not (root / IMAGES).is_dir():
        raise InputError(
            f"{root} has neither {TABLE} nor a folder {IMAGES}/: put the pictures into {IMAGES}/, "
            f"the masks under the same names into {LABELS}/, and the classes into {CLASS_FILE}; "
            "machine.data_root says where they are."
        )
    images = list_files(root / IMAGES)
    uses = _uses_of_folders(root / IMAGES, images)
    labels = _list_labels(root / LABELS, uses)
    rows = [
        Row(image, labels.pop(_key(image), ""), uses[_top(image)] if uses else "")
        for image in images
    ]
    if labels:
        raise InputError(
            f"{root / LABELS} holds masks without a picture of the same name in {IMAGES}/: "
            f"{first_ten(list(labels.values()))}: name each mask as its picture, or remove it."
        )
    return rows, bool(uses)


def _uses_of_folders(folder: Path, paths: Sequence[str]) -> dict[str, str]:
    """Return what each folder in `folder` is for, or nothing if their names do not say.

    Raises:
        InputError: some of the names do and others do not.
    """
    uses = {top: use_named(top) for top in sorted({_top(path) for path in paths})}
    named = {top: use for top, use in uses.items() if use}
    others = [top or "pictures outside any folder" for top, use in uses.items() if not use]
    if named and others:
        raise InputError(
            f"{folder} holds {', '.join(named)}, which are names of splits, but also "
            f"{first_ten(others)}: put all pictures into folders called train, dev, val, test and "
            "unlabelled, or give the folders other names."
        )
    return named


def _list_labels(folder: Path, uses: Mapping[str, str]) -> dict[str, str]:
    """Return the labels' paths from `folder` by the name they share with their image."""
    # Folder by folder, because the labels of unlabelled images must not be needed, nor readable.
    below = [f"{top}/" for top, use in uses.items() if use != "unlabelled"] if uses else [""]
    found = [
        part + path
        for part in below
        if (folder / part).is_dir()
        for path in list_files(folder / part)
    ]
    check_lossless(found, folder)
    return {_key(path): path for path in found}


def _key(path: str) -> str:
    """Return a path's name in one spelling: some systems write an accent as a letter of its own."""
    return unicodedata.normalize("NFC", name_of(path))


def _top(path: str) -> str:
    top, slash, _ = path.partition("/")
    return top if slash else ""


def _require_labels(rows: Sequence[Row], uses: dict[str, list[int]], place: Path) -> None:
    """Raise InputError where a label is missing; a test set without any is there to submit."""
    without = {
        use: [rows[i].image for i in uses.get(use, ()) if not rows[i].label]
        for use in ("train", *HELD_OUT)
    }
    if without["test"] and len(without["test"]) == len(uses["test"]):
        uses["to_submit"] = uses.pop("test")
        without["test"] = []
    for use, missing in without.items():
        if missing:
            raise InputError(
                f"{place}: {len(missing)} of the {len(uses[use])} images of {use} have no mask: "
                f"{first_ten(missing)}: add the masks, or make these images unlabelled."
            )
    if not uses:
        raise InputError(
            f"{place} has no picture ({', '.join(PICTURES)}): put the pictures there, or name "
            "another folder by machine.data_root."
        )
    if "train" not in uses:
        raise InputError(
            f"{place} has no labelled image to train on: add masks under {LABELS}/ (or in the "
            "column label), or use the pictures as a pool."
        )


def _cut_held_out(uses: dict[str, list[int]], place: Path) -> str:
    """Cut from train what is missing, and say so."""
    missing = ["dev"] if "dev" not in uses else []
    missing += ["test"] if not {"val", "test"} & set(uses) else []
    train = uses["train"]
    count, tenth = len(train), max(1, round(len(train) / 10))
    if count <= tenth * len(missing):
        raise InputError(
            f"{place} has {count} labelled images for train, too few to cut "
            f"{' and '.join(missing)} from them: label more, or say which images these are."
        )
    told: list[str] = []
    for use in missing:
        uses[use] = train[-tenth:]
        del train[-tenth:]
        told.append(f"the {tenth} before them {use}" if told else f"the last {tenth} are {use}")
    if not told:
        return ""
    return f"; of the {count} images of train, sorted by name, {', '.join(told)}"
