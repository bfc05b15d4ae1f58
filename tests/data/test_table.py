import re
import unicodedata
from pathlib import Path

import pytest

from selftrain.data.table import Row, first_ten, read_table
from selftrain.errors import InputError


def write(folder: Path, text: str, *files: str, encoding: str = "utf-8") -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    path = folder / "data.csv"
    path.write_bytes(text.encode(encoding))
    return path


HEADER = "image,label,split\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_rows_are_read_sorted_by_name(tmp_path: Path, encoding: str, newline: str) -> None:
    text = HEADER + 'ü/b c.jpg,m/b c.png,val\n\n"a,1.png",,\n x.webp , ,UNLABELED\n'
    files = ("ü/b c.jpg", "m/b c.png", "a,1.png", "x.webp")
    path = write(tmp_path, text.replace("\n", newline), *files, encoding=encoding)
    assert read_table(path, with_labels=True) == [
        Row("a,1.png", "", ""),
        Row("x.webp", "", "unlabelled"),
        Row("ü/b c.jpg", "m/b c.png", "val"),
    ]


def test_columns_stand_in_any_order_among_others(tmp_path: Path) -> None:
    path = write(tmp_path, "split,weather,Image,label\ndev,rain,a.png,b.png\n", "a.png", "b.png")
    assert read_table(path, with_labels=True) == [Row("a.png", "b.png", "dev")]


@pytest.mark.parametrize(
    ("written", "use"), [("training", "train"), ("Validation", "val"), ("testing", "test")]
)
def test_other_spellings_of_a_split_are_understood(tmp_path: Path, written: str, use: str) -> None:
    path = write(tmp_path, f"{HEADER}a.png,,{written}\n", "a.png")
    assert read_table(path, with_labels=True)[0].use == use


def test_paths_are_put_into_one_form(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "./x/../y\\a.png,,\n", "y/a.png")
    assert read_table(path, with_labels=True)[0].image == "y/a.png"


def test_a_name_is_found_in_the_spelling_of_the_disk(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "fü.png") for form in ("NFC", "NFD"))
    path = write(tmp_path, f"{HEADER}{composed},,\n", apart)
    image = read_table(path, with_labels=True)[0].image
    assert (tmp_path / image).is_file()


def test_labels_can_be_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "a.png,../nowhere/b.jpg,\n", "a.png")
    assert read_table(path, with_labels=False) == [Row("a.png", "", "")]


def test_the_label_of_an_unlabelled_image_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "a.png,m/a.png,unlabelled\n", "a.png")
    assert read_table(path, with_labels=True) == [Row("a.png", "m/a.png", "unlabelled")]


@pytest.mark.parametrize(
    "wrong", ["../a.png", "x/../../a.png", "/etc/a.png", "..\\a.png", "C:\\a.png", ".."]
)
@pytest.mark.parametrize("column", ["image", "label"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, wrong: str, column: str) -> None:
    row = f"{wrong},,\n" if column == "image" else f"a.png,{wrong},\n"
    path = write(tmp_path, HEADER + row, "a.png")
    sentence = rf"line 2 has the path {re.escape(repr(wrong))}, which leaves .*folder: give"
    with pytest.raises(InputError, match=sentence):
        read_table(path, with_labels=True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"has no column image: its first line must be image,label,split"),
        ("image;label;split\na.png;;\n", r"no column image.*with commas, and is 'image;label"),
        ("image,lable,split\na.png,,\n", r"has no column label"),
        (HEADER, r"lists no image: add a row"),
        (HEADER + ",a.png,\n", r"line 2 names no image"),
        (HEADER + "a.png,,\n\na.png,,trian\n", r"line 4 has the split 'trian': give train, dev"),
        (HEADER + "a.png\n", r"line 2 has 1 values for 3 columns"),
        (HEADER + "a,b.png,,train\n", r"line 2 has 4 values.*quotation marks"),
        (HEADER + 'a.png,"b"c,\n', r"line 2: .*correct the row"),
        (HEADER + "a.gif,,\n", r"'a\.gif', which is no picture \(\.png"),
        (HEADER + "a.png,a.txt,\n", r"'a\.txt', which is no picture"),
        (HEADER + "a\0.png,,\n", r"'a\\x00\.png', which is no picture"),
        (HEADER + "a.png,,\n./a.png,,\n", r"holds both a\.png and a\.png"),
        (HEADER + "a.png,,\na.jpg,,\n", r"holds both a\.png and a\.jpg"),
        (HEADER + "a.png,a.jpg,\n", r"masks that are JPEGs.*: a\.jpg: export"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_the_cure(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = write(tmp_path, text, "a.png", "a.jpg")
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}.*{sentence}"):
        read_table(path, with_labels=True)


def test_missing_files_are_counted_and_the_first_ten_named(tmp_path: Path) -> None:
    rows = "".join(f"x/{i:02d}.png,,\n" for i in range(12))
    path = write(tmp_path, HEADER + rows + "a.png,,\n", "a.png")
    with pytest.raises(InputError, match=r"\(12 of 13\): x/00\.png, .*x/09\.png, \.\.\. \(12"):
        read_table(path, with_labels=True)


def test_a_missing_label_of_a_labelled_image_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "a.png,m/a.png,train\n", "a.png")
    with pytest.raises(InputError, match=r"not there \(1 of 1\): m/a\.png: copy them"):
        read_table(path, with_labels=True)


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "ü.png,,\n", encoding="latin-1")
    with pytest.raises(InputError, match=r"data\.csv is not UTF-8 text: save"):
        read_table(path, with_labels=True)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.csv cannot be read.*image,label,split"):
        read_table(tmp_path / "data.csv", with_labels=True)


def test_ten_are_shown_and_more_are_counted() -> None:
    assert first_ten(["a", "b"]) == "a, b"
    assert first_ten([str(i) for i in range(11)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (11 in all)"
