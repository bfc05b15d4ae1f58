"""Which samples the config asks for: the data sets, and what is drawn from them.

The data modules take numbers and folders; this is where the config's values reach them.
"""

import dataclasses
import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftrain import progress
from selftrain.config import Config, DataConfig, MachineConfig, ScenesConfig
from selftrain.data import (
    bdd100k,
    camvid,
    camvid_original,
    cityscapes,
    folder,
    kitti,
    mapillary,
    scenes,
)
from selftrain.data.digests import FileDigests, digest_samples
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, Sample, Splits
from selftrain.data.scenes_export import export_cityscapes
from selftrain.data.shares import take_shots
from selftrain.data.statistics import count_label
from selftrain.errors import InputError
from selftrain.files import write_atomically

FIRST_TEST_SEED, FIRST_DEV_SEED = 2_000_000, 1_000_000
"""Scene numbers of test and dev start here, far behind those of the training pool."""
SHOTS_SEED = 0
"""Decides which images `data.shots` takes; the same for every training, as a split file is."""


def open_splits(config: Config, cache: Path) -> Splits:
    """List the samples that the config names; scenes are drawn first where they are missing.

    Args:
        config: Its `data` and the roots of its `machine`.
        cache: Folder of what is remembered of labels that had to be looked at.

    Raises:
        InputError: files are missing or not laid out as the data set's reader expects.
    """
    data, machine = config.data, config.machine
    if data.shots > 0:  # instead of a fraction: chosen from all of train
        data = dataclasses.replace(data, labelled_fraction=1.0)
    splits = OPENERS[data.dataset](data, machine.data_root)
    splits = _widen(splits, data.train_on)
    if data.shots > 0:
        splits = _take_shots(splits, data, cache)
    if data.pool != "rest":
        splits = _take_pool(splits, data.pool.split("+"), machine)
    return splits


def export_scenes(size: ScenesConfig, root: Path, workers: int) -> None:
    """Draw scenes in Cityscapes' layout and size, to rehearse with.

    There are `size.images` frames of train, as many of train_extra, `size.dev` of val and
    `size.test` of test.

    Raises:
        InputError: the folder holds another export, or the disk is too small.
    """
    counts = {
        "train": size.images,
        "val": size.dev,
        "test": size.test,
        "train_extra": size.images,
    }
    with progress.bar("export", sum(counts.values()), unit="images") as bar:
        export_cityscapes(root, seed=size.seed, counts=counts, workers=workers, advance=bar.advance)


def _by_fraction(read: Callable[..., Splits]) -> Callable[[DataConfig, Path], Splits]:
    """Hand a reader the only number that most of them need."""
    return lambda data, root: read(root, labelled_fraction=data.labelled_fraction)


def _open_mapillary(data: DataConfig, root: Path) -> Splits:
    return mapillary.splits(
        root, labelled_fraction=data.labelled_fraction, version=data.mapillary_version
    )


def _open_folder(data: DataConfig, root: Path) -> Splits:
    table = root if root.suffix == ".csv" else None
    place = root.parent if table else root
    return folder.splits(place, labelled_fraction=data.labelled_fraction, table=table)


def _open_kitti(data: DataConfig, root: Path) -> Splits:
    return kitti.splits(root, labelled_fraction=data.labelled_fraction, fold=data.fold)


def scenes_places(data: DataConfig, root: Path) -> dict[str, tuple[Path, range]]:
    """Return {split: (folder, numbers of its scenes)}, whether or not they are drawn."""
    size = data.scenes
    abroad = "" if size.style == "city" else f"{size.style}-"
    height, drawn = size.width // 2, f"{abroad}v{scenes.version(size.style)}"
    folder = root / f"scenes-{drawn}-seed{size.seed}-{size.width}x{height}"
    numbers = {
        "train": range(size.images),
        "dev": range(FIRST_DEV_SEED, FIRST_DEV_SEED + size.dev),
        "test": range(FIRST_TEST_SEED, FIRST_TEST_SEED + size.test),
    }
    return {split: (folder / f"{split}-{len(it)}", it) for split, it in numbers.items()}


def _open_scenes(data: DataConfig, root: Path) -> Splits:
    """Draw the splits that are missing and list them."""
    size = data.scenes
    found: dict[str, list[Sample]] = {}
    for split, (place, indices) in scenes_places(data, root).items():
        try:
            drawn = len(indices) if place.exists() else 0
            with progress.bar(f"draw {split}", len(indices), done=drawn, unit="scenes") as bar:
                scenes.write_split(
                    place,
                    seed=size.seed,
                    indices=indices,
                    width=size.width,
                    height=size.width // 2,
                    style=size.style,
                    advance=bar.advance,
                )
        except OSError as error:
            raise InputError(
                f"Scenes cannot be drawn into {place} ({error.strerror or error}): "
                "set machine.data_root to a folder that can be written."
            ) from error
        found[split] = _list_scenes(place)
    labelled = max(1, round(size.images * data.labelled_fraction))
    pool = found["train"][labelled:]
    return Splits(
        classes=scenes.classes(size.style),
        labelled=found["train"][:labelled],
        unlabelled=[sample.without_label() for sample in pool],
        dev=found["dev"],
        evaluation={"test": found["test"]},
        pool_with_labels=pool,
    )


