"""A plugin of pytest: writes docs/reliability.md's table from what the long tests record.

A test says what it tried and what it found by the fixture `survived`. A run of the whole suite
with `-m torture` writes the table when it ends; nobody types in it.
"""

import os
import platform
import re
import subprocess
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN = "<!-- from here written by `make torture` -->"
END = "<!-- to here -->"
HEAD = "| what was done | how often | what was found | seconds |"
RULE = "|---|---|---|---:|"
FAILED = "**failed**"
_PROPERTY = "survived"


class Survived(Protocol):
    """Records a row of the table; a test may call it as often as it has rows."""

    def __call__(self, what: str, *, tried: str, found: str) -> None:
        """Note what was done, how often, and what was found: plain words, without dates."""


@dataclass
class Outcome:
    """What the calls of a test have recorded, and how it ended."""

    name: str
    rows: list[tuple[str, str, str]]
    seconds: float
    has_failed: bool


@pytest.fixture
def survived(record_property: Callable[[str, object], None]) -> Survived:
    """Record a figure for docs/reliability.md."""

    def record(what: str, *, tried: str, found: str) -> None:
        record_property(_PROPERTY, (what, tried, found))

    return record


def tabulate(outcomes: Iterable[Outcome], conditions: str) -> str:
    """Return the text between the markers: a table and the conditions that it was made under."""
    lines = [BEGIN, "", HEAD, RULE]
    for outcome in outcomes:
        for row in outcome.rows or [(outcome.name, "", "")]:
            what, tried, found = (" ".join(text.replace("|", "/").split()) for text in row)
            found = f"{FAILED}: {found}".rstrip(": ") if outcome.has_failed else found
            lines.append(f"| {what} | {tried} | {found} | {outcome.seconds:.0f} |")
    return "\n".join([*lines, "", conditions, "", END])


def replace_table(page: str, table: str) -> str:
    """Return the page with the text between its markers replaced.

    Raises:
        ValueError: the page does not have both markers.
    """
    start, found, rest = page.partition(BEGIN)
    _, also_found, end = rest.partition(END)
    if not (found and also_found):
        raise ValueError(f"the page lacks {BEGIN} or {END}")
    return start + table + end


def conditions() -> str:
    """Say what the table was made with and on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "mlflow", "optuna"))
    return (
        f"Made at commit {_commit()}, on {os.cpu_count()} processors ({platform.machine()}, "
        f"{platform.system()}), by Python {platform.python_version()}, {packages}."
    )


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", *words]
        done = subprocess.run(command, cwd=PAGE.parent, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    # The page itself differs as soon as it is written.
    changed = git("status", "--porcelain", "--", ":/", ":(exclude,top)docs/reliability.md")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


class Recorder:
    """Collects what the tests of a run record, and writes it when the run ends."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's rows, its time, and whether any part of it failed."""
        if report.skipped:
            return
        name = re.sub(r"^test_", "", report.nodeid.rpartition("::")[2]).replace("_", " ")
        outcome = self.outcomes.setdefault(report.nodeid, Outcome(name, [], 0.0, False))
        outcome.seconds += report.duration
        outcome.has_failed |= report.failed
        outcome.rows = [
            (str(value[0]), str(value[1]), str(value[2]))
            for key, value in report.user_properties
            if key == _PROPERTY and isinstance(value, tuple)
        ]

    def write(self, page: Path) -> None:
        """Replace the table of a page."""
        text = tabulate(self.outcomes.values(), conditions())
        page.write_text(replace_table(page.read_text(), text))


def pytest_configure(config: pytest.Config) -> None:
    """Record if this is `make torture`: all long tests, and nothing else."""
    is_whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    if is_whole and config.option.markexpr == "torture" and not config.option.keyword:
        config.pluginmanager.register(Recorder(), "reliability-recorder")


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(
    session: pytest.Session, exitstatus: int
) -> Generator[None, object, object]:
    """Write the page, unless the run was interrupted or nothing was tried."""
    result = yield
    recorder = session.config.pluginmanager.get_plugin("reliability-recorder")
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if isinstance(recorder, Recorder) and recorder.outcomes and ended:
        recorder.write(PAGE)
    return result
