"""Look at a benchmark's data before anything is trained on them, and say all that is wrong."""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selftrain import progress, tracking
from selftrain.data.digests import FileDigests
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample, Splits
from selftrain.data.scan import Frame, Kind, Problem, digest_frames, scan
from selftrain.data_report import (
    DEV,
    LABELLED,
    POOL,
    TO_SUBMIT,
    Frames,
    Overlay,
    Place,
    find_duplicates,
    find_warnings,
    render_page,
    splits_with_labels,
    sum_pixels,
    tabulate_centroids,
    tabulate_class_x_image,
    tabulate_images,
    tabulate_manifest,
    tabulate_pixels,
    tabulate_sizes,
)
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.pictures import encode_jpeg, overlay, shrink, side_by_side

SUMMARY = "summary.json"
PAGE = "index.html"
"""The summary to look at, in the product's folder."""
OVERLAYS = 12
"""Pictures of labelled images."""
_RARE = 6
"""How many of them show one of the rarest classes each."""
_LISTED = 10
"""Files of each kind that an error names."""
_WIDEST, _WIDEST_ON_PAGE = 1024, 480
"""Pixels that an overlay may be wide."""

CURES: Mapping[Kind, str] = {
    Kind.UNOPENED: "copy them there, and see that you may read them",
    Kind.DAMAGED: "make or copy them again, or take them out",
    Kind.NO_LABEL: "add the labels, or move the images to the unlabelled pool",
    Kind.ILLEGAL: "correct the files or the class list",
    Kind.SIZE: "label and image must have the same size",
    Kind.SHARED: "leave each picture in one split, or a model is measured on what it was made with",
}
"""What to do about the problems of a kind."""


def prepare(
    splits: Splits,
    frames: Frames,
    reader: Reader,
    folder: Path,
    run: tracking.Run,
    *,
    title: str,
) -> None:
    """Leave a summary of a data set without mistakes.

    The evaluation splits were read to check them; no choice is made on them. Leaves in `folder`:
    `index.html` (all of it to look at), `summary.json`, `class_pixels.csv`, `class_images.csv`,
    `class_x_image.parquet`, `centroids.csv`, `sizes.csv`, `manifest.parquet` and overlays.

    Args:
        splits: The samples; some of them are drawn.
        frames: What `scan_splits` found in them.
        reader: The one that they were scanned with.
        folder: Of the summary.
        run: Gets the counts, and the manifest as a data set.
        title: Name of the data set, for the page.
    """
    names = reader.classes.names
    counts = {split: len(some) for split, some in frames.items()}
    warnings = find_warnings(names, frames, find_duplicates(frames))
    overlays = list(_draw_overlays(splits.labelled, frames[LABELLED], reader, folder / "overlays"))
    tables = {
        "class_pixels.csv": tabulate_pixels(names, frames),
        "class_images.csv": tabulate_images(names, frames),
        "class_x_image.parquet": tabulate_class_x_image(names, frames),
        "centroids.csv": tabulate_centroids(names, frames),
        "sizes.csv": tabulate_sizes(frames),
        "manifest.parquet": tabulate_manifest(frames),
    }
    for file, table in tables.items():
        write_atomically(folder / file, _encode_table(table, file))
    note = f"{sum(counts.values()):,} images, {len(names)} classes{_how_read(reader)}."
    if splits.rule:
        note += f" {splits.rule}"
    page = render_page(
        title=title,
        note=note,
        classes=reader.classes,
        frames=frames,
        warnings=warnings,
        overlays=overlays,
    )
    write_atomically(folder / PAGE, page.encode())
    digests = {
        split: digest_frames(some, labels=split in splits_with_labels(frames))
        for split, some in frames.items()
    }
    summary = {
        "title": title,
        "images": counts,
        "rule": splits.rule,
        "digests": digests,
        "warnings": warnings,
    }
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False).encode())
    run.log_metrics({f"data/{split}": count for split, count in counts.items()})
    _log_manifest(tables["manifest.parquet"], title, run)


def read_summary(folder: Path) -> dict[str, Any]:
    """Return what `prepare` has left in a folder: images of each split, rule, warnings."""
    summary: dict[str, Any] = json.loads((folder / SUMMARY).read_bytes())
    return summary


