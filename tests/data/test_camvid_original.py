import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from selftrain.data import camvid
from selftrain.data.camvid_original import (
    BLENDS,
    CLASSES,
    GROUPS,
    IMAGES,
    LABELS,
    VOID,
    splits,
)
from selftrain.data.reader import Reader
from selftrain.data.sample import Blob, Sample
from selftrain.data.splits.make_camvid import FOLDER, OFFICIAL
from selftrain.errors import InputError

COLORS = [VOID, *(color for group in GROUPS.values() for color in group.values())]


def listed(file: str) -> list[str]:
    return (FOLDER / file).read_text().split()


def names(samples: Sequence[Sample]) -> list[str]:
    return [sample.name for sample in samples]


def png(rgb: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 701 frames, of 8x4 pixels; every label shows all 32 colours."""
    root = tmp_path_factory.mktemp("camvid")
    (root / IMAGES).mkdir()
    (root / LABELS).mkdir()
    image = png(np.full((4, 8, 3), (30, 20, 10), np.uint8))
    label = png(np.array(COLORS, np.uint8).reshape(4, 8, 3))
    for file in OFFICIAL.values():
        for name in listed(file):
            (root / IMAGES / f"{name}.png").write_bytes(image)
            (root / LABELS / f"{name}_L.png").write_bytes(label)
    return root


@pytest.fixture
def root(release: Path, tmp_path: Path) -> Path:
    """A copy of the release, of links, from which files can be taken."""
    for folder in (IMAGES, LABELS):
        (tmp_path / folder).mkdir()
        for path in (release / folder).iterdir():
            (tmp_path / folder / path.name).hardlink_to(path)
    return tmp_path


def test_sets_are_segnets(release: Path) -> None:
    found = splits(release, labelled_fraction=1.0)
    train = sorted(names(found.labelled) + names(found.dev))
    assert train == listed("train.txt")
    assert names(found.evaluation["test"]) == listed("test.txt")
    assert names(found.evaluation["val"]) == listed("val.txt")
    assert len(found.evaluation["test_Seq05VD"]) == 171
    assert list(found.evaluation) == ["test", "test_Seq05VD", "val"]


def test_shares_are_those_of_the_other_layout(release: Path) -> None:
    found = splits(release, labelled_fraction=1 / 8)
    assert names(found.labelled) == listed("labelled_1_8.txt")
    assert names(found.dev) == listed("dev.txt")
    assert len(found.labelled) + len(found.unlabelled) + len(found.dev) == 367
    assert all(sample.label is None for sample in found.unlabelled)


def test_image_and_label_are_paired_by_name(release: Path) -> None:
    for sample in splits(release, labelled_fraction=1 / 8).labelled:
        assert sample.image == release / IMAGES / f"{sample.name}.png"
        assert sample.label == Blob(release / LABELS / f"{sample.name}_L.png")


def test_the_pool_needs_no_label_files(root: Path) -> None:
    pool = names(splits(root, labelled_fraction=1 / 8).unlabelled)
    for name in pool:
        (root / LABELS / f"{name}_L.png").unlink()
    found = splits(root, labelled_fraction=1 / 8)
    assert names(found.unlabelled) == pool
    assert len(found.pool_with_labels) == 0


def test_colours_become_the_classes_of_the_other_layout(release: Path) -> None:
    assert CLASSES.names == camvid.CLASSES.names
    assert CLASSES.colors == camvid.CLASSES.colors
    sample = splits(release, labelled_fraction=1 / 16).labelled[0]
    _, label = Reader(CLASSES).pair(sample)
    wanted = [255] + [i for i, group in enumerate(GROUPS.values()) for _ in group]
    assert label.ravel().tolist() == wanted


def test_each_of_the_32_classes_is_in_one_group() -> None:
    assert len(COLORS) == len(set(COLORS)) == 32
    assert tuple(GROUPS) == camvid.CLASSES.names
    assert BLENDS.isdisjoint(COLORS)


def test_known_flaws_are_ignored_and_other_colours_refused(tmp_path: Path) -> None:
    path = tmp_path / "Seq05VD_f02610_L.png"
    path.write_bytes(png(np.array([[(26, 26, 26), (128, 128, 102), (128, 128, 0)]], np.uint8)))
    sample = Sample("a", path, Blob(path))
    assert Reader(CLASSES).label(sample).tolist() == [[255, 255, 5]]
    path.write_bytes(png(np.array([[(128, 128, 0), (1, 2, 3)]], np.uint8)))
    with pytest.raises(InputError, match=r"Seq05VD_f02610_L\.png.*\(1, 2, 3\).*x=1"):
        Reader(CLASSES).label(sample)


@pytest.mark.parametrize("folder", [IMAGES, LABELS])
def test_a_missing_folder_is_named_with_the_layout(root: Path, folder: str) -> None:
    (root / folder).rename(root / "elsewhere")
    with pytest.raises(InputError, match=rf"{folder} cannot be listed.*machine\.data_root"):
        splits(root, labelled_fraction=1 / 16)


def test_missing_frames_are_named_and_counted(root: Path) -> None:
    gone = listed("val.txt")[3:5]
    for name in gone:
        (root / IMAGES / f"{name}.png").unlink()
    with pytest.raises(InputError, match=rf"lacks the frame {gone[0]} \(2 of the 101.*val\.txt"):
        splits(root, labelled_fraction=1 / 16)


def test_a_missing_label_is_named_as_the_release_names_it(root: Path) -> None:
    gone = root / LABELS / "Seq05VD_f00030_L.png"
    gone.unlink()
    with pytest.raises(InputError, match=rf"{re.escape(str(gone))} is missing \(1 of the 233"):
        splits(root, labelled_fraction=1 / 16)


def test_another_fraction_is_refused(release: Path) -> None:
    with pytest.raises(InputError, match=r"labelled_fraction 0\.3.*1, 1/16, 1/8, 1/4, 1/2"):
        splits(release, labelled_fraction=0.3)
