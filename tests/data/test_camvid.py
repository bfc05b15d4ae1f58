import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from selftrain.data.camvid import CLASSES, splits
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.data.splits.make_camvid import (
    DEV,
    FOLDER,
    HASHES,
    LABELLED,
    OFFICIAL,
    cut_clips,
    draw,
    write_lists,
)
from selftrain.errors import InputError

REAL = Path(__file__).parents[3] / "shared" / "data" / "camvid"
EXTRA = ["0016E5_01110", "0016E5_07200"]  # in none of the lists of the miniature
DEV_SIZE, TRAIN_SIZE = 39, 328  # of the real 367


def listed(file: str) -> list[str]:
    return (FOLDER / file).read_text().split()


def names(samples: Sequence[Sample]) -> list[str]:
    return [sample.name for sample in samples]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with the frames that the smallest labelled share needs, and two more."""
    frames = {
        "train": listed(DEV) + listed("labelled_1_16.txt") + EXTRA,
        "val": ["0016E5_07959"],
        "test": ["0001TP_008550", "Seq05VD_f00000", "Seq05VD_f00030"],
    }
    image = cv2.imencode(".png", np.full((4, 6, 3), (30, 20, 10), np.uint8))[1].tobytes()
    ids = np.arange(24, dtype=np.uint8).reshape(4, 6) % 12
    label = cv2.imencode(".png", ids)[1].tobytes()
    for folder, stems in frames.items():
        (tmp_path / folder).mkdir()
        (tmp_path / f"{folder}annot").mkdir()
        for stem in stems:
            (tmp_path / folder / f"{stem}.png").write_bytes(image)
            (tmp_path / f"{folder}annot" / f"{stem}.png").write_bytes(label)
    return tmp_path


def test_every_frame_has_one_use(root: Path) -> None:
    found = splits(root, labelled_fraction=1 / 16)
    assert names(found.dev) == listed(DEV)
    assert names(found.labelled) == listed("labelled_1_16.txt")
    assert names(found.unlabelled) == sorted(EXTRA)
    assert {name: len(samples) for name, samples in found.evaluation.items()} == {
        "test": 3,
        "test_Seq05VD": 2,
        "val": 1,
    }
    assert next(iter(found.evaluation)) == "test"


def test_the_pool_has_no_labels_but_knows_where_they_would_be(root: Path) -> None:
    found = splits(root, labelled_fraction=1 / 16)
    assert all(sample.label is None for sample in found.unlabelled)
    assert names(found.pool_with_labels) == names(found.unlabelled)
    assert all(sample.label is not None for sample in found.pool_with_labels)


def test_the_pool_needs_no_label_files(root: Path) -> None:
    for name in EXTRA:
        (root / "trainannot" / f"{name}.png").unlink()
    found = splits(root, labelled_fraction=1 / 16)
    assert names(found.unlabelled) == sorted(EXTRA)
    assert found.pool_with_labels == []


def test_all_labels_leave_no_pool(root: Path) -> None:
    found = splits(root, labelled_fraction=1.0)
    assert names(found.labelled) == sorted(listed("labelled_1_16.txt") + EXTRA)
    assert len(found.unlabelled) == len(found.pool_with_labels) == 0


def test_void_is_ignored_and_other_ids_are_the_classes(root: Path) -> None:
    sample = splits(root, labelled_fraction=1 / 16).labelled[0]
    image, label = Reader(CLASSES).pair(sample)
    assert image[0, 0].tolist() == [10, 20, 30]
    assert label.ravel()[:12].tolist() == [*range(11), 255]


def test_webp_images_are_found_and_png_goes_first(root: Path) -> None:
    first, second = sorted(EXTRA)
    (root / "train" / f"{first}.png").rename(root / "train" / f"{first}.webp")
    (root / "train" / f"{second}.webp").touch()
    (root / "train" / "Thumbs.db").touch()
    images = [s.image.name for s in splits(root, labelled_fraction=1 / 16).unlabelled]
    assert images == [f"{first}.webp", f"{second}.png"]


def test_another_fraction_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"labelled_fraction 0\.3.*1, 1/16, 1/8, 1/4, 1/2"):
        splits(root, labelled_fraction=0.3)


@pytest.mark.parametrize("folder", ["train", "trainannot", "valannot"])
def test_a_missing_folder_is_named_with_the_layout(root: Path, folder: str) -> None:
    (root / folder).rename(root / "elsewhere")
    with pytest.raises(InputError, match=rf"no folder {folder}:.*testannot.*machine\.data_root"):
        splits(root, labelled_fraction=1 / 16)


def test_a_missing_root_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere has no folder train: .*machine\.data_root"):
        splits(tmp_path / "nowhere", labelled_fraction=1 / 16)


def test_missing_labels_of_labelled_frames_are_named_and_counted(root: Path) -> None:
    gone = listed("labelled_1_16.txt")[2:5]
    for name in gone:
        (root / "trainannot" / f"{name}.png").unlink()
    with pytest.raises(InputError, match=rf"trainannot/{gone[0]}\.png is missing \(3 of the 21"):
        splits(root, labelled_fraction=1 / 16)


def test_a_missing_test_label_is_named(root: Path) -> None:
    (root / "testannot" / "Seq05VD_f00030.png").unlink()
    with pytest.raises(InputError, match=r"testannot/Seq05VD_f00030\.png is missing"):
        splits(root, labelled_fraction=1 / 16)


def test_a_listed_frame_that_is_missing_is_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"lacks the frame .*of the 41.*labelled_1_8\.txt"):
        splits(root, labelled_fraction=1 / 8)


def test_lists_are_as_their_hashes_say() -> None:
    lines = [line.split("  ") for line in (FOLDER / HASHES).read_text().splitlines()]
    assert sorted(file for _, file in lines) == sorted(
        [DEV, *LABELLED.values(), *OFFICIAL.values()]
    )
    for digest, file in lines:
        assert hashlib.sha256((FOLDER / file).read_bytes()).hexdigest() == digest


def test_the_sets_have_their_published_sizes_and_share_no_frame() -> None:
    sets = {name: listed(file) for name, file in OFFICIAL.items()}
    assert {name: len(frames) for name, frames in sets.items()} == {
        "train": 367,
        "val": 101,
        "test": 233,
    }
    assert len(set().union(*sets.values())) == 701
    assert sets["val"] == [f"0016E5_{frame:05d}" for frame in range(7959, 8160, 2)]
    assert {name for name in sets["test"] if name.startswith("Seq05VD")} == {
        f"Seq05VD_f{frame:05d}" for frame in range(0, 5101, 30)
    }


def test_the_lists_are_drawn_from_the_train_list() -> None:
    drawn = draw(listed(OFFICIAL["train"]))
    assert drawn == {file: listed(file) for file in drawn}


def test_lists_are_written_with_their_hashes(root: Path, tmp_path: Path) -> None:
    write_lists(root, tmp_path / "lists")
    for line in (tmp_path / "lists" / HASHES).read_text().splitlines():
        digest, file = line.split("  ")
        assert hashlib.sha256((tmp_path / "lists" / file).read_bytes()).hexdigest() == digest
    assert (tmp_path / "lists" / OFFICIAL["val"]).read_text() == "0016E5_07959\n"


def test_lists_need_the_frames_of_every_set(root: Path, tmp_path: Path) -> None:
    (root / "val" / "0016E5_07959.png").unlink()
    with pytest.raises(InputError, match=r"val holds no frames: give the folder"):
        write_lists(root, tmp_path / "lists")
    assert not (tmp_path / "lists").exists()


def test_dev_and_labelled_frames_are_disjoint() -> None:
    assert set(listed(DEV)).isdisjoint(listed("labelled_1_2.txt"))


def test_a_smaller_share_lies_within_a_larger() -> None:
    lists = [set(listed(LABELLED[fraction])) for fraction in sorted(LABELLED)]
    assert all(small < large for small, large in pairwise(lists))


def test_lists_have_the_shares_they_are_named_for() -> None:
    assert len(listed(DEV)) == DEV_SIZE
    for fraction, file in LABELLED.items():
        assert abs(len(listed(file)) - fraction * TRAIN_SIZE) < 1


@pytest.mark.parametrize("file", [DEV, *LABELLED.values()])
def test_every_drive_gives_blocks_of_frames(file: str) -> None:
    drives = {name.partition("_")[0] for name in listed(file)}
    assert drives == {"0001TP", "0006R0", "0016E5"}
    assert len(cut_clips(listed(file))) <= 7  # seven segments, one block in each


def test_a_drawing_of_any_film_keeps_the_rules() -> None:
    film = [f"A_{30 * i:06d}" for i in range(150)] + [f"B_f{30 * i:05d}" for i in range(20)]
    film += [f"B_f{30 * i:05d}" for i in range(40, 120)]
    drawn = draw(film[::-1])
    assert [len(clip) for clip in cut_clips(film)] == [150, 20, 80]
    assert drawn[DEV] == film[133:150] + film[241:250]
    assert [len(drawn[file]) for file in LABELLED.values()] == [14, 28, 56, 112]
    assert all(set(drawn[DEV]).isdisjoint(drawn[file]) for file in LABELLED.values())


@pytest.mark.skipif(not REAL.is_dir(), reason=f"CamVid does not lie at {REAL}")
@pytest.mark.parametrize("fraction", [*LABELLED, 1.0])
def test_the_real_tree_has_its_published_counts(fraction: float) -> None:
    found = splits(REAL, labelled_fraction=fraction)
    assert len(found.labelled) + len(found.unlabelled) == TRAIN_SIZE
    assert len(found.dev) == DEV_SIZE
    assert {name: len(samples) for name, samples in found.evaluation.items()} == {
        "test": 233,
        "test_Seq05VD": 171,
        "val": 101,
    }
    everything = [*found.labelled, *found.unlabelled, *found.dev]
    for name in ("test", "val"):
        everything += found.evaluation[name]
    assert len({sample.image for sample in everything}) == 367 + 101 + 233
    image, label = Reader(CLASSES).pair(found.labelled[0])
    assert image.shape == (360, 480, 3)
    assert set(np.unique(label).tolist()) <= {*range(11), 255}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"CamVid does not lie at {REAL}")
@pytest.mark.parametrize("name", OFFICIAL)
def test_the_lists_of_the_sets_are_what_the_folders_hold(name: str) -> None:
    assert sorted(path.stem for path in (REAL / name).iterdir()) == listed(OFFICIAL[name])
