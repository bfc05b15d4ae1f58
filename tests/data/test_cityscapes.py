import hashlib
import importlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftrain.data.cityscapes import BLACK, CLASSES, outside_hood, splits, train_extra
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.data.splits.make_cityscapes import (
    DEV,
    FOLDER,
    FRAMES,
    HASHES,
    TRAIN,
    city_of,
    draw,
    write_lists,
)
from selftrain.errors import InputError
from selftrain.labels import IGNORE_INDEX

IMAGE, LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"
COUNTS = {1 / 16: 172, 1 / 8: 343, 1 / 4: 686, 1 / 2: 1372, 1.0: 2744}
CITIES = {
    "aachen": 174,
    "bochum": 96,
    "bremen": 316,
    "cologne": 154,
    "darmstadt": 85,
    "dusseldorf": 221,
    "erfurt": 109,
    "hamburg": 248,
    "hanover": 196,
    "jena": 119,
    "krefeld": 99,
    "monchengladbach": 94,
    "strasbourg": 365,
    "stuttgart": 196,
    "tubingen": 144,
    "ulm": 95,
    "weimar": 142,
    "zurich": 122,
}


def listed(file: str) -> list[str]:
    return (FOLDER / file).read_text().split()


def names(samples: Iterable[Sample]) -> list[str]:
    return [sample.name for sample in samples]


def image_of(root: Path, split: str, name: str) -> Path:
    return root / "leftImg8bit" / split / city_of(name) / f"{name}{IMAGE}"


def label_of(root: Path, split: str, name: str) -> Path:
    return root / "gtFine" / split / city_of(name) / f"{name}{LABEL}"


def write(files: Iterable[Path], data: bytes = b"") -> None:
    files = list(files)
    for folder in {file.parent for file in files}:
        folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        file.write_bytes(data)


@contextmanager
def without(*files: Path) -> Iterator[None]:
    """Take files away for a while."""
    for file in files:
        file.rename(file.with_name(f"{file.name}.away"))
    try:
        yield
    finally:
        for file in files:
            file.with_name(f"{file.name}.away").rename(file)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with every official train name and the counts of val and test; the files are empty."""
    root = tmp_path_factory.mktemp("cityscapes")
    train = listed(DEV) + listed(TRAIN)
    val = [
        f"{city}_{i:06d}_000019"
        for city, count in [("frankfurt", 267), ("lindau", 59), ("munster", 174)]
        for i in range(count)
    ]
    write(image_of(root, "train", name) for name in train)
    write(label_of(root, "train", name) for name in train)
    write(image_of(root, "val", name) for name in val)
    write(label_of(root, "val", name) for name in val)
    write(image_of(root, "test", f"berlin_{i:06d}_000019") for i in range(1525))
    return root


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A small tree of real pictures in the same layout, with other cities than the official."""
    image = cv2.imencode(".png", np.full((4, 9, 3), (30, 20, 10), np.uint8))[1].tobytes()
    ids = np.array([*range(34), 255, 255], dtype=np.uint8).reshape(4, 9)
    label = cv2.imencode(".png", ids)[1].tobytes()
    train = [f"{c}_{i:06d}_000000" for c, n in [("a", 9), ("b", 9), ("c", 2)] for i in range(n)]
    val = [f"d_{i:06d}_000000" for i in range(2)]
    for split, frames in {"train": train, "val": val}.items():
        write((image_of(tmp_path, split, name) for name in frames), image)
        write((label_of(tmp_path, split, name) for name in frames), label)
    return tmp_path


@pytest.mark.parametrize("fraction", COUNTS)
def test_every_official_frame_has_one_use(official: Path, fraction: float) -> None:
    found = splits(official, labelled_fraction=fraction)
    assert names(found.dev) == listed(DEV)
    assert names(found.labelled) == sorted(listed(TRAIN)[: COUNTS[fraction]])
    assert names(found.unlabelled) == sorted(listed(TRAIN)[COUNTS[fraction] :])
    assert {split: len(samples) for split, samples in found.evaluation.items()} == {"val": 500}
    assert len(found.to_submit) == 1525


def test_images_and_labels_of_a_name_go_together(own: Path) -> None:
    found = splits(own, labelled_fraction=1 / 2)
    for samples, split in [
        (found.labelled, "train"),
        (found.dev, "train"),
        (found.pool_with_labels, "train"),
        (found.evaluation["val"], "val"),
    ]:
        for sample in samples:
            assert sample.image == image_of(own, split, sample.name)
            assert sample.label
            assert sample.label.path == label_of(own, split, sample.name)


def test_the_pool_has_no_labels_but_knows_where_they_would_be(own: Path) -> None:
    found = splits(own, labelled_fraction=1 / 2)
    assert len(found.unlabelled) == 9
    assert all(sample.label is None for sample in found.unlabelled)
    assert names(found.pool_with_labels) == names(found.unlabelled)


