"""From the config to samples: the place where a benchmark's data set is opened.

The data modules take numbers and folders; this is where the config's values reach them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from selftrain.config import Config, DataConfig
from selftrain.data import camvid, scenes
from selftrain.data.sample import (
    Blob,
    ClassTable,
    Reader,
    Sample,
    Splits,
    digest_image,
    digest_samples,
)
from selftrain.errors import InputError

FIRST_TEST_SEED, FIRST_DEV_SEED = 2_000_000, 1_000_000
"""Scene numbers of test and dev start here, far behind those of the training pool."""


@dataclass(frozen=True)
class OpenData:
    """A benchmark's samples, with digests of their content computed when asked for."""

    config: DataConfig
    splits: Splits

    @property
    def reader(self) -> Reader:
        """Reads the samples at the config's scale."""
        return Reader(self.splits.classes, self.config.scale)

    @cached_property
    def _digest_image(self) -> Callable[[Sample], str]:
        """`digest_image`, but no image is read for it twice."""
        return cache(digest_image)

    @cached_property
    def labelled_digest(self) -> str:
        """Digest of the labelled images and their labels."""
        return digest_samples(self.splits.labelled, labels=True, image=self._digest_image)

    @cached_property
    def pool_digest(self) -> str:
        """Digest of the pool's images; no label is opened."""
        return digest_samples(self.splits.unlabelled, labels=False, image=self._digest_image)

    @cached_property
    def dev_digest(self) -> str:
        """Digest of dev and its labels."""
        return digest_samples(self.splits.dev, labels=True, image=self._digest_image)

    @cached_property
    def evaluation_digests(self) -> dict[str, str]:
        """Digest of each evaluation split and its labels."""
        return {
            name: digest_samples(samples, labels=True, image=self._digest_image)
            for name, samples in self.splits.evaluation.items()
        }

    def require_clean_pool(self) -> None:
        """Refuse a pool that is empty or shares an image with an evaluation split.

        Images are compared by content: the same picture under another name counts.
        """
        if not self.splits.unlabelled:
            raise InputError(f"There are no unlabelled images: {self._why_no_pool()}.")
        held_out = {
            self._digest_image(sample): (name, sample)
            for name, samples in {"dev": self.splits.dev, **self.splits.evaluation}.items()
            for sample in samples
        }
        shared = [
            (sample, *held_out[digest])
            for sample in self.splits.unlabelled
            if (digest := self._digest_image(sample)) in held_out
        ]
        if shared:
            mine, split, theirs = shared[0]
            raise InputError(
                f"The unlabelled image {mine.image} is also in the {split} split as "
                f"{theirs.image} ({len(shared)} such images): take them out of the pool, or the "
                "student would train on what it is measured on."
            )

    def _why_no_pool(self) -> str:
        if self.config.labelled_fraction == 1:
            return "data.labelled_fraction = 1 labels them all; choose a smaller one"
        if self.config.dataset == "scenes":
            return f"data.scenes.images = {self.config.scenes.images} is too few; choose more"
        return "train holds no frames besides the labelled ones and dev; copy the data set again"

    def inputs(self) -> dict[str, object]:
        """Return the part of a training's identity that says how frames are read."""
        classes = self.splits.classes
        return {"scale": self.config.scale, "tile": self.config.tile, "classes": classes.names}


def open_data(config: Config) -> OpenData:
    """Open the data set that the config names; scenes are drawn first where they are missing.

    Raises:
        InputError: files are missing or not laid out as the data set's reader expects.
    """
    data, root = config.data, config.machine.data_root
    if data.dataset == "camvid":
        return OpenData(data, camvid.splits(root, labelled_fraction=data.labelled_fraction))
    return OpenData(data, _scenes_splits(data, root))


def _scenes_splits(data: DataConfig, root: Path) -> Splits:
    """Draw the splits that are missing and list them."""
    size = data.scenes
    name = f"scenes-v{scenes.VERSION}-seed{size.seed}-{size.width}x{size.width // 2}"
    counts = {
        "train": range(size.images),
        "dev": range(FIRST_DEV_SEED, FIRST_DEV_SEED + size.dev),
        "test": range(FIRST_TEST_SEED, FIRST_TEST_SEED + size.test),
    }
    found: dict[str, list[Sample]] = {}
    for split, indices in counts.items():
        folder = root / name / f"{split}-{len(indices)}"
        try:
            scenes.write_split(
                folder,
                seed=size.seed,
                indices=indices,
                width=size.width,
                height=size.width // 2,
            )
        except OSError as error:
            raise InputError(
                f"Scenes cannot be drawn into {folder} ({error.strerror or error}): "
                "set machine.data_root to a folder that can be written."
            ) from error
        found[split] = _list_scenes(folder)
    labelled = max(1, round(size.images * data.labelled_fraction))
    pool = found["train"][labelled:]
    return Splits(
        classes=ClassTable(scenes.NAMES, scenes.COLORS),
        labelled=found["train"][:labelled],
        unlabelled=[Sample(sample.name, sample.image) for sample in pool],
        dev=found["dev"],
        evaluation={"test": found["test"]},
        pool_with_labels=pool,
    )


def _list_scenes(folder: Path) -> list[Sample]:
    images = sorted((folder / "images").glob("*.png"))
    return [
        Sample(f"{folder.name}/{image.stem}", image, Blob(folder / "labels" / image.name))
        for image in images
    ]
