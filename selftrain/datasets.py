"""A benchmark's samples, and what is known of their files: digests, raw frames."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftrain import distributed, progress
from selftrain.config import Config, DataConfig
from selftrain.data.cache_writing import build_raw_cache
from selftrain.data.cached_frames import (
    CachedFrames,
    cache_folder,
    name_by_content,
    open_frames,
)
from selftrain.data.digests import FileDigests, digest_samples
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample, Splits
from selftrain.data.statistics import count_pixels
from selftrain.files import remove_leftovers
from selftrain.sources import open_splits


@dataclass(frozen=True)
class OpenData:
    """A benchmark's samples, with digests of their content computed when asked for."""

    config: DataConfig
    splits: Splits
    cache: Path
    """Folder of what can be made again: digests of files, raw frames."""

    @cached_property
    def digests(self) -> FileDigests:
        """Digests of the files, remembered."""
        return FileDigests(self.cache / "digests.sqlite")

    @cached_property
    def reader(self) -> Reader:
        """Reads the samples at the config's size, from the raw cache where there is one."""
        reader = Reader(self.splits.classes, self.config.scale, self.config.short_side)
        frames = open_frames(self.cache, self._cached(), reader, self.digests.digest)
        if frames is not None:
            held = [frames.has(sample) for sample in self._cached()]
            progress.say(f"raw cache: {sum(held)} of {len(held)} frames are read from it")
        return dataclasses.replace(reader, cache=frames)

    def build_raw_cache(self, workers: int) -> None:
        """Write the frames that trainings read as memory maps, and check those that are there.

        Raises:
            InputError: a file cannot be read, the disk is too small, or a cache is damaged.
        """
        frames = self.reader.cache
        missing: Iterable[Sample] = self._cached()
        if isinstance(frames, CachedFrames):
            for cache in frames.caches:
                names = cache.names()
                with progress.bar("check the raw cache", len(names), unit="frames") as bar:
                    cache.verify(workers=workers, advance=bar.advance)
                progress.say(f"raw cache: {len(names)} frames are as they were written")
            missing = (sample for sample in self._cached() if not frames.has(sample))
        # Copies of a picture are one frame.
        named = {it.name: it for it in (name_by_content(s, self.digests.digest) for s in missing)}
        if not named:
            return
        reader = dataclasses.replace(self.reader, cache=None)
        folder, source = cache_folder(self.cache, named.values(), reader)
        with progress.bar("raw cache", len(named), unit="frames") as bar:
            build_raw_cache(
                list(named.values()),
                reader,
                folder,
                source_digest=source,
                workers=workers,
                advance=bar.advance,
            )
        progress.say(f"raw cache: {len(named)} frames written to {folder}")

    def _cached(self) -> Iterator[Sample]:
        """Yield the samples that trainings and labelling read; `evaluate` reads its own once."""
        return chain(self.splits.labelled, self.splits.dev, self.splits.unlabelled)

    @cached_property
    def labelled_digest(self) -> str:
        """Digest of the labelled images and their labels."""
        return self._digest(self.splits.labelled, labels=True)

    @cached_property
    def pool_digest(self) -> str:
        """Digest of the pool's images; no label is opened."""
        return self._digest(self.splits.unlabelled, labels=False)

    @cached_property
    def dev_digest(self) -> str:
        """Digest of dev and its labels."""
        return self._digest(self.splits.dev, labels=True)

    @cached_property
    def evaluation_digests(self) -> dict[str, str]:
        """Digest of each evaluation split and its labels."""
        return {
            name: self._digest(samples, labels=True)
            for name, samples in self.splits.evaluation.items()
        }

    @cached_property
    def to_submit_digest(self) -> str:
        """Digest of the images for a test server."""
        return self._digest(self.splits.to_submit, labels=False)

    def _digest(self, samples: Sequence[Sample], *, labels: bool) -> str:
        return digest_samples(samples, labels=labels, digest=self.digests.digest)

    @cached_property
    def labelled_pixels(self) -> NDArray[np.int64]:
        """Labelled pixels of each class, (K,): counted by the first process for all."""
        first = distributed.rank() == 0
        counted = distributed.broadcast(
            count_pixels(self.splits.labelled, self.reader) if first else None
        )
        assert counted is not None  # the first process has counted
        return counted

    def inputs(self) -> dict[str, object]:
        """Return the part of a training's identity that says how frames are read."""
        classes, limit = self.splits.classes, self.config.short_side
        return {
            "scale": self.config.scale,
            "tile": self.config.tile,
            "classes": classes.names,
            **({"short_side": limit} if limit else {}),
        }


def open_data(config: Config) -> OpenData:
    """Open the data set that the config names; scenes are drawn first where they are missing.

    Raises:
        InputError: files are missing or not laid out as the data set's reader expects.
    """
    cache = config.machine.outputs / "cache"
    remove_leftovers(cache)
    return OpenData(config.data, open_splits(config, cache), cache)
