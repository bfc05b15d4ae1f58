"""The pages of docs/recipes/ are followed to the letter in a copy of the repository, and it works.

All of them are followed in one copy, for starting Python costs more than the rest. What cannot be
imported a second time here runs in two processes: the tests, the pages' own and those that look at
every network, study and module; and the commands, in the order of the pages.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import OwnStore
from miniature import write_picture
from shell_lines import code_blocks, commands

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted((REPOSITORY / "docs" / "recipes").glob("*.md"))
COPIED = ("selftrain", "experiments", "analysis", "tests", "docs")

OWN_TESTS = (
    "tests/data/test_lanes.py",
    "tests/models/test_two_layers.py",
    "tests/data/test_selection_by_mean.py",
)
GENERAL_TESTS = (
    "tests/models/test_networks.py::test_logits_have_the_size_of_the_image",
    "tests/test_benchmarks.py::test_every_benchmark_is_a_legal_config",
    "tests/test_repository.py::test_the_map_of_the_code_names_every_module",
    "tests/test_repository.py::test_every_module_has_a_test_file_of_its_name_or_says_where_it_is_tested",
    "tests/test_study.py::test_every_student_has_a_control_on_real_labels_with_as_many_steps",
    "tests/analysis/test_readings.py::test_every_study_is_read_in_miniature",
)

_TYPE = """
import json, sys
from pathlib import Path
from typist import Typist
typist = Typist(Path.cwd(), copies=())
for command in json.loads(sys.argv[1]):
    typist.type(command)
"""


def apply(text: str, change: str) -> str:
    """Return a text with the hunks of a diff; each must fit it in exactly one place."""
    for hunk in change.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"{text.count(before)} places fit:\n{hunk}"
        text = text.replace(before, after)
    return text


def follow(page: Path, copy: Path) -> None:
    """Write the files of a recipe, and change those that it changes."""
    for block in code_blocks(page.read_text()):
        if not block.title:
            continue
        path, text = copy / block.title, block.text + "\n"
        if block.language == "diff":
            text = apply(path.read_text(), text)
        else:
            assert not path.exists()
        path.write_text(text)


@pytest.fixture(scope="module")
def copy(own_store: OwnStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    for name in COPIED:
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("README.md", "MLproject", "conda.yaml", "pyproject.toml", "Makefile"):
        shutil.copy(REPOSITORY / name, folder)
    for page in PAGES:
        follow(page, folder)
    with own_store(folder):  # an empty store lies there from now on
        return folder


def start(copy: Path, words: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{copy / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def lanes(root: Path) -> None:
    """Draw the data set of the first recipe."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 20, "val": 2}.items():
        for number in range(count):
            image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            write_picture(root / split / f"{number:02}.jpg", image)
            write_picture(root / f"{split}_ids" / f"{number:02}.png", image[..., 0] // 86)


def test_every_block_of_code_is_followed() -> None:
    assert len(PAGES) == 4
    for page in PAGES:
        blocks = code_blocks(page.read_text())
        assert [it for it in blocks if not it.title and not it.is_shell and it.language] == []
        assert any(it.is_shell for it in blocks), page
        assert any(it.title.startswith("tests/") for it in blocks) or "study" in page.name


def test_the_tests_pass_where_the_recipes_were_followed(copy: Path) -> None:
    start(copy, ["-m", "pytest", *OWN_TESTS, *GENERAL_TESTS])


def test_the_commands_of_the_recipes_succeed(copy: Path, tmp_path: Path) -> None:
    lanes(tmp_path / "lanes")
    found = [it.text for page in PAGES for it in commands(page.read_text())]
    typed = [text.replace("LANES", str(tmp_path / "lanes")) for text in found]
    start(copy, ["-c", _TYPE, json.dumps(typed)])
    results = {path.suffix for path in (copy / "results" / "scenes").glob("mirrored.*")}
    assert results == {".csv", ".md", ".tex", ".png", ".svg"}


def test_a_change_must_fit_in_one_place() -> None:
    assert apply("a\nb\na\n", " b\n+c\n") == "a\nb\nc\na\n"
    with pytest.raises(AssertionError, match="2 places"):
        apply("a\nb\na\n", " a\n+c\n")
