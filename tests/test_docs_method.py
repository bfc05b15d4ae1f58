"""docs/method.md leads from the paper to files, functions and knobs that are there."""

import ast
import re
from pathlib import Path

import pytest

from selftrain.config import Config
from selftrain.knobs import flatten

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "method.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)`((?:: (?:`[\w.]+`(?:, )?)+)?)", PAGE)


def find(name: str) -> Path:
    """Return a file of the page: in selftrain/, unless it names another folder."""
    path = REPOSITORY / name
    return path if path.is_file() else REPOSITORY / "selftrain" / name


def names_in(path: Path) -> set[str]:
    """Return the functions and classes of a file, and `Class.member` of each class."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = (it for it in node.body if isinstance(it, ast.FunctionDef))
            found |= {f"{node.name}.{it.name}" for it in members}
    return found


@pytest.mark.parametrize(("file", "names"), NAMED)
def test_a_file_of_the_page_has_what_is_said_to_be_in_it(file: str, names: str) -> None:
    assert set(re.findall(r"`([\w.]+)`", names)) <= names_in(find(file))


def test_every_row_of_the_paper_names_a_file_and_says_what_differs() -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row != ["paper", "where", "what differs, and why"]]
    assert len(rows) > 30
    for row in rows:
        assert len(row) == 3, row
        assert ".py`" in row[1], row
        assert row[2].strip(), row


def test_every_study_of_the_paper_stands_on_the_page() -> None:
    studies = {path.stem for path in (REPOSITORY / "experiments").glob("*.py")}
    named = set(re.findall(r"experiments/(\w+)\.py", PAGE))
    assert {it for it in studies if it.startswith(("table", "figure"))} == named


def test_every_knob_of_the_page_is_one() -> None:
    groups = {".".join(knob.split(".")[:n]) for knob in flatten(Config()) for n in (1, 2, 3)}
    knobs = re.findall(
        r"`((?:student|teacher|pseudo_label|data|rounds)(?:\.(?!py`)\w+)*)(?:\.\*)?`", PAGE
    )
    assert knobs
    assert [knob for knob in knobs if knob not in groups] == []
