"""What a training reads: real samples, the pseudo labels that its config selects, centroids."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pandas import DataFrame

from selftrain import progress, tracking
from selftrain.config import MachineConfig, TrainConfig
from selftrain.data import selection
from selftrain.data.centroids import Centroids, find_centroids
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.data.selection import Selection
from selftrain.datasets import OpenData
from selftrain.errors import InputError
from selftrain.machine import count_workers
from selftrain.train import TrainingData

_SAID = 5
"""Starved classes that are named; the table has them all."""


def gather(
    config: TrainConfig,
    data: OpenData,
    machine: MachineConfig,
    run: tracking.Run,
    *,
    labels: PseudoLabelSet | None,
    start: Path | None,
) -> TrainingData:
    """Choose what a training reads, and log what is kept of the pseudo labels.

    Args:
        config: What is trained; its `select` and `sampling`.
        data: The benchmark's samples.
        machine: Where centroids are remembered, and by how many workers they are sought.
        run: Gets `selection.csv` and `.md` and the metrics `pseudo/...`.
        labels: Pseudo labels of the pool; None: real labels alone.
        start: Folder of a network to start from.

    Raises:
        InputError: nothing is left of the pseudo labels.
    """
    samples: list[Sample] = []
    keep_from: tuple[int, ...] = ()
    centroids: Centroids = {}
    if labels is not None:
        pool = labels.samples(data.splits.unlabelled)
        chosen = _select(config, data, labels, [labels.rows[sample.name] for sample in pool])
        samples = [pool[position] for position in chosen.rows.tolist()]
        if config.loss.soft and samples[0].soft is None:
            raise InputError(
                f"loss.soft is true, but the pseudo labels in {labels.folder} hold no likeliest "
                "classes: label the pool with pseudo_label.soft = true."
            )
        if any(chosen.keep_from):
            keep_from = chosen.keep_from
        if config.sampling.centroid_fraction > 0 and config.sampling.scope != "real":
            centroids = (
                _find(samples, dataclasses.replace(data.reader, keep_from=keep_from), data, machine)
                if keep_from  # a pixel that is not kept is no centroid
                else labels.centroids(samples)
            )
        _log(chosen, data, centroids, run)
    real_on_centroids = config.sampling.centroid_fraction > 0 and not (
        labels is not None and config.sampling.scope == "pseudo"
    )
    real_centroids: Centroids = {}
    if real_on_centroids:
        real_centroids = _find(data.splits.labelled, data.reader, data, machine)
        if not real_centroids:
            first = data.splits.labelled[0].label
            raise InputError(
                f"None of the {len(data.splits.labelled)} labels to train on, the first of which "
                f"is {first.path if first else 'missing'}, shows any class: all their pixels are "
                "ignored; correct the labels or the class list."
            )
    return TrainingData(
        reader=data.reader,
        real=data.splits.labelled,
        real_centroids=real_centroids,
        pseudo=samples,
        pseudo_centroids=centroids,
        dev=data.splits.dev,
        start=start,
        keep_from=keep_from,
    )


def _select(
    config: TrainConfig, data: OpenData, labels: PseudoLabelSet, rows: Sequence[int]
) -> Selection:
    """Return what is kept of these rows of the set; its own rows are positions among them."""
    settings = config.select
    return selection.select(
        labels.histograms()[rows],
        rule=settings.rule,
        threshold=settings.threshold,
        share=settings.share,
        images=settings.images,
        images_share=settings.images_share,
        min_pixels=settings.min_pixels,
        agreement=labels.agreement()[rows],
        real_pixels=data.labelled_pixels,
    )


def _find(
    samples: Sequence[Sample], reader: Reader, data: OpenData, machine: MachineConfig
) -> Centroids:
    return find_centroids(
        samples,
        reader,
        tile=data.config.tile,
        cache=machine.outputs / "cache",
        workers=count_workers(machine),
    )


def _log(chosen: Selection, data: OpenData, centroids: Centroids, run: tracking.Run) -> None:
    """Log what is kept of each class, and say which classes hardly are."""
    names, real = data.splits.classes.names, data.labelled_pixels
    table: DataFrame = selection.report(chosen, names, real, centroids or None)
    run.log_text(table.to_csv(index=False), "selection.csv")
    run.log_text(table.to_markdown(index=False, floatfmt=".3f"), "selection.md")
    kept = float(chosen.kept_pixels.sum()) / max(int(chosen.predicted_pixels.sum()), 1)
    run.log_metrics({"pseudo/images": len(chosen.rows), "pseudo/kept_share": kept})
    if kept < 1:
        images = f"{len(chosen.rows)} of {len(data.splits.unlabelled)} images"
        progress.say(f"pseudo labels: {100 * kept:.1f} % of the pixels count, in {images}")
    if rare := selection.starved(names, real, chosen.kept_pixels):
        more = f" and {len(rare) - _SAID} more (selection.md)" if len(rare) > _SAID else ""
        progress.say(f"pseudo labels hardly show {', '.join(rare[:_SAID])}{more}")