def test_the_pool_needs_no_label_files(own: Path) -> None:
    pool = names(splits(own, labelled_fraction=1 / 2).unlabelled)
    for name in pool:
        label_of(own, "train", name).unlink()
    found = splits(own, labelled_fraction=1 / 2)
    assert names(found.unlabelled) == pool
    assert found.pool_with_labels == []


def test_label_ids_become_train_ids(own: Path) -> None:
    sample = splits(own, labelled_fraction=1.0).labelled[0]
    image, label = Reader(CLASSES).pair(sample)
    assert image[0, 0].tolist() == [10, 20, 30]
    trained = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    expected = [trained.index(i) if i in trained else IGNORE_INDEX for i in range(34)]
    assert label.ravel().tolist() == [*expected, IGNORE_INDEX, IGNORE_INDEX]


def test_the_classes_are_those_of_the_official_scripts() -> None:
    official = importlib.import_module("cityscapesscripts.helpers.labels").labels
    evaluated = [label for label in official if not label.ignoreInEval]
    assert CLASSES.names == tuple(label.name for label in evaluated)
    assert CLASSES.colors == tuple(label.color for label in evaluated)
    assert CLASSES.train_ids == {
        label.id % 256: IGNORE_INDEX if label.ignoreInEval else label.trainId for label in official
    }


def test_test_frames_have_no_labels_although_blank_ones_are_there(own: Path) -> None:
    write([image_of(own, "test", "berlin_000000_000019")])
    write([label_of(own, "test", "berlin_000000_000019")])
    (sample,) = splits(own, labelled_fraction=1.0).to_submit
    assert sample == Sample(
        "berlin_000000_000019", image_of(own, "test", "berlin_000000_000019"), None
    )


def test_the_test_frames_may_be_missing(own: Path) -> None:
    assert splits(own, labelled_fraction=1.0).to_submit == []


def test_hidden_files_are_passed_over(own: Path) -> None:
    before = splits(own, labelled_fraction=1.0)
    write([own / "leftImg8bit" / "val" / "d" / f"._d_000000_000000{IMAGE}"])
    assert splits(own, labelled_fraction=1.0) == before


def test_another_fraction_is_refused(own: Path) -> None:
    with pytest.raises(InputError, match=r"Cityscapes.*labelled_fraction 0\.3.*1, 1/2.*1/16"):
        splits(own, labelled_fraction=0.3)


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_images_are_said_with_the_zip_that_has_them(own: Path, split: str) -> None:
    shutil.rmtree(own / "leftImg8bit" / split)
    with pytest.raises(
        InputError,
        match=rf"leftImg8bit/{split} has no frames .*leftImg8bit_trainvaltest\.zip.*data_root",
    ):
        splits(own, labelled_fraction=1.0)


def test_missing_labels_of_labelled_frames_are_named_and_counted(own: Path) -> None:
    gone = names(splits(own, labelled_fraction=1 / 2).labelled)[3:5]
    for name in gone:
        label_of(own, "train", name).unlink()
    with pytest.raises(
        InputError, match=rf"gtFine/train/.*{gone[0]}{LABEL} is missing \(2 of the 9 labels"
    ):
        splits(own, labelled_fraction=1 / 2)


def test_missing_labels_of_val_are_named_and_counted(own: Path) -> None:
    shutil.rmtree(own / "gtFine" / "val")
    with pytest.raises(InputError, match=r"gtFine/val/.*d_000000_000000.* \(2 of the 2 labels"):
        splits(own, labelled_fraction=1.0)


def test_missing_official_frames_are_named_and_counted(official: Path) -> None:
    gone = sorted(listed(TRAIN))[7:10]
    files = [image_of(official, "train", name) for name in gone]
    message = rf"train lacks the frame {gone[0]} \(3 of .*2975 .*leftImg8bit_trainvaltest\.zip"
    with without(*files), pytest.raises(InputError, match=message):
        splits(official, labelled_fraction=1 / 16)


@pytest.mark.parametrize(
    ("split", "name", "message"),
    [
        ("val", "lindau_000000_000019", r"leftImg8bit/val holds 499 frames instead of .* 500: un"),
        ("test", "berlin_000000_000019", r"test holds 1524 frames instead of .* 1525: unpack"),
    ],
)
def test_an_incomplete_official_val_or_test_is_refused(
    official: Path, split: str, name: str, message: str
) -> None:
    with without(image_of(official, split, name)), pytest.raises(InputError, match=message):
        splits(official, labelled_fraction=1 / 16)


def test_own_drives_are_divided_by_the_same_rule(own: Path) -> None:
    found = splits(own, labelled_fraction=1 / 2)
    drawn = draw(names([*found.dev, *found.labelled, *found.unlabelled]))
    assert names(found.dev) == drawn[DEV] == ["c_000000_000000", "c_000001_000000"]
    assert names(found.labelled) == sorted(drawn[TRAIN][:9])