def scan_splits(
    splits: Splits,
    reader: Reader,
    *,
    title: str,
    tile: int,
    workers: int,
    cache: Path | None,
    digests: FileDigests | None = None,
) -> dict[str, list[Frame]]:
    """Read every frame of every split, and return what was found if nothing is wrong.

    What has been read stays in `cache`: after an interruption, or once mistakes are mended, only
    the rest is read.

    Args:
        splits: `pool_with_labels` and the labels of other unlabelled images are not opened.
        reader: See `scan`.
        title: Names the list of problems that is left in `cache`, if there is more than one.
        tile: See `scan`.
        workers: See `scan`.
        cache: See `scan`.
        digests: Gets the digests of the files, so that none is hashed a second time.

    Returns:
        Split -> its frames in the order of its samples: labelled, dev, the evaluation's splits,
        unlabelled, and to_submit if there are images for it.

    Raises:
        InputError: files are missing or damaged, a label is missing or does not fit its image or
            the classes, or a picture is in two splits that must not share any. The error names
            the first ten of each kind and how many there are.
    """
    samples = _by_split(splits)
    frames: dict[str, list[Frame]] = {}
    with progress.bar("prepare", sum(map(len, samples.values())), unit="images") as bar:
        listed = chain.from_iterable(
            map(Sample.without_label, some) if split in (POOL, TO_SUBMIT) else some
            for split, some in samples.items()
        )
        # Closed at once if the bar is interrupted: what was read is written down then.
        with closing(scan(listed, reader, tile=tile, workers=workers, cache=cache)) as scanned:
            for split, some in samples.items():
                frames[split] = []
                for frame in islice(scanned, len(some)):
                    frames[split].append(frame)
                    bar.advance()
    if digests is not None:
        for split, some in samples.items():
            digests.remember(_digests(some, frames[split]))
    problems = list(_find_problems(samples, frames))
    if problems:
        everything = cache / f"problems-{_file_name(title)}.csv" if cache else None
        raise InputError(_explain(problems, everything))
    return frames


def _digests(samples: Sequence[Sample], frames: Sequence[Frame]) -> Iterator[tuple[Path, str]]:
    """Yield the files that were read with their digests."""
    for sample, frame in zip(samples, frames, strict=True):
        if frame.image_digest:
            yield sample.image, frame.image_digest
        if sample.label is not None and frame.label_digest:
            yield sample.label.path, frame.label_digest


def _by_split(splits: Splits) -> dict[str, Sequence[Sample]]:
    held_out = {DEV: splits.dev, **splits.evaluation}
    to_submit = {TO_SUBMIT: splits.to_submit} if len(splits.to_submit) else {}
    return {LABELLED: splits.labelled, **held_out, POOL: splits.unlabelled, **to_submit}


def _find_problems(
    samples: Mapping[str, Sequence[Sample]], frames: Frames
) -> Iterator[tuple[str, Problem]]:
    """Yield each problem with the split that it is in."""
    needs_label = splits_with_labels(frames)
    for split, some in frames.items():
        for position, frame in enumerate(some):
            yield from ((split, problem) for problem in frame.problems)
            if split in needs_label and samples[split][position].label is None:
                what = f"{samples[split][position].image} has no label, but {split} needs one"
                yield split, Problem(kind=Kind.NO_LABEL, sentence=f"{what}: add its label.")
    for places in find_duplicates(frames):
        yield from _find_shared(places, samples)


def _find_shared(
    places: Sequence[Place], samples: Mapping[str, Sequence[Sample]]
) -> Iterator[tuple[str, Problem]]:
    """Yield a problem for each place where a picture must not be, given where else it is."""
    trained = [place for place in places if place[0] in (LABELLED, POOL)]
    chosen_on = [place for place in places if place[0] == DEV]
    measured = [place for place in places if place[0] not in (LABELLED, POOL, DEV)]
    for wrong, rights in ((trained, chosen_on + measured), (chosen_on, measured)):
        for split, position in wrong if rights else ():
            other, at = rights[0]
            sentence = (
                f"The image {samples[split][position].image} of {split} is also in {other} as "
                f"{samples[other][at].image}: take it out of {split}, or a model is measured on "
                "what it was made with."
            )
            yield split, Problem(kind=Kind.SHARED, sentence=sentence)


