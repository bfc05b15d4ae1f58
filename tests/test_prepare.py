"""A look at the data: everything is read, once, and counted."""

import json
from collections import Counter
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from selftrain import progress
from selftrain.data.sample import Blob, Reader, Sample
from selftrain.data.statistics import count_pixels
from selftrain.datasets import OpenData
from selftrain.prepare import PICTURES, prepare
from selftrain.tracking import Run


class QuietRun:
    """A run that keeps its metrics."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def log_metrics(self, metrics: dict[str, float]) -> None:
        self.metrics |= metrics


def test_every_image_is_read_and_every_label_but_the_pools_is_counted(
    tiny_data: OpenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: Counter[Path] = Counter()
    labels: Counter[Blob] = Counter()
    steps: list[int] = []
    read_image, read_label = Reader.image, Reader.label

    def image(self: Reader, sample: Sample) -> NDArray[np.uint8]:
        images[sample.image] += 1
        return read_image(self, sample)

    def label(self: Reader, sample: Sample) -> NDArray[np.uint8]:
        assert sample.label is not None
        labels[sample.label] += 1
        return read_label(self, sample)

    def advance(self: object, count: int = 1) -> None:
        steps.append(count)

    monkeypatch.setattr(Reader, "image", image)
    monkeypatch.setattr(Reader, "label", label)
    monkeypatch.setattr(progress.Bar, "advance", advance)
    run = QuietRun()
    splits = tiny_data.splits

    prepare(splits, tiny_data.reader, tmp_path, cast("Run", run))

    shown = {sample.label for sample in splits.labelled[:PICTURES]}  # read again for the overlays
    held = [*splits.labelled, *splits.dev, *splits.evaluation["test"]]
    assert labels == {sample.label: 1 + (sample.label in shown) for sample in held}
    assert set(images) == {sample.image for sample in [*held, *splits.unlabelled]}
    assert steps == [1] * 12
    assert run.metrics == {"data/labelled": 4, "data/unlabelled": 4, "data/dev": 2, "data/test": 2}
    assert json.loads((tmp_path / "summary.json").read_text())["dev"] == 2
    assert len(list((tmp_path / "overlays").rglob("*.png"))) == PICTURES
    counted = pd.read_csv(tmp_path / "class_pixels.csv")
    for name, samples in (("labelled", splits.labelled), ("test", splits.evaluation["test"])):
        assert counted[name].tolist() == count_pixels(samples, tiny_data.reader).tolist()
