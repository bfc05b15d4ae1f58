import json
import re
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.data.class_file import palette, read_classes
from selftrain.data.sample import ClassTable
from selftrain.errors import InputError


def read(folder: Path, content: object) -> ClassTable:
    path = folder / "classes.json"
    path.write_text(json.dumps(content))
    return read_classes(path)


ROAD = {"name": "road", "id": 7, "color": [128, 64, 128]}
CAR = {"name": "car", "id": 26, "color": [0, 0, 142]}


def test_names_alone_are_enough(tmp_path: Path) -> None:
    table = read(tmp_path, {"classes": ["road", "car"]})
    assert table.names == ("road", "car")
    assert table.train_ids == {0: 0, 1: 1, 255: 255}
    assert len(set(table.colors)) == 2
    assert not table.file_colors


def test_ids_and_colours_are_taken_as_given(tmp_path: Path) -> None:
    table = read(tmp_path, {"classes": [ROAD, CAR], "ignore": [0, 255], "masks": "ids"})
    assert table.train_ids == {7: 0, 26: 1, 0: 255, 255: 255}
    assert table.colors == ((128, 64, 128), (0, 0, 142))


def test_without_ignore_an_unlisted_id_is_none_of_the_legal(tmp_path: Path) -> None:
    lookup = read(tmp_path, {"classes": [ROAD, CAR]}).lookup()
    assert lookup[[7, 26, 255, 0]].tolist() == [0, 1, 255, -1]


def test_a_class_may_have_the_id_255(tmp_path: Path) -> None:
    classes = [{"name": "background", "id": 0}, {"name": "road", "id": 255}]
    assert read(tmp_path, {"classes": classes}).train_ids == {0: 0, 255: 1}


def test_nothing_need_be_ignored(tmp_path: Path) -> None:
    assert read(tmp_path, {"classes": ["a", "b"], "ignore": []}).train_ids == {0: 0, 1: 1}


def test_masks_may_be_painted_in_the_classes_colours(tmp_path: Path) -> None:
    classes = [{k: v for k, v in item.items() if k != "id"} for item in (ROAD, CAR)]
    table = read(
        tmp_path, {"classes": classes, "masks": "colors", "ignore": [[0, 0, 0], [9, 9, 9]]}
    )
    assert table.file_colors == {
        (128, 64, 128): 0,
        (0, 0, 142): 1,
        (0, 0, 0): 255,
        (9, 9, 9): 255,
    }
    assert not table.train_ids


def test_black_is_ignored_unless_it_is_a_class(tmp_path: Path) -> None:
    white = {"name": "road", "color": [255, 255, 255]}
    gray, black = {"name": "car", "color": [9, 9, 9]}, {"name": "rest", "color": [0, 0, 0]}
    table = read(tmp_path, {"classes": [white, gray], "masks": "colors"})
    assert table.file_colors[(0, 0, 0)] == 255
    table = read(tmp_path, {"classes": [white, black], "masks": "colors"})
    assert table.file_colors == {(255, 255, 255): 0, (0, 0, 0): 1}


