import json
import re
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from selftrain.data.folder import STRETCH, list_uses, order_in_blocks, pool, splits
from selftrain.data.reader import Reader
from selftrain.data.sample import ClassTable, Sample
from selftrain.errors import InputError

TWO = {"classes": ["road", "car"]}


def encode(array: NDArray[Any], suffix: str) -> bytes:
    return cv2.imencode(suffix, array)[1].tobytes()


IMAGE = encode(np.full((2, 4, 3), (10, 20, 30), np.uint8), ".png")
MASK = encode(np.array([[0, 1, 255, 0], [1, 1, 0, 0]], np.uint8), ".png")


def put(root: Path, path: str, data: bytes = IMAGE) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)


def put_classes(root: Path, content: Any = TWO) -> None:
    put(root, "classes.json", json.dumps(content).encode())


def put_pair(root: Path, name: str) -> None:
    put(root, f"images/{name}.png")
    put(root, f"labels/{name}.png", MASK)


def names(samples: Sequence[Sample]) -> list[str]:
    return [sample.name for sample in samples]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """40 labelled images, 8 without label."""
    put_classes(tmp_path)
    for i in range(40):
        put_pair(tmp_path, f"drive/{i:03d}")
    for i in range(8):
        put(tmp_path, f"images/extra/{i}.jpg")
    return tmp_path


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Folders called as splits: 10 train, 2 of each other."""
    put_classes(tmp_path)
    for i in range(10):
        put_pair(tmp_path, f"train/{i}")
    for split in ("dev", "val", "test", "unlabelled"):
        for i in range(2):
            put_pair(tmp_path, f"{split}/{i}")
    return tmp_path


def frames(first: int, stop: int) -> list[str]:
    return [f"drive/{i:03d}" for i in range(first, stop)]


def test_images_with_a_mask_train_and_those_without_are_the_pool(film: Path) -> None:
    found = splits(film, labelled_fraction=1)
    assert names(found.labelled) == frames(0, 32)
    assert names(found.evaluation["test"]) == frames(32, 36)
    assert names(found.dev) == frames(36, 40)
    assert names(found.unlabelled) == [f"extra/{i}" for i in range(8)]
    assert list(found.evaluation) == ["test"]
    assert len(found.to_submit) == len(found.pool_with_labels) == 0


def test_the_rule_says_what_was_cut(film: Path) -> None:
    assert list_uses(film).rule == (
        "Images with a mask are train, those without are the pool; of the 40 images of train, "
        "sorted by name, the last 4 are dev, the 4 before them test."
    )


def test_a_share_hides_the_labels_of_the_rest_of_train(film: Path) -> None:
    found = splits(film, labelled_fraction=0.25)
    assert names(found.labelled) == frames(12, 20)
    hidden = frames(0, 12) + frames(20, 32)
    assert names(found.unlabelled) == hidden + [f"extra/{i}" for i in range(8)]
    assert names(found.pool_with_labels) == hidden
    assert all(sample.label is None for sample in found.unlabelled)
    assert all(sample.label is not None for sample in found.pool_with_labels)


def test_even_the_smallest_share_labels_one_image(film: Path) -> None:
    assert len(splits(film, labelled_fraction=1e-9).labelled) == 1


@given(st.integers(1, 400))
def test_shares_are_nested_and_lie_in_blocks(count: int) -> None:
    order = order_in_blocks(count)
    assert sorted(order) == list(range(count))
    stretches = max(1, round(count / STRETCH))
    for size in {1, count // 8, count // 2, count - 1} - {0}:
        chosen = np.sort(order[:size])
        blocks = 1 + int((np.diff(chosen) > 1).sum())
        assert blocks <= stretches
    per_stretch = np.histogram(order[: count // 2], bins=stretches, range=(0, count))[0]
    assert per_stretch.max() - per_stretch.min() <= 2


def test_folders_called_as_splits_say_what_their_images_are_for(named: Path) -> None:
    found = splits(named, labelled_fraction=1)
    assert names(found.labelled) == [f"train/{i}" for i in range(10)]
    assert names(found.dev) == ["dev/0", "dev/1"]
    assert {use: names(s) for use, s in found.evaluation.items()} == {
        "test": ["test/0", "test/1"],
        "val": ["val/0", "val/1"],
    }
    assert next(iter(found.evaluation)) == "test"
    assert names(found.unlabelled) == ["unlabelled/0", "unlabelled/1"]
    assert len(found.pool_with_labels) == 0
    assert list_uses(named).rule == "The folders in images/ say what an image is for."


def test_labels_of_unlabelled_images_are_not_looked_for(named: Path) -> None:
    shutil.rmtree(named / "labels" / "unlabelled")
    (named / "labels" / "unlabelled").write_text("not a folder that could be listed")
    assert names(splits(named, labelled_fraction=1).unlabelled) == ["unlabelled/0", "unlabelled/1"]


def test_dev_is_cut_from_train_where_no_folder_is_dev(named: Path) -> None:
    shutil.rmtree(named / "images" / "dev")
    found = splits(named, labelled_fraction=1)
    assert names(found.dev) == ["train/9"]
    assert names(found.labelled) == [f"train/{i}" for i in range(9)]
    assert list_uses(named).rule == (
        "The folders in images/ say what an image is for; of the 10 images of train, sorted by "
        "name, the last 1 are dev."
    )


def test_test_is_the_end_of_train_where_folders_name_dev_alone(named: Path) -> None:
    for use in ("test", "val"):
        shutil.rmtree(named / "images" / use)
    found = splits(named, labelled_fraction=1)
    assert names(found.evaluation["test"]) == ["train/9"]
    assert list_uses(named).rule.endswith("sorted by name, the last 1 are test.")


def test_a_val_folder_takes_the_place_of_a_test_cut(named: Path) -> None:
    shutil.rmtree(named / "images" / "test")
    found = splits(named, labelled_fraction=1)
    assert list(found.evaluation) == ["val"]
    assert len(found.labelled) == 10


def test_a_test_folder_without_masks_is_to_submit(named: Path) -> None:
    shutil.rmtree(named / "labels" / "test")
    found = splits(named, labelled_fraction=1)
    assert names(found.to_submit) == ["test/0", "test/1"]
    assert list(found.evaluation) == ["val"]


@pytest.mark.parametrize("use", ["train", "dev", "val", "test"])
def test_images_without_mask_are_named_and_counted(named: Path, use: str) -> None:
    (named / "labels" / use / "1.png").unlink()
    with pytest.raises(InputError, match=rf"1 of the \d+ images of {use} have no .*: {use}/1\.png"):
        splits(named, labelled_fraction=1)


def test_the_first_ten_without_mask_are_named(named: Path) -> None:
    for i in range(10, 22):
        put(named, f"images/train/{i}.png")
    with pytest.raises(InputError, match=r"12 of the 22.*train/19\.png, \.\.\. \(12.*unlabelled"):
        splits(named, labelled_fraction=1)


def test_split_names_among_others_are_refused(named: Path) -> None:
    put(named, "images/berlin/a.png")
    with pytest.raises(InputError, match=r"names of splits, but also berlin: put all"):
        splits(named, labelled_fraction=1)


def test_pictures_beside_folders_called_as_splits_are_refused(named: Path) -> None:
    put(named, "images/a.png")
    with pytest.raises(InputError, match=r"but also pictures outside any folder"):
        pool(named)


KINDS = [(suffix, n) for suffix in (".png", ".jpg", ".webp", ".tiff", ".bmp") for n in (1, 3, 4)]
KINDS.remove((".jpg", 4))  # there is no such JPEG


@pytest.mark.parametrize(("suffix", "channels"), KINDS)
def test_all_kinds_of_pictures_of_any_size_are_read(film: Path, suffix: str, channels: int) -> None:
    shape = (5, 7) if channels == 1 else (5, 7, channels)
    put(
        film,
        f"images/älter/ein Bild.{suffix[1:].upper()}",
        encode(np.full(shape, 90, np.uint8), suffix),
    )
    put(film, "labels/älter/ein Bild.png", encode(np.ones((5, 7), np.uint8), ".png"))
    found = splits(film, labelled_fraction=1)
    sample = next(s for s in found.dev if s.name == "älter/ein Bild")
    image, label = Reader(found.classes).pair(sample)
    assert image.shape == (5, 7, 3)
    assert abs(image.astype(int) - 90).max() <= 3
    assert (label == 1).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_masks_of_ids_are_read_from_every_lossless_format(film: Path, suffix: str) -> None:
    ids = np.array([[0, 1, 255, 0], [1, 1, 0, 0]], np.uint8)
    put(film, "images/a.png")
    put(film, f"labels/a{suffix}", encode(ids, suffix))
    found = splits(film, labelled_fraction=1)
    assert (Reader(found.classes).label(found.labelled[0]) == ids).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_masks_of_colours_are_read_from_every_lossless_format(film: Path, suffix: str) -> None:
    classes = [{"name": "road", "color": [128, 64, 128]}, {"name": "car", "color": [0, 0, 142]}]
    put_classes(film, {"classes": classes, "masks": "colors"})
    rgb = np.array([[(128, 64, 128), (0, 0, 142)], [(0, 0, 0), (0, 0, 142)]], np.uint8)
    rgb = rgb.repeat(8, axis=0).repeat(8, axis=1)
    data = cv2.imencode(
        suffix, rgb[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    )
    put(film, "images/a.png")
    put(film, f"labels/a{suffix}", data[1].tobytes())
    found = splits(film, labelled_fraction=1)
    label = Reader(found.classes).label(found.labelled[0])
    assert label[::8, ::8].tolist() == [[0, 1], [255, 1]]


def test_a_mask_is_found_though_its_accents_are_spelled_otherwise(film: Path) -> None:
    put(film, "images/" + unicodedata.normalize("NFD", "ä.png"))
    put(film, "labels/" + unicodedata.normalize("NFC", "ä.png"), MASK)
    assert sum(map(len, list_uses(film).uses.values())) == 49
    assert len(list_uses(film).uses["unlabelled"]) == 8


def test_masks_without_a_picture_are_named(film: Path) -> None:
    put(film, "labels/drive/000_mask.png", MASK)
    with pytest.raises(InputError, match=r"without a picture.*: drive/000_mask\.png: name each"):
        splits(film, labelled_fraction=1)


def test_masks_that_are_jpegs_are_refused(film: Path) -> None:
    put(film, "labels/extra/0.jpg", encode(np.zeros((2, 4), np.uint8), ".jpg"))
    with pytest.raises(InputError, match=r"labels has masks that are JPEGs.*extra/0\.jpg.*as PNG"):
        splits(film, labelled_fraction=1)


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_two_files_of_one_name_are_both_named(film: Path, folder: str) -> None:
    put(film, f"{folder}/drive/007.bmp")
    with pytest.raises(InputError, match=rf"{folder} holds both drive/007\.\w+ and drive/007\.\w+"):
        splits(film, labelled_fraction=1)


def test_pictures_without_any_mask_cannot_train_but_are_a_pool(film: Path) -> None:
    shutil.rmtree(film / "labels")
    (film / "classes.json").unlink()
    with pytest.raises(InputError, match=r"no labelled image to train on: add masks.*as a pool"):
        splits(film, labelled_fraction=1)
    assert len(pool(film)) == 48


def test_too_few_labelled_images_are_counted(tmp_path: Path) -> None:
    put_classes(tmp_path)
    for name in ("a", "b"):
        put_pair(tmp_path, name)
    with pytest.raises(
        InputError, match=r"has 2 labelled.*too few to cut dev and test.*label more"
    ):
        splits(tmp_path, labelled_fraction=1)
    put_pair(tmp_path, "c")
    assert names(splits(tmp_path, labelled_fraction=1).labelled) == ["a"]


def test_a_missing_class_file_says_what_to_write(film: Path) -> None:
    (film / "classes.json").unlink()
    with pytest.raises(InputError, match=r"classes\.json cannot be read.*road"):
        splits(film, labelled_fraction=1)


def test_a_folder_of_another_layout_says_what_is_expected(tmp_path: Path) -> None:
    put(tmp_path, "photos/a.png")
    with pytest.raises(InputError, match=r"neither data\.csv nor a folder images/: put.*labels/"):
        splits(tmp_path, labelled_fraction=1)


@pytest.mark.parametrize("fraction", [0, -1, 1.5, float("nan")])
def test_a_fraction_that_is_no_share_is_refused(film: Path, fraction: float) -> None:
    with pytest.raises(InputError, match=rf"labelled_fraction {fraction:g} is no share.*above 0"):
        splits(film, labelled_fraction=fraction)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of 12 images that train, one of each other split, and one that says nothing."""
    put_classes(tmp_path)
    lines = ["image,label,split"]
    for i in range(12):
        put(tmp_path, f"a/{i:02d}.png")
        put(tmp_path, f"b/mask {i:02d}.png", MASK)
        lines.append(f"a/{i:02d}.png,b/mask {i:02d}.png,{'train' if i < 11 else ''}")
    for split in ("dev", "val", "test", "unlabelled"):
        put(tmp_path, f"c/{split}.png")
        put(tmp_path, f"b/{split}.png", MASK)
        lines.append(f"c/{split}.png,b/{split}.png,{split}")
    put(tmp_path, "c/plain.png")
    lines.append("c/plain.png,,")
    put(tmp_path, "data.csv", "\n".join(lines).encode())
    return tmp_path


