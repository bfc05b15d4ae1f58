"""What is shown while a stage works."""

import io
import itertools
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from selftrain import progress
from selftrain.progress import Bar, Output

REPOSITORY = Path(__file__).parents[1]
NOTE = "dev mIoU 38.20, loss 0.412"


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print a line at each step."""
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)


def pass_time(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    times = itertools.chain(seconds, itertools.repeat(seconds[-1]))
    monkeypatch.setattr("selftrain.progress.time.monotonic", lambda: next(times))


def test_a_line_says_how_many_a_second_and_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pass_time(monkeypatch, 0.0, 10.0)
    with progress.bar("labels", 20_000, unit="images") as bar:
        bar.advance(25, "note")
    assert capsys.readouterr().out == "labels: 25/20000, 2.5 images/s, 2:13:10 left, note\n"


def test_what_was_done_before_does_not_count_as_fast(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pass_time(monkeypatch, 0.0, 4.0)
    with progress.bar("labels", 100, done=90, unit="images") as bar:
        bar.advance(2)
    assert capsys.readouterr().out == "labels: 92/100, 0.5 images/s, 0:00:16 left\n"


def test_steps_without_a_name_have_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pass_time(monkeypatch, 0.0, 2.0)
    with progress.bar("steps", 10) as bar:
        bar.advance()
    assert capsys.readouterr().out == "steps: 1/10, 0:00:18 left\n"


def test_a_step_may_be_of_several_items(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pass_time(monkeypatch, 0.0, 4.0)
    with progress.bar("student", 10, unit="crops") as bar:
        bar.advance(items=8)
    assert capsys.readouterr().out == "student: 1/10, 2.0 crops/s, 0:00:36 left\n"


def test_the_last_line_says_how_long_all_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pass_time(monkeypatch, 0.0, 100.0)
    with progress.bar("labels", 10, unit="images") as bar:
        bar.advance(10, "note")
    assert capsys.readouterr().out == "labels: 10/10, 0.1 images/s, took 0:01:40, note\n"


def test_quiet_says_nothing_and_json_leaves_stdout_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def speak() -> None:
        progress.say("a line")
        with progress.bar("steps", 2) as bar:
            bar.advance()
        print("of a library")

    with progress.speaking(Output(json=True)):
        speak()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("a line\nsteps: 1/2")
    with progress.speaking(Output(quiet=True, json=True)):
        speak()
    assert capsys.readouterr() == ("", "of a library\n")
    progress.say("again")
    assert capsys.readouterr().out == "again\n"


def test_another_rank_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    progress.say("a line")
    with progress.bar("steps", 2) as bar:
        bar.advance(2)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "title", ["student", "pseudo labels of round 2", "\N{CJK UNIFIED IDEOGRAPH-8ECA}" * 9]
)
def test_a_bar_is_one_line_however_narrow_the_terminal(
    title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pass_time(monkeypatch, 0.0, 60.0)
    bar = Bar(title, 12_000, unit="crops")
    bar.advance(5_000, NOTE, items=40_000)
    for width in range(70, 200):
        drawn = bar.draw(width)
        assert cell_len(drawn.plain) <= width
        for part in ("666.7 crops/s", "0:01:24 left", "dev mIoU 38.20"):
            assert part in drawn.plain, width
    assert "loss" in bar.draw(120).plain


def test_in_80_columns_a_training_shows_its_bar_speed_time_and_dev(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pass_time(monkeypatch, 0.0, 60.0)
    bar = Bar("student", 1200, unit="crops")
    bar.advance(600, NOTE, items=4800)
    assert bar.draw(80).plain == (
        "student  ━━━━━━━━╌╌╌╌╌╌╌╌╌  600/1200  80.0 crops/s  0:01:00 left  dev mIoU 38.20"
    )
    assert "########---------" in bar.draw(80, ascii_only=True).plain


def test_without_colours_the_bar_still_shows_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    bar = Bar("student", 10)
    bar.advance(5)
    Console(file=file, force_terminal=True, width=80).print(bar)
    assert "━╌" in file.getvalue()
    assert not re.search(r"\x1b\[[\d;]*3\d", file.getvalue())


SCRIPT = """
import time
from selftrain import progress
with progress.bar("labels", 20, unit="images") as bar:
    for step in range(20):
        bar.advance(note="dev mIoU 38.20, loss 0.412")
        if step == 10:
            progress.say("made: " + "/a/long/path" * 12)
        time.sleep(0.02)
"""


def in_a_terminal(script: str, **environment: str) -> str:
    """Run a script in a terminal of 80x24, and return what it has written."""
    ours, theirs = pty.openpty()
    os.set_inheritable(theirs, True)
    known = {name: it for name, it in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl,termios,struct,sys\n{SIZE}\n{script}"],
        stdout=theirs,
        stderr=theirs,
        env={**known, "TERM": "xterm", "PYTHONPATH": str(REPOSITORY), **environment},
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            data = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        written += data
    os.close(ours)
    assert process.wait(60) == 0, written.decode()
    return written.decode().replace("\r\n", "\n")


SIZE = "fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))"


def test_in_a_terminal_a_line_above_the_bar_is_not_wrapped() -> None:
    written = in_a_terminal(SCRIPT)
    assert "made: " + "/a/long/path" * 12 in written
    assert "\x1b[2K" in written  # the bar is drawn over itself
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written)
    last = [line for line in re.split(r"[\r\n]", shown) if line.startswith("labels")][-1]
    assert len(last) <= 80
    assert "20/20" in last
    assert "images/s" in last
    assert "dev mIoU 38.20" in last


def test_a_dumb_terminal_gets_no_control_codes() -> None:
    written = in_a_terminal(SCRIPT, TERM="dumb")
    assert "\x1b" not in written
    assert written == "made: " + "/a/long/path" * 12 + "\n"
