"""The numbers of the tables."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from miniature import random_network

from selftrain.checkpoint import load_network
from selftrain.config import Config
from selftrain.data.sample import ClassTable, Splits
from selftrain.datasets import OpenData
from selftrain.errors import InputError
from selftrain.evaluate import evaluate, named_metrics
from selftrain.inference import Predictor, score
from selftrain.metrics import ConfusionMatrix
from selftrain.tracking import SILENT


@pytest.fixture
def splits(tiny_data: OpenData) -> Splits:
    """Two evaluation splits."""
    both = {"test": tiny_data.splits.evaluation["test"], "val": tiny_data.splits.dev}
    return replace(tiny_data.splits, evaluation=both)


def test_each_split_is_scored_under_its_name(
    tiny: Config, tiny_data: OpenData, splits: Splits, tmp_path: Path
) -> None:
    model = random_network(tmp_path / "model", splits.classes)
    evaluate(tiny.evaluate, splits, tiny_data.reader, model, tiny.machine, tmp_path / "out", SILENT)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    network, _ = load_network(model, torch.device("cpu"))
    predictor = Predictor(network, torch.device("cpu"))
    per_class = pd.read_csv(tmp_path / "out" / "per_class.csv")
    for split, samples in splits.evaluation.items():
        matrix = score(predictor, samples, tiny_data.reader)
        assert metrics[f"{split}/mIoU"] == matrix.miou()
        assert metrics[f"{split}/accuracy"] == matrix.accuracy()
        np.testing.assert_allclose(per_class[split], matrix.iou())
        counts = pd.read_csv(tmp_path / "out" / f"confusion_{split}.csv", index_col=0)
        np.testing.assert_array_equal(counts.to_numpy(), matrix.matrix)
        assert counts.index.tolist() == counts.columns.tolist() == list(splits.classes.names)


def test_metrics_carry_split_and_class() -> None:
    matrix = ConfusionMatrix.from_matrix(np.array([[3, 1], [0, 0]]))
    metrics = named_metrics("test", matrix, ("road", "car"))
    assert metrics == {
        "test/mIoU": 0.375,
        "test/accuracy": 0.75,
        "test/IoU/road": 0.75,
        "test/IoU/car": 0.0,
    }


def test_neither_training_data_nor_the_pool_are_read(
    tiny: Config, tiny_data: OpenData, splits: Splits, tmp_path: Path
) -> None:
    blind = replace(splits, labelled=[], unlabelled=[], dev=[], pool_with_labels=[])
    model = random_network(tmp_path / "model", splits.classes)
    evaluate(tiny.evaluate, blind, tiny_data.reader, model, tiny.machine, tmp_path, SILENT)
    assert (tmp_path / "metrics.json").exists()


def test_a_model_of_other_classes_is_refused(
    tiny: Config, tiny_data: OpenData, splits: Splits, tmp_path: Path
) -> None:
    few = ClassTable(("road", "car"), ((1, 2, 3), (4, 5, 6)))
    model = random_network(tmp_path / "few", few)
    with pytest.raises(InputError, match="The model few has the 2 classes road, car"):
        evaluate(
            tiny.evaluate, splits, tiny_data.reader, model, tiny.machine, tmp_path / "out", SILENT
        )
    assert not (tmp_path / "out").exists()
