import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from selftrain.data import scenes
from selftrain.errors import InputError

ROAD, MOTORCYCLE = scenes.NAMES.index("road"), scenes.NAMES.index("motorcycle")
ABROAD = scenes.classes("abroad").names
NEW = ABROAD[len(scenes.NAMES) :]


def digest(seed: int, index: int, style: str = "city", width: int = 64) -> str:
    image, labels = scenes.draw(seed, index, width=width, height=width // 2, style=style)
    return hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest()


def count_pixels(style: str, scene_count: int, width: int) -> NDArray[np.int64]:
    """Return the pixels of each label (last axis, 256) in each scene."""
    drawn = (
        scenes.draw(1, i, width=width, height=width // 2, style=style)[1]
        for i in range(scene_count)
    )
    return np.stack([np.bincount(labels.ravel(), minlength=256) for labels in drawn])


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.int64]:
    """Of 200 scenes in the style "city"."""
    return count_pixels("city", 200, 128)


@pytest.fixture(scope="module")
def pixels_abroad() -> NDArray[np.int64]:
    """Of 200 scenes in the style "abroad"."""
    return count_pixels("abroad", 200, 128)


def test_classes_are_those_of_cityscapes_in_the_order_of_its_train_ids() -> None:
    assert len(scenes.NAMES) == len(scenes.COLORS) == len(set(scenes.COLORS)) == 19
    assert scenes.NAMES[:2] == ("road", "sidewalk")
    assert scenes.NAMES[6:8] == ("traffic light", "traffic sign")
    assert scenes.NAMES[17:] == ("motorcycle", "bicycle")
    assert scenes.COLORS[13] == (0, 0, 142)


def test_a_scene_is_a_function_of_seed_and_index() -> None:
    first = scenes.draw(3, 5)
    scenes.draw(3, 6)
    second = scenes.draw(3, 5)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize(
    ("style", "version", "drawn"),
    [
        ("city", 3, "86b13bf2aaf28c6f4c99f49ba69cb1ad44c109f11d1067fc18cb48b1f5d52e58"),
        ("abroad", 1, "711b920e9f6e9dbec6a7f5820a8a948f16147918a74edff19cf90f16a641ffde"),
    ],
)
def test_a_style_is_drawn_as_ever_until_its_version_changes(
    style: str, version: int, drawn: str
) -> None:
    # These digests change with the drawing: then raise the style's version, and pin them anew.
    # They do not depend on the vector instructions of the CPU.
    assert scenes.version(style) == version
    of_scenes = [digest(1, i, style, width=256) for i in (0, 15, 22)]
    assert hashlib.sha256("".join(of_scenes).encode()).hexdigest() == drawn


def test_another_process_draws_the_same_scene() -> None:
    code = (
        "import hashlib; from selftrain.data import scenes; image, labels = scenes.draw(7, 2);"
        "print(hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest())"
    )
    run = [sys.executable, "-c", code]
    seen = {subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in "ab"}
    assert len(seen) == 1


def test_scenes_differ_between_seeds_indices_and_styles() -> None:
    drawn = {digest(s, i, style) for s in range(4) for i in range(4) for style in scenes.STYLES}
    assert len(drawn) == 32


def test_an_unknown_style_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="one of city, abroad, got 'mars'"):
        scenes.draw(0, 0, style="mars")


def test_the_classes_of_the_city_come_first_abroad() -> None:
    city, abroad = scenes.classes("city"), scenes.classes("abroad")
    assert (city.names, city.colors) == (scenes.NAMES, scenes.COLORS)
    assert abroad.names[:19] == city.names
    assert abroad.colors[:19] == city.colors
    assert len(abroad) == len(set(abroad.names)) == len(set(abroad.colors)) == 27


def test_all_27_classes_occur_abroad_and_nothing_else_but_void(
    pixels_abroad: NDArray[np.int64],
) -> None:
    share = (pixels_abroad[:, :27] > 0).mean(axis=0)
    assert not {n: s for n, s in zip(ABROAD, share.tolist(), strict=True) if s < 0.04}
    assert pixels_abroad[:, 27:255].sum() == 0


def test_of_the_new_classes_some_are_in_most_scenes_and_some_in_few(
    pixels_abroad: NDArray[np.int64],
) -> None:
    share = dict(zip(ABROAD, (pixels_abroad[:, :27] > 0).mean(axis=0).tolist(), strict=True))
    assert share["lane marking"] > 0.98
    assert 0.4 < share["mountain"] < 0.7
    assert share["traffic cone"] < 0.25
    assert share["animal"] < 0.15
    total = pixels_abroad.sum(axis=0)
    rarest = min(int(total[ABROAD.index(name)]) for name in NEW)
    assert total[ROAD] > 100 * rarest


def test_what_is_labelled_a_lane_marking_is_brighter_than_the_road() -> None:
    marking, brighter = ABROAD.index("lane marking"), []
    for i in range(40):
        image, labels = scenes.draw(2, i, style="abroad")
        gray = image.mean(axis=2)
        # Of neighbours in a row, so that light and haze are the same.
        pairs = (labels[:, :-1] == marking) & (labels[:, 1:] == ROAD)
        brighter.append(np.median((gray[:, :-1] - gray[:, 1:])[pairs]) > 0)
    assert np.mean(brighter) > 0.9


