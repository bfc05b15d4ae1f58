import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from selftrain.data.mapillary import Version, pool, splits
from selftrain.data.reader import Reader
from selftrain.data.sample import ClassTable, Sample
from selftrain.errors import InputError

TRAINING = [f"t{i:02d}-_X" for i in range(40)]  # 40: dev 2, and 38 for the shares
VALIDATION = ["v0", "v1", "v2"]
IDS = np.arange(66, dtype=np.uint8).reshape(6, 11)
"""The label map of every picture of version 1.2."""


def names(samples: Sequence[Sample]) -> list[str]:
    return [sample.name for sample in samples]


def labels_of_config(count: int, void: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "name": f"object--thing-{i}",
            "readable": f"Thing - No. {i} (Front)",
            "color": [i, 255 - i, 7],
            "evaluate": i not in void,
            "instances": False,
        }
        for i in range(count)
    ]


def write_config(file: Path, count: int, void: Sequence[int]) -> None:
    file.write_text(json.dumps({"labels": labels_of_config(count, void), "version": 1}))


def write_palette_png(file: Path, ids: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    picture = Image.fromarray(ids)
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 3 * 256).tolist())
    assert picture.mode == "P"
    picture.save(file)


def write_split(folder: Path, stems: Sequence[str], versions: Sequence[str]) -> None:
    """Write pictures, and their labels into the folder of each version ("": release v1.2's)."""
    picture = cv2.imencode(".jpg", np.full((6, 11, 3), 200, np.uint8))[1].tobytes()
    (folder / "images").mkdir(parents=True)
    for stem in stems:
        (folder / "images" / f"{stem}.jpg").write_bytes(picture)
    for version in versions:
        labels = folder / version / "labels"
        labels.mkdir(parents=True)
        write_palette_png(labels / f"{stems[0]}.png", IDS + (50 if version == "v2.0" else 0))
        for stem in stems[1:]:
            shutil.copy(labels / f"{stems[0]}.png", labels / f"{stem}.png")


@pytest.fixture
def release_1(tmp_path: Path) -> Path:
    for split, stems in {"training": TRAINING, "validation": VALIDATION}.items():
        write_split(tmp_path / split, stems, [""])
        for other in ("instances", "panoptic"):
            (tmp_path / split / other).mkdir()
    write_split(tmp_path / "testing", ["x0", "x1"], [])
    write_config(tmp_path / "config.json", 66, void=[65])
    return tmp_path


@pytest.fixture
def release_2(tmp_path: Path) -> Path:
    for split, stems in {"training": TRAINING, "validation": VALIDATION}.items():
        write_split(tmp_path / split, stems, ["v1.2", "v2.0"])
    write_config(tmp_path / "config_v1.2.json", 66, void=[65])
    write_config(tmp_path / "config_v2.0.json", 124, void=[60, 123])
    return tmp_path


def test_every_picture_has_one_use(release_1: Path) -> None:
    found = splits(release_1, labelled_fraction=1 / 5)
    assert sorted(names([*found.labelled, *found.unlabelled, *found.dev])) == TRAINING
    assert [len(found.labelled), len(found.unlabelled), len(found.dev)] == [8, 30, 2]
    assert {name: names(samples) for name, samples in found.evaluation.items()} == {
        "val": VALIDATION
    }
    assert names(found.to_submit) == ["x0", "x1"]
    assert all(sample.label is None for sample in [*found.unlabelled, *found.to_submit])
    assert names(found.pool_with_labels) == names(found.unlabelled)


def test_smaller_shares_lie_within_larger_ones_and_dev_stays(release_1: Path) -> None:
    found = [splits(release_1, labelled_fraction=f) for f in (1 / 10, 1 / 5, 1 / 2, 1)]
    labelled = [set(names(each.labelled)) for each in found]
    assert [len(each) for each in labelled] == [4, 8, 19, 38]
    assert labelled[0] < labelled[1] < labelled[2] < labelled[3]
    assert len({tuple(names(each.dev)) for each in found}) == 1
    assert found[3].unlabelled == []


def test_palette_indices_are_the_ids_and_the_last_is_void(release_1: Path) -> None:
    found = splits(release_1, labelled_fraction=1)
    _, label = Reader(found.classes).pair(found.labelled[0])
    assert label.ravel().tolist() == [*range(65), 255]


def test_classes_are_the_configs_in_its_order(release_1: Path) -> None:
    classes = splits(release_1, labelled_fraction=1).classes
    assert len(classes) == 65
    assert classes.names[:2] == ("thing no 0 front", "thing no 1 front")
    assert classes.colors[1] == (1, 254, 7)


def test_release_2_has_the_classes_of_1_2_unless_told_otherwise(release_2: Path) -> None:
    found = splits(release_2, labelled_fraction=1 / 2)
    assert len(found.classes) == 65
    _, label = Reader(found.classes).pair(found.dev[0])
    assert label.ravel().tolist() == [*range(65), 255]
    assert found.to_submit == []


