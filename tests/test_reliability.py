"""The table in docs/reliability.md is what the plugin writes, and nobody has typed in it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from reliability import BEGIN, END, FAILED, HEAD, PAGE, RULE, Outcome, replace_table, tabulate

TESTS = """
import pytest

@pytest.mark.torture
def test_the_store_goes_away(survived):
    survived("store away", tried="3 times", found="all | there")
    survived("store hung", tried="2 times", found="all there")

@pytest.mark.torture
def test_a_disk_is_full(survived):
    survived("disk full", tried="1 time", found="one sentence")
    assert False

@pytest.mark.torture
def test_nothing_is_recorded():
    pass

def test_a_short_one(survived):
    survived("short", tried="once", found="nothing")
"""


def test_the_table_on_the_page_has_the_form_of_the_plugins() -> None:
    lines = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].split("\n")
    rows = [line for line in lines if line.startswith("|")]
    found = []
    for row in rows[2:]:
        what, tried, result, seconds = row.strip("| ").split(" | ")
        found.append(Outcome("", [(what, tried, result)], float(seconds), has_failed=False))
    text = "\n".join([BEGIN, *lines[1:-1], END])
    assert text == tabulate(found, next(line for line in lines if line.startswith("Made at ")))
    assert rows[:2] == [HEAD, RULE]
    assert not [row for row in rows if FAILED in row]


def test_a_whole_run_of_the_long_tests_writes_the_table_and_other_runs_do_not(
    tmp_path: Path,
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(
        "import pathlib, reliability\n"
        "pytest_plugins = ['reliability']\n"
        f"reliability.PAGE = pathlib.Path({str(page)!r})\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\nmarkers = torture\n")
    before = page.read_text()
    for words in (["-m", "torture", "tests/test_it.py"], ["-m", "torture", "-k", "store"]):
        run_pytest(tmp_path, words)
        assert page.read_text() == before
    run_pytest(tmp_path, ["-m", "torture"])
    written = page.read_text()
    assert written.startswith(f"before\n{BEGIN}\n\n{HEAD}\n{RULE}\n| store away | 3 times | all / ")
    assert (
        f"| disk full | 1 time | {FAILED}: one sentence | 0 |\n| nothing is recorded |" in written
    )
    assert re.search(r"Made at commit .*, on \d+ processors .*torch \d", written)
    assert written.endswith(f"{END}\nafter\n")
    assert "short" not in written


def run_pytest(folder: Path, words: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)


def test_a_page_without_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="the page lacks"):
        replace_table("no table here", "table")
