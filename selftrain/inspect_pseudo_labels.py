"""A look into a set of pseudo labels: what its card and manifest say, and one of its images."""

import difflib
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selftrain import tracking
from selftrain.data.digests import digest_file
from selftrain.data.manifest import MANIFEST
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.reader import Reader
from selftrain.data.sample import ClassTable, Sample
from selftrain.data.shards import BIN_STARTS, CARD
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.pictures import encode_png, overlay

_COLUMNS = 80
_LONGEST_NAME = 36
_SURE = 230
"""The lowest 8-bit confidence that is at least 0.9."""
_SAID_ELSEWHERE = {"classes", "colors", "images", "class_pixels", "shards", "format_version"}


def open_set(
    place: Path | str, temporary: Path, *, image: str = "none", verify: bool = False
) -> PseudoLabelSet:
    """Open a set with as much of it as is looked at.

    Its card and manifest say all but what one image is like, and a set of 20,000 frames has
    gigabytes: no other shard than the image's is fetched or read.

    Args:
        place: Folder of the set, or its URI in the tracking store.
        temporary: Folder into which a set from the store is fetched.
        image: Name of the image whose shard is wanted; "none", or one that the set lacks: no shard.
        verify: Fetch and read all of the set, and compare it with its digests.

    Raises:
        InputError: it cannot be fetched, or what is fetched is no whole set.
    """

    def fetch(file: str) -> Path:
        if isinstance(place, Path):
            return place / file
        return tracking.download(f"{place}/{file}", temporary)

    if verify:
        whole = place if isinstance(place, Path) else tracking.download(place, temporary)
        return PseudoLabelSet.open(whole, verify=True)
    folder = fetch(CARD).parent
    fetch(MANIFEST)
    labels = PseudoLabelSet.open(folder, shards=())
    if image not in labels.rows:
        return labels
    shard = labels.manifest["shard"][labels.rows[image]].as_py()
    fetch(shard)
    return PseudoLabelSet.open(folder, shards=(shard,), verify=True)


def describe(labels: PseudoLabelSet) -> str:
    """Return what a set's card and manifest say, as text of at most 80 columns."""
    shards = labels.card["shards"].values()
    size = sum(shard["bytes"] for shard in shards) / 2**20
    facts = {
        "set": labels.folder.name,
        "images": f"{len(labels)} in {len(shards)} shards, {size:.1f} MiB",
        **{name: value for name, value in labels.card.items() if name not in _SAID_ELSEWHERE},
    }
    if (agreement := labels.agreement())[~np.isnan(agreement)].size:
        facts["agreement"] = (
            f"mean IoU {np.nanmean(agreement):.3f}, lowest {np.nanmin(agreement):.3f}"
        )
    lines = [line for name, value in facts.items() for line in _fact(name, value)]
    return "\n".join([*lines, "", *_class_table(labels)])


def draw(labels: PseudoLabelSet, name: str, image: Path | None, output: Path) -> list[Path]:
    """Draw what a set says of one image.

    Writes `<name>.label.png`, a palette picture whose indices are the train ids,
    `<name>.confidence.png`, whose gray is the confidence from 0 to 1, and, where the image is at
    hand, `<name>.overlay.png`, the label over it.

    Args:
        labels: The set.
        name: Of the image in its pool.
        image: The image's file; None: it is not at hand.
        output: Folder for the pictures; made if need be.

    Returns:
        The files written.

    Raises:
        InputError: the set has no image of this name or no colours, `image` is another picture
            than the one that was labelled, or a file cannot be read or written.
    """
    if name not in labels.rows:
        near = difflib.get_close_matches(name, labels.rows, n=3, cutoff=0) or ["none at all"]
        raise InputError(
            f"{labels.folder} has no image {name} among its {len(labels)}: name one of them, such "
            f"as {', '.join(near)}."
        )
    if not (output / name).resolve().is_relative_to(output.resolve()):
        raise InputError(f"The name {name} leads out of {output}: the set is damaged, label again.")
    classes = _class_table_of(labels)
    # Frames are read as they were labelled: at the set's scale.
    reader = Reader(
        classes,
        scale=labels.card.get("scale", 1.0),
        short_side=labels.card.get("short_side", 0),
    )
    [sample] = labels.samples([Sample(name, image or Path(name))])
    label, confidence = reader.label(sample), reader.confidence(sample)
    pictures = {
        "label": _encode_palette(label, classes.colors),
        "confidence": encode_png(confidence),
    }
    if image is not None:
        if digest_file(image) != labels.manifest["image_digest"][labels.rows[name]].as_py():
            raise InputError(
                f"{image} is not the picture that was labelled as {name}: its bytes are others. "
                "Name the data set and the pool that the set was made from."
            )
        seen = reader.image(sample)
        if seen.shape[:2] != label.shape:
            resized = cv2.resize(seen, label.shape[::-1], interpolation=cv2.INTER_AREA)
            seen = resized.astype(np.uint8, copy=False)
        pictures["overlay"] = encode_png(overlay(seen, label, classes.colors))
    paths = {kind: output / f"{name}.{kind}.png" for kind in pictures}
    for kind, png in pictures.items():
        write_atomically(paths[kind], png)
    return list(paths.values())


