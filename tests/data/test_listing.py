import os
import pickle
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.data.listing import FileSamples, list_files, list_pictures, name_of, pack
from selftrain.data.sample import Blob, Sample
from selftrain.errors import InputError

NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=12)
BOUND = st.none() | st.integers(-15, 15)


def tree(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def names(samples: FileSamples) -> list[str]:
    return [sample.name for sample in samples]


def samples_of(images: list[str], labels: list[str] | None = None) -> FileSamples:
    return FileSamples("/images", pack(images), "/labels", None if labels is None else pack(labels))


@given(NAMES)
def test_packed_names_are_the_names(strings: list[str]) -> None:
    packed = pack(strings)
    assert list(packed) == strings
    assert [packed[i] for i in range(-len(strings), 0)] == strings


@given(NAMES, BOUND, BOUND, st.sampled_from([None, 1, 2, -1, -3]))
def test_packed_names_are_cut_as_a_list_is(
    strings: list[str], start: int | None, stop: int | None, step: int | None
) -> None:
    cut = slice(start, stop, step)
    assert list(pack(strings)[cut]) == strings[cut]
    assert list(pack(strings)[cut][1:]) == strings[cut][1:]


def test_a_position_outside_is_an_index_error() -> None:
    samples = samples_of(["a.png", "b.png"])
    for position in (2, -3):
        with pytest.raises(IndexError):
            samples[position]
        with pytest.raises(IndexError):
            samples.take([position])
    assert names(samples.take([-1, -2])) == ["b", "a"]


def test_a_sample_is_made_from_its_paths() -> None:
    samples = samples_of(["a/b.c.jpg", "d.png"], ["a/b.c.png", ""])
    assert list(samples) == [
        Sample("a/b.c", Path("/images/a/b.c.jpg"), Blob(Path("/labels/a/b.c.png"))),
        Sample("d", Path("/images/d.png")),
    ]
    assert samples.has_label().tolist() == [True, False]


def test_parts_of_samples_keep_their_labels() -> None:
    samples = samples_of(["a.png", "b.png", "c.png"], ["", "b.png", "c.png"])
    assert [(s.name, s.label is not None) for s in samples[:2]] == [("a", False), ("b", True)]
    assert [(s.name, s.label is not None) for s in samples.take([2, 0])] == [
        ("c", True),
        ("a", False),
    ]
    assert samples[1:].has_label().tolist() == [True, True]
    assert all(sample.label is None for sample in samples.without_labels())
    assert not samples.without_labels().has_label().any()


def test_a_pickled_part_is_small_and_the_same() -> None:
    samples = samples_of([f"drive/{i:06d}.png" for i in range(10_000)], ["x.png"] * 10_000)
    part = samples[5000:5010]
    data = pickle.dumps(part)
    assert len(data) < 2000
    assert list(pickle.loads(data)) == list(part)


def test_pictures_are_listed_through_all_folders_sorted_by_name(tmp_path: Path) -> None:
    tree(tmp_path, "b.PNG", "a-b.jpg", "a.jpeg", "ü/x y.tiff", "deep/er/z.webp", "c.Bmp", "d.tif")
    tree(tmp_path, "notes.txt", "png", "no.suffix.gif")
    found = list_pictures(tmp_path)
    assert names(found) == ["a", "a-b", "b", "c", "d", "deep/er/z", "ü/x y"]
    assert all(sample.image.is_file() for sample in found)
    assert all(sample.label is None for sample in found)


def test_other_suffixes_can_be_asked_for(tmp_path: Path) -> None:
    tree(tmp_path, "a_gt.png", "a.jpg")
    assert list_files(tmp_path, ("_gt.png",)) == ["a_gt.png"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    tree(tmp_path, "a.png", "._a.png", ".cache/b.png", "sub/.c.png")
    assert names(list_pictures(tmp_path)) == ["a"]


def test_a_folder_called_like_a_picture_is_a_folder(tmp_path: Path) -> None:
    tree(tmp_path, "day.png/a.png")
    assert names(list_pictures(tmp_path)) == ["day.png/a"]


def test_links_are_followed(tmp_path: Path) -> None:
    tree(tmp_path, "elsewhere/a.png", "pool/b.png")
    (tmp_path / "pool" / "more").symlink_to(tmp_path / "elsewhere")
    assert names(list_pictures(tmp_path / "pool")) == ["b", "more/a"]


def test_a_link_to_a_folder_around_it_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "pool/day/b.png")
    (tmp_path / "pool" / "day" / "loop").symlink_to(tmp_path / "pool")
    with pytest.raises(InputError, match=r"day/loop is a link to .*pool, in which it lies.*remove"):
        list_pictures(tmp_path / "pool")


def test_two_pictures_of_one_name_are_both_named(tmp_path: Path) -> None:
    tree(tmp_path, "day/a.png", "day/a.jpg", "day/b.png", "b.png")
    with pytest.raises(InputError, match=r"both day/a\.\w+ and day/a\.\w+.*1 such.*rename"):
        list_pictures(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere cannot be listed \(No such file.*give a folder"):
        list_pictures(tmp_path / "nowhere")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse such a name")
def test_a_file_name_that_is_no_unicode_is_named(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.png")).touch()
    with pytest.raises(InputError, match=r"a\\xff\.png.*not valid UTF-8: rename"):
        list_pictures(tmp_path)


def test_a_name_is_the_path_without_its_last_suffix() -> None:
    assert name_of("a.b/c.d.png") == "a.b/c.d"