def test_a_table_says_what_its_images_are_for(table: Path) -> None:
    found = splits(table, labelled_fraction=1)
    assert names(found.labelled) == [f"a/{i:02d}" for i in range(12)]
    assert names(found.dev) == ["c/dev"]
    assert {use: names(s) for use, s in found.evaluation.items()} == {
        "test": ["c/test"],
        "val": ["c/val"],
    }
    assert names(found.unlabelled) == ["c/plain", "c/unlabelled"]
    assert names(found.pool_with_labels) == ["c/unlabelled"]
    _, label = Reader(found.classes).pair(found.labelled[3])
    assert label[0].tolist() == [0, 1, 255, 0]
    assert list_uses(table).rule == (
        "The column split of data.csv says what an image is for; where it is empty, those with a "
        "mask are train, the others the pool."
    )


def test_a_table_may_lie_anywhere(table: Path, tmp_path: Path) -> None:
    (table / "data.csv").rename(table / "mine.csv")
    found = splits(tmp_path / "elsewhere", labelled_fraction=1, table=table / "mine.csv")
    assert len(found.labelled) == 12
    assert len(pool(tmp_path / "elsewhere", table=table / "mine.csv")) == 14


def test_a_table_comes_before_folders(table: Path) -> None:
    put_pair(table, "x")
    assert "x" not in names(pool(table))


