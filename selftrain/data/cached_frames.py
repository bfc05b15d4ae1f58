"""Which of the raw caches holds a sample: decided by content, whatever the sample is used for.

A frame is known by the digests of its files. So a cache serves every choice of labelled images,
pool and splits, and never a picture that only has the same name.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from numpy import uint8
from numpy.typing import NDArray

from selftrain.data.cache import RawCache, settings
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample

Place = tuple[int, str]
"""Which cache, and the frame's name in it."""


@dataclass(frozen=True, eq=False)
class CachedFrames:
    """The frames of several caches by the files that they were read from; a `FrameCache`."""

    caches: tuple[RawCache, ...]
    images: Mapping[Path, Place]
    labels: Mapping[Path, Place]

    @classmethod
    def of(cls, cache: RawCache, samples: Iterable[Sample]) -> "CachedFrames":
        """Return the frames of one cache that was written from these very samples."""
        samples = list(samples)
        images = {sample.image: (0, sample.name) for sample in samples}
        labels = {it.label.path: (0, it.name) for it in samples if it.label is not None}
        return cls((cache,), images, labels)

    def image(self, sample: Sample) -> NDArray[uint8] | None:
        """Return the picture of a sample (H, W, 3), or None if it is in no cache."""
        place = self.images.get(sample.image)
        return None if place is None else self.caches[place[0]].image(place[1])

    def label(self, sample: Sample) -> NDArray[uint8] | None:
        """Return the label map of a sample (H, W), or None if it is in no cache."""
        place = None if sample.label is None else self.labels.get(sample.label.path)
        return None if place is None else self.caches[place[0]].label(place[1])

    def has(self, sample: Sample) -> bool:
        """Return whether nothing of the sample need be read from its files."""
        return sample.image in self.images and (
            sample.label is None or sample.label.path in self.labels
        )


def name_by_content(sample: Sample, digest: Callable[[Path], str]) -> Sample:
    """Return the sample under the name that its frame has in a cache."""
    name = digest(sample.image)
    if sample.label is not None:
        name += f"-{digest(sample.label.path)}"
    return dataclasses.replace(sample, name=name)


def cache_folder(root: Path, named: Iterable[Sample], reader: Reader) -> tuple[Path, str]:
    """Return the folder for a cache of these samples, and the digest of what it is made from.

    Args:
        root: Folder of all caches.
        named: From `name_by_content`.
        reader: Its settings decide the pixels.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(sample.name for sample in named):
        digest.update(name.encode())
    source = digest.hexdigest()
    return root / f"{_start(reader)}{source}", source


def open_frames(
    root: Path, samples: Iterable[Sample], reader: Reader, digest: Callable[[Path], str]
) -> CachedFrames | None:
    """Find samples in the caches that were written with this reader's settings.

    Args:
        root: Folder of all caches; need not exist.
        samples: Whose frames are looked for.
        reader: How they would be read without a cache.
        digest: Of a file, such as `FileDigests.digest`; only called if there is a cache.

    Returns:
        None if no cache was written with these settings. A cache that is damaged is left out with
        a warning.
    """
    caches = []
    for folder in sorted(root.glob(f"{_start(reader)}*")):
        source = folder.name.removeprefix(_start(reader))
        if cache := RawCache.open(folder, source_digest=source, reader=reader):
            caches.append(cache)
    if not caches:
        if any(root.glob("raw-*")):
            logging.getLogger(__name__).warning(
                "The raw caches in %s are of another scale or other classes: the data set's files "
                "are read instead.",
                root,
            )
        return None
    pairs: dict[str, Place] = {}
    pictures: dict[str, Place] = {}
    for number, cache in enumerate(caches):
        for name in cache.names():
            pairs[name] = pictures[name.partition("-")[0]] = (number, name)
    images: dict[Path, Place] = {}
    labels: dict[Path, Place] = {}
    for sample in samples:
        name = name_by_content(sample, digest).name
        if (place := pictures.get(name.partition("-")[0])) is not None:
            images[sample.image] = place
        if sample.label is not None and (place := pairs.get(name)) is not None:
            images[sample.image] = labels[sample.label.path] = place
    return CachedFrames(tuple(caches), images, labels)


def _start(reader: Reader) -> str:
    facts = repr(sorted(settings(reader).items()))
    return f"raw-{hashlib.blake2b(facts.encode(), digest_size=4).hexdigest()}-"
