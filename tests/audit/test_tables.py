"""The tables of an audit against closed cases."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_sets import CLASSES, labelled_images, write_set

from selftrain.audit.calibration import LevelCounts
from selftrain.audit.quality import Quality
from selftrain.audit.tables import (
    RIGHT,
    SHARES,
    THRESHOLDS,
    find_worst,
    image_confidence,
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
from selftrain.data.labelled_image import LabelledImage
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.metrics import ConfusionMatrix

NAMES = CLASSES.names
REAL = np.array([900, 90, 10])


@pytest.fixture
def items(tmp_path: Path) -> list[LabelledImage]:
    return labelled_images(tmp_path / "images")


@pytest.fixture
def labels(tmp_path: Path, items: list[LabelledImage]) -> PseudoLabelSet:
    return PseudoLabelSet.open(write_set(tmp_path / "set", items))


def quality(accuracy: Mapping[str, float] = MappingProxyType({})) -> Quality:
    """Return 10 roads, 8 of them found, and 4 cars, 1 of them found; the errors are unsure."""
    pairs, levels = (
        ConfusionMatrix.from_matrix(np.array([[8, 2, 0], [3, 1, 0], [0, 0, 0]])),
        LevelCounts(3),
    )
    levels.right[0, 230], levels.wrong[0, 128] = 8, 3
    levels.right[1, 230], levels.wrong[1, 20] = 1, 2
    return Quality(confusion=pairs, levels=levels, accuracy=accuracy)


def test_the_imbalance_of_each_pair_is_that_of_the_deck() -> None:
    """A teacher that learns from 360:1 makes labels of 1000:1."""
    real, pseudo = np.array([3600, 10, 0]), np.array([8000, 8, 2])
    table = tabulate_imbalance(["road", "motorcycle", "train"], real, pseudo)
    assert len(table) == 9
    rows = {(row[0], row[1]): row[2:] for row in table.itertuples(index=False)}
    assert rows["road", "motorcycle"] == (360, 1000, pytest.approx(1000 / 360))
    assert rows["motorcycle", "road"] == pytest.approx((1 / 360, 1 / 1000, 0.36))
    assert rows["road", "road"] == (1, 1, 1)
    assert rows["road", "train"][1] == 4000
    assert math.isnan(rows["road", "train"][0])
    assert math.isnan(rows["road", "train"][2])


def test_classes_have_their_frequencies_and_mean_confidence(
    labels: PseudoLabelSet, items: list[LabelledImage]
) -> None:
    table = tabulate_classes(NAMES, labels, REAL)
    assert table["real imbalance"].tolist() == [1, 10, 90]
    assert table["pseudo %"].sum() == pytest.approx(100)
    assert table["growth"][0] == 1
    assert not set(RIGHT) & set(table)
    assert "agreed %" not in table
    label = np.concatenate([item.label.ravel() for item in items])
    confidence = np.concatenate([item.confidence.ravel() for item in items])
    means = [confidence[label == k].mean() / 255 for k in range(3)]
    np.testing.assert_allclose(table["confidence"], means, atol=0.02)  # bins of 8 levels


def test_classes_have_their_share_of_agreement_if_it_was_measured(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    judged = [replace(it, agreement=0.5, agreed=it.label == 1) for it in items]
    labels = PseudoLabelSet.open(write_set(tmp_path / "judged", judged))
    table = tabulate_classes(NAMES, labels, REAL)
    assert table["agreed %"].tolist() == [0, 100, 0]
    assert tabulate_images(labels, ["drive/1"])["agreement"].tolist() == [0.5]


def test_classes_have_what_was_measured(labels: PseudoLabelSet) -> None:
    table = tabulate_classes(NAMES, labels, REAL, quality()).set_index("class")
    iou, precision, recall, error = table.loc["road", list(RIGHT)]
    assert (iou, precision, recall) == pytest.approx((100 * 8 / 13, 100 * 8 / 11, 80))
    gaps = 8 * (1 - 230.5 / 255) + 3 * (128.5 / 255)
    assert error == pytest.approx(100 * gaps / 11)
    assert table.loc["bus", list(RIGHT)].isna().all()


def test_the_confidence_table_has_every_pixel(
    labels: PseudoLabelSet, items: list[LabelledImage]
) -> None:
    table = tabulate_confidence(NAMES, labels)
    assert table.groupby("class", sort=False)["pixels"].sum().tolist() == (
        labels.class_pixels().tolist()
    )
    row = table[(table["class"] == "car") & (table["from level"] == 220)].iloc[0]
    assert row["to level"] == 223
    expected = sum(
        int(((it.label == 1) & (it.confidence >= 220) & (it.confidence <= 223)).sum())
        for it in items
    )
    assert row["pixels"] == expected


def test_every_threshold_and_rule_has_its_row(labels: PseudoLabelSet) -> None:
    titles = [choice.title for choice in list_choices(labels, REAL)]
    assert titles == [
        *(f"threshold {t:g}" for t in THRESHOLDS),
        *(f"cbst {s:g}" for s in SHARES),
        *(f"dars {s:g}" for s in SHARES),
    ]
    without_real = [choice.title for choice in list_choices(labels, np.zeros(3, dtype=np.int64))]
    assert without_real == titles[:-3]


def test_a_rule_that_would_keep_nothing_has_no_row(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    """The teacher predicts the first class alone, and the real labels have another."""
    roads = [replace(item, label=np.zeros_like(item.label)) for item in items]
    labels = PseudoLabelSet.open(write_set(tmp_path / "roads", roads))
    titles = [choice.title for choice in list_choices(labels, np.array([0, 90, 0]))]
    assert titles == [f"threshold {t:g}" for t in THRESHOLDS] + [f"cbst {s:g}" for s in SHARES]


def test_the_kept_share_is_that_of_the_pixels(
    labels: PseudoLabelSet, items: list[LabelledImage]
) -> None:
    label = np.concatenate([item.label.ravel() for item in items])
    confidence = np.concatenate([item.confidence.ravel() for item in items])
    table = tabulate_kept(NAMES, labels.class_pixels(), list_choices(labels, REAL))
    kept = table.pivot(index="class", columns="selection", values="kept %")
    for threshold in (0, 0.5, 0.8, 0.9, 0.95, 0.99):  # 0.7 lies within a bin
        sure = confidence >= 255 * threshold
        title = f"threshold {threshold:g}"
        for k, name in enumerate(NAMES):
            assert kept.loc[name, title] == pytest.approx(100 * sure[label == k].mean())
        assert kept.loc["all", title] == pytest.approx(100 * sure[label < 3].mean())
    assert (kept.loc[list(NAMES), "cbst 0.5"] >= 50).all()


def test_the_kept_share_falls_with_the_threshold(labels: PseudoLabelSet) -> None:
    choices = list_choices(labels, REAL)[: len(THRESHOLDS)]
    assert (np.diff([choice.kept for choice in choices], axis=0) <= 0).all()
    assert (choices[0].kept == 1).all()


def test_a_class_that_was_never_predicted_keeps_no_share(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    roads = [replace(item, label=np.zeros_like(item.label)) for item in items]
    labels = PseudoLabelSet.open(write_set(tmp_path / "roads", roads))
    table = tabulate_kept(NAMES, labels.class_pixels(), list_choices(labels, REAL))
    assert table[table["class"] == "bus"]["kept %"].isna().all()
    assert table[table["class"] == "road"]["kept %"].notna().all()


def test_a_set_without_a_labelled_pixel_has_its_tables(
    tmp_path: Path, items: list[LabelledImage]
) -> None:
    void = [replace(item, label=np.full_like(item.label, 255)) for item in items]
    labels = PseudoLabelSet.open(write_set(tmp_path / "void", void))
    table = tabulate_kept(NAMES, labels.class_pixels(), list_choices(labels, REAL))
    assert table["kept %"].isna().all()
    assert np.isnan(image_confidence(labels)).all()
    assert tabulate_classes(NAMES, labels, REAL)["confidence"].isna().all()


def test_the_accuracy_is_of_what_a_threshold_keeps(labels: PseudoLabelSet) -> None:
    table = tabulate_accuracy(list_choices(labels, REAL), quality())
    found = {title: (kept, accuracy) for title, kept, accuracy in table.itertuples(index=False)}
    assert found["threshold 0"] == pytest.approx((100, 100 * 9 / 14))
    assert found["threshold 0.5"] == pytest.approx((100 * 12 / 14, 75))
    assert found["threshold 0.9"] == pytest.approx((100 * 9 / 14, 100))
    assert found["threshold 0.99"] == pytest.approx((0, math.nan), nan_ok=True)


def test_the_curves_are_those_of_the_counts() -> None:
    risk = tabulate_risk(quality())
    assert risk["threshold"].tolist() == [230 / 255, 128 / 255, 20 / 255]
    assert risk["coverage"].tolist() == [9 / 14, 12 / 14, 1]
    assert risk["risk"].tolist() == [0, 3 / 12, 5 / 14]
    bins = tabulate_reliability(quality())
    assert bins["pixels"].tolist() == [0, 2, *[0] * 5, 3, *[0] * 5, 9, 0]
    assert bins["accuracy"][13] == 1
    assert bins["from"][13] == 13 / 15


def test_the_metrics_are_named_by_what_they_are() -> None:
    found = summarise_quality(NAMES, quality())
    assert found["labels/accuracy"] == 9 / 14
    assert found["labels/IoU/road"] == 8 / 13
    assert found["labels/mIoU"] == pytest.approx((8 / 13 + 1 / 6) / 2)
    assert found["labels/aurc"] == pytest.approx((3 * 3 / 12 + 2 * 5 / 14) / 14)
    assert math.isnan(found["labels/IoU/bus"])


def test_images_have_their_numbers_in_the_order_of_the_pool(
    labels: PseudoLabelSet, items: list[LabelledImage]
) -> None:
    pool = ["drive/4", "drive/0"]
    table = tabulate_images(labels, pool, quality({"drive/0": 0.25}))
    assert table["name"].tolist() == pool
    means = [it.confidence[it.label != 255].mean() / 255 for it in (items[4], items[0])]
    np.testing.assert_allclose(table["confidence"], means, atol=0.02)
    assert table["agreement"].isna().all()
    assert math.isnan(table["accuracy"][0])
    assert table["accuracy"][1] == 0.25
    assert "accuracy" not in tabulate_images(labels, pool)


@given(st.lists(st.just(math.nan) | st.sampled_from([0.0, 0.25, 1.0])), st.integers(0, 4))
def test_the_worst_are_the_lowest_that_are_known(values: list[float], count: int) -> None:
    worst = find_worst(values, count)
    known = [at for at, value in enumerate(values) if not math.isnan(value)]
    assert len(worst) == min(count, len(known))
    assert set(worst) <= set(known)
    assert worst == sorted(worst, key=lambda at: (values[at], at))
    left = set(known) - set(worst)
    assert all((values[a], a) < (values[b], b) for a in worst for b in left)
