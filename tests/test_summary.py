"""The end of a command, for a person, a log and a script."""

import json
import math
import shlex
from pathlib import Path

import pytest

from selftrain import summary
from selftrain.progress import Output, speaking
from selftrain.summary import Made, Next, Summary, say_time, show, to_json

MADE = Made(
    title="student",
    stage="train",
    key="0123456789abcdef",
    folder=Path("outputs/train-0123456789abcdef"),
    run="f" * 32,
    is_found=False,
)
COMMAND = (
    "python -m selftrain evaluate --evaluate.model " + "f" * 32 + " --machine.outputs " + "o" * 90
)
END = Summary(
    what="trained",
    facts={"dev mIoU": "38.20 %", "folder": f"{'long/' * 30}train-0123456789abcdef"},
    product=MADE,
    metrics={"dev/mIoU": 0.382, "dev/IoU/bus": math.nan},
    files=[Path("a.md")],
    following=[Next(why="measure it", stage="evaluate", command=COMMAND)],
    details={"images": 4},
)


@pytest.fixture(autouse=True)
def nothing_noted() -> None:
    summary.begin()


def test_json_has_what_a_script_needs_in_one_line() -> None:
    summary.note(MADE)
    text = to_json("student", 12.34, END)
    assert "\n" not in text
    assert json.loads(text) == {
        "stage": "student",
        "status": "finished",
        "seconds": 12.3,
        "key": MADE.key,
        "run": MADE.run,
        "folder": "outputs/train-0123456789abcdef",
        "metrics": {"dev/mIoU": 0.382},  # what was not measured is not there
        "files": ["a.md"],
        "next": [COMMAND],
        "images": 4,
        "products": [
            {
                "title": "student",
                "stage": "train",
                "status": "made",
                "key": MADE.key,
                "run": MADE.run,
                "folder": "outputs/train-0123456789abcdef",
            }
        ],
    }


def test_json_of_a_failure_has_the_sentence() -> None:
    found = json.loads(to_json("student", 1, None, status="failed", error="There is no knob x."))
    assert (found["status"], found["error"]) == ("failed", "There is no knob x.")


def test_a_log_gets_plain_lines_that_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    show("student", 154, END)
    assert capsys.readouterr().out.splitlines() == [
        "student: trained",
        "  dev mIoU  38.20 %",
        f"  folder    {'long/' * 30}train-0123456789abcdef",
        "  time      2 min 34 s",
        "  next, measure it:",
        f"    {COMMAND}",
    ]


def test_a_panel_fits_80_columns_and_breaks_neither_paths_nor_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "FORCE_COLOR": "1",
        "NO_COLOR": "1",
        "TERM": "xterm",
        "COLUMNS": "100",
    }.items():
        monkeypatch.setenv(name, value)
    show("student", 154, END)
    text = capsys.readouterr().out
    lines = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in text.splitlines()]
    start = lines.index("  next, measure it:") + 1
    command = lines[start:-1]
    # Folded as a shell takes it; the one long word sticks out.
    assert [line for line in command[:-1] if len(line) > 80 or not line.endswith(" \\")] == []
    assert shlex.split("\n".join(command).replace("\\\n", "")) == shlex.split(COMMAND)
    assert command[-1].endswith(" " + "o" * 90)
    assert f"  folder    {'long/' * 30}train-0123456789abcdef" in lines
    first, *_, last = lines
    assert first.startswith("student: trained ──")
    assert len(first) == len(last) == 80


def test_quiet_leaves_the_end_out(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking(Output(quiet=True)):
        summary.note(MADE)
        show("student", 1, END)
    assert capsys.readouterr().out == ""
    assert summary.noted() == [MADE]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (354, "5 min 54 s"), (7380, "2 h 3 min")],
)
def test_times_are_in_words(seconds: float, text: str) -> None:
    assert say_time(seconds) == text
