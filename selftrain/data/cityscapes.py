"""Cityscapes as its zips unpack: 2975 train, 500 val and 1525 test frames of 2048x1024, 19 classes.

    leftImg8bit/{train,val,test,train_extra}/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    gtFine/{train,val}/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png

The label files hold ids 0..33; `CLASSES` says which of them are classes. What may be used for what
stands in `splits/cityscapes/`, drawn by `splits/make_cityscapes.py`: dev is Erfurt and Zurich, of
which nothing trains. A tree in this layout that has none of the official train frames (one's own
drives, an export) is drawn by the same rule when it is read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftrain.data.pairs import Pairs
from selftrain.data.sample import ClassTable, Sample, Splits
from selftrain.data.shares import require_share
from selftrain.data.splits.make_cityscapes import DEV, FOLDER, TRAIN, draw
from selftrain.errors import InputError
from selftrain.labels import IGNORE_INDEX

_TABLE = (  # name, id in the label files, color
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
CLASSES = ClassTable(
    names=tuple(name for name, _, _ in _TABLE),
    colors=tuple(color for _, _, color in _TABLE),
    train_ids={
        **dict.fromkeys(range(34), IGNORE_INDEX),
        # License plates have the id -1. The official files leave them out; others write 255.
        255: IGNORE_INDEX,
        **{file_id: train_id for train_id, (_, file_id, _) in enumerate(_TABLE)},
    },
)
HEIGHT, WIDTH = 1024, 2048
"""Size of every frame."""
KEPT_ROWS, KEPT_COLUMNS = range(15, 840), range(14, 2030)
"""What remains of a frame without the ego vehicle's hood and the border of the rectification."""
BLACK = "troisdorf_000000_000073"
"""The frame of train_extra whose picture is black."""

SHARES = (2, 4, 8, 16)
"""1/2, 1/4, 1/8 and 1/16 of the train frames outside dev."""

_COUNTS = {"val": 500, "test": 1525}
_IMAGE, _LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"
_ZIP = "leftImg8bit_trainvaltest.zip"


def splits(root: Path, *, labelled_fraction: float) -> Splits:
    """List Cityscapes' frames by what they may be used for; no file is opened.

    The pool is train without dev and without the labelled frames. Its labels may be missing;
    those that are there are named in `pool_with_labels` alone. Files in train that are none of
    the 2975 official frames are not used. The test labels that come with the data are blank and
    are not looked for.

    Args:
        root: The folder that holds leftImg8bit/ and gtFine/.
        labelled_fraction: Share of the train frames outside dev whose labels may be used:
            1/16, 1/8, 1/4 or 1/2 (172, 343, 686 or 1372 frames), or 1, which leaves the pool
            empty.

    Returns:
        With `evaluation` of "val", and the test frames in `to_submit`: none where leftImg8bit/test
        is missing.

    Raises:
        InputError: another fraction, no such layout at `root`, or a frame or label missing.
    """
    require_share("Cityscapes", labelled_fraction, SHARES)
    frames, val = _pairs(root, "train"), _pairs(root, "val")
    test = _images(root, "test") if (root / "leftImg8bit" / "test").is_dir() else {}
    lists = _committed_lists(frames.images, root)
    if lists:
        _require_all(val.images, "val", root)
        _require_all(test, "test", root)
    else:
        lists = draw(list(frames.images))
    train = lists[TRAIN]
    count = max(1, round(len(train) * labelled_fraction))
    labelled, pool = sorted(train[:count]), sorted(train[count:])
    return Splits(
        classes=CLASSES,
        labelled=frames.with_labels(labelled),
        unlabelled=frames.without_labels(pool),
        dev=frames.with_labels(lists[DEV]),
        evaluation={"val": val.with_labels(val.images)},
        pool_with_labels=frames.with_known_labels(pool),
        to_submit=Pairs(images=test).without_labels(test),
    )


def train_extra(root: Path) -> Sequence[Sample]:
    """List the 20,000 coarsely labelled frames as unlabelled; no label folder is looked at.

    Of the official 19,998 this leaves out one, `BLACK`: its picture is black, and the
    download page warns of it.

    Raises:
        InputError: `root` has no leftImg8bit/train_extra, or one without frames.
    """
    images = _images(root, "train_extra")
    return Pairs(images=images).without_labels(name for name in images if name != BLACK)


def is_frame(image: Path) -> bool:
    """Return whether a picture is one of Cityscapes', by the ending that all of them have."""
    return image.name.endswith("_leftImg8bit.png")


def outside_hood(height: int, width: int) -> NDArray[np.bool_]:
    """Return which pixels of a frame show the street, and not the ego vehicle's hood or a border.

    Official labels void the hood; pseudo labels would have to learn it. A pixel of a frame that
    was scaled counts if its center lies in what is kept of the full frame.

    Args:
        height: Of the frame as it is read, in pixels.
        width: Likewise.

    Returns:
        (height, width), True where the pixel is kept.
    """
    rows = (np.arange(height) + 0.5) * HEIGHT / height
    columns = (np.arange(width) + 0.5) * WIDTH / width
    keep_row = (rows >= KEPT_ROWS.start) & (rows < KEPT_ROWS.stop)
    keep_column = (columns >= KEPT_COLUMNS.start) & (columns < KEPT_COLUMNS.stop)
    kept: NDArray[np.bool_] = keep_row[:, None] & keep_column[None, :]
    return kept


def _pairs(root: Path, split: str) -> Pairs:
    """List a split's images and those of its labels that are there."""
    labels = root / "gtFine" / split
    return Pairs(
        images=_images(root, split),
        labels=_by_name(labels, _LABEL),
        expected_label=f"{labels}/*/{{}}{_LABEL}",
    )


def _images(root: Path, split: str) -> dict[str, Path]:
    """Return the images of a split by name, sorted; raise InputError if there is none."""
    folder = root / "leftImg8bit" / split
    images = _by_name(folder, _IMAGE)
    if not images:
        source = "leftImg8bit_trainextra.zip" if split == "train_extra" else _ZIP
        raise InputError(
            f"{folder} has no frames <city>/<city>_<sequence>_<frame>{_IMAGE}: unpack {source} "
            f"so that {root} holds leftImg8bit and gtFine; machine.data_root says where data lie."
        )
    return images


def _by_name(folder: Path, ending: str) -> dict[str, Path]:
    # macOS leaves a hidden ._NAME beside every NAME on foreign disks.
    paths = sorted(p for p in folder.glob(f"*/*{ending}") if not p.name.startswith("."))
    return {path.name.removesuffix(ending): path for path in paths}


def _committed_lists(images: Mapping[str, Path], root: Path) -> dict[str, list[str]]:
    """Return the lists of the official train set; none if no frame here is of that set."""
    lists = {file: (FOLDER / file).read_text().split() for file in (DEV, TRAIN)}
    names = sorted(lists[DEV] + lists[TRAIN])
    missing = [name for name in names if name not in images]
    if len(missing) == len(names):
        return {}
    if missing:
        raise InputError(
            f"{root / 'leftImg8bit' / 'train'} lacks the frame {missing[0]} ({len(missing)} of "
            f"Cityscapes' {len(names)} are missing): unpack {_ZIP} again."
        )
    return lists


def _require_all(images: Mapping[str, Path], split: str, root: Path) -> None:
    if len(images) not in (0, _COUNTS[split]):
        raise InputError(
            f"{root / 'leftImg8bit' / split} holds {len(images)} frames instead of "
            f"Cityscapes' {_COUNTS[split]}: unpack {_ZIP} again."
        )
