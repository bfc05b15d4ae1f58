"""The audit of a set of pseudo labels: how far one can trust them, as tables and as one page.

Without true labels it says how frequent, how sure and how stable the labels are; with them, how
right. It is logged to the run that made the set, as `audit/audit.html` and `audit/*.csv`.
"""

import tempfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selftrain import tracking
from selftrain.audit.page import Findings, Group, render_audit
from selftrain.audit.pictures import choose_by_confidence, draw_errors, draw_labels
from selftrain.audit.quality import Quality, measure_labels
from selftrain.audit.tables import (
    find_worst,
    list_choices,
    summarise_quality,
    tabulate_accuracy,
    tabulate_classes,
    tabulate_confidence,
    tabulate_images,
    tabulate_imbalance,
    tabulate_kept,
    tabulate_reliability,
    tabulate_risk,
)
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.reader import Reader
from selftrain.data.sample import Splits
from selftrain.data.selection import starved
from selftrain.data.shards import BIN_STARTS
from selftrain.data.statistics import count_pixels, frequency_table
from selftrain.errors import InputError
from selftrain.files import write_atomically
from selftrain.pictures import (
    confidence_figure,
    confusion_figure,
    reliability_figure,
    risk_coverage_figure,
)

PAGE = "audit.html"
FOLDER = "audit"
"""Of the page and its tables, among a run's artifacts."""
WORST = 12
"""Images that are shown for the least agreement, and for the least accuracy."""

_NOT_MEASURED = (
    "not measured, so that confidence alone speaks for these labels: label with "
    "pseudo_label.agreement = flip or snapshots, or by several teachers"
)
_LABELS_NOTE = "Image, pseudo label, confidence."


def log_audit(
    labels: PseudoLabelSet,
    splits: Splits,
    reader: Reader,
    run: tracking.Run,
    *,
    real_pixels: NDArray[np.int64],
) -> None:
    """Log what can be said of a set without opening a true label.

    Args:
        labels: The finished set.
        splits: Its `unlabelled` were labelled.
        reader: Reads images and labels as the teacher saw them.
        run: Gets `labels/images`, `labels/confidence`, `labels/agreement` if it was measured,
            class_frequency.csv and .md, and the audit.
        real_pixels: (K,) labelled pixels of each class in the real labels.
    """
    names = splits.classes.names
    table = frequency_table(names, real_pixels, labels.class_pixels())
    run.log_text(table.to_csv(index=False), "class_frequency.csv")
    run.log_text(table.to_markdown(index=False, floatfmt=".3f"), "class_frequency.md")
    findings = _find(labels, splits, reader, real_pixels, None)
    _log(findings, splits, run)
    images = findings.tables["images.csv"]
    run.log_metrics(
        {
            "labels/images": len(labels),
            "labels/confidence": _mean(images["confidence"]),
            "labels/agreement": _mean(images["agreement"]),
        }
    )


def measure_once(folder: Path, splits: Splits, reader: Reader, run: tracking.Run) -> None:
    """Measure the labels against the pool's hidden ones, unless the run has it already.

    Nothing is trained on the hidden labels, and no key depends on whether they were opened.

    Args:
        folder: Of a finished set.
        splits: Its `pool_with_labels` are opened.
        reader: Reads them at the scale that was labelled.
        run: Of the set: gets `labels/mIoU`, `labels/accuracy`, `labels/IoU/...`, `labels/ece`,
            `labels/aurc`, and the audit anew with what was measured.

    Raises:
        InputError: the pool has no hidden labels, or one is not of its image's size.
    """
    if run.has_metric("labels/mIoU"):
        return
    hidden = {sample.name: sample for sample in splits.pool_with_labels}
    if not hidden:
        raise InputError(
            "The pool has no labels to measure with: set pseudo_label.measure to false."
        )
    labels = PseudoLabelSet.open(folder)
    quality = measure_labels(labels.samples(splits.unlabelled), hidden, reader)
    real_pixels = count_pixels(splits.labelled, reader)
    _log(_find(labels, splits, reader, real_pixels, quality), splits, run)
    # Last: with them the measurement is complete.
    run.log_metrics(summarise_quality(splits.classes.names, quality))


def _log(findings: Findings, splits: Splits, run: tracking.Run) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for file, table in findings.tables.items():
            write_atomically(folder / file, table.to_csv(index=False).encode())
        page = render_audit(findings, splits.classes)
        write_atomically(folder / PAGE, page.encode())
        run.log_files(folder, FOLDER)


def _find(
    labels: PseudoLabelSet,
    splits: Splits,
    reader: Reader,
    real_pixels: NDArray[np.int64],
    quality: Quality | None,
) -> Findings:
    names, pixels = splits.classes.names, labels.class_pixels()
    choices = list_choices(labels, real_pixels)
    tables = {
        "classes.csv": tabulate_classes(names, labels, real_pixels, quality),
        "imbalance.csv": tabulate_imbalance(names, real_pixels, pixels),
        "confidence.csv": tabulate_confidence(names, labels),
        "kept.csv": tabulate_kept(names, pixels, choices),
        "images.csv": tabulate_images(labels, [it.name for it in splits.unlabelled], quality),
    }
    histogram = labels.confidence_histogram()
    figures = {"confidence.png": confidence_figure(histogram, BIN_STARTS, names)}
    if quality is not None:
        tables["accuracy.csv"] = tabulate_accuracy(choices, quality)
        tables["reliability.csv"] = tabulate_reliability(quality)
        tables["risk_coverage.csv"] = tabulate_risk(quality)
        tables["confusion.csv"] = _tabulate_confusion(names, quality)
        figures |= _draw_quality(names, quality, tables)
    return Findings(
        note=_describe(labels, len(splits.unlabelled)),
        opened=0 if quality is None else len(quality.accuracy),
        warnings=_warn(names, real_pixels, pixels),
        numbers=_list_numbers(labels, tables["images.csv"], quality),
        tables=tables,
        figures=figures,
        groups=list(_draw_groups(labels, splits, reader, tables["images.csv"])),
    )