def test_one_city_cannot_give_dev_and_train(own: Path) -> None:
    for city in "bc":
        shutil.rmtree(own / "leftImg8bit" / "train" / city)
    with pytest.raises(InputError, match=r"one city \(a\).*dev takes whole cities: add"):
        splits(own, labelled_fraction=1.0)


def test_train_extra_is_a_pool_without_its_black_picture(tmp_path: Path) -> None:
    frames = ["augsburg_000000_000002", BLACK, "troisdorf_000000_000074"]
    write(image_of(tmp_path, "train_extra", name) for name in frames)
    found = train_extra(tmp_path)  # there is no gtCoarse
    assert names(found) == [frames[0], frames[2]]
    assert all(sample.label is None for sample in found)
    assert found[0].image == image_of(tmp_path, "train_extra", frames[0])


def test_a_missing_train_extra_is_said_with_its_zip(own: Path) -> None:
    with pytest.raises(InputError, match=r"train_extra has no frames .*leftImg8bit_trainextra\.zi"):
        train_extra(own)


def test_a_full_frame_keeps_rows_15_to_839_and_columns_14_to_2029() -> None:
    kept = outside_hood(1024, 2048)
    assert kept.shape == (1024, 2048)
    assert np.flatnonzero(kept.any(axis=1)).tolist() == list(range(15, 840))
    assert np.flatnonzero(kept.any(axis=0)).tolist() == list(range(14, 2030))
    assert kept.sum() == 825 * 2016


@settings(deadline=None)
@given(height=st.integers(1, 1100), width=st.integers(1, 2100))
def test_the_hood_of_a_scaled_frame_is_the_mask_scaled_as_labels_are(
    height: int, width: int
) -> None:
    full = outside_hood(1024, 2048).astype(np.uint8)
    scaled = cv2.resize(full, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    assert (outside_hood(height, width) == scaled.astype(bool)).all()


def test_lists_are_as_their_hashes_say() -> None:
    lines = [line.split("  ") for line in (FOLDER / HASHES).read_text().splitlines()]
    assert [file for _, file in lines] == [DEV, TRAIN]
    for digest, file in lines:
        assert hashlib.sha256((FOLDER / file).read_bytes()).hexdigest() == digest


def test_the_lists_have_each_city_in_full() -> None:
    assert len({*listed(DEV), *listed(TRAIN)}) == FRAMES
    assert Counter(map(city_of, listed(DEV) + listed(TRAIN))) == CITIES


def test_no_city_of_dev_trains() -> None:
    assert {city_of(name) for name in listed(DEV)} == {"erfurt", "zurich"}
    assert {city_of(name) for name in listed(TRAIN)} == CITIES.keys() - {"erfurt", "zurich"}


@pytest.mark.parametrize("fraction", COUNTS)
def test_each_city_has_its_share_of_the_labelled_frames(fraction: float) -> None:
    cities = Counter(map(city_of, listed(TRAIN)[: COUNTS[fraction]]))
    for city in CITIES.keys() - {"erfurt", "zurich"}:
        assert abs(cities[city] - fraction * CITIES[city]) <= 0.5


def test_the_program_writes_the_lists_that_lie_here(official: Path, tmp_path: Path) -> None:
    write_lists(official, tmp_path)
    for file in (DEV, TRAIN, HASHES):
        assert (tmp_path / file).read_bytes() == (FOLDER / file).read_bytes()


def test_the_program_refuses_an_incomplete_train_set(own: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train holds 20 frames.*2975: give the folder"):
        write_lists(own, tmp_path / "lists")
    assert not (tmp_path / "lists").exists()


def balanced(order: Sequence[str]) -> bool:
    """Whether in every beginning the shares of any two cities differ by half a frame of each."""
    sizes, seen = Counter(map(city_of, order)), Counter[str]()
    for name in order:
        seen[city_of(name)] += 1
        low = [(seen[city] - 0.5) / size for city, size in sizes.items()]
        high = [(seen[city] + 0.5) / size for city, size in sizes.items()]
        if max(low) > min(high) + 1e-9:
            return False
    return True


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 30), min_size=2), st.randoms())
def test_any_drawing_keeps_the_rules(cities: dict[str, int], random: Random) -> None:
    frames = [f"{city}_{i:06d}_000019" for city, size in cities.items() for i in range(size)]
    drawn = draw(frames)
    assert sorted(drawn[DEV] + drawn[TRAIN]) == sorted(frames)
    held_out = {city_of(name) for name in drawn[DEV]}
    assert held_out
    assert held_out.isdisjoint(city_of(name) for name in drawn[TRAIN])
    smallest = min(cities.values())
    assert len(drawn[DEV]) <= max(len(frames) / 10, smallest)
    assert balanced(drawn[TRAIN])
    random.shuffle(frames)
    assert draw(frames) == drawn


def test_balance_is_seen_to_fail() -> None:
    assert not balanced(["a_0", "a_1", "a_2", "b_0", "b_1", "b_2"])
