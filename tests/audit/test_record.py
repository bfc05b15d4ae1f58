"""The audit of a set: what is logged, with and without true labels."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from label_sets import CARD, CLASSES, IMAGES, labelled_images, samples_of, write_set
from miniature import write_picture

from selftrain import tracking
from selftrain.audit.record import log_audit, measure_once
from selftrain.data.labelled_image import LabelledImage
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, Splits
from selftrain.data.shards import finish
from selftrain.errors import InputError
from selftrain.tracking import SILENT, Run

READER = Reader(CLASSES)
REAL = np.array([900, 90, 10])
TABLES = {"classes", "imbalance", "confidence", "kept", "images"}
MEASURED = {"accuracy", "reliability", "risk_coverage", "confusion"}


@dataclass(frozen=True)
class Logged(Run):
    """A run that keeps what it is given, without a store."""

    texts: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def log_text(self, text: str, file: str) -> None:
        self.texts[file] = text

    def log_files(self, folder: Path, artifact_path: str) -> None:
        self.texts.update({f"{artifact_path}/{it.name}": it.read_text() for it in folder.iterdir()})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics.update(metrics)

    def has_metric(self, name: str) -> bool:
        return name in self.metrics

    @property
    def page(self) -> str:
        return self.texts["audit/audit.html"]

    @property
    def tables(self) -> set[str]:
        return {Path(name).stem for name in self.texts if re.fullmatch(r"audit/\w+\.csv", name)}


@pytest.fixture
def run() -> Logged:
    return Logged("a run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def items(folder: Path) -> list[LabelledImage]:
    return labelled_images(folder / "images")


@pytest.fixture(scope="module")
def labels(folder: Path, items: list[LabelledImage]) -> PseudoLabelSet:
    return PseudoLabelSet.open(write_set(folder / "set", items))


@pytest.fixture(scope="module")
def splits(folder: Path, items: list[LabelledImage]) -> Splits:
    """The pool's true labels are the pseudo labels down to row 10, and road below."""
    hidden = []
    for item in items:
        path = folder / "truth" / f"{item.sample.name}.png"
        write_picture(path, np.vstack([item.label[:10], np.zeros_like(item.label[10:])]))
        hidden.append(replace(item.sample, label=Blob(path)))
    pool = samples_of(items)
    return Splits(CLASSES, hidden[:1], pool, dev=[], evaluation={}, pool_with_labels=hidden)


@pytest.fixture(scope="module")
def measured(labels: PseudoLabelSet, splits: Splits) -> Logged:
    """A run whose labels were measured."""
    run = Logged("measured")
    measure_once(labels.folder, splits, READER, run)
    return run


def test_without_asking_no_true_label_is_opened(
    labels: PseudoLabelSet, splits: Splits, run: Logged, tmp_path: Path
) -> None:
    gone = [replace(it, label=Blob(tmp_path / "gone.png")) for it in splits.pool_with_labels]
    blind = replace(splits, pool_with_labels=gone)
    log_audit(labels, blind, READER, run, real_pixels=REAL)
    assert run.page.index("were not opened") < run.page.index("<h2>")
    assert "Calibration" not in run.page
    assert run.tables == TABLES
    assert run.metrics["labels/images"] == IMAGES
    with pytest.raises(InputError, match=r"gone\.png"):
        measure_once(labels.folder, blind, READER, SILENT)


def test_without_labels_and_agreement_the_page_names_the_knob_that_measures_it(
    labels: PseudoLabelSet, splits: Splits, run: Logged, measured: Logged
) -> None:
    log_audit(labels, splits, READER, run, real_pixels=REAL)
    assert "label with pseudo_label.agreement = flip or snapshots" in run.page
    assert "pseudo_label.agreement" not in measured.page


def test_the_audit_says_how_frequent_classes_are(
    labels: PseudoLabelSet, splits: Splits, store: str, tmp_path: Path
) -> None:
    """Through a tracking store, as a pipeline logs it."""
    tracking.connect()
    with tracking.parent_run("test") as run:
        log_audit(labels, splits, READER, run, real_pixels=REAL)
    got = tracking.download(f"runs:/{run.run_id}/", tmp_path / "got")
    assert {path.stem for path in (got / "audit").glob("*.csv")} == TABLES
    assert "5 images." in (got / "audit" / "audit.html").read_text()
    frequency = pd.read_csv(got / "class_frequency.csv")
    assert frequency["real %"].tolist() == [90, 9, 1]
    pixels = labels.class_pixels()
    np.testing.assert_allclose(frequency["pseudo %"], 100 * pixels / pixels.sum())
    assert (got / "class_frequency.md").read_text().startswith("| class")
    metrics = mlflow.get_run(run.run_id).data.metrics
    assert set(metrics) == {"labels/images", "labels/confidence"}  # nobody judged them


