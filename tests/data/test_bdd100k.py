import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from selftrain.data import cityscapes
from selftrain.data.bdd100k import CLASSES, pool, splits
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.errors import InputError

TRAIN = [f"{i:08x}-7c39d841" for i in range(40)]  # 40: dev 2, and 38 for the shares
VAL, TEST = ["7d06fefd-f7be05a6", "7d128593-0ccfea4c"], ["cabc30fc-e7726578"]
IDS = np.array([[*range(10)], [*range(10, 19), 255]], np.uint8)
LAYOUTS = {
    "today": ("images/10k", "labels/sem_seg/masks", ".png"),
    "2018": ("seg/images", "seg/labels", "_train_id.png"),
}


def names(samples: Sequence[Sample]) -> list[str]:
    return [sample.name for sample in samples]


def write_tree(root: Path, layout: str) -> None:
    images, labels, suffix = LAYOUTS[layout]
    picture = cv2.imencode(".jpg", np.full((2, 10, 3), 99, np.uint8))[1].tobytes()
    label = cv2.imencode(".png", IDS)[1].tobytes()
    for split, stems in {"train": TRAIN, "val": VAL, "test": TEST}.items():
        (root / images / split).mkdir(parents=True)
        for stem in stems:
            (root / images / split / f"{stem}.jpg").write_bytes(picture)
        if split != "test":
            (root / labels / split).mkdir(parents=True)
            for stem in stems:
                (root / labels / split / f"{stem}{suffix}").write_bytes(label)


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def root(tmp_path: Path, layout: str) -> Path:
    write_tree(tmp_path, layout)
    return tmp_path


def test_every_picture_has_one_use(root: Path) -> None:
    found = splits(root, labelled_fraction=1 / 4)
    assert sorted(names([*found.labelled, *found.unlabelled, *found.dev])) == TRAIN
    assert [len(found.labelled), len(found.unlabelled), len(found.dev)] == [10, 28, 2]
    assert {name: names(samples) for name, samples in found.evaluation.items()} == {"val": VAL}
    assert names(found.to_submit) == TEST
    assert all(sample.label is None for sample in [*found.unlabelled, *found.to_submit])
    assert names(found.pool_with_labels) == names(found.unlabelled)


def test_smaller_shares_lie_within_larger_ones_and_dev_stays(root: Path) -> None:
    found = [splits(root, labelled_fraction=f) for f in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)]
    labelled = [set(names(each.labelled)) for each in found]
    assert [len(each) for each in labelled] == [2, 5, 10, 19, 38]
    assert all(labelled[i] < labelled[i + 1] for i in range(4))
    assert len({tuple(names(each.dev)) for each in found}) == 1
    assert found[4].unlabelled == []


def test_both_layouts_give_the_same_lists(tmp_path: Path) -> None:
    found = []
    for layout in LAYOUTS:
        write_tree(tmp_path / layout, layout)
        found.append(splits(tmp_path / layout, labelled_fraction=1 / 8))
    assert names(found[0].labelled) == names(found[1].labelled)
    assert names(found[0].dev) == names(found[1].dev)


def test_todays_layout_is_read_where_both_are(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        write_tree(tmp_path, layout)
    found = splits(tmp_path, labelled_fraction=1)
    assert all((tmp_path / "images" / "10k") in sample.image.parents for sample in found.labelled)


def test_masks_hold_train_ids_of_cityscapes_classes(root: Path) -> None:
    found = splits(root, labelled_fraction=1)
    assert found.classes.names == cityscapes.CLASSES.names
    assert found.classes.colors == cityscapes.CLASSES.colors
    _, label = Reader(CLASSES).pair(found.labelled[0])
    assert label.tolist() == IDS.tolist()


def test_an_id_beyond_the_classes_is_refused(root: Path) -> None:
    sample = splits(root, labelled_fraction=1).labelled[0]
    assert sample.label is not None
    cv2.imwrite(str(sample.label.path), np.full((2, 10), 19, np.uint8))
    with pytest.raises(InputError, match=r"holds the label id 19"):
        Reader(CLASSES).label(sample)


def test_a_pool_needs_no_label_folders(root: Path, layout: str) -> None:
    shutil.rmtree(root / LAYOUTS[layout][1])
    found = pool(root)
    assert names(found) == TRAIN
    assert all(sample.label is None for sample in found)


def test_the_pool_of_a_split_needs_no_label_files(root: Path) -> None:
    before = splits(root, labelled_fraction=1 / 16)
    for sample in before.pool_with_labels:
        assert sample.label is not None
        sample.label.path.unlink()
    after = splits(root, labelled_fraction=1 / 16)
    assert after.unlabelled == before.unlabelled
    assert after.pool_with_labels == []


def test_the_test_pictures_may_be_missing(root: Path, layout: str) -> None:
    shutil.rmtree(root / LAYOUTS[layout][0] / "test")
    assert splits(root, labelled_fraction=1).to_submit == []


def test_missing_labels_are_named_and_counted(root: Path, layout: str) -> None:
    _, labels, suffix = LAYOUTS[layout]
    (root / labels / "val" / f"{VAL[1]}{suffix}").unlink()
    with pytest.raises(InputError, match=rf"val/{VAL[1]}{suffix} is missing \(1 of the 2 labels"):
        splits(root, labelled_fraction=1)


def test_another_fraction_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"BDD100K .*0\.3: give one of 1, 1/2, 1/4, 1/8, 1/16"):
        splits(root, labelled_fraction=0.3)


def test_a_folder_without_the_layout_says_what_is_expected(tmp_path: Path) -> None:
    sentence = r"cannot be listed .*images/10k and labels/sem_seg/masks, or with seg/images"
    with pytest.raises(InputError, match=sentence):
        splits(tmp_path, labelled_fraction=1)
    with pytest.raises(InputError, match=sentence):
        pool(tmp_path)