def test_what_is_labelled_water_is_bluer_than_the_road_as_far_away() -> None:
    water, compared = ABROAD.index("water"), 0
    for i in (15, 20, 22, 78, 89):
        image, labels = scenes.draw(1, i, style="abroad")
        blue = image[:, :, 2] / (image[:, :, 0] + 1.0)
        rows = [
            np.median(blue[y][labels[y] == water]) - np.median(blue[y][labels[y] == ROAD])
            for y in range(len(labels))
            if min((labels[y] == water).sum(), (labels[y] == ROAD).sum()) > 10
        ]
        compared += len(rows)
        assert np.median(rows) > 0
    assert compared > 50


@pytest.mark.parametrize(("width", "height"), [(64, 32), (256, 128), (510, 255), (1024, 512)])
def test_picture_and_labels_have_the_size_asked_for(width: int, height: int) -> None:
    image, labels = scenes.draw(0, 1, width=width, height=height)
    assert image.shape == (height, width, 3)
    assert labels.shape == (height, width)
    assert image.dtype == labels.dtype == np.uint8


def test_a_larger_picture_shows_the_same_scene_finer() -> None:
    image, labels = scenes.draw(2, 4)
    fine_image, fine_labels = scenes.draw(2, 4, width=512, height=256)
    assert np.mean(fine_labels[::2, ::2] == labels) > 0.95
    shrunk = cv2.resize(fine_image, (256, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(float) - image).mean() < 12


@pytest.mark.parametrize(("width", "height"), [(128, 128), (256, 127), (2, 1)])
def test_a_picture_that_is_not_twice_as_wide_as_high_is_refused(width: int, height: int) -> None:
    with pytest.raises(ValueError, match=f"{width} x {height}"):
        scenes.draw(0, 0, width=width, height=height)


def test_labels_are_train_ids_or_void(pixels: NDArray[np.int64]) -> None:
    assert pixels[:, 19:255].sum() == 0
    assert pixels[:, 255].sum() > 0


def test_every_class_occurs_in_at_least_a_few_percent_of_the_scenes(
    pixels: NDArray[np.int64],
) -> None:
    share = (pixels[:, :19] > 0).mean(axis=0)
    rare = {name: s for name, s in zip(scenes.NAMES, share, strict=True) if s < 0.05}
    assert not rare


def test_the_road_has_at_least_300_times_the_pixels_of_the_motorcycles(
    pixels: NDArray[np.int64],
) -> None:
    total = pixels.sum(axis=0)
    assert 300 <= total[ROAD] / total[MOTORCYCLE] <= 800


def test_a_split_holds_one_picture_and_one_label_map_for_each_index(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    scenes.write_split(folder, seed=1, indices=range(3, 6), width=64, height=32)
    names = ["00003.png", "00004.png", "00005.png"]
    for kind in ("images", "labels"):
        assert sorted(path.name for path in (folder / kind).iterdir()) == names
    image, labels = scenes.draw(1, 4, width=64, height=32)
    read = cv2.imread(str(folder / "images/00004.png"), cv2.IMREAD_COLOR)
    assert read is not None
    assert np.array_equal(read[:, :, ::-1], image)
    read = cv2.imread(str(folder / "labels/00004.png"), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert np.array_equal(read, labels)


def test_workers_write_what_one_process_writes(tmp_path: Path) -> None:
    for name, workers in (("one", 0), ("two", 2)):
        scenes.write_split(
            tmp_path / name, seed=1, indices=range(3), width=64, height=32, workers=workers
        )
    for path in sorted((tmp_path / "one").rglob("*.png")):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes()


def test_a_complete_split_is_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes.write_split(tmp_path / "train", seed=1, indices=range(2), width=64, height=32)
    monkeypatch.setattr(scenes, "draw", None)
    scenes.write_split(tmp_path / "train", seed=1, indices=range(2), width=64, height=32)


def test_an_interrupted_split_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = scenes.draw

    def stop(seed: int, index: int, *, width: int, height: int, style: str) -> object:
        if index == 1:
            raise KeyboardInterrupt
        return draw(seed, index, width=width, height=height, style=style)

    monkeypatch.setattr(scenes, "draw", stop)
    with pytest.raises(KeyboardInterrupt):
        scenes.write_split(tmp_path / "train", seed=1, indices=range(2), width=64, height=32)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(scenes, "draw", draw)
    scenes.write_split(tmp_path / "train", seed=1, indices=range(2), width=64, height=32)
    assert len(list((tmp_path / "train").rglob("*.png"))) == 4


def test_a_folder_with_other_scenes_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    scenes.write_split(folder, seed=1, indices=range(1), width=64, height=32)
    assert json.loads((folder / "scenes.json").read_text())["seed"] == 1
    with pytest.raises(InputError, match="something else"):
        scenes.write_split(folder, seed=2, indices=range(1), width=64, height=32)


def test_a_split_in_another_style_is_drawn_in_it_and_not_taken_for_the_city(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "train"
    scenes.write_split(folder, seed=1, indices=range(1), width=64, height=32, style="abroad")
    image, _ = scenes.draw(1, 0, width=64, height=32, style="abroad")
    read = cv2.imread(str(folder / "images/00000.png"), cv2.IMREAD_COLOR)
    assert read is not None
    assert np.array_equal(read[:, :, ::-1], image)
    scenes.write_split(folder, seed=1, indices=range(1), width=64, height=32, style="abroad")
    with pytest.raises(InputError, match="something else"):
        scenes.write_split(folder, seed=1, indices=range(1), width=64, height=32)


def test_the_note_of_a_city_is_the_one_it_had_before_there_were_styles(tmp_path: Path) -> None:
    scenes.write_split(tmp_path / "train", seed=1, indices=range(2), width=64, height=32)
    note = json.loads((tmp_path / "train" / "scenes.json").read_text())
    assert note == {"version": 3, "seed": 1, "width": 64, "height": 32, "indices": [0, 2, 1]}
