"""What the texts beside the code must keep to."""

import re
import tomllib
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # comes with mlflow

REPOSITORY = Path(__file__).parents[1]


def read(name: str) -> str:
    return (REPOSITORY / name).read_text()


def test_the_readme_and_the_rules_are_short() -> None:
    assert len(read("README.md").splitlines()) <= 200
    assert len(read("CONTRIBUTING.md").splitlines()) < 80


def test_the_tables_of_the_readme_are_rows_of_the_results() -> None:
    results = [read("results/scenes/main.md"), read("results/camvid_small/main.md")]
    rows = [row for text in results for row in numbers(text)]
    found = numbers(re.sub(r"(?s)<!-- table.*?<!-- end -->", "", read("README.md")))
    assert len(found) == 2
    assert [row for row in found if row[:5] not in rows] == []  # the last cell names the data


def numbers(text: str) -> list[list[str]]:
    """Return the rows of tables whose first cell names a split's mIoU."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
    return [row for row in rows if re.fullmatch(r"\w+ mIoU", row[0])]


def test_the_citation_names_this_version_its_licence_and_the_paper() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # the format asks it
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == project["name"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert "Apache License" in read(project["license-files"][0])
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["url"].endswith("2004.14960")
    assert len(paper["authors"]) == 9


def test_the_changelog_begins_with_this_version() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    first = re.search(r"^## (\S+), (.+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert first is not None
    assert (first[1], first[2]) == (version, "unreleased")
