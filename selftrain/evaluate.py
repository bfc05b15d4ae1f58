"""Measure a trained network on the evaluation splits: the numbers of the tables.

The only stage that reads val and test. Metric keys carry the split: `test/mIoU`,
`test/IoU/car`, `test/accuracy`.
"""

import json
from pathlib import Path

import pandas as pd

from selftrain import distributed, progress, tracking
from selftrain.checkpoint import load_network, require_same_classes
from selftrain.config import EvaluateConfig, MachineConfig
from selftrain.data.sample import Reader, Splits
from selftrain.files import write_atomically
from selftrain.inference import Predictor, batch_size_for, score
from selftrain.machine import count_workers
from selftrain.metrics import ConfusionMatrix
from selftrain.pictures import confusion_figure

METRICS = "metrics.json"


def evaluate(
    config: EvaluateConfig,
    splits: Splits,
    reader: Reader,
    model: Path,
    machine: MachineConfig,
    folder: Path,
    run: tracking.Run,
) -> None:
    """Score a network on each evaluation split, whole images.

    Leaves in `folder`: `metrics.json`, `per_class.csv` (a row a class, a column a split) and
    the confusion matrix of each split as CSV.

    Raises:
        InputError: the network has other classes than the data set.
    """
    device = distributed.choose_device(machine.device)
    network, card = load_network(model, device)
    require_same_classes(card.classes, reader.classes.names, f"The model {model.name}")
    inference = config.inference
    predictor = Predictor(
        network, device, inference.scale_list(), inference.flip, machine.precision
    )
    metrics: dict[str, float] = {}
    per_class = pd.DataFrame({"class": reader.classes.names})
    for split, samples in splits.evaluation.items():
        progress.say(f"evaluate {split}: {len(samples)} images")
        matrix = score(
            predictor,
            samples,
            reader,
            batch_size=batch_size_for(device),
            workers=count_workers(machine),
        )
        metrics |= named_metrics(split, matrix, reader.classes.names)
        per_class[split] = matrix.iou()
        if distributed.rank() == 0:
            _keep_matrix(split, matrix, reader.classes.names, folder, run)
    if distributed.rank() == 0:
        run.log_metrics(metrics)
        write_atomically(folder / METRICS, json.dumps(metrics, indent=2).encode())
        write_atomically(folder / "per_class.csv", per_class.to_csv(index=False).encode())


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
