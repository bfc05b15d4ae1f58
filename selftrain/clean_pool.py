"""Images that the pool must not hold: those of an evaluation, and those the teacher has learned.

Images are compared by content: the same picture under another name counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from selftrain import progress
from selftrain.data.sample import Sample
from selftrain.datasets import OpenData
from selftrain.errors import InputError
from selftrain.files import write_atomically

LABELLED_IMAGES = "labelled_images.txt"
"""File of a training's product: the digest of each image whose label it has learned."""


def require_clean_pool(data: OpenData, *, allow_labelled: bool) -> None:
    """Refuse a pool that is empty, or shares an image with an evaluation split or the labelled.

    Images whose masks go to a test server are such a split too.

    Args:
        data: The benchmark's samples.
        allow_labelled: Whether labelled images may be in the pool.
    """
    if not data.splits.unlabelled:
        raise InputError(f"There are no unlabelled images: {_why_no_pool(data)}.")
    digest, splits = data.digests.digest, data.splits
    measured = {"dev": splits.dev, **splits.evaluation, "to_submit": splits.to_submit}
    held_out = {
        digest(sample.image): (split, sample)
        for split, samples in measured.items()
        for sample in samples
    }
    shared = _find(data, held_out)
    if shared:
        split, theirs = held_out[digest(shared[0].image)]
        raise InputError(
            f"The unlabelled image {shared[0].image} is also in the {split} split as "
            f"{theirs.image} ({len(shared)} such images): take them out of the pool, or the "
            "student would train on what it is measured on."
        )
    if not allow_labelled:
        labelled = {digest(sample.image): sample for sample in data.splits.labelled}
        _refuse_labelled(_find(data, labelled), "a labelled image of this data set")


def require_new_to_teacher(data: OpenData, teacher: Path) -> None:
    """Refuse a pool with an image whose label the teacher has learned, wherever that was.

    Args:
        data: The benchmark's samples.
        teacher: Folder of a training's product; one from elsewhere may have no list.
    """
    learned = dict.fromkeys(read_labelled(teacher))
    if not learned:
        progress.say(
            f"{teacher.name} does not say on which images it was trained: that the pool holds none "
            "of them is not checked"
        )
    _refuse_labelled(_find(data, learned), "one it was trained on")


def write_labelled(folder: Path, data: OpenData, before: Sequence[Path]) -> None:
    """List the images that a training learns the labels of.

    Args:
        folder: Of its product.
        data: Its `labelled` are learned.
        before: Folders of the trainings that it goes on from, as its start or by its backbone's
            weights: what they have learned, it knows.
    """
    digests = {data.digests.digest(sample.image) for sample in data.splits.labelled}
    for trained in before:
        digests |= set(read_labelled(trained))
    text = "".join(f"{digest}\n" for digest in sorted(digests))
    write_atomically(folder / LABELLED_IMAGES, text.encode())


def read_labelled(folder: Path) -> list[str]:
    """Return the digests that `write_labelled` left in a product's folder; none if it did not."""
    path = folder / LABELLED_IMAGES
    return path.read_text().split() if path.exists() else []


def _find(data: OpenData, digests: Mapping[str, object]) -> list[Sample]:
    digest = data.digests.digest
    return [it for it in data.splits.unlabelled if digests and digest(it.image) in digests]


def _refuse_labelled(shared: Iterable[Sample], what: str) -> None:
    found = list(shared)
    if found:
        raise InputError(
            f"The unlabelled image {found[0].image} is {what} ({len(found)} such images): the "
            "teacher knows its label by heart. Take them out of the pool, or set "
            "pseudo_label.allow_labelled to true."
        )


def _why_no_pool(data: OpenData) -> str:
    config = data.config
    if config.pool != "rest":
        return f"data.pool = {config.pool} holds none; choose another or add pictures"
    if config.labelled_fraction == 1:
        return "data.labelled_fraction = 1 labels them all; choose a smaller one"
    if config.dataset == "scenes":
        return f"data.scenes.images = {config.scenes.images} is too few; choose more"
    return "train holds no frames besides the labelled ones and dev; choose another data.pool"
