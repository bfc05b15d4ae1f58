import os
from pathlib import Path

import pytest

from selftrain.data.pairs import list_pairs, list_stems
from selftrain.data.sample import Blob, Sample
from selftrain.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for file in ("images/b.jpg", "images/a.jpg", "images/c d.JPG", "labels/a_id.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    return tmp_path


def test_files_are_listed_by_name_and_others_are_passed_over(root: Path) -> None:
    for other in ("._a.jpg", "Thumbs.db", "a.png"):
        (root / "images" / other).touch()
    found = list_stems(root / "images", ".jpg", layout="unpack it")
    assert list(found) == ["a", "b", "c d"]
    assert found["c d"] == root / "images" / "c d.JPG"


def test_a_missing_folder_is_named_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images cannot be listed \(No such .*\): unpack it\."):
        list_stems(tmp_path / "images", ".jpg", layout="unpack it")


def test_a_folder_without_such_files_is_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"labels holds no \*\.jpg: unpack it\."):
        list_stems(root / "labels", ".jpg", layout="unpack it")


def test_labels_are_found_by_the_name_of_their_image(root: Path) -> None:
    pairs = list_pairs(
        root / "images",
        root / "labels",
        image_suffix=".jpg",
        label_suffix="_id.png",
        layout="unpack it",
        prefix="train/",
    )
    image, label = root / "images" / "a.jpg", Blob(root / "labels" / "a_id.png")
    assert pairs.with_labels("a") == [Sample("train/a", image, label)]
    assert pairs.with_known_labels(["a", "b"]) == [Sample("train/a", image, label)]
    assert pairs.without_labels("a") == [Sample("train/a", image)]
    first = f"{root / 'labels'}{os.sep}b_id.png"
    with pytest.raises(InputError, match=rf"{first} is missing \(2 of the 3 .*copy the labels"):
        pairs.with_labels(["a", "b", "c d"])
