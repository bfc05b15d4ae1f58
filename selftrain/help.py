"""The help: which commands there are, and every knob of a command with its default and source.

A knob's help is the docstring under its field in `config.py`.
"""

import ast
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from selftrain.benchmarks import BENCHMARKS
from selftrain.commands import COMMANDS, EXAMPLES, GROUPS
from selftrain.config import Config, TrainConfig
from selftrain.knobs import flatten

PROGRAM = "python -m selftrain"
_WIDTH = 80
_INDENT = 6
_OPTIONS = {
    "--benchmark NAME": f"Sets the data and a recipe that fits them: {', '.join(BENCHMARKS)}.",
    "--pool DIR": "Take the pictures of a folder as the unlabelled ones (data.pool).",
    "--quiet": "Say nothing but what went wrong.",
    "--json": "Write one line of JSON to stdout at the end, and all else to stderr.",
    "--help": "This text; after a command, what it does and its knobs.",
}


def overview(stages: Mapping[str, str]) -> str:
    """Return the help of the program.

    Args:
        stages: Name of each command -> one line about it.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(stages, key=_place):
        group = COMMANDS[name].group if name in COMMANDS else "other"
        groups.setdefault(group, []).append(name)
    lines = [f"usage: {PROGRAM} COMMAND [--dotted.path VALUE ...]", ""]
    lines += _wrap(
        "Self-training for semantic segmentation. A command makes or finds what it needs; given "
        "again, it goes on from what is there."
    )
    for group, names in groups.items():
        lines += ["", f"{GROUPS.get(group, group)}:"]
        for name in names:
            lines += _entry(name, stages[name], 24)
    lines += ["", "options of every command:"]
    for option, text in _OPTIONS.items():
        lines += _entry(option, text, 24)
    lines += ["", "examples:"]
    for why, words in EXAMPLES:
        lines += [f"  # {why}", f"  {PROGRAM} {words}"]
    return "\n".join([*lines, "", f"{PROGRAM} COMMAND --help lists the knobs of a command."])


def stage_help(stage: str, line: str, config: Config) -> str:
    """Return the help of a command: what it does, an example, its own knobs, then all others.

    Args:
        stage: Its name.
        line: What it does.
        config: Has the defaults.
    """
    lines = [f"usage: {PROGRAM} {stage} [--dotted.path VALUE ...]", "", *_wrap(line)]
    command = COMMANDS.get(stage)
    if command is not None:
        lines += ["", "example:", f"  {PROGRAM} {command.example}"]
    lines += ["", "options:"]
    for option, text in _OPTIONS.items():
        lines += _entry(option, text, 24)
    reads = [*(command.reads if command else ()), "machine"]
    sections = [it.name for it in dataclasses.fields(config) if it.name != "benchmark"]
    ordered = [*reads, *(it for it in sections if it not in reads)]
    explained: set[str] = set()
    for section in ordered:
        lines += ["", *_section(section, stage, config, explained)]
        if section == reads[-1] and len(reads) < len(ordered):
            lines += ["", *_wrap(f"What follows {stage} does not read; a config holds it all.")]
    return "\n".join(lines)


def _section(section: str, stage: str, config: Config, explained: set[str]) -> Iterator[str]:
    """Yield the lines of a section's knobs; what was explained before is only named."""
    values, types, docs = flatten(config), leaf_types(Config), knob_docs()
    paths = [path for path in values if f"{path}.".startswith(f"{section}.")]
    yield f"knobs of {section}:"
    if section == stage:
        short = paths[0].removeprefix(f"{section}.")
        yield f"  (--{short} is short for --{paths[0]})"
    for path in paths:
        default = f"(default: {_shown(values[path])})"
        head = f"  --{path} {shown_type(types[path])} {default}"
        if len(head) <= _WIDTH:
            yield head
        else:
            yield f"  --{path} NAME {default}"
            yield from _wrap(f"One of {', '.join(choices(types[path]))}.", _INDENT)
        # Teacher, student and fine-tuning have the same knobs.
        is_training = isinstance(getattr(config, section), TrainConfig)
        name = path.removeprefix(f"{section}.") if is_training else path
        if name not in explained:
            yield from _wrap(docs[path], _INDENT)
        explained.add(name)


def leaf_types(config_type: type, prefix: str = "") -> dict[str, Any]:
    """Return {dotted path: type} of every knob of a config dataclass."""
    found: dict[str, Any] = {}
    for name, wanted in get_type_hints(config_type).items():
        if inspect.isclass(wanted) and dataclasses.is_dataclass(wanted):
            found |= leaf_types(wanted, f"{prefix}{name}.")
        else:
            found[prefix + name] = wanted
    return found


@cache
def knob_docs() -> Mapping[str, str]:
    """Return {dotted path: help} of every knob, in one line each."""
    return dict(_docs(Config, ""))


def _docs(config_type: type, prefix: str) -> Iterator[tuple[str, str]]:
    texts = _field_docs(config_type)
    for name, wanted in get_type_hints(config_type).items():
        if inspect.isclass(wanted) and dataclasses.is_dataclass(wanted):
            yield from _docs(wanted, f"{prefix}{name}.")
        else:
            yield prefix + name, texts.get(name, "")


def _field_docs(config_type: type) -> dict[str, str]:
    """Return {field: docstring under it}; Python itself forgets these."""
    module = ast.parse(inspect.getsource(sys.modules[config_type.__module__]))
    found: dict[str, str] = {}
    for node in module.body:
        if not isinstance(node, ast.ClassDef) or node.name != config_type.__name__:
            continue
        for item, below in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[item.target.id] = " ".join(str(below.value.value).split())
    return found


def choices(wanted: Any) -> list[str]:
    """Return the values that a knob of this type may have, if they can be listed."""
    if wanted is bool:
        return ["true", "false"]
    return [str(it) for it in get_args(wanted)] if get_origin(wanted) is Literal else []


def shown_type(wanted: Any) -> str:
    """Return how a type is written in the help."""
    names = {int: "N", float: "NUMBER", Path: "PATH", str: "TEXT"}
    return "{" + ",".join(choices(wanted)) + "}" if choices(wanted) else names[wanted]


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _place(name: str) -> int:
    """Order commands as they are listed; those that are not listed come last."""
    known = [*COMMANDS]
    return known.index(name) if name in known else len(known)


def _entry(name: str, text: str, column: int) -> list[str]:
    """Return a name with its text beside it."""
    first, *others = textwrap.wrap(text, _WIDTH - column)
    return [f"  {name:{column - 2}}{first}", *(" " * column + it for it in others)]


def _wrap(text: str, indent: int = 0) -> Sequence[str]:
    margin = " " * indent
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )
