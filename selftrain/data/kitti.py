"""KITTI's semantic benchmark: 200 annotated pictures of about 1242x375 with Cityscapes' label ids.

As data_semantics.zip is unpacked:

    training/image_2/NNNNNN_10.png  training/semantic/NNNNNN_10.png  testing/image_2/NNNNNN_10.png

There is no official validation split, so five folds take turns. The numbers follow the drives that
the pictures were taken on, and neighbours may show one street. Hence blocks of ten numbers stay
together: a fold is four of the twenty blocks. Which ones is decided by a seeded order of the
blocks, so the fold of a picture depends on its name alone.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from selftrain.data.cityscapes import CLASSES
from selftrain.data.pairs import Pairs, list_pairs, list_stems
from selftrain.data.sample import Sample, Splits
from selftrain.data.shares import order, require_share
from selftrain.errors import InputError

FOLDS = 5
BLOCK, BLOCKS = 10, 20
"""Pictures in a block, and blocks in the data set."""
DEV_BLOCKS = 2
SHARES = (2, 4, 8)
"""1/2, 1/4 and 1/8 of the pictures that are neither in the fold nor in dev."""
SEED = 0

_LAYOUT = (
    "KITTI is expected in the layout of data_semantics.zip (training/image_2, training/semantic, "
    "testing/image_2); unpack it there, machine.data_root says where data lie"
)


def splits(root: Path, *, labelled_fraction: float = 1.0, fold: int = 0) -> Splits:
    """List the pictures by what they may be used for; no file is opened.

    Fold k is measured. dev is the first half of the next fold, the other 140 pictures train: the
    labelled share is the first of them in the order of the blocks, the pool is the rest. Train
    and test pictures use the same numbers, so names begin with training/ or testing/.

    Args:
        root: The folder that holds training/ and testing/.
        labelled_fraction: Share of the 140 whose labels may be used: 1/8, 1/4, 1/2, or 1, which
            leaves the pool empty.
        fold: 0 to 4.

    Returns:
        With `evaluation` of "val" (40 pictures), and the test pictures in `to_submit` if they are
        there.

    Raises:
        InputError: another fraction or fold, no such layout at `root`, a name of another form, a
            label missing, or a use without any picture.
    """
    require_share("KITTI", labelled_fraction, SHARES)
    if fold not in range(FOLDS):
        raise InputError(f"KITTI has no fold {fold}: give one from 0 to {FOLDS - 1}.")
    training = list_pairs(
        root / "training" / "image_2",
        root / "training" / "semantic",
        image_suffix=".png",
        label_suffix=".png",
        layout=_LAYOUT,
        prefix="training/",
    )
    uses = _deal(training.images, fold, root)
    labelled = uses["train"][: max(1, round(labelled_fraction * len(uses["train"])))]
    rest = sorted(set(uses["train"]).difference(labelled))
    return Splits(
        classes=CLASSES,
        labelled=training.with_labels(sorted(labelled)),
        unlabelled=training.without_labels(rest),
        dev=training.with_labels(uses["dev"]),
        evaluation={"val": training.with_labels(uses["val"])},
        pool_with_labels=training.with_known_labels(rest),
        to_submit=_test_images(root),
    )


def _deal(names: Iterable[str], fold: int, root: Path) -> dict[str, list[str]]:
    """Return the names that train, in the order of their blocks, and those of dev and val."""
    blocks = order([str(block) for block in range(BLOCKS)], seed=SEED)
    rank = {int(block): place for place, block in enumerate(blocks)}
    uses: dict[str, list[str]] = {"train": [], "dev": [], "val": []}
    for name in sorted(names, key=lambda name: (rank[_block(name, root)], name)):
        turn, of_fold = divmod(rank[_block(name, root)], FOLDS)
        if of_fold == fold:
            uses["val"].append(name)
        elif of_fold == (fold + 1) % FOLDS and turn < DEV_BLOCKS:
            uses["dev"].append(name)
        else:
            uses["train"].append(name)
    if empty := [use for use, found in uses.items() if not found]:
        raise InputError(
            f"{root / 'training'} has no picture for {empty[0]} of fold {fold}: copy all "
            f"{BLOCK * BLOCKS} pictures of KITTI there."
        )
    return uses


def _block(name: str, root: Path) -> int:
    found = re.fullmatch(r"(\d{6})_10", name)
    if found is None or int(found[1]) >= BLOCK * BLOCKS:
        raise InputError(
            f"{root / 'training' / 'image_2' / name}.png is not named as KITTI's pictures are, "
            f"000000_10 to {BLOCK * BLOCKS - 1:06d}_10: take it out."
        )
    return int(found[1]) // BLOCK


def _test_images(root: Path) -> list[Sample]:
    folder = root / "testing" / "image_2"
    found = list_stems(folder, ".png", layout=_LAYOUT) if folder.is_dir() else {}
    return Pairs(images=found, prefix="testing/").without_labels(found)
