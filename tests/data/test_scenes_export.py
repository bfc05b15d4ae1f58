import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from selftrain.data import cityscapes, scenes
from selftrain.data import scenes_export as export
from selftrain.data.reader import Reader
from selftrain.data.scenes_export import export_cityscapes
from selftrain.errors import InputError

COUNTS = {"train": 24, "val": 3, "test": 2, "train_extra": 4}


def write(folder: Path, counts: dict[str, int] = COUNTS, *, seed: int = 5, height: int = 16) -> int:
    """Export miniature frames; return how often progress was told."""
    steps = Counter[str]()
    export_cityscapes(
        folder,
        seed=seed,
        counts=counts,
        width=2 * height,
        height=height,
        advance=lambda: steps.update(["frame"]),
    )
    return steps["frame"]


def files(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an export of COUNTS that tests only read."""
    folder = tmp_path_factory.mktemp("export") / "cityscapes"
    write(folder)
    return folder


def test_an_export_is_read_as_cityscapes(exported: Path) -> None:
    found = cityscapes.splits(exported, labelled_fraction=1 / 4)
    assert len(found.labelled) + len(found.unlabelled) + len(found.dev) == 24
    assert len(found.labelled) >= 1
    assert len(found.dev) >= 1
    assert len(found.evaluation["val"]) == 3
    assert len(found.to_submit) == 2
    assert len(cityscapes.train_extra(exported)) == 4


def test_what_is_read_is_what_was_drawn(exported: Path) -> None:
    found = cityscapes.splits(exported, labelled_fraction=1)
    samples = {sample.name: sample for sample in (*found.labelled, *found.dev)}
    image, label = Reader(found.classes).pair(samples["town02_000001_000019"])
    drawn_image, drawn_label = scenes.draw(5, 21, width=32, height=16)
    assert np.array_equal(image, drawn_image)
    assert np.array_equal(label, drawn_label)


def test_label_files_hold_the_19_official_ids_and_0(exported: Path) -> None:
    official = {0, 7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33}
    seen: set[int] = set()
    for path in (exported / "gtFine").rglob("*_gtFine_labelIds.png"):
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert label is not None
        assert label.shape == (16, 32)
        seen |= set(np.unique(label).tolist())
    assert seen <= official
    assert {0, 7, 11, 23, 26} <= seen


def test_only_train_and_val_have_labels(exported: Path) -> None:
    assert {path.name for path in (exported / "gtFine").iterdir()} == {"train", "val"}


def test_no_frame_is_twice_in_the_export(exported: Path) -> None:
    images = [path.read_bytes() for path in (exported / "leftImg8bit").rglob("*.png")]
    assert len(images) == len(set(images)) == sum(COUNTS.values())


def test_no_frame_has_the_name_of_a_real_one(exported: Path) -> None:
    folder = Path(cityscapes.__file__).parent / "splits" / "cityscapes"
    real = set((folder / "train.txt").read_text().split())
    real |= set((folder / "dev.txt").read_text().split())
    ending = "_leftImg8bit.png"
    names = {p.name.removesuffix(ending) for p in exported.rglob(f"*{ending}")}
    assert len(real) == 2975
    assert not {name.partition("_")[0] for name in names} & {
        name.partition("_")[0] for name in real
    }


def test_progress_counts_every_frame_once_written_or_not(tmp_path: Path) -> None:
    assert write(tmp_path / "a", {"train": 3, "val": 1}) == 4
    assert write(tmp_path / "a", {"train": 3, "val": 1}) == 4


def test_workers_write_what_one_process_writes(tmp_path: Path) -> None:
    counts = {"train": 3, "val": 1}
    write(tmp_path / "one", counts)
    export_cityscapes(tmp_path / "two", seed=5, counts=counts, width=32, height=16, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_an_interrupted_export_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"train": 4, "val": 2}
    write(tmp_path / "whole", counts)
    draw, drawn = scenes.draw, []

    def stop(seed: int, index: int, *, width: int, height: int) -> object:
        drawn.append(index)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(seed, index, width=width, height=height)

    monkeypatch.setattr(scenes, "draw", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "part", counts)
    write(tmp_path / "part", counts)
    assert len(drawn) == 3 + 4  # two of six were finished, the third was begun twice
    assert files(tmp_path / "part") == files(tmp_path / "whole")


def test_a_frame_whose_label_was_deleted_is_written_again(tmp_path: Path) -> None:
    write(tmp_path / "a", {"train": 2})
    before = files(tmp_path / "a")
    next((tmp_path / "a" / "gtFine").rglob("*.png")).unlink()
    write(tmp_path / "a", {"train": 2})
    assert files(tmp_path / "a") == before


def test_an_export_grows_and_keeps_what_it_has(tmp_path: Path) -> None:
    write(tmp_path / "a", {"train": 2})
    before = files(tmp_path / "a")
    write(tmp_path / "a", {"train": 23, "test": 1})
    after = files(tmp_path / "a")
    assert before.items() <= after.items()
    assert len(after) == 1 + 2 * 23 + 1


@pytest.mark.parametrize(
    ("seed", "height", "said"),
    [(6, 16, "of seed 5 instead of seed 6"), (5, 32, "width 32, height 16 instead of width 64")],
)
def test_another_seed_or_size_in_the_same_folder_is_refused(
    tmp_path: Path, seed: int, height: int, said: str
) -> None:
    folder = tmp_path / "a"
    write(folder, {"train": 1})
    before = files(folder)
    with pytest.raises(InputError, match=said) as caught:
        write(folder, {"train": 2}, seed=seed, height=height)
    assert str(folder) in str(caught.value)
    assert "choose another folder" in str(caught.value)
    assert files(folder) == before


@pytest.mark.parametrize("content", ["", "[]", '{"seed": 5}'])
def test_a_folder_with_something_else_is_refused_and_left_as_it_is(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "leftImg8bit").mkdir()
    if content:
        (tmp_path / "scenes.json").write_text(content)
    with pytest.raises(InputError, match="choose another folder"):
        write(tmp_path, {"train": 1})
    assert list((tmp_path / "leftImg8bit").iterdir()) == []


def test_a_note_that_cannot_be_read_is_an_error_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "scenes.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot be exported to .* choose another folder"):
        write(tmp_path, {"train": 1})


def test_a_disk_with_too_little_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(total=0, used=0, free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    folder = tmp_path / "far" / "away"
    with pytest.raises(InputError) as caught:
        export_cityscapes(folder, seed=0, counts={"train": 2975})
    said = str(caught.value)
    assert str(folder) in said
    assert "11,230 MB for 2975 more frames, but 1,000 MB are free" in said
    assert "free some space" in said
    assert list(tmp_path.iterdir()) == []


def test_frames_that_are_there_need_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", {"train": 2})
    free = SimpleNamespace(total=0, used=0, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    assert write(tmp_path / "a", {"train": 2}) == 2
    with pytest.raises(InputError, match="for 1 more frames"):
        write(tmp_path / "a", {"train": 3})


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"trian": 3}, r"'trian': choose among train, val, test, train_extra"),
        ({"train": -1}, r"train = -1 .* choose 0 to"),
        ({"val": 1_000_001}, r"val = 1000001 .* choose 0 to 1000000"),
    ],
)
def test_counts_that_cannot_be_are_refused(
    tmp_path: Path, counts: dict[str, int], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        write(tmp_path / "a", counts)
    assert not (tmp_path / "a").exists()


def test_a_size_that_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2048x1000 .* twice the height"):
        export_cityscapes(tmp_path / "a", seed=0, counts={"train": 1}, width=2048, height=1000)
    assert not (tmp_path / "a").exists()


def test_the_estimate_of_the_room_holds_for_a_full_size_frame(tmp_path: Path) -> None:
    export_cityscapes(tmp_path, seed=0, counts={"val": 1})
    used = sum(path.stat().st_size for path in tmp_path.rglob("*.png"))
    assert 0.7 < used / (2048 * 1024 * export.BYTES_PER_PIXEL) < 1.15


def test_the_note_says_what_the_pictures_are(exported: Path) -> None:
    note = json.loads((exported / "scenes.json").read_text())
    assert "drawn by selftrain" in note["content"]
    assert (note["seed"], note["width"], note["height"]) == (5, 32, 16)