def _fact(name: str, value: object) -> list[str]:
    """Return the lines of one of the card's facts."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {what}" for key, what in value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        value = ", ".join(map(str, value))
    return textwrap.wrap(
        f"{name.replace('_', ' '):<16}{value}", _COLUMNS, subsequent_indent=" " * 16
    )


def _class_table(labels: PseudoLabelSet) -> list[str]:
    names, pixels = labels.card["classes"], labels.class_pixels()
    edges = np.array([*BIN_STARTS, 256])
    middles = (edges[:-1] + edges[1:] - 1) / 2 / 255
    per_class = np.maximum(pixels, 1)
    sure = labels.kept_share([_SURE] * len(names))
    columns = {
        "pixels %": 100 * pixels / max(_pictured(labels), 1),
        "confidence": labels.confidence_histogram() @ middles / per_class,
        ">=0.9 %": 100 * sure,
    }
    if (agreed := labels.agreed_pixels()) is not None and len(agreed):
        columns["agreed %"] = 100 * agreed.sum(axis=0) / per_class
    width = min(_LONGEST_NAME, max(len(name) for name in names)) if names else 0
    head = "  ".join(columns)
    lines = [f"{'class':<{width}}  {head}"]
    for row, name in enumerate(names):
        # The end of a long name tells more than its beginning: object--support--utility-pole.
        shown = name if len(name) <= width else f"..{name[2 - width :]}"
        values = [
            f"{values[row]:{len(title)}.2f}" if pixels[row] else "-".rjust(len(title))
            for title, values in columns.items()
        ]
        lines.append("  ".join([f"{shown:<{width}}", *values]).rstrip())
    ignored = 100 - columns["pixels %"].sum() if len(labels) else 0.0
    lines.append(f"{'ignored':<{width}}  {ignored:8.2f}")
    return lines


def _pictured(labels: PseudoLabelSet) -> int:
    """Return the pixels of all images, ignored ones too."""
    height, width = (labels.manifest[side].to_numpy() for side in ("height", "width"))
    return int((height.astype(np.int64) * width).sum())


def _class_table_of(labels: PseudoLabelSet) -> ClassTable:
    names, colors = labels.card["classes"], labels.card.get("colors") or ()
    try:
        table = ClassTable(tuple(names), tuple((red, green, blue) for red, green, blue in colors))
        np.array(table.colors, dtype=np.uint8)
    except (TypeError, ValueError, OverflowError):
        table = ClassTable(tuple(names), ())
    if len(table.colors) != len(names):
        raise InputError(
            f"The card of {labels.folder} does not list a colour for each of its {len(names)} "
            "classes: delete the folder and run the stage again."
        )
    return table


def _encode_palette(label: NDArray[np.uint8], colors: Sequence[tuple[int, int, int]]) -> bytes:
    """Return a PNG whose palette shows the classes' colours; what is no class is black."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colors)] = colors
    picture, file = Image.fromarray(label), io.BytesIO()
    picture.putpalette(palette.ravel().tolist())
    picture.save(file, "PNG")
    return file.getvalue()
