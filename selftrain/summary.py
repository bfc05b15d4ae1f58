"""What a command has made or found, where it lies and what may come next: said at its end.

A person gets a panel, a log plain lines, a script one line of JSON. Paths and commands are never
wrapped, so that they can be copied.
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from selftrain import progress
from selftrain.knobs import Scalar

_WIDTH = 80
"""Columns of a panel, at most; lines that are longer stick out."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A product that a stage has made, or found."""

    title: str
    stage: str
    key: str
    folder: Path
    run: str
    is_found: bool

    def as_json(self) -> dict[str, object]:
        """Return it as JSON has it."""
        how = "found" if self.is_found else "made"
        return {
            "title": self.title,
            "stage": self.stage,
            "status": how,
            "key": self.key,
            "run": self.run,
            "folder": str(self.folder),
        }


_journal: list[Made] = []
"""What this process has made and found since its command began."""


def note(made: Made) -> None:
    """Say in a line what a stage has made or found, and remember it for the end."""
    _journal.append(made)
    how = "found" if made.is_found else "made"
    progress.say(f"{made.title}: {how} {made.folder} (run {made.run})")


def begin() -> None:
    """Forget what earlier commands of this process have made."""
    _journal.clear()


def noted() -> list[Made]:
    """Return what was made and found, in the order in which that was done."""
    return list(_journal)


@dataclass(frozen=True, kw_only=True)
class Next:
    """A command that may come next."""

    why: str
    stage: str = ""
    """Of the command."""
    knobs: Mapping[str, Scalar] = field(default_factory=dict)
    """That it is given, beside what the user has changed."""
    command: str = ""
    """To be pasted; `next_commands` writes those of stages."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The end of a command."""

    what: str
    """What was done, as in "student trained"."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Label -> what a person is told."""
    product: Made | None = None
    """The one that the command was given for."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """By their names in MLflow, shares and not percent."""
    files: Sequence[Path] = ()
    """Written for the user, outside of the products."""
    following: Sequence[Next] = ()
    details: Mapping[str, object] = field(default_factory=dict)
    """What scripts are told besides, JSON-like."""
    failed: str = ""
    """Of a command that ran and found a fault: the sentence."""


def to_json(
    stage: str,
    seconds: float,
    summary: Summary | None,
    *,
    status: str = "finished",
    error: str = "",
) -> str:
    """Return the end of a command as one line of JSON.

    Args:
        stage: Of the command; "" if it was not understood.
        seconds: That it took.
        summary: What it has to say; None: nothing, as of a command that failed.
        status: finished, failed or stopped.
        error: The sentence, if there is one.
    """
    products = [made.as_json() for made in noted()]
    told: dict[str, object] = {"stage": stage, "status": status, "seconds": round(seconds, 1)}
    if error:
        told["error"] = error
    if summary is not None:
        main = summary.product
        told |= {
            **({name: main.as_json()[name] for name in ("key", "run", "folder")} if main else {}),
            "metrics": {name: it for name, it in summary.metrics.items() if math.isfinite(it)},
            "files": [str(path) for path in summary.files],
            "next": [it.command for it in summary.following],
            **summary.details,
        }
    return json.dumps({**told, "products": products}, default=str)


def show(stage: str, seconds: float, summary: Summary) -> None:
    """Show the end of a command to a person, or to a log."""
    facts = {**summary.facts, "time": say_time(seconds)}
    width = max(map(len, facts))
    told = [f"  {name:{width}}  {fact}" for name, fact in facts.items()]
    if not progress.is_terminal():
        for it in summary.following:
            told += [f"  next, {it.why}:", f"    {it.command}"]
        for line in [f"{stage}: {summary.what}", *told]:
            progress.say(line)
        return
    columns = min(_WIDTH, Console().width)
    title = Text(f"{stage}: {summary.what}", "bold green")
    progress.draw(Rule(title, align="left", style="green"), width=columns)
    for line in told:
        progress.draw(Text(line))
    for it in summary.following:
        progress.draw(Text(f"  next, {it.why}:"))
        progress.draw(Text(_fold(it.command, columns), "bold"))
    progress.draw(Rule(style="green"), width=columns)


def _fold(command: str, columns: int) -> str:
    """Return a command in lines that can be pasted together; a word is never broken."""
    parts: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if parts and not word.startswith("-"):  # a value stays with its knob
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    lines, line = [], f"    {parts[0]}"
    for part in parts[1:]:
        if len(f"{line} {part} \\") <= columns:
            line += f" {part}"
        else:
            lines.append(f"{line} \\")
            line = f"        {part}"
    return "\n".join([*lines, line])


def say_time(seconds: float) -> str:
    """Return a time in words: 12 s, 5 min 54 s, 2 h 3 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, left = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {left} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
