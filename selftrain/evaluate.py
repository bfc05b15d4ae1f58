"""Measure a trained network on the evaluation splits: the numbers of the tables.

The only stage that reads val and test. Metric keys carry the split: `test/mIoU`,
`test/IoU/car`, `test/accuracy`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selftrain import distributed, progress, tracking
from selftrain.checkpoint import load_network, require_same_classes
from selftrain.config import EvaluateConfig, MachineConfig
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample, Splits
from selftrain.files import write_atomically
from selftrain.inference import Predictor, frames, pixels_together, score
from selftrain.machine import count_workers
from selftrain.metrics import ConfusionMatrix
from selftrain.pictures import confusion_figure
from selftrain.submission import write_submission

METRICS = "metrics.json"
SUBMISSION = "submission.zip"


def evaluate(
    config: EvaluateConfig,
    splits: Splits,
    reader: Reader,
    model: Path,
    machine: MachineConfig,
    folder: Path,
    run: tracking.Run,
) -> None:
    """Score a network on each evaluation split.

    Leaves in `folder`: `metrics.json`, `per_class.csv` (a row a class, a column a split), the
    confusion matrix of each split as CSV, and `submission.zip` if one is asked for.

    Raises:
        InputError: the network has other classes than the data set, or a submission is asked for
            where there is nothing to submit.
    """
    device = distributed.choose_device(machine.device)
    network, card = load_network(model, device)
    require_same_classes(card.classes, reader.classes.names, f"The model {model.name}")
    predictor = Predictor.of(network, device, config.inference, machine)
    metrics: dict[str, float] = {}
    per_class = pd.DataFrame({"class": reader.classes.names})
    for split, samples in splits.evaluation.items():
        mine = len(range(distributed.rank(), len(samples), distributed.world_size()))
        with progress.bar(f"evaluate {split}", mine, unit="images") as bar:
            matrix = score(
                predictor, samples, reader, workers=count_workers(machine), advance=bar.advance
            )
        progress.say(f"evaluate {split}: {len(samples)} images, mIoU {100 * matrix.miou():.2f}")
        metrics |= named_metrics(split, matrix, reader.classes.names)
        per_class[split] = matrix.iou()
        if distributed.rank() == 0:
            _keep_matrix(split, matrix, reader.classes.names, folder, run)
    if distributed.rank() == 0:
        if config.submission:
            labelled = _label(predictor, splits.to_submit, reader, count_workers(machine))
            written = write_submission(folder / SUBMISSION, labelled, reader.classes)
            progress.say(f"{written} test images to submit: {folder / SUBMISSION}")
        run.log_metrics(metrics)
        write_atomically(folder / METRICS, json.dumps(metrics, indent=2).encode())
        write_atomically(folder / "per_class.csv", per_class.to_csv(index=False).encode())


def _label(
    predictor: Predictor, samples: Sequence[Sample], reader: Reader, workers: int
) -> Iterator[tuple[Sample, NDArray[np.uint8]]]:
    """Yield samples with their predicted train ids (H, W)."""
    batches = frames(
        samples,
        reader,
        with_labels=False,
        pixels=pixels_together(predictor.device),
        workers=workers,
        share=(0, 1),  # one process writes the file
    )
    for batch in batches:
        labels = predictor.labels(batch.images)[0].cpu().numpy()
        for row, position in enumerate(batch.positions):
            yield samples[position], labels[row]


def read_metrics(folder: Path) -> dict[str, float]:
    """Return the metrics that `evaluate` left in a product's folder."""
    metrics: dict[str, float] = json.loads((folder / METRICS).read_bytes())
    return metrics


def named_metrics(split: str, matrix: ConfusionMatrix, names: tuple[str, ...]) -> dict[str, float]:
    """Return the metrics of a split under the keys that they have everywhere."""
    classes = zip(names, matrix.iou().tolist(), strict=True)
    return {
        f"{split}/mIoU": matrix.miou(),
        f"{split}/accuracy": matrix.accuracy(),
        **{f"{split}/IoU/{name}": iou for name, iou in classes},
    }


def _keep_matrix(
    split: str, matrix: ConfusionMatrix, names: tuple[str, ...], folder: Path, run: tracking.Run
) -> None:
    counts = pd.DataFrame(matrix.matrix, index=list(names), columns=list(names))
    write_atomically(folder / f"confusion_{split}.csv", counts.to_csv().encode())
    run.log_figure(confusion_figure(matrix.matrix, names), f"confusion_{split}.png")
