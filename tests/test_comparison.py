"""What a pipeline is run for: the table, and pictures."""

import math
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from miniature import random_network

from selftrain import comparison
from selftrain.comparison import compare, draw, show, to_markdown, write
from selftrain.config import Config, InferenceConfig
from selftrain.datasets import OpenData
from selftrain.panels import Compared, comparison_figure

METRICS = {
    "teacher": {"test/mIoU": 0.5, "val/mIoU": 0.4, "test/IoU/road": 0.9},
    "control": {"test/mIoU": 0.52, "val/mIoU": 0.41, "test/IoU/road": 0.9, "test/IoU/car": 0.1},
    "student": {"test/mIoU": 0.6, "val/mIoU": 0.5, "test/IoU/road": 0.95, "test/IoU/car": 0.3},
}


@pytest.fixture
def table() -> pd.DataFrame:
    return compare(METRICS, ["test", "val"], ["road", "car", "bus"])


def test_models_stand_side_by_side_in_percent(table: pd.DataFrame) -> None:
    assert list(table.columns) == ["metric", "teacher", "control", "student", "student - control"]
    assert table["metric"].tolist() == [
        "test mIoU",
        "val mIoU",
        "test IoU road",
        "test IoU car",
        "test IoU bus",
    ]
    assert table["student"].tolist()[:4] == pytest.approx([60, 50, 95, 30])


def test_the_gain_is_over_the_control_and_not_over_the_teacher(table: pd.DataFrame) -> None:
    assert table["student - control"].tolist()[:2] == pytest.approx([8, 9])


def test_what_was_not_measured_is_a_dash(
    table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    assert math.isnan(table["student"].iloc[4])
    *_, car, bus = to_markdown(table).splitlines()
    assert [cell.strip() for cell in car.split("|")[1:-1]] == [
        "test IoU car",
        "-",
        "10.00",
        "30.00",
        "20.00",
    ]
    assert bus.count("-") == 4
    show(table, "scenes")
    assert "nan" not in capsys.readouterr().out


def test_a_table_is_framed_only_where_it_fits(
    table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(**environment: str) -> str:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            show(table, "scenes")
        return capsys.readouterr().out

    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    plain = shown()
    assert plain.startswith("scenes\n\n| metric")
    assert "\x1b" not in plain
    framed = shown(FORCE_COLOR="1", COLUMNS="80")
    assert "┃ student - control ┃" in framed.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert shown(FORCE_COLOR="1", COLUMNS="40") == shown(TERM="dumb", FORCE_COLOR="1") == plain


def test_the_table_is_written_with_the_keys_of_its_runs(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    path = write(table, ["student: run 7"], tmp_path / "new")
    assert "- student: run 7" in path.read_text()
    written = pd.read_csv(tmp_path / "new" / "comparison.csv")
    pd.testing.assert_frame_equal(written, table)


def test_the_same_images_are_drawn_each_time_with_what_both_networks_make_of_them(
    tiny: Config, tiny_data: OpenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, reader = tiny_data.splits.evaluation["test"], tiny_data.reader
    networks = {
        name: random_network(tmp_path / name, reader.classes, seed=seed)
        for seed, name in enumerate(("teacher", "student"))
    }
    drawn: list[list[Compared]] = []

    def keep(rows: list[Compared], *given: object, **more: object) -> object:
        drawn.append(rows)
        return comparison_figure(rows, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(comparison, "comparison_figure", keep)
    files = [
        draw(networks, samples, reader, InferenceConfig(), tiny.machine, tmp_path / folder)
        for folder in ("first", "second")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    picture = cv2.imread(str(files[0]))
    assert picture is not None
    assert picture.shape[1] > picture.shape[0] > 200
    rows = drawn[0]
    assert [row.title for row in rows] == [sample.name for sample in samples]
    for row, sample in zip(rows, samples, strict=True):
        image, truth = reader.pair(sample)
        np.testing.assert_array_equal(row.image, image)
        np.testing.assert_array_equal(row.truth, truth)
        assert list(row.labels) == ["teacher", "student"]
        assert (row.labels["teacher"] != row.labels["student"]).any()
