"""Images and label files of one name in two folders, as most published data sets lay them out."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from selftrain.data.sample import Blob, Sample
from selftrain.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The images of a folder and what there is of their labels, by the names that both share."""

    images: Mapping[str, Path]
    labels: Mapping[str, Path] = field(default_factory=dict)
    expected_label: str = ""
    """Where the label of an image lies, with {} for the name; tells what is missing."""
    prefix: str = ""
    """Goes before each sample's name, where two folders of a data set use the same names."""

    def with_labels(self, names: Iterable[str]) -> list[Sample]:
        """Return labelled samples; raise InputError where a label is missing."""
        names = list(names)
        if missing := [name for name in names if name not in self.labels]:
            where = self.expected_label.replace("{}", missing[0])
            raise InputError(
                f"{where} is missing ({len(missing)} of the "
                f"{len(names)} labels needed here are): copy the labels again."
            )
        return [self._labelled(name) for name in names]

    def with_known_labels(self, names: Iterable[str]) -> list[Sample]:
        """Return labelled samples of those names that have a label."""
        return [self._labelled(name) for name in names if name in self.labels]

    def without_labels(self, names: Iterable[str]) -> list[Sample]:
        """Return the names' samples as a pool has them."""
        return [Sample(self.prefix + name, self.images[name]) for name in names]

    def _labelled(self, name: str) -> Sample:
        return Sample(self.prefix + name, self.images[name], Blob(self.labels[name]))


def list_stems(folder: Path, suffix: str, *, layout: str) -> dict[str, Path]:
    """Return a folder's files that end in `suffix`, by their names without it, sorted.

    No file is opened nor asked for its size, so 20,000 of them take a fraction of a second.
    Hidden files are passed over (macOS leaves a ._NAME beside every NAME on foreign disks).

    Args:
        folder: Is not searched deeper.
        suffix: Such as .jpg or _train_id.png, in any case.
        layout: What is expected where; ends the sentence of an error.

    Raises:
        InputError: the folder is missing or cannot be listed, or holds no such file.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise InputError(
            f"The folder {folder} cannot be listed ({error.strerror}): {layout}."
        ) from error
    found = [n for n in names if n.lower().endswith(suffix) and not n.startswith(".")]
    if not found:
        raise InputError(f"The folder {folder} holds no *{suffix}: {layout}.")
    return {name[: -len(suffix)]: folder / name for name in sorted(found)}


def list_pairs(
    images: Path,
    labels: Path,
    *,
    image_suffix: str,
    label_suffix: str,
    layout: str,
    prefix: str = "",
) -> Pairs:
    """List two folders; raise InputError as `list_stems` does."""
    return Pairs(
        images=list_stems(images, image_suffix, layout=layout),
        labels=list_stems(labels, label_suffix, layout=layout),
        expected_label=f"{labels}{os.sep}{{}}{label_suffix}",
        prefix=prefix,
    )
