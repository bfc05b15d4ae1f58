"""Mapillary Vistas: 18,000 training, 2,000 validation and 5,000 test pictures from everywhere.

Both releases are read as they are unpacked, {split} being training or validation:

    v1.2   {split}/images/NAME.jpg  {split}/labels/NAME.png  testing/images  config.json
    v2.0   {split}/images/NAME.jpg  {split}/v1.2/labels/NAME.png  {split}/v2.0/labels/NAME.png
           testing/images  config_v1.2.json  config_v2.0.json

A label file is a palette PNG: its 8-bit indices are the ids, which are positions in the config's
list of labels; the palette only colours them. v1.2 lists 66 labels, of which the
last, Unlabeled, is void: 65 classes are trained and measured. Pictures have 2 to 20 megapixels.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from selftrain.data.pairs import Pairs, list_pairs, list_stems
from selftrain.data.sample import ClassTable, Sample, Splits
from selftrain.data.shares import cut_train, require_share
from selftrain.errors import InputError
from selftrain.labels import IGNORE_INDEX

Version = Literal["1.2", "2.0"]
"""Which of the two sets of classes; the pictures are the same."""

SHARES = (2, 5, 10)
"""1/2, 1/5 and 1/10 of the training pictures outside dev (Figure 3)."""
DEV_FRACTION = 0.05
SEED = 0

_ENTRIES = {"1.2": 66, "2.0": 124}
_LAYOUT = (
    "Mapillary Vistas is expected in the layout of its zip file (training/images and so on); "
    "unpack it there, machine.data_root says where data lie"
)


def splits(root: Path, *, labelled_fraction: float, version: Version = "1.2") -> Splits:
    """List the pictures by what they may be used for; of the files only the config is opened.

    dev is a seeded twentieth of training; labelled is a seeded share of the rest and the pool
    what remains. The lists depend on the names alone, and smaller shares lie within larger ones.

    Args:
        root: The folder that holds training/, validation/ and the config.
        labelled_fraction: Share of the training pictures outside dev whose labels may be used:
            1/10, 1/5, 1/2, or 1, which leaves the pool empty.
        version: The classes: 1.2 (65, of either release) or 2.0 (of release v2.0 only).

    Returns:
        With `evaluation` of "val", and the test pictures in `to_submit` if they are there.

    Raises:
        InputError: another fraction, no such layout at `root`, a damaged config, or a label
            missing.
    """
    require_share("Mapillary Vistas", labelled_fraction, SHARES)
    training = _pairs(root, "training", version)
    validation = _pairs(root, "validation", version)
    cut = cut_train(
        training.images,
        dev_fraction=DEV_FRACTION,
        labelled_fraction=labelled_fraction,
        seed=SEED,
    )
    return Splits(
        classes=_read_classes(root, version),
        labelled=training.with_labels(cut.labelled),
        unlabelled=training.without_labels(cut.pool),
        dev=training.with_labels(cut.dev),
        evaluation={"val": validation.with_labels(validation.images)},
        pool_with_labels=training.with_known_labels(cut.pool),
        to_submit=_test_images(root),
    )


def pool(root: Path) -> Sequence[Sample]:
    """List all training pictures as an unlabelled pool for another data set's teacher.

    Neither labels nor their folders nor the config are looked at; they may be absent.

    Raises:
        InputError: there are no pictures in training/images.
    """
    return _images(root, "training")


def _pairs(root: Path, split: str, version: Version) -> Pairs:
    labels = root / split / "labels"
    if _is_release_2(root):
        labels = root / split / f"v{version}" / "labels"
    elif version != "1.2" and labels.is_dir():
        raise InputError(
            f"{root} holds release v1.2 of Mapillary Vistas, which has no classes of version "
            f"{version}: choose version 1.2, or unpack release v2.0 there."
        )
    return list_pairs(
        root / split / "images", labels, image_suffix=".jpg", label_suffix=".png", layout=_LAYOUT
    )


def _images(root: Path, split: str) -> list[Sample]:
    images = list_stems(root / split / "images", ".jpg", layout=_LAYOUT)
    return Pairs(images=images).without_labels(images)


def _test_images(root: Path) -> list[Sample]:
    return _images(root, "testing") if (root / "testing" / "images").is_dir() else []


def _is_release_2(root: Path) -> bool:
    return (root / "training" / "v1.2").is_dir() or (root / "training" / "v2.0").is_dir()


def _read_classes(root: Path, version: Version) -> ClassTable:
    """Return the config's classes, in its order; labels that are not evaluated are void.

    Names are lower case and without signs, as Cityscapes' are and as metric keys allow: "Traffic
    Sign (Back)" is "traffic sign back".
    """
    file = root / (f"config_v{version}.json" if _is_release_2(root) else "config.json")
    labels = _read_labels(file)
    if len(labels) != _ENTRIES[version]:
        raise InputError(
            f"{file} lists {len(labels)} labels, but version {version} has {_ENTRIES[version]}: "
            "copy the config of that version again."
        )
    trained = [label for label in labels if label["evaluate"]]
    train_ids = iter(range(len(trained)))
    return ClassTable(
        names=tuple(_name(label["readable"]) for label in trained),
        colors=tuple(_color(label["color"]) for label in trained),
        train_ids={
            file_id: next(train_ids) if label["evaluate"] else IGNORE_INDEX
            for file_id, label in enumerate(labels)
        },
    )


def _read_labels(file: Path) -> list[dict[str, Any]]:
    try:
        labels: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["labels"]
        for label in labels:
            if not isinstance(label["evaluate"], bool) or not isinstance(label["readable"], str):
                raise TypeError
            _color(label["color"])
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}), but it names the classes: {_LAYOUT}."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is not Mapillary's list of labels (each with readable, color and evaluate): "
            "copy it again."
        ) from error
    return labels


def _name(readable: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", readable.lower()).strip()


def _color(value: Any) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in value)
    return red, green, blue
