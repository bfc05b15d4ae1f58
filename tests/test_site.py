"""The site is built without a warning, holds every page, and asks nobody else for anything."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml  # type: ignore[import-untyped]  # comes with mlflow

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert not re.search(r"^(?:WARNING|ERROR)", done.stdout, re.MULTILINE), done.stdout
    return folder


def navigation() -> list[str]:
    """Return the pages in the order of the menu."""

    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            yield from pages(list(entry.values()))
        elif isinstance(entry, list):
            for it in entry:
                yield from pages(it)

    return list(pages(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]))


def test_every_text_is_in_the_menu_once(hooks: ModuleType) -> None:
    there = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")]
    assert sorted(navigation()) == sorted([*there, *hooks.PAGES.values()])


def test_every_module_is_on_one_page_of_the_api() -> None:
    listed = [
        name
        for path in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE)
    ]
    modules = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for path in (REPOSITORY / "selftrain").rglob("*.py")
        if path.stem != "__init__" and path.parent.name != "scenery"
    }
    assert sorted(listed) == sorted({*modules, "selftrain.models"})


def test_the_site_has_all_pages_with_their_docstrings(site: Path) -> None:
    for page in navigation():
        path = Path(page)
        place = path.parent if path.name == "index.md" else path.with_suffix("")
        assert (site / place / "index.html").is_file(), page
    config = (site / "api" / "config" / "index.html").read_text()
    assert "Share of the crops placed on class centroids" in config
    assert "selftrain.config.SamplingConfig" in config


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text()
        fetched = re.findall(r"<(?:script|img|iframe)[^>]+src=\"(https?:|//)[^\"]*", text)
        fetched += re.findall(r"<link[^>]+rel=\"(?:stylesheet|preconnect)\"[^>]+(https?://)", text)
        assert fetched == [], path
        assert "fonts.g" not in text
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?https?:|@import\s+[\"']?https?:", path.read_text())


def test_the_site_has_no_python_and_names_no_folder_of_this_machine(site: Path) -> None:
    assert list(site.rglob("*.py")) == []
    for path in site.rglob("*.html"):
        assert str(REPOSITORY) not in path.read_text(), path


def test_links_out_of_docs_lead_to_pages_or_become_text(hooks: ModuleType) -> None:
    text = "[a](../SECURITY.md) [b](../selftrain/x.py) [c](data.md#top) [d](https://e.f) [g](#h)"
    assert hooks.point_links(text, "docs", "") == (
        "[a](security.md) b [c](data.md#top) [d](https://e.f) [g](#h)"
    )
    assert hooks.point_links("[a](../data.md)", "docs/recipes", "recipes") == "[a](../data.md)"
    assert hooks.point_links("[a](docs/data.md)", "", "") == "[a](data.md)"


def test_links_on_all_pages_lead_somewhere_where_the_files_are_read(hooks: ModuleType) -> None:
    beside = [REPOSITORY / name for name in ("README.md", *hooks.PAGES)]
    for path in [*DOCS.rglob("*.md"), *beside]:
        links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", path.read_text())
        assert [link for link in links if not (path.parent / link).exists()] == [], path
