from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from selftrain.data.cityscapes import CLASSES
from selftrain.data.kitti import FOLDS, splits
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.errors import InputError

IDS = np.arange(34, dtype=np.uint8).reshape(2, 17)
"""All label ids of Cityscapes that a file can hold."""
TRAINED = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]


def names(samples: Sequence[Sample]) -> list[str]:
    return [sample.name for sample in samples]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official tree with all its names; the pictures are small."""
    picture = cv2.imencode(".png", np.full((2, 17, 3), 9, np.uint8))[1].tobytes()
    label = cv2.imencode(".png", IDS)[1].tobytes()
    for folder in ("training/image_2", "training/semantic", "testing/image_2"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(200):
        (tmp_path / "training" / "image_2" / f"{i:06d}_10.png").write_bytes(picture)
        (tmp_path / "training" / "semantic" / f"{i:06d}_10.png").write_bytes(label)
    for i in range(3):
        (tmp_path / "testing" / "image_2" / f"{i:06d}_10.png").write_bytes(picture)
    return tmp_path


def test_every_picture_has_one_use(root: Path) -> None:
    found = splits(root, labelled_fraction=1 / 4)
    everything = [*found.labelled, *found.unlabelled, *found.dev, *found.evaluation["val"]]
    assert sorted(names(everything)) == [f"training/{i:06d}_10" for i in range(200)]
    assert [len(found.labelled), len(found.unlabelled), len(found.dev)] == [35, 105, 20]
    assert list(found.evaluation) == ["val"]
    assert all(sample.label is None for sample in found.unlabelled)
    assert names(found.pool_with_labels) == names(found.unlabelled)


def test_names_of_train_and_test_differ(root: Path) -> None:
    found = splits(root)
    assert names(found.to_submit) == [f"testing/{i:06d}_10" for i in range(3)]
    assert all(sample.label is None for sample in found.to_submit)


def test_each_picture_is_measured_in_one_fold(root: Path) -> None:
    folds = [names(splits(root, fold=fold).evaluation["val"]) for fold in range(FOLDS)]
    assert [len(fold) for fold in folds] == [40] * FOLDS
    assert len({name for fold in folds for name in fold}) == 200


@pytest.mark.parametrize("fold", range(FOLDS))
def test_neighbours_stay_together(root: Path, fold: int) -> None:
    found = splits(root, fold=fold)
    for samples in (found.evaluation["val"], found.dev, found.labelled):
        blocks = {name[: len("training/00000")] for name in names(samples)}
        assert len(samples) == 10 * len(blocks)


def test_the_folds_are_what_they_were(root: Path) -> None:
    found = splits(root)
    assert {name[-6:-4] for name in names(found.evaluation["val"])} == {"06", "17", "18", "19"}
    assert {name[-6:-4] for name in names(found.dev)} == {"13", "16"}


def test_the_fold_of_a_picture_depends_on_its_name_alone(root: Path) -> None:
    before = splits(root, fold=2)
    for i in range(0, 200, 2):
        (root / "training" / "image_2" / f"{i:06d}_10.png").unlink()
    after = splits(root, fold=2)
    assert set(names(after.evaluation["val"])) < set(names(before.evaluation["val"]))
    assert set(names(after.dev)) < set(names(before.dev))


def test_smaller_shares_lie_within_larger_ones_and_dev_stays(root: Path) -> None:
    found = [splits(root, labelled_fraction=f, fold=1) for f in (1 / 8, 1 / 4, 1 / 2, 1)]
    labelled = [set(names(each.labelled)) for each in found]
    assert [len(each) for each in labelled] == [18, 35, 70, 140]
    assert labelled[0] < labelled[1] < labelled[2] < labelled[3]
    assert len({tuple(names(each.dev)) for each in found}) == 1
    assert found[3].unlabelled == []


def test_labels_are_cityscapes_ids(root: Path) -> None:
    found = splits(root)
    assert found.classes is CLASSES
    _, label = Reader(CLASSES).pair(found.labelled[0])
    expected = [TRAINED.index(i) if i in TRAINED else 255 for i in range(34)]
    assert label.ravel().tolist() == expected


def test_the_pool_needs_no_label_files(root: Path) -> None:
    before = splits(root, labelled_fraction=1 / 8)
    for sample in before.pool_with_labels:
        assert sample.label is not None
        sample.label.path.unlink()
    after = splits(root, labelled_fraction=1 / 8)
    assert after.unlabelled == before.unlabelled
    assert after.pool_with_labels == []


def test_the_test_pictures_may_be_missing(root: Path) -> None:
    (root / "testing").rename(root / "elsewhere")
    assert splits(root).to_submit == []


@pytest.mark.parametrize("fold", [-1, 5])
def test_another_fold_is_refused(root: Path, fold: int) -> None:
    with pytest.raises(InputError, match=rf"no fold {fold}: give one from 0 to 4"):
        splits(root, fold=fold)


def test_another_fraction_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"labelled_fraction 0\.1: give one of 1, 1/2, 1/4, 1/8"):
        splits(root, labelled_fraction=0.1)


@pytest.mark.parametrize("folder", ["image_2", "semantic"])
def test_a_missing_folder_is_named_with_the_layout(root: Path, folder: str) -> None:
    (root / "training" / folder).rename(root / "elsewhere")
    sentence = rf"training/{folder} cannot be listed .*data_semantics\.zip.*machine\.data_root"
    with pytest.raises(InputError, match=sentence):
        splits(root)


def test_missing_labels_are_named_and_counted(root: Path) -> None:
    gone = names(splits(root).dev)[:2]
    for name in gone:
        (root / "training" / "semantic" / f"{name.removeprefix('training/')}.png").unlink()
    first = gone[0].removeprefix("training/")
    with pytest.raises(InputError, match=rf"semantic/{first}\.png is missing \(2 of the 20 "):
        splits(root)


@pytest.mark.parametrize("name", ["000200_10", "000000_11", "street"])
def test_a_picture_of_another_name_is_refused(root: Path, name: str) -> None:
    (root / "training" / "image_2" / f"{name}.png").touch()
    with pytest.raises(InputError, match=rf"image_2/{name}\.png is not named .*take it out"):
        splits(root)


def test_a_tree_that_lacks_a_fold_is_refused(root: Path) -> None:
    for sample in splits(root, fold=3).evaluation["val"]:
        sample.image.unlink()
    with pytest.raises(InputError, match=r"no picture for val of fold 3: copy all 200 pictures"):
        splits(root, fold=3)
