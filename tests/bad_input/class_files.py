"""Class files and tables that say which picture is for what: `classes.json`, `data.csv`."""

import json
from collections.abc import Callable

from bad_input.world import Cases, Found, World

CASES = case = Cases()


def classes(content: object, *words: str) -> Callable[[World], Found]:
    """Return a case with such a class file."""

    def make(world: World) -> Found:
        path = world.own_pictures() / "classes.json"
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(text)
        return world.pictures("prepare"), [str(path), *words]

    return make


def table(text: str, *words: str) -> Callable[[World], Found]:
    """Return a case with such a table beside the pictures."""

    def make(world: World) -> Found:
        path = world.own_pictures() / "data.csv"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return world.pictures("prepare"), [str(path), *words]

    return make


ROW = "images/0.png,labels/0.png,train\n"
HEAD = "image,label,split\n"
CASES |= {
    "a_class_file_that_is_no_json": classes(b"{road, car}", "no JSON", "correct"),
    "a_class_file_of_zero_bytes": classes(b"", "no JSON", "correct"),
    "a_class_file_of_deep_brackets": classes(b"[" * 100_000, "no JSON", "correct"),
    "a_class_file_with_a_number_of_many_digits": classes(
        b'{"classes": ["a", "b"], "ignore": [' + b"9" * 5000 + b"]}", "no JSON", "correct"
    ),
    "a_class_file_that_is_not_utf_8": classes(b'{"classes": ["stra\xdfe", "b"]}', "UTF-8", "save"),
    "a_class_file_that_is_a_list": classes(["road", "car"], "must be an object"),
    "a_class_file_with_one_class": classes({"classes": ["road"]}, "lists 1", "background"),
    "a_class_file_with_300_classes": classes(
        {"classes": [f"c{i}" for i in range(300)]}, "lists 300", "255"
    ),
    "a_class_twice": classes({"classes": ["road", "road"]}, "road and road", "change one"),
    "a_class_with_the_name_of_a_folder": classes(
        {"classes": ["../../etc", "b"]}, "classes[0]", "use letters"
    ),
    "a_class_id_that_is_no_byte": classes(
        {"classes": [{"name": "a", "id": 256}, {"name": "b", "id": 1}]}, "256", "0 to 255"
    ),
    "a_class_id_that_is_nan": classes(
        b'{"classes": [{"name": "a", "id": NaN}, {"name": "b", "id": 1}]}', "nan", "0 to 255"
    ),
    "a_misspelt_key_of_a_class_file": classes(
        {"classes": ["a", "b"], "ignor": [0]}, "'ignor'", "did you mean ignore?"
    ),
    "a_table_without_a_column": table("image,mask,split\n" + ROW, "no column label", "first line"),
    "a_table_of_zero_bytes": table("", "no column image", "first line"),
    "a_table_without_a_row": table(HEAD, "lists no image", "add a row"),
    "a_table_row_that_is_too_short": table(HEAD + "images/0.png\n", "line 2", "1 values for 3"),
    "a_table_path_that_leaves_the_folder": table(
        HEAD + ROW + "../secret.png,,train\n", "line 3", "'../secret.png'", "leaves the table's"
    ),
    "an_absolute_path_in_a_table": table(
        HEAD + "/etc/secret.png,,train\n", "line 2", "'/etc/secret.png'", "leaves the table's"
    ),
    "a_path_that_leaves_the_folder_on_its_way": table(
        HEAD + "images/../../secret.png,,\n", "line 2", "leaves the table's"
    ),
    "a_table_path_that_is_no_picture": table(
        HEAD + "classes.json,,train\n", "line 2", "no picture", "correct it"
    ),
    "a_table_with_a_split_that_is_none": table(
        HEAD + "images/0.png,labels/0.png,trian\n", "line 2", "'trian'", "give train"
    ),
    "a_table_with_a_missing_file": table(
        HEAD + ROW + "images/99.png,,\n", "images/99.png", "1 of 2", "copy them"
    ),
    "a_table_with_an_image_twice": table(HEAD + ROW + ROW, "images/0.png", "rename or remove"),
    "a_table_that_is_not_utf_8": table(HEAD + "caf\udce9.png,,\n", "UTF-8", "save"),
    "a_table_with_an_open_quotation_mark": table(HEAD + '"images/0.png,,\n', "line", "correct"),
    "a_table_with_an_endless_cell": table(HEAD + "a" * 200_000 + ",,\n", "line 2", "correct"),
    "a_table_with_a_zero_byte": table(HEAD + "images/0\0.png,,\n", "line 2", "correct"),
}


@case
def no_class_file(world: World) -> Found:
    path = world.own_pictures() / "classes.json"
    path.unlink()
    return world.pictures("prepare"), [str(path), "No such file", '{"classes"']