def test_the_page_says_who_made_the_labels_and_how(
    items: list[LabelledImage], splits: Splits, run: Logged, tmp_path: Path
) -> None:
    folder = write_set(tmp_path / "set", items)
    inference = {"scales": "0.5,1", "flip": True, "overlap": 1 / 3}
    finish(folder, num_shards=2, card={**CARD, "teachers": ["a1", "b2"], "inference": inference})
    log_audit(PseudoLabelSet.open(folder), splits, READER, run, real_pixels=REAL)
    note = "5 images, labelled by a1 and b2; scales 0.5,1, flip True, overlap 0.333333."
    assert note in run.page


def test_true_labels_are_measured_against(items: list[LabelledImage], measured: Logged) -> None:
    known = np.concatenate([item.label[2:].ravel() for item in items])
    below = np.concatenate([item.label[10:].ravel() for item in items])
    accuracy = 1 - np.count_nonzero(below) / known.size
    assert measured.metrics["labels/accuracy"] == pytest.approx(accuracy)
    names = {"mIoU", "accuracy", "ece", "aurc", "IoU/road", "IoU/car", "IoU/bus"}
    assert set(measured.metrics) == {f"labels/{name}" for name in names}
    assert measured.tables == TABLES | MEASURED


def test_the_page_says_first_that_true_labels_were_opened(measured: Logged) -> None:
    page = measured.page
    opened = page.index("True labels of 5 of these images were opened for this audit alone")
    assert opened < page.index("<h2>") < page.index("Calibration") < page.index("Least accurate")


def test_the_page_is_one_small_file(measured: Logged) -> None:
    page = measured.page
    pictures = re.findall(r'src="data:image/(\w+);base64,', page)
    assert pictures.count("png") == 4
    # Four panels for each of the least accurate images, three for each in its group.
    assert pictures.count("jpeg") == IMAGES * 7
    assert page.count("<img") == len(pictures)
    assert not re.search(r"<script|<link|@import|url\(|https?:", page)
    assert len(page) < 5e6


def test_a_run_is_measured_once(splits: Splits, measured: Logged, tmp_path: Path) -> None:
    measure_once(tmp_path / "nothing is opened", splits, READER, measured)


def test_a_pool_without_true_labels_cannot_be_measured(
    labels: PseudoLabelSet, splits: Splits
) -> None:
    with pytest.raises(InputError, match=r"no labels.*set pseudo_label\.measure to false"):
        measure_once(labels.folder, replace(splits, pool_with_labels=()), READER, SILENT)


def test_the_least_agreed_on_images_are_shown(
    items: list[LabelledImage], splits: Splits, run: Logged, tmp_path: Path
) -> None:
    judged = [
        replace(item, agreement=0.1 * i, agreed=item.label == 0) for i, item in enumerate(items)
    ]
    labels = PseudoLabelSet.open(write_set(tmp_path / "judged", judged))
    log_audit(labels, splits, READER, run, real_pixels=REAL)
    assert run.metrics["labels/agreement"] == pytest.approx(0.2)
    least = run.page[run.page.index("Least agreement") :]
    shown = re.findall(r"<figcaption>drive/(\d): confidence [\d.]+, agreement ([\d.]+)<", least)
    assert shown[:IMAGES] == [(str(i), f"{0.1 * i:.3f}") for i in range(IMAGES)]
    assert "agreed %" in run.page


def test_classes_that_the_teacher_hardly_predicts_are_named_on_the_page(
    items: list[LabelledImage], splits: Splits, run: Logged, tmp_path: Path
) -> None:
    roads = [replace(item, label=np.zeros_like(item.label)) for item in items]
    labels = PseudoLabelSet.open(write_set(tmp_path / "roads", roads))
    log_audit(labels, splits, READER, run, real_pixels=REAL)
    assert "hardly predicts car (0 % instead of 9 %), bus (0 % instead of 1 %)" in run.page


def test_a_set_without_a_labelled_pixel_has_its_page(
    items: list[LabelledImage], splits: Splits, run: Logged, tmp_path: Path
) -> None:
    void = [replace(item, label=np.full_like(item.label, 255)) for item in items]
    measure_once(write_set(tmp_path / "void", void), splits, READER, run)
    assert "drive/0: no label" in run.page
    assert "nan" not in re.sub(r"base64,[^\"]*", "", run.page)