def _explain(problems: Sequence[tuple[str, Problem]], everything: Path | None) -> str:
    """Return one text for all problems; where there are several, leave the whole list in a file."""
    if len(problems) == 1:
        return problems[0][1].sentence
    where = ""
    if everything is not None:
        rows = [(problem.kind, split, problem.sentence) for split, problem in problems]
        table = pd.DataFrame(rows, columns=["kind", "split", "problem"])
        write_atomically(everything, table.to_csv(index=False).encode())
        where = f"; all are listed in {everything}"
    lines = [f"The data have {len(problems)} problems{where}."]
    for kind, cure in CURES.items():
        found = [problem.sentence for _, problem in problems if problem.kind == kind]
        if found:
            lines.append(f"{kind.capitalize()} ({len(found)}): {cure}.")
            # Without their own cures, which are the same for all.
            lines += [f"  {what.rpartition(': ')[0] or what}" for what in found[:_LISTED]]
            if len(found) > _LISTED:
                lines.append(f"  and {len(found) - _LISTED} more")
    return "\n".join(lines)


def choose_overlays(frames: Sequence[Frame], num_classes: int) -> list[tuple[int, int | None]]:
    """Choose the labelled images to look at: rare classes first, the rest evenly spread.

    Returns:
        At most `OVERLAYS` positions, none twice, each with the class that it was chosen for.
    """
    total = sum_pixels(frames, num_classes)
    rare = [c for c in np.argsort(total, kind="stable").tolist() if total[c] > 0][:_RARE]
    chosen: dict[int, int | None] = {}
    for class_id in rare:
        pixels = [0 if f.class_pixels is None else int(f.class_pixels[class_id]) for f in frames]
        best = int(np.argmax(pixels))
        chosen.setdefault(best, class_id)
    left = [position for position in range(len(frames)) if position not in chosen]
    count = min(OVERLAYS - len(chosen), len(left))
    for i in range(count):
        chosen[left[i * len(left) // count]] = None
    return list(chosen.items())


def _draw_overlays(
    samples: Sequence[Sample], frames: Sequence[Frame], reader: Reader, folder: Path
) -> Iterator[Overlay]:
    """Write image and labels side by side, and yield the overlays for the page."""
    names, colors = reader.classes.names, reader.classes.colors
    for number, (position, class_id) in enumerate(choose_overlays(frames, len(names)), start=1):
        sample = samples[position]
        image, label = reader.pair(sample)
        small = [shrink(picture, _WIDEST) for picture in (image, label)]
        shown = {"image": small[0], "labels": overlay(small[0], small[1], colors)}
        why = "" if class_id is None else f"-{names[class_id]}"
        file = f"{number:02d}{_file_name(why)}-{_file_name(sample.name)}.jpg"
        write_atomically(folder / file, encode_jpeg(side_by_side(shown), quality=92))
        on_page = [shrink(picture, _WIDEST_ON_PAGE) for picture in small]
        caption = sample.name if class_id is None else f"{sample.name} ({names[class_id]})"
        jpeg = encode_jpeg(overlay(on_page[0], on_page[1], colors), quality=80)
        yield Overlay(name=file, caption=caption, jpeg=jpeg)


def _encode_table(table: pd.DataFrame, file: str) -> bytes:
    if file.endswith(".csv"):
        return table.to_csv(index=False).encode()
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _log_manifest(manifest: pd.DataFrame, title: str, run: tracking.Run) -> None:
    """Log the manifest as a data set: every image's name, and a digest of all rows."""
    names = (manifest["split"] + "/" + manifest["name"]).tolist()
    rows = manifest.to_csv(index=False).encode()
    digest = hashlib.blake2b(rows, digest_size=8).hexdigest()
    run.log_dataset(names, name=title, digest=digest, context="prepare")


def _how_read(reader: Reader) -> str:
    scaled = "" if reader.scale == 1 else f", read at {reader.scale:g} of their size"
    limit = f", shorter side at most {reader.short_side}" if reader.short_side else ""
    return scaled + limit


def _file_name(text: str) -> str:
    """Return a text as part of a file's name that every system takes, as readable as it can be."""
    return re.sub(r'[\x00-\x20/\\:*?"<>|]+', "_", text)[-60:]
