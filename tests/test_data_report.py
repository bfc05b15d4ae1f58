"""Tables of what a data set holds, warnings, and the page."""

import re
from html.parser import HTMLParser

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selftrain.data.sample import ClassTable
from selftrain.data.scan import Frame
from selftrain.data_report import (
    Overlay,
    find_duplicates,
    find_warnings,
    render_page,
    tabulate_centroids,
    tabulate_class_x_image,
    tabulate_images,
    tabulate_manifest,
    tabulate_pixels,
    tabulate_sizes,
)

NAMES = ("road", "car", "bus <b>")
CLASSES = ClassTable(NAMES, ((128, 64, 128), (0, 0, 142), (0, 60, 100)))


def frame(
    name: str, pixels: list[int] | None = None, digest: str = "", size: tuple[int, int] = (4, 2)
) -> Frame:
    return Frame(
        name=name,
        image_digest=digest or f"digest of {name}",
        image_bytes=500_000,
        width=size[0],
        height=size[1],
        label_digest=None if pixels is None else f"label of {name}",
        class_pixels=None if pixels is None else np.array(pixels),
        centroids=None if pixels is None else np.array(pixels) // 2,
    )


FRAMES = {
    "labelled": [frame("a", [6, 2, 0]), frame("b", [3, 0, 0]), frame("c", [0, 0, 0])],
    "dev": [frame("d", [1, 1, 6])],
    "test": [frame("e", [8, 0, 0], size=(8, 4)), frame("f", [1, 1, 1])],
    "unlabelled": [frame("g"), frame("h", size=(8, 4))],
    "to_submit": [frame("i")],
}


def test_pixels_images_and_centroids_are_counted_by_class() -> None:
    pixels, images = tabulate_pixels(NAMES, FRAMES), tabulate_images(NAMES, FRAMES)
    assert pixels.columns.tolist() == ["class", "labelled", "dev", "test"]
    assert pixels.values.tolist() == [
        ["road", 9, 1, 9],
        ["car", 2, 1, 1],
        ["bus <b>", 0, 6, 1],
    ]
    assert images.values.tolist() == [["road", 2, 1, 2], ["car", 1, 1, 1], ["bus <b>", 0, 1, 1]]
    assert tabulate_centroids(NAMES, FRAMES)["labelled"].tolist() == [4, 1, 0]


def test_each_labelled_image_has_its_row_of_class_pixels() -> None:
    table = tabulate_class_x_image(NAMES, FRAMES)
    assert table["name"].tolist() == ["a", "b", "c", "d", "e", "f"]
    assert table["split"].tolist() == ["labelled"] * 3 + ["dev"] + ["test"] * 2
    assert table["pixels/road"].tolist() == [6, 3, 0, 1, 8, 1]
    assert table["pixels/bus <b>"].tolist() == [0, 0, 0, 6, 0, 1]


def test_sizes_are_counted_in_every_split_the_most_frequent_first() -> None:
    table = tabulate_sizes(FRAMES)
    assert table.columns.tolist() == ["width", "height", *FRAMES]
    assert table.values.tolist() == [[4, 2, 3, 1, 1, 1, 1], [8, 4, 0, 0, 1, 1, 0]]


def test_the_manifest_has_every_image_and_what_it_is_by_content() -> None:
    table = tabulate_manifest(FRAMES)
    assert table["name"].tolist() == list("abcdefghi")
    assert table["image_digest"].tolist() == [f"digest of {name}" for name in "abcdefghi"]
    assert table["label_digest"].isna().tolist() == [False] * 6 + [True] * 3
    assert table["width"].tolist() == [4, 4, 4, 4, 8, 4, 4, 8, 4]


def test_tables_of_nothing_have_their_columns() -> None:
    empty: dict[str, list[Frame]] = {"labelled": [], "dev": [], "unlabelled": []}
    assert tabulate_pixels(NAMES, empty)["labelled"].tolist() == [0, 0, 0]
    assert len(tabulate_class_x_image(NAMES, empty)) == 0
    assert "pixels/road" in tabulate_class_x_image(NAMES, empty)
    assert len(tabulate_sizes(empty)) == len(tabulate_manifest(empty)) == 0
    assert find_warnings(NAMES, empty, []) == []