def test_the_pool_of_a_table_needs_no_labels(table: Path) -> None:
    shutil.rmtree(table / "b")
    (table / "classes.json").unlink()
    found = names(pool(table))
    assert found == [f"a/{i:02d}" for i in range(12)] + ["c/plain", "c/unlabelled"]


def test_the_pool_of_folders_leaves_out_what_is_held_out(named: Path) -> None:
    shutil.rmtree(named / "labels")
    expected = [f"train/{i}" for i in range(10)] + ["unlabelled/0", "unlabelled/1"]
    assert names(pool(named)) == expected
    assert all(sample.label is None for sample in pool(named))


def test_any_folder_of_pictures_is_a_pool(tmp_path: Path) -> None:
    put(tmp_path, "a b.png")
    put(tmp_path, "day/ü.png")
    found = pool(tmp_path)
    assert names(found) == ["a b", "day/ü"]
    assert Reader(ClassTable((), ())).image(found[1]).shape == (2, 4, 3)


def test_a_pool_that_could_hold_masks_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    put(tmp_path, "labels/a.png", MASK)
    with pytest.raises(InputError, match=r"a folder labels/ but none called images/.*move"):
        pool(tmp_path)


@pytest.mark.parametrize("folder", ["", "images"])
def test_an_empty_pool_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    place = re.escape(str(tmp_path / folder))
    with pytest.raises(InputError, match=rf"{place} has no picture \(\.png, .*another folder"):
        pool(tmp_path)