def test_classes_of_2_0_close_up_over_void(release_2: Path) -> None:
    found = splits(release_2, labelled_fraction=1 / 2, version="2.0")
    assert len(found.classes) == 122
    assert found.classes.names[60] == "thing no 61 front"
    _, label = Reader(found.classes).pair(found.labelled[0])  # file ids 50 to 115
    assert label.ravel().tolist() == [*range(50, 60), 255, *range(60, 115)]


def test_both_releases_give_the_same_lists(release_1: Path, tmp_path: Path) -> None:
    first = splits(release_1, labelled_fraction=1 / 5)
    for split in ("training", "validation"):
        (release_1 / split / "v1.2").mkdir()
        (release_1 / split / "labels").rename(release_1 / split / "v1.2" / "labels")
    (release_1 / "config.json").rename(release_1 / "config_v1.2.json")
    second = splits(release_1, labelled_fraction=1 / 5)
    assert names(second.labelled) == names(first.labelled)
    assert names(second.dev) == names(first.dev)


@pytest.mark.parametrize("release", ["release_1", "release_2"])
def test_a_pool_needs_neither_labels_nor_config(
    release: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(release)
    for path in [root / "validation", *(root / "training").iterdir()]:
        if path.name != "images":
            shutil.rmtree(path)
    for config in root.glob("*.json"):
        config.unlink()
    found = pool(root)
    assert names(found) == TRAINING
    assert all(sample.label is None for sample in found)
    assert Reader(ClassTable((), ())).image(found[0]).shape == (6, 11, 3)


def test_a_pool_opens_no_label_folder(release_1: Path) -> None:
    labels = release_1 / "training" / "labels"
    shutil.rmtree(labels)
    labels.write_text("no folder: listing it would fail")
    assert names(pool(release_1)) == TRAINING


def test_the_pool_of_a_split_needs_no_label_files(release_1: Path) -> None:
    before = splits(release_1, labelled_fraction=1 / 10)
    for name in names(before.unlabelled):
        (release_1 / "training" / "labels" / f"{name}.png").unlink()
    after = splits(release_1, labelled_fraction=1 / 10)
    assert after.unlabelled == before.unlabelled
    assert after.pool_with_labels == []


def test_missing_labels_are_named_and_counted(release_1: Path) -> None:
    labelled = names(splits(release_1, labelled_fraction=1 / 5).labelled)
    for name in labelled[3:5]:
        (release_1 / "training" / "labels" / f"{name}.png").unlink()
    with pytest.raises(
        InputError, match=rf"labels/{labelled[3]}\.png is missing \(2 of the 8 .*copy the labels"
    ):
        splits(release_1, labelled_fraction=1 / 5)


def test_another_fraction_is_refused(release_1: Path) -> None:
    with pytest.raises(InputError, match=r"labelled_fraction 0\.25: give one of 1, 1/2, 1/5, 1/10"):
        splits(release_1, labelled_fraction=0.25)


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_a_folder_without_the_layout_says_what_is_expected(
    tmp_path: Path, version: Version
) -> None:
    sentence = r"training/images cannot be listed .*layout of its zip file.*machine\.data_root"
    with pytest.raises(InputError, match=sentence):
        splits(tmp_path, labelled_fraction=1, version=version)
    with pytest.raises(InputError, match=sentence):
        pool(tmp_path)


def test_release_1_has_no_classes_of_2_0(release_1: Path) -> None:
    with pytest.raises(InputError, match=r"release v1\.2.*choose version 1\.2, or unpack"):
        splits(release_1, labelled_fraction=1, version="2.0")


def test_a_missing_config_is_named(release_2: Path) -> None:
    (release_2 / "config_v1.2.json").unlink()
    with pytest.raises(InputError, match=r"config_v1\.2\.json cannot be read .*names the classes"):
        splits(release_2, labelled_fraction=1)


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "[]",
        '{"classes": []}',
        '{"labels": [{"readable": "Bird", "color": [1, 2, 3]}]}',
        '{"labels": [{"readable": "Bird", "color": [1, 2], "evaluate": true}]}',
        '{"labels": [{"readable": "Bird", "color": null, "evaluate": true}]}',
        '{"labels": [{"readable": "Bird", "color": [1, 2, 3], "evaluate": "no"}]}',
    ],
)
def test_a_damaged_config_is_named(release_1: Path, text: str) -> None:
    (release_1 / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json is not Mapillary's list .*copy it again"):
        splits(release_1, labelled_fraction=1)


def test_the_config_of_another_version_is_refused(release_1: Path) -> None:
    write_config(release_1 / "config.json", 124, void=[123])
    with pytest.raises(InputError, match=r"config\.json lists 124 labels, but version 1\.2 has 66"):
        splits(release_1, labelled_fraction=1)