def test_a_byte_order_mark_and_foreign_letters_are_read(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('{"classes": ["Straße", "道路 2"]}', encoding="utf-8-sig")
    assert read_classes(path).names == ("Straße", "道路 2")


@given(st.integers(2, 255))
def test_every_class_gets_a_colour_of_its_own(count: int) -> None:
    colors = list(islice(palette(), count))
    assert len(set(colors)) == count
    assert not {(0, 0, 0), (255, 255, 255)} & set(colors)


def test_the_first_colours_are_far_apart() -> None:
    pairs = combinations(islice(palette(), 19), 2)
    assert min(max(abs(a - b) for a, b in zip(x, y, strict=True)) for x, y in pairs) > 50


def test_a_given_colour_is_not_given_again(tmp_path: Path) -> None:
    first = next(palette())
    table = read(tmp_path, {"classes": ["a", {"name": "b", "color": list(first)}, "c"]})
    assert table.colors[1] == first
    assert len(set(table.colors)) == 3


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (["road", "car"], r'must be an object, such as {"classes"'),
        ({"classes": "road"}, r"classes must be a list"),
        ({}, r"classes must be a list"),
        ({"classes": ["road"]}, r"lists 1, but 2 to 255.*background"),
        ({"classes": [f"c{i}" for i in range(256)]}, r"lists 256, but 2 to 255"),
        ({"classes": ["road", 3]}, r"classes\[1\] = 3 is neither a name nor an object"),
        ({"classes": ["road", {"id": 3}]}, r"classes\[1\] has no name"),
        ({"classes": ["road", "road"]}, r"classes road and road both have the name road"),
        ({"classes": ["road", "car (red)"]}, r"'car \(red\)': use letters"),
        ({"classes": ["road", "a/b"]}, r"classes\[1\] has the name 'a/b'"),
        ({"classes": ["road", ""]}, r"classes\[1\] has the name ''"),
        ({"classes": ["road", ".."]}, r"has the name '\.\.'"),
        ({"clases": ["road", "car"]}, r"unknown key 'clases': did you mean classes"),
        ({"classes": ["a", "b"], "void": 3}, r"unknown key 'void': known are classes, ignore"),
        ({"classes": ["a", {"name": "b", "colour": 3}]}, r"'colour': did you mean color"),
        ({"classes": ["a", "b"], "masks": "rgb"}, r'masks = \'rgb\'.*"ids" or "colors"'),
        ({"classes": [ROAD, "car"]}, r"class car has no id but others have"),
        ({"classes": [ROAD, CAR | {"id": 7}]}, r"road and car both have the id 7"),
        ({"classes": [ROAD, CAR | {"id": 256}]}, r"the id of car is 256.*0 to 255"),
        ({"classes": [ROAD, CAR | {"id": True}]}, r"the id of car is True"),
        ({"classes": [ROAD, CAR | {"id": "1"}]}, r"the id of car is '1'"),
        ({"classes": [ROAD, CAR | {"color": ROAD["color"]}]}, r"the color \[128, 64, 128\]"),
        ({"classes": [ROAD, CAR | {"color": "red"}]}, r"the color of car is 'red'"),
        ({"classes": [ROAD, CAR | {"color": [1, 2]}]}, r"the color of car is \[1, 2\]"),
        ({"classes": [ROAD, CAR | {"color": [1, 2, -3]}]}, r"part of the color of car is -3"),
        ({"classes": [ROAD, CAR], "ignore": 255}, r"ignore = 255 must be a list"),
        ({"classes": [ROAD, CAR], "ignore": [7]}, r"the id 7 is a class's and in ignore"),
        ({"classes": [ROAD, CAR], "ignore": [[0, 0, 0]]}, r"an id in ignore is \[0, 0, 0\]"),
        ({"classes": ["a", "b"], "masks": "colors"}, r"class a has no color"),
        ({"classes": [ROAD, CAR], "masks": "colors"}, r"class road has an id: leave ids out"),
    ],
)
def test_a_mistake_is_named_with_the_file_and_the_cure(
    tmp_path: Path, content: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=rf"classes\.json: .*{sentence}"):
        read(tmp_path, content)


def test_a_colour_cannot_be_a_classs_and_ignored(tmp_path: Path) -> None:
    classes = [{"name": "a", "color": [1, 2, 3]}, {"name": "b", "color": [4, 5, 6]}]
    with pytest.raises(InputError, match=r"color \[4, 5, 6\] is a class's and in ignore"):
        read(tmp_path, {"classes": classes, "masks": "colors", "ignore": [[4, 5, 6]]})


def test_a_missing_file_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'classes\.json cannot be read.*{"classes": \["road"'):
        read_classes(tmp_path / "classes.json")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b'{"classes": [,]}', r"is no JSON \(.*line 1 column 14.*\): correct"),
        ('{"classes": ["Straße", "b"]}'.encode("latin-1"), r"is not UTF-8 text"),
        (b"[" * 100_000, r"is no JSON"),
    ],
)
def test_a_file_that_is_no_json_is_named(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "classes.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} {sentence}"):
        read_classes(path)
