"""A look at the data: everything is read once and counted, and all that is wrong is said."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import truncate, write_picture
from numpy.typing import NDArray

from selftrain import progress
from selftrain.data.digests import digest_samples
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, ClassTable, Sample, Splits
from selftrain.data.scan import Frame
from selftrain.data.statistics import count_pixels
from selftrain.errors import InputError
from selftrain.prepare import OVERLAYS, choose_overlays, prepare, scan_splits
from selftrain.tracking import Run

CLASSES = ClassTable(("road", "car", "bus/tram"), ((128, 64, 128), (0, 0, 142), (0, 60, 100)))
READER = Reader(CLASSES)
SIZES = {"labelled": 14, "dev": 2, "test": 3, "unlabelled": 4, "to_submit": 2}


@dataclass
class QuietRun:
    """A run that keeps what it is given."""

    metrics: dict[str, float] = field(default_factory=dict)
    datasets: dict[str, tuple[list[str], str, str]] = field(default_factory=dict)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        self.metrics |= metrics

    def log_dataset(self, names: Sequence[str], *, name: str, digest: str, context: str) -> None:
        self.datasets[name] = (list(names), digest, context)


def make_splits(root: Path) -> Splits:
    """Write pictures of 8x6 pixels, no two alike; only the first shows a bus."""
    rng = np.random.default_rng(0)
    made: dict[str, list[Sample]] = {}
    for split, count in SIZES.items():
        made[split] = []
        for i in range(count):
            name = f"{split}/Zürich {i}"
            image, label = root / f"{name}.png", root / "labels" / f"{name}.png"
            write_picture(image, rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            ids = rng.integers(0, 2, (6, 8), dtype=np.uint8)
            if split == "labelled" and i == 9:
                ids[2:4] = 2
            ids[0] = 255
            has_label = split not in ("unlabelled", "to_submit")
            if has_label:
                write_picture(label, ids)
            made[split].append(Sample(name, image, Blob(label) if has_label else None))
    return Splits(
        classes=CLASSES,
        labelled=made["labelled"],
        unlabelled=made["unlabelled"],
        dev=made["dev"],
        evaluation={"test": made["test"]},
        to_submit=made["to_submit"],
    )


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    return make_splits(tmp_path / "data")


def look(splits: Splits, tmp_path: Path, reader: Reader = READER) -> QuietRun:
    """Prepare into `tmp_path / "product"`, with the cache beside it."""
    run, title = QuietRun(), "streets: of Zürich"
    frames = scan_splits(splits, reader, title=title, tile=4, workers=2, cache=tmp_path / "cache")
    prepare(splits, frames, reader, tmp_path / "product", cast("Run", run), title=title)
    return run


def refusal(splits: Splits, tmp_path: Path) -> str:
    """Return the error of a data set that is not in order; nothing may be left of a product."""
    with pytest.raises(InputError) as caught:
        look(splits, tmp_path)
    assert not (tmp_path / "product").exists()
    return str(caught.value)


def label_path(sample: Sample) -> Path:
    assert sample.label is not None
    return sample.label.path


def test_every_image_is_read_once_and_every_label_but_the_pools_is_counted(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    steps: list[int] = []
    read_image, read_label = Reader.image, Reader.label

    def image(self: Reader, sample: Sample) -> NDArray[np.uint8]:
        images[sample.name] += 1
        return read_image(self, sample)

    def label(self: Reader, sample: Sample) -> NDArray[np.uint8]:
        labels[sample.name] += 1
        return read_label(self, sample)

    def advance(self: object, count: int = 1) -> None:
        steps.append(count)

    monkeypatch.setattr(Reader, "image", image)
    monkeypatch.setattr(Reader, "label", label)
    monkeypatch.setattr(progress.Bar, "advance", advance)
    scan_splits(splits, READER, title="t", tile=4, workers=2, cache=None)
    held = [*splits.labelled, *splits.dev, *splits.evaluation["test"]]
    everything = [*held, *splits.unlabelled, *splits.to_submit]
    assert labels == {sample.name: 1 for sample in held}
    assert images == {sample.name: 1 for sample in everything}
    assert steps == [1] * len(everything)


def test_the_tables_hold_what_the_files_do(splits: Splits, tmp_path: Path) -> None:
    run = look(splits, tmp_path)
    folder = tmp_path / "product"
    pixels = pd.read_csv(folder / "class_pixels.csv")
    for name, samples in (("labelled", splits.labelled), ("test", splits.evaluation["test"])):
        assert pixels[name].tolist() == count_pixels(samples, READER).tolist()
    images = pd.read_csv(folder / "class_images.csv")
    assert images["labelled"].tolist() == [14, 14, 1]
    centroids = pd.read_csv(folder / "centroids.csv")
    assert centroids["class"].tolist() == list(CLASSES.names)
    # Tiles of 4: two in a row, and a lower row of the two lines that are left.
    assert centroids["labelled"].iloc[2] == 2
    by_image = pd.read_parquet(folder / "class_x_image.parquet")
    assert len(by_image) == 14 + 2 + 3
    shown = by_image.groupby("split")["pixels/bus/tram"].sum()
    assert shown.to_dict() == {"labelled": 16, "dev": 0, "test": 0}
    sizes = pd.read_csv(folder / "sizes.csv")
    assert sizes.to_dict("records") == [{"width": 8, "height": 6, **SIZES}]
    assert run.metrics == {f"data/{split}": count for split, count in SIZES.items()}


def test_the_manifest_names_every_image_by_content_and_is_a_data_set_of_the_run(
    splits: Splits, tmp_path: Path
) -> None:
    run = look(splits, tmp_path)
    manifest = pd.read_parquet(tmp_path / "product" / "manifest.parquet")
    assert Counter(manifest["split"]) == SIZES
    assert manifest["image_digest"].nunique() == sum(SIZES.values())
    for file in (tmp_path / "product").rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes()
    names, digest, context = run.datasets["streets: of Zürich"]
    assert names[0] == "labelled/labelled/Zürich 0"
    assert len(names) == sum(SIZES.values())
    assert context == "prepare"
    write_picture(label_path(splits.dev[0]), np.ones((6, 8), dtype=np.uint8))
    assert look(splits, tmp_path).datasets["streets: of Zürich"][1] != digest


def test_the_summary_has_counts_digests_and_warnings(splits: Splits, tmp_path: Path) -> None:
    look(splits, tmp_path)
    summary = json.loads((tmp_path / "product" / "summary.json").read_text())
    assert summary["images"] == SIZES
    assert summary["digests"]["test"] == digest_samples(splits.evaluation["test"], labels=True)
    assert summary["digests"]["unlabelled"] == digest_samples(splits.unlabelled, labels=False)
    assert "No image of test shows bus/tram." in summary["warnings"]


def test_twelve_overlays_have_readable_names_and_show_the_rare_class_first(
    splits: Splits, tmp_path: Path
) -> None:
    look(splits, tmp_path)
    files = sorted(path.name for path in (tmp_path / "product" / "overlays").iterdir())
    assert len(files) == OVERLAYS
    assert files[0] == "01-bus_tram-labelled_Zürich_9.jpg"
    shown = cv2.imdecode(
        np.fromfile(tmp_path / "product" / "overlays" / files[0], dtype=np.uint8), cv2.IMREAD_COLOR
    )
    assert shown is not None
    assert shown.shape[1] > 2 * 8
    page = (tmp_path / "product" / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") == OVERLAYS
    assert "labelled/Zürich 9 (bus/tram)" in page
    assert "streets: of Zürich" in page


def test_a_large_overlay_is_made_smaller(tmp_path: Path, splits: Splits) -> None:
    write_picture(splits.labelled[9].image, np.zeros((20, 3000, 3), dtype=np.uint8))
    write_picture(label_path(splits.labelled[9]), np.full((20, 3000), 2, dtype=np.uint8))
    look(splits, tmp_path)
    (path,) = (tmp_path / "product" / "overlays").glob("*Zürich_9.jpg")
    shown = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert shown.shape[1] == 2 * 1024 + 6


def test_the_page_says_how_frames_were_read(splits: Splits, tmp_path: Path) -> None:
    look(splits, tmp_path, Reader(CLASSES, scale=0.5, short_side=2))
    text = (tmp_path / "product" / "index.html").read_text()
    assert "25 images, 3 classes, read at 0.5 of their size, shorter side at most 2." in text
    assert "3 x 2" in text


def frames_of(pixels: list[list[int]]) -> list[Frame]:
    return [Frame(name=str(i), class_pixels=np.array(row)) for i, row in enumerate(pixels)]


@given(st.lists(st.lists(st.integers(0, 9), min_size=8, max_size=8), max_size=40))
def test_overlays_are_chosen_once_each_as_many_as_there_are(pixels: list[list[int]]) -> None:
    frames = frames_of(pixels)
    chosen = choose_overlays(frames, 8)
    positions = [position for position, _ in chosen]
    assert len(set(positions)) == len(positions) == min(len(frames), OVERLAYS)
    for position, class_id in chosen:
        assert class_id is None or pixels[position][class_id] > 0


def test_overlays_are_spread_over_the_images_beside_those_of_rare_classes() -> None:
    pixels = [[100, 0]] * 48
    pixels[40] = [100, 5]
    chosen = choose_overlays(frames_of(pixels), 2)
    assert chosen[0] == (40, 1)
    rest = sorted(position for position, class_id in chosen if class_id is None)
    assert rest[0] <= 4
    assert rest[-1] >= 40
    assert max(np.diff(rest)) <= 6


def test_what_was_prepared_is_not_read_again(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_splits(splits, READER, title="t", tile=4, workers=2, cache=tmp_path / "cache")
    read: list[str] = []
    read_image = Reader.image

    def image(self: Reader, sample: Sample) -> NDArray[np.uint8]:
        read.append(sample.name)
        return read_image(self, sample)

    monkeypatch.setattr(Reader, "image", image)
    look(splits, tmp_path)
    assert len(read) == OVERLAYS


def test_a_single_mistake_is_said_in_one_line(splits: Splits, tmp_path: Path) -> None:
    truncate(splits.unlabelled[1].image)
    text = refusal(splits, tmp_path)
    assert text.splitlines() == [
        f"{splits.unlabelled[1].image} is truncated: make or copy it again."
    ]


def test_all_mistakes_come_in_one_error_by_their_kind(splits: Splits, tmp_path: Path) -> None:
    truncate(splits.unlabelled[1].image)
    truncate(label_path(splits.labelled[2]))
    splits.dev[1].image.unlink()
    write_picture(label_path(splits.labelled[3]), np.full((6, 8), 77, dtype=np.uint8))
    write_picture(label_path(splits.labelled[4]), np.zeros((5, 8), dtype=np.uint8))
    bare = [replace(splits.evaluation["test"][0], label=None), *splits.evaluation["test"][1:]]
    splits = replace(splits, evaluation={"test": bare})

    first, *lines = refusal(splits, tmp_path).splitlines()

    listed = tmp_path / "cache" / "problems-streets_of_Zürich.csv"
    assert first == f"The data have 6 problems; all are listed in {listed}."
    expected: dict[str, list[object]] = {
        "Files that cannot be opened (1): copy them": [splits.dev[1].image],
        "Damaged pictures (2): make or copy them again": [
            label_path(splits.labelled[2]),
            splits.unlabelled[1].image,
        ],
        "Images without a label in a split that needs labels (1): add": [bare[0].image],
        "Labels that do not fit the classes (1): correct": [label_path(splits.labelled[3]), "77"],
        "Labels of another size than their image (1): ": [label_path(splits.labelled[4]), "8x5"],
    }
    text = "\n".join(lines)
    for heading, words in expected.items():
        assert heading in text
        assert all(str(word) in text for word in words)
    table = pd.read_csv(listed)
    assert len(table) == 6
    assert set(table["split"]) == {"labelled", "dev", "test", "unlabelled"}


def test_ten_files_of_a_kind_are_named_and_the_rest_counted(splits: Splits, tmp_path: Path) -> None:
    for sample in splits.labelled:
        truncate(sample.image)
    for sample in splits.dev:
        sample.image.unlink()
    text = refusal(splits, tmp_path)
    assert [str(sample.image) in text for sample in splits.labelled] == [True] * 10 + [False] * 4
    assert "Damaged pictures (14): " in text
    assert "  and 4 more" in text
    assert "Files that cannot be opened (2): " in text
    assert len(pd.read_csv(next((tmp_path / "cache").glob("problems-*.csv")))) == 16


def test_without_a_cache_all_is_said_but_not_listed(splits: Splits) -> None:
    for sample in splits.dev:
        sample.image.unlink()
    with pytest.raises(InputError, match=r"^The data have 2 problems\.\n") as caught:
        scan_splits(splits, READER, title="t", tile=4, workers=1, cache=None)
    assert all(str(sample.image) in str(caught.value) for sample in splits.dev)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("test", "unlabelled"),
        ("dev", "unlabelled"),
        ("to_submit", "unlabelled"),
        ("test", "labelled"),
        ("dev", "labelled"),
        ("to_submit", "labelled"),
        ("test", "dev"),
    ],
)
def test_a_picture_that_is_held_out_is_refused_where_it_trains_or_decides(
    splits: Splits, tmp_path: Path, source: str, target: str
) -> None:
    held, used = tmp_path / f"data/{source}/Zürich 0.png", tmp_path / f"data/{target}/Zürich 1.png"
    shutil.copy(held, used)
    text = refusal(splits, tmp_path)
    assert text == (
        f"The image {used} of {target} is also in {source} as {held}: take it out of {target}, "
        "or a model is measured on what it was made with."
    )


def test_a_picture_that_is_twice_where_it_may_be_is_a_warning(
    splits: Splits, tmp_path: Path
) -> None:
    shutil.copy(splits.labelled[0].image, splits.labelled[1].image)
    shutil.copy(splits.labelled[2].image, splits.unlabelled[1].image)
    look(splits, tmp_path)
    warnings = json.loads((tmp_path / "product" / "summary.json").read_text())["warnings"]
    twice = "1 image twice in labelled: labelled/Zürich 0 = labelled/Zürich 1."
    both = "1 image of labelled also in unlabelled: labelled/Zürich 2 = unlabelled/Zürich 1."
    assert {twice, both} <= set(warnings)
    assert twice in (tmp_path / "product" / "index.html").read_text()


def test_evaluation_splits_may_overlap(splits: Splits, tmp_path: Path) -> None:
    test = splits.evaluation["test"]
    overlapping = replace(splits, evaluation={"test": test, "test_drive": test[:2]})
    look(overlapping, tmp_path)
    summary = json.loads((tmp_path / "product" / "summary.json").read_text())
    assert summary["images"]["test_drive"] == 2
    assert not any("also in" in warning for warning in summary["warnings"])


def test_labels_of_the_pool_stay_closed(splits: Splits, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    hidden = [replace(sample, label=Blob(broken)) for sample in splits.unlabelled]
    look(replace(splits, unlabelled=hidden, pool_with_labels=hidden), tmp_path)
    manifest = pd.read_parquet(tmp_path / "product" / "manifest.parquet")
    assert manifest[manifest["split"] == "unlabelled"]["label_digest"].isna().all()


def test_mended_data_are_prepared(splits: Splits, tmp_path: Path) -> None:
    whole = splits.dev[0].image.read_bytes()
    truncate(splits.dev[0].image)
    refusal(splits, tmp_path)
    splits.dev[0].image.write_bytes(whole)
    look(splits, tmp_path)
    assert (tmp_path / "product" / "index.html").exists()
