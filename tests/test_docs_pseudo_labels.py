"""docs/pseudo_labels.md says what the files are: its reader runs, its tables are true."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_sets import FORM, labelled_images, write_set

from selftrain.config import Config
from selftrain.data.manifest import KINDS, SCHEMA
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.data.quarter import enlarge, shrink
from selftrain.data.shards import BIN_STARTS, FORMAT_VERSION
from selftrain.knobs import flatten

PAGE = (Path(__file__).parents[1] / "docs" / "pseudo_labels.md").read_text()
Read = Callable[[Path], Iterator[tuple[str, np.ndarray, np.ndarray]]]


@pytest.fixture(scope="module")
def read_labels() -> Read:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    read: Read = names["read_labels"]
    return read


def table(title: str) -> dict[str, list[str]]:
    """Return the rows of the table under this heading: first cell -> the others."""
    text = PAGE.split(f"| {title} |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
    return {first: rest for first, *rest in rows[2:]}


@pytest.mark.parametrize("confidence", ["full", "quarter"])
def test_the_reader_on_the_page_reads_a_set(
    read_labels: Read, tmp_path: Path, confidence: str
) -> None:
    items = labelled_images(tmp_path / "images")
    form = replace(FORM, confidence=confidence)  # type: ignore[arg-type]  # one of the two
    found = list(read_labels(write_set(tmp_path / "set", items, form)))
    assert [name for name, *_ in found] == [item.sample.name for item in items]
    for (_, label, sure), item in zip(found, items, strict=True):
        np.testing.assert_array_equal(label, item.label)
        expected = item.confidence
        if confidence == "quarter":
            expected = enlarge(shrink(item.confidence), item.label.shape)
        np.testing.assert_array_equal(np.round(sure * 255), expected)


def test_the_reader_is_as_short_as_promised() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    assert set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)) == {
        *("zipfile", "pathlib", "cv2", "numpy", "pyarrow")
    }


def test_the_page_lists_every_column_with_its_type() -> None:
    listed = {
        name: kind
        for names, (kind, _) in table("column").items()
        for name in re.findall(r"`(\w+)`", names)
    }
    types = {
        field.name: re.sub(r"list<\w+: (\w+)>", r"list of \1", str(field.type)) for field in SCHEMA
    }
    assert listed == types
    assert list(listed) == list(types)


def test_the_page_lists_every_member_and_its_bins() -> None:
    assert list(table("member")) == [f"`NAME.{kind}.png`" for kind in KINDS]
    starts = [int(number) for number in re.findall(r"\b(\d+), \d+, \.\.\. (?:\d+)", PAGE)]
    lasts = [int(number) for number in re.findall(r"\b\d+, \d+, \.\.\. (\d+)", PAGE)]
    steps = [int(b) - int(a) for a, b in re.findall(r"\b(\d+), (\d+), \.\.\.", PAGE)]
    ranges = zip(starts, lasts, steps, strict=True)
    assert tuple(level for a, b, step in ranges for level in range(a, b + 1, step)) == BIN_STARTS
    assert f"{len(BIN_STARTS)} bins" in PAGE
    assert f"`format_version` ({FORMAT_VERSION})" in PAGE


def test_every_knob_on_the_page_is_one() -> None:
    knobs = flatten(Config())
    named = re.findall(
        r"\b((?:pseudo_label|student|teacher|data|machine|inspect_pseudo_labels)\.[\w.]*\w)", PAGE
    )
    files = {"data.md"}
    assert [name for name in named if name not in knobs and name not in files] == []
    assert "pseudo_label.agreement" in named


def test_the_card_has_what_the_page_says(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", labelled_images(tmp_path / "images"))
    card = json.loads((folder / "card.json").read_text())
    said = {"classes", "colors", "format_version", "images", "class_pixels", "shards"}
    assert said <= set(card)
    assert [name for name in said if f"`{name}`" not in PAGE] == []
    assert {frozenset(shard) for shard in card["shards"].values()} == {
        frozenset({"bytes", "digest"})
    }
    assert len(PseudoLabelSet.open(folder, verify=True)) == card["images"]


def test_the_pages_that_it_names_are_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert links
    assert [
        link for link in links if not (Path(__file__).parents[1] / "docs" / link).exists()
    ] == []