def _list_scenes(place: Path) -> list[Sample]:
    images = sorted((place / "images").glob("*.png"))
    return [
        Sample(f"{place.name}/{image.stem}", image, Blob(place / "labels" / image.name))
        for image in images
    ]


OPENERS: dict[str, Callable[[DataConfig, Path], Splits]] = {
    "scenes": _open_scenes,
    "cityscapes": _by_fraction(cityscapes.splits),
    "mapillary": _open_mapillary,
    "camvid": _by_fraction(camvid.splits),
    "camvid_original": _by_fraction(camvid_original.splits),
    "kitti": _open_kitti,
    "bdd100k": _by_fraction(bdd100k.splits),
    "folder": _open_folder,
}
"""Reader of each data set."""
POOLS: dict[str, Callable[[Path], Sequence[Sample]]] = {
    "train_extra": cityscapes.train_extra,
    "mapillary": mapillary.pool,
    "bdd100k": bdd100k.pool,
    "folder": folder.pool,
}
"""Lists the images of each pool that is not the rest of train."""


def _widen(splits: Splits, train_on: str) -> Splits:
    """Let dev train, and val with it, once all choices are made."""
    if train_on == "train":
        return splits
    evaluation = dict(splits.evaluation)
    labelled = [*splits.labelled, *splits.dev]
    if train_on == "train+val":
        if "val" not in evaluation:
            raise InputError(
                "data.train_on = train+val, but the data set has no val split: choose train+dev."
            )
        labelled += evaluation.pop("val")
    return dataclasses.replace(splits, labelled=labelled, dev=(), evaluation=evaluation)


def _take_shots(splits: Splits, data: DataConfig, cache: Path) -> Splits:
    """Keep the labels of so many images per class (Figure 3); the others join the pool."""
    labelled = splits.labelled
    reader = Reader(splits.classes, data.scale, data.short_side)
    has_class = _find_classes(labelled, reader, cache)
    names = [sample.name for sample in labelled]
    chosen = set(take_shots(has_class, names, data.shots, seed=SHOTS_SEED))
    others = [sample for i, sample in enumerate(labelled) if i not in chosen]
    return dataclasses.replace(
        splits,
        labelled=[labelled[i] for i in sorted(chosen)],
        unlabelled=[*splits.unlabelled, *(sample.without_label() for sample in others)],
        pool_with_labels=[*splits.pool_with_labels, *others],
    )


def _find_classes(samples: Sequence[Sample], reader: Reader, cache: Path) -> NDArray[np.bool_]:
    """Return (N, K) whether an image shows a class; every label is decoded once and remembered."""
    digest = digest_samples(
        samples, labels=True, digest=FileDigests(cache / "digests.sqlite").digest
    )
    key = hashlib.blake2b(f"{digest} {reader!r}".encode(), digest_size=8).hexdigest()
    path, classes = cache / f"classes-{key}.npy", len(reader.classes)
    if (remembered := _load_flags(path)) is not None:
        return remembered
    # Decoding and counting release the interpreter's lock.
    with progress.bar("classes", len(samples), unit="images") as bar, ThreadPoolExecutor() as pool:
        counts = []
        for count in pool.map(lambda it: count_label(reader.label(it), classes), samples):
            counts.append(count)
            bar.advance()
    has_class = np.array(counts).reshape(-1, classes) > 0
    buffer = io.BytesIO()
    np.save(buffer, has_class, allow_pickle=False)
    write_atomically(path, buffer.getvalue())
    return has_class


def _load_flags(path: Path) -> NDArray[np.bool_] | None:
    try:
        found = np.load(path, allow_pickle=False)
        if found.dtype != np.bool_ or found.ndim != 2:
            raise ValueError("it holds something else")
        return np.asarray(found)
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy raises many kinds
        logging.getLogger(__name__).warning("%s is broken (%s): made again.", path, error)
        return None


def _take_pool(splits: Splits, names: Sequence[str], machine: MachineConfig) -> Splits:
    """Replace the pool by those named; hidden labels are known of the rest of train alone."""

    def listed(name: str) -> Sequence[Sample]:
        if name == "rest":
            return splits.unlabelled
        knob = "data_root" if name == "train_extra" else "pool_root"
        root: Path = getattr(machine, knob)
        try:
            return POOLS[name](root)
        except InputError as error:
            raise InputError(
                f"{error} These images are wanted as data.pool = {name}, from machine.{knob} = "
                f"{root}; data.pool = rest does without them."
            ) from error

    if len(names) == 1:  # as it is: it may be a long list without an object for each
        return dataclasses.replace(splits, unlabelled=listed(names[0]), pool_with_labels=())
    pool = [
        # Two data sets may name their images alike.
        it if name == "rest" else dataclasses.replace(it, name=f"{name}/{it.name}")
        for name in names
        for it in listed(name)
    ]
    hidden = splits.pool_with_labels if "rest" in names else ()
    return dataclasses.replace(splits, unlabelled=pool, pool_with_labels=hidden)