@given(st.lists(st.tuples(st.sampled_from(["labelled", "dev", "unlabelled"]), st.integers(0, 4))))
def test_duplicates_are_all_pictures_of_one_content(pictures: list[tuple[str, int]]) -> None:
    frames: dict[str, list[Frame]] = {"labelled": [], "dev": [], "unlabelled": []}
    for split, content in pictures:
        frames[split].append(frame("x", digest=str(content)))
    groups = find_duplicates(frames)
    contents = [{frames[split][i].image_digest for split, i in group} for group in groups]
    assert all(len(content) == 1 for content in contents)
    repeated = {c for _, c in pictures if sum(other == c for _, other in pictures) > 1}
    assert sorted(int(c) for content in contents for c in content) == sorted(repeated)
    for group in groups:
        content = int(frames[group[0][0]][group[0][1]].image_digest)
        assert len(group) == sum(other == content for _, other in pictures)


def test_absent_classes_and_images_without_a_labelled_pixel_are_warned_of() -> None:
    assert find_warnings(NAMES, FRAMES, []) == [
        "No image of labelled shows bus <b>.",
        "1 image of labelled without a labelled pixel: c.",
    ]


def test_duplicates_are_warned_of_by_the_splits_they_are_in() -> None:
    frames = {
        "labelled": [frame("a", [1, 1, 1], "1"), frame("b", [1, 1, 1], "1")],
        "test": [frame("e", [1, 1, 1], "3"), frame("f", [1, 1, 1], "4")],
        "test_drive": [frame("e", [1, 1, 1], "3"), frame("g", [1, 1, 1], "4")],
        "unlabelled": [frame("p", None, "1")],
    }
    assert find_warnings(NAMES, frames, find_duplicates(frames)) == [
        "1 image twice in labelled: a = b.",
        "1 image of labelled also in unlabelled: a = p.",
        "1 image of test also in test_drive: f = g.",  # "e" is the same sample in both
    ]


def test_a_long_list_of_names_is_cut_with_its_length() -> None:
    same = [frame(f"{i:02d}", [1, 1, 1], "same") for i in range(13)]
    frames = {"labelled": same, "dev": [], "unlabelled": []}
    (warning,) = find_warnings(NAMES, frames, find_duplicates(frames))
    assert warning.startswith("12 images twice in labelled: 00 = 01, ")
    assert warning.endswith("00 = 10 and 2 more.")


class Cells(HTMLParser):
    """Rows of a page's tables, and what it loads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.sources: list[str] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._in_cell = tag in ("td", "th") or (self._in_cell and tag in ("div", "span"))

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data.strip()


def page(**values: object) -> str:
    filled = {
        "title": "streets & squares",
        "note": "9 images",
        "classes": CLASSES,
        "frames": FRAMES,
        "warnings": ["No image of labelled shows bus <b>."],
        "overlays": [Overlay(name="01.jpg", caption="Zürich/a <1>", jpeg=b"picture")],
    }
    return render_page(**(filled | values))  # type: ignore[arg-type]


def test_the_page_shows_splits_classes_and_sizes() -> None:
    rows = Cells(page()).rows
    assert ["labelled", "3", "1.5", "45.8 %", "trains teacher, control and student"] in rows
    assert [
        "unlabelled",
        "2",
        "1.0",
        "no labels",
        "pool for pseudo labels; no label is opened",
    ] in (rows)
    road = ["road", "", "81.82 %", "1.0 : 1", "2", "4", "12.50", "81.82"]
    car = ["car", "", "18.18 %", "4.5 : 1", "1", "1", "12.50", "9.09"]
    bus = ["bus <b>", "", "0.00 %", "absent", "0", "0", "75.00", "9.09"]
    assert all(row in rows for row in (road, car, bus))
    assert ["8 x 4", "0", "0", "1", "1", "0"] in rows


def test_the_page_needs_no_other_file() -> None:
    text = page()
    assert Cells(text).sources == ["data:image/jpeg;base64,cGljdHVyZQ=="]
    assert not re.search(r"<script|<link|@import|url\(|https?:", text)


def test_names_are_text_on_the_page() -> None:
    text = page()
    assert "<title>streets &amp; squares</title>" in text
    assert "bus &lt;b&gt;" in text
    assert "Zürich/a &lt;1&gt;" in text
    assert "<b>" not in text


def test_the_page_says_that_there_are_no_warnings() -> None:
    assert "None." in page(warnings=[])
    assert "None." not in page()


def test_a_page_of_many_sizes_says_how_many_it_leaves_out() -> None:
    sizes = [frame(str(i), [1, 1, 1], size=(i + 1, 9)) for i in range(15)]
    text = page(frames={"labelled": sizes, "dev": [], "unlabelled": []}, overlays=[])
    assert sum(" x 9" in row[0] for row in Cells(text).rows if row) == 12
    assert "and 3 more: see sizes.csv" in text
