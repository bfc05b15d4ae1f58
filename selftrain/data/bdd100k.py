"""BDD100K's semantic segmentation: 7,000 train, 1,000 val and 2,000 test pictures of 1280x720.

The pictures of the 10K package and its masks, in the layout of today's zip files or of 2018's:

    images/10k/{train,val,test}/NAME.jpg  labels/sem_seg/masks/{train,val}/NAME.png
    seg/images/{train,val,test}/NAME.jpg  seg/labels/{train,val}/NAME_train_id.png

If both are there, the first is read. Masks hold Cityscapes' 19 train ids, and 255 for unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selftrain.data import cityscapes
from selftrain.data.pairs import Pairs, list_pairs, list_stems
from selftrain.data.sample import ClassTable, Sample, Splits
from selftrain.data.shares import cut_train, require_share

CLASSES = ClassTable(names=cityscapes.CLASSES.names, colors=cityscapes.CLASSES.colors)
"""Cityscapes' classes, but the files hold train ids."""
SHARES = (2, 4, 8, 16)
"""1/2 to 1/16 of the train pictures outside dev."""
DEV_FRACTION = 0.05
SEED = 0

_MISSING = (
    "BDD100K is expected with images/10k and labels/sem_seg/masks, or with seg/images and "
    "seg/labels; unpack it there, machine.data_root says where data lie"
)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where the pictures and masks of a split lie."""

    images: Path
    labels: Path
    label_suffix: str


def splits(root: Path, *, labelled_fraction: float) -> Splits:
    """List the pictures by what they may be used for; no file is opened.

    dev is a seeded twentieth of train; labelled is a seeded share of the rest and the pool what
    remains. The lists depend on the names alone, and smaller shares lie within larger ones.

    Args:
        root: The folder bdd100k, which holds images/ and labels/, or seg/.
        labelled_fraction: Share of the train pictures outside dev whose labels may be used: 1/16,
            1/8, 1/4, 1/2, or 1, which leaves the pool empty.

    Returns:
        With `evaluation` of "val", and the test pictures in `to_submit` if they are there.

    Raises:
        InputError: another fraction, no such layout at `root`, or a label missing.
    """
    require_share("BDD100K", labelled_fraction, SHARES)
    layout = _find_layout(root)
    train, val = _pairs(layout, "train"), _pairs(layout, "val")
    cut = cut_train(
        train.images, dev_fraction=DEV_FRACTION, labelled_fraction=labelled_fraction, seed=SEED
    )
    return Splits(
        classes=CLASSES,
        labelled=train.with_labels(cut.labelled),
        unlabelled=train.without_labels(cut.pool),
        dev=train.with_labels(cut.dev),
        evaluation={"val": val.with_labels(val.images)},
        pool_with_labels=train.with_known_labels(cut.pool),
        to_submit=_images(layout, "test") if (layout.images / "test").is_dir() else [],
    )


def pool(root: Path) -> Sequence[Sample]:
    """List all train pictures as an unlabelled pool for another data set's teacher.

    Neither labels nor their folders are looked at; they may be absent.

    Raises:
        InputError: there are no train pictures in either layout.
    """
    return _images(_find_layout(root), "train")


def _find_layout(root: Path) -> _Layout:
    today = _Layout(
        images=root / "images" / "10k",
        labels=root / "labels" / "sem_seg" / "masks",
        label_suffix=".png",
    )
    of_2018 = _Layout(
        images=root / "seg" / "images",
        labels=root / "seg" / "labels",
        label_suffix="_train_id.png",
    )
    # Without either, the sentence about the first one names both.
    return of_2018 if of_2018.images.is_dir() and not today.images.is_dir() else today


def _pairs(layout: _Layout, split: str) -> Pairs:
    return list_pairs(
        layout.images / split,
        layout.labels / split,
        image_suffix=".jpg",
        label_suffix=layout.label_suffix,
        layout=_MISSING,
    )


def _images(layout: _Layout, split: str) -> list[Sample]:
    images = list_stems(layout.images / split, ".jpg", layout=_MISSING)
    return Pairs(images=images).without_labels(images)