def _describe(labels: PseudoLabelSet, images: int) -> str:
    """Return who made the set and how, as its card has it."""
    card = labels.card
    note = f"{images:,} images"
    if teachers := card.get("teachers"):
        note += f", labelled by {' and '.join(teachers)}"
    asked = [
        f"{knob} {value:g}" if isinstance(value, float) else f"{knob} {value}"
        for knob, value in card.get("inference", {}).items()
    ]
    return f"{note}; {', '.join(asked)}." if asked else f"{note}."


def _warn(
    names: Sequence[str], real_pixels: NDArray[np.int64], pixels: NDArray[np.int64]
) -> list[str]:
    hardly = starved(names, real_pixels, pixels)
    if not hardly:
        return []
    return [f"The teacher hardly predicts {', '.join(hardly)}: a student will hardly learn it."]


def _list_numbers(
    labels: PseudoLabelSet, images: pd.DataFrame, quality: Quality | None
) -> list[tuple[str, str, str]]:
    """Return (name, value, meaning) of the numbers that stand for the whole set."""
    pixels = int(labels.class_pixels().sum())
    numbers = [
        ("images", f"{len(images):,}", ""),
        ("labelled pixels", f"{pixels:,}", ""),
        ("confidence", _fixed(_mean(images["confidence"])), "mean over the images"),
    ]
    if images["agreement"].notna().any():
        meaning = "mean over the images of the mean IoU between the labels and those of the judges"
        numbers.append(("agreement", _fixed(_mean(images["agreement"])), meaning))
    elif quality is None:
        numbers.append(("agreement", "-", _NOT_MEASURED))
    if quality is not None:
        found = summarise_quality(labels.card["classes"], quality)
        wrong = 1 - found["labels/accuracy"]
        numbers += [
            ("accuracy", _percent(found["labels/accuracy"]), "of the pixels that both maps label"),
            ("mIoU", _percent(found["labels/mIoU"]), "of these pixels"),
            ("ECE", _percent(found["labels/ece"]), "how far confidence is from accuracy"),
            (
                "AURC",
                _percent(found["labels/aurc"]),
                f"errors among the more confident; {_percent(wrong)} if confidence said nothing",
            ),
        ]
    return numbers


def _tabulate_confusion(names: Sequence[str], quality: Quality) -> pd.DataFrame:
    table = pd.DataFrame(quality.confusion.matrix, columns=[f"called {name}" for name in names])
    table.insert(0, "true class", list(names))
    return table


def _draw_quality(
    names: Sequence[str], quality: Quality, tables: Mapping[str, pd.DataFrame]
) -> dict[str, Figure]:
    bins, curve = tables["reliability.csv"], tables["risk_coverage.csv"]
    marks = [
        (title.removeprefix("threshold "), kept / 100, 1 - accuracy / 100)
        for title, kept, accuracy in tables["accuracy.csv"].itertuples(index=False)
        if title.startswith("threshold") and kept > 0
    ]
    columns = (bins[name].to_numpy() for name in ("confidence", "accuracy", "pixels"))
    return {
        "reliability.png": reliability_figure(*columns),
        "risk_coverage.png": risk_coverage_figure(
            curve["coverage"].to_numpy(), curve["risk"].to_numpy(), marks
        ),
        "confusion.png": confusion_figure(quality.confusion.matrix, names),
    }


def _draw_groups(
    labels: PseudoLabelSet, splits: Splits, reader: Reader, images: pd.DataFrame
) -> Iterator[Group]:
    """Yield the images that are shown: the worst, then some from all over the pool."""
    samples = labels.samples(splits.unlabelled)
    hidden = {sample.name: sample for sample in splits.pool_with_labels}
    captions = [_caption(row) for row in images.to_dict("records")]
    if "accuracy" in images:
        worst = find_worst(images["accuracy"].tolist(), WORST)
        yield Group(
            title="Least accurate labels",
            note="Image, pseudo label, true label, and in orange where they differ; dark: one "
            "of the two is missing.",
            images=[
                draw_errors(samples[i], hidden[samples[i].name], reader, captions[i]) for i in worst
            ],
        )
    worst = find_worst(images["agreement"].tolist(), WORST)
    if worst:
        yield Group(
            title="Least agreement",
            note=_LABELS_NOTE,
            images=[draw_labels(samples[i], reader, captions[i]) for i in worst],
        )
    for title, chosen in choose_by_confidence(images["confidence"].tolist()).items():
        yield Group(
            title=title,
            note=f"{_LABELS_NOTE} {len(chosen)} of {len(images):,} images, taken by their place in "
            "the order of mean confidence.",
            images=[draw_labels(samples[i], reader, captions[i]) for i in chosen],
        )


def _caption(image: Mapping[Hashable, Any]) -> str:
    known = [
        f"{name} {image[name]:.3f}"
        for name in ("confidence", "agreement", "accuracy")
        if not np.isnan(image.get(name, np.nan))
    ]
    return f"{image['name']}: {', '.join(known) or 'no label'}"


def _mean(values: pd.Series) -> float:
    """Return the mean of what is not nan; nan without any."""
    return float(values.mean())


def _fixed(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.2f} %"
