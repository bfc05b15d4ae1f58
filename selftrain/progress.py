"""What is said while a command works: a bar in a terminal, plain lines elsewhere, or nothing.

Nobody but the first rank speaks. The terminal's wishes are kept: NO_COLOR and FORCE_COLOR (by
rich), and TERM=dumb, which gets plain lines.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.text import Text

_SECONDS_BETWEEN_LINES = 15.0
_REFRESHES = 8
"""Of a bar, in a second."""
_LONGEST_BAR, _SHORTEST_BAR = 24, 6
"""Columns."""
_GAP = "  "
_WIDEST = 10_000
"""Columns of no terminal."""


@dataclass(frozen=True)
class Output:
    """How a command speaks; no part of the experiment, and so no knob."""

    quiet: bool = False
    """Say nothing but what went wrong."""
    json: bool = False
    """stdout is for one line of JSON, at the end; all else goes to stderr."""

    def words(self) -> list[str]:
        """Return the words of a command line that ask for it."""
        return [f"--{name}=true" for name in ("quiet", "json") if getattr(self, name)]


_output = Output()
_live: Live | None = None


@contextmanager
def speaking(output: Output) -> Iterator[None]:
    """Speak in another way while the block runs."""
    global _output
    before, _output = _output, output
    try:
        # Whatever a library prints is no JSON either.
        with redirect_stdout(sys.stderr) if output.json else nullcontext():
            yield
    finally:
        _output = before


def chosen() -> Output:
    """Return how this process speaks."""
    return _output


def say(text: str) -> None:
    """Print a line, on the first rank only; it is never wrapped, so that paths can be copied."""
    if _is_silent():
        return
    if _live is not None:  # above the bar
        _live.console.print(text, soft_wrap=True, markup=False, highlight=False)
    else:
        print(text, flush=True)


def draw(drawn: RenderableType, *, width: int | None = None) -> None:
    """Print something that rich draws, on the first rank only; lines of text are not wrapped.

    Args:
        drawn: What is drawn.
        width: Columns to draw it in; None: those of the terminal.
    """
    if not _is_silent():
        is_text = isinstance(drawn, Text)
        Console().print(drawn, width=width, soft_wrap=is_text, highlight=False)


def fits(drawn: RenderableType) -> bool:
    """Say whether the terminal is wide enough for something that rich draws."""
    console = Console()
    anywhere = console.options.update(max_width=_WIDEST)
    return console.measure(drawn, options=anywhere).maximum <= console.width


def is_terminal() -> bool:
    """Say whether what is said may have colours and frames: in a terminal, or by FORCE_COLOR."""
    console = Console()
    return console.is_terminal and not console.is_dumb_terminal


def _is_silent() -> bool:
    # torchrun's own word: the process group is not there from the first line to the last.
    return _output.quiet or os.environ.get("RANK", "0") != "0"


class Bar:
    """Counts steps and shows a note beside them."""

    def __init__(self, title: str, total: int, done: int = 0, unit: str = "") -> None:
        self._title, self._total, self._done, self._before = title, total, done, done
        self._unit, self._items, self._note = unit, 0, ""
        self._speaks = True
        self._start = self._last_line = time.monotonic()

    def advance(self, steps: int = 1, note: str | None = None, *, items: int | None = None) -> None:
        """Count `steps` more.

        Args:
            steps: Towards the total.
            note: Replaces the text beside the bar; of several parts with commas between, the
                first counts most.
            items: How many of the bar's unit these were; None: as many as steps.
        """
        self._done += steps
        self._items += steps if items is None else items
        self._note = self._note if note is None else note
        if not self._speaks or self._done >= self._total:  # the last line comes at the end
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            say(self._line(now))

    def end(self) -> None:
        """Say how it ended, if it took as long as a line is worth."""
        now = time.monotonic()
        if self._done >= self._total and now - self._start >= _SECONDS_BETWEEN_LINES:
            say(self._line(now))

    def _line(self, now: float) -> str:
        found = [f"{self._done}/{self._total}", self._speed(now), self._left(now), self._note]
        return f"{self._title}: {', '.join(it for it in found if it)}"

    def _speed(self, now: float) -> str:
        seconds = now - self._start
        if not self._unit or not self._items or seconds <= 0:
            return ""
        speed = self._items / seconds
        return f"{speed:.1f} {self._unit}/s" if speed < 1000 else f"{speed:.0f} {self._unit}/s"

    def _left(self, now: float) -> str:
        """Return the time that is left, or that all took."""
        seconds, steps = now - self._start, self._done - self._before
        if self._done >= self._total:
            return f"took {timedelta(seconds=round(seconds))}"
        if not steps:
            return ""
        left = seconds / steps * (self._total - self._done)
        return f"{timedelta(seconds=round(left))} left"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it as one line of a terminal."""
        yield self.draw(options.max_width, ascii_only=options.ascii_only)

    def draw(self, width: int, *, ascii_only: bool = False) -> Text:
        """Return it as one line: where there is little room, what counts least is left out.

        Args:
            width: Columns.
            ascii_only: Whether the terminal shows nothing else.
        """
        now = time.monotonic()
        notes = [part for part in self._note.split(", ") if part]
        texts = [f"{self._done}/{self._total}", self._speed(now), self._left(now)]
        title = self._title

        def room() -> int:
            parts = [title, *filter(None, texts), *notes]
            return width - sum(map(cell_len, parts)) - len(_GAP) * (len(parts) - 1)

        while len(notes) > 1 and room() < _SHORTEST_BAR + len(_GAP):
            notes.pop()
        length = min(_LONGEST_BAR, room() - len(_GAP))
        if length < _SHORTEST_BAR:
            length = 0
            if room() < 0:
                texts[0] = ""
            if room() < 0:
                title = set_cell_size(title, max(cell_len(title) + room(), 4))
        line = Text(no_wrap=True, overflow="crop", end="")
        line.append(title, "bold")
        if length:
            full = round(length * min(self._done / max(self._total, 1), 1))
            line.append(_GAP).append(("#" if ascii_only else "━") * full, "cyan")
            line.append(("-" if ascii_only else "╌") * (length - full), "bright_black")
        for text, style in zip(texts, ("", "cyan", "green"), strict=True):
            if text:
                line.append(_GAP).append(text, style)
        for note in notes:
            line.append(_GAP).append(note)
        return line


@contextmanager
def bar(title: str, total: int, *, done: int = 0, unit: str = "") -> Iterator[Bar]:
    """Show progress towards `total` steps while the block runs.

    Args:
        title: What is being done.
        total: Steps in all.
        done: Steps that an interrupted attempt has done; they do not count as fast ones.
        unit: What is counted, in the plural, to show how many are done in a second; "": do not.
    """
    global _live
    counted = Bar(title, total, done, unit)
    is_dumb = os.environ.get("TERM", "") in ("dumb", "unknown")
    # Not by FORCE_COLOR: a file may have colours, but a bar in it would be thousands of lines.
    is_shown = done < total and _live is None and not _is_silent()
    if not is_shown or is_dumb or not sys.stdout.isatty():
        yield counted
        counted.end()
        return
    counted._speaks = False
    try:
        with Live(counted, console=Console(), refresh_per_second=_REFRESHES) as _live:
            yield counted
    finally:
        _live = None
