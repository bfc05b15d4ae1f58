"""CamVid in SegNet's 480x360 layout: 367 train, 101 val and 233 test frames, 11 classes.

    train/  trainannot/  val/  valannot/  test/  testannot/

An image and its label share a stem. What may be used for what stands in `splits/camvid/`, drawn
by `splits/make_camvid.py`. Of the two evaluation splits `val` is one clip of seven seconds out of
the midst of a train drive, and 62 frames of `test` continue another: only Seq05VD is unseen.
"""

from collections.abc import Mapping
from pathlib import Path

from selftrain.data.pairs import Pairs
from selftrain.data.sample import ClassTable, Splits
from selftrain.data.splits.make_camvid import DEV, FOLDER, LABELLED
from selftrain.errors import InputError
from selftrain.labels import IGNORE_INDEX

CLASSES = ClassTable(
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign_symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    colors=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    train_ids={**{i: i for i in range(11)}, 11: IGNORE_INDEX},
)
UNSEEN_DRIVE = "Seq05VD"
"""The only drive of which no frame is in train."""

_FRACTIONS = {1.0: "1", **{fraction: f"1/{round(1 / fraction)}" for fraction in LABELLED}}
_SUFFIXES = (".png", ".webp", ".jpg")  # the first that is there: lossless before lossy
_SETS = ("train", "val", "test")


def splits(root: Path, *, labelled_fraction: float) -> Splits:
    """List CamVid's frames by what they may be used for; no file is opened.

    The pool is train without dev and without the labelled frames. Its labels may be missing from
    `trainannot`; those that are there are named in `pool_with_labels` alone.

    Args:
        root: The folder that holds train/, trainannot/ and so on.
        labelled_fraction: Share of the train frames outside dev whose labels may be used:
            1/16, 1/8, 1/4, 1/2, or 1, which leaves the pool empty.

    Returns:
        With `evaluation` of "test" (233 frames), "test_Seq05VD" (the 171 of the unseen drive) and
        "val" (101).

    Raises:
        InputError: another fraction, no such layout at `root`, or a frame or label missing.
    """
    sets = {
        name: Pairs(
            images=_stems(root, name),
            labels=_stems(root, f"{name}annot"),
            expected_label=str(root / f"{name}annot" / "{}.png"),
        )
        for name in _SETS
    }
    return divide(sets, root / "train", CLASSES, labelled_fraction=labelled_fraction)


def divide(
    sets: Mapping[str, Pairs], folder: Path, classes: ClassTable, *, labelled_fraction: float
) -> Splits:
    """Say of the frames of train, val and test what they may be used for; see `splits`.

    Args:
        sets: The frames of "train", "val" and "test".
        folder: Where the train frames lie, for an error to name.
        classes: How the labels are read.
        labelled_fraction: See `splits`.
    """
    if labelled_fraction not in _FRACTIONS:
        raise InputError(
            f"CamVid has no split for labelled_fraction {labelled_fraction:g}: "
            f"give one of {', '.join(_FRACTIONS.values())}."
        )
    train, test = sets["train"], sets["test"].with_labels(sets["test"].images)
    dev = read_list(DEV, train.images, folder)
    outside_dev = sorted(set(train.images) - set(dev))
    file = LABELLED.get(labelled_fraction)
    labelled = outside_dev if file is None else read_list(file, train.images, folder)
    pool = sorted(set(outside_dev) - set(labelled))
    return Splits(
        classes=classes,
        labelled=train.with_labels(labelled),
        unlabelled=train.without_labels(pool),
        dev=train.with_labels(dev),
        evaluation={
            "test": test,
            f"test_{UNSEEN_DRIVE}": [s for s in test if s.name.startswith(UNSEEN_DRIVE)],
            "val": sets["val"].with_labels(sets["val"].images),
        },
        pool_with_labels=train.with_known_labels(pool),
    )


def read_list(file: str, frames: Mapping[str, Path], folder: Path) -> list[str]:
    """Return the names in a list of `splits/camvid/`.

    Raises:
        InputError: one of them is not among the frames, which lie in `folder`.
    """
    names = (FOLDER / file).read_text().split()
    if missing := [name for name in names if name not in frames]:
        raise InputError(
            f"{folder} lacks the frame {missing[0]} ({len(missing)} of the {len(names)} in "
            f"the list {file} are missing): copy CamVid again."
        )
    return names


def _stems(root: Path, folder: str) -> dict[str, Path]:
    """Return the pictures of a folder by stem, sorted."""
    if not (root / folder).is_dir():
        raise InputError(
            f"{root} has no folder {folder}: CamVid is expected there in SegNet's layout (train, "
            "trainannot, val, valannot, test, testannot); machine.data_root says where data lie."
        )
    files = [path for path in (root / folder).iterdir() if path.suffix.lower() in _SUFFIXES]
    files.sort(key=lambda path: (path.stem, -_SUFFIXES.index(path.suffix.lower())))
    return {path.stem: path for path in files}
