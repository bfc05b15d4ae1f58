"""From the words of a command to a stage and its config.

The values are parsed here, because every mistake must end in one sentence that names the knob.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from selftrain.benchmarks import benchmark
from selftrain.config import POOLS, Config
from selftrain.errors import InputError
from selftrain.files import is_folder
from selftrain.help import leaf_types, overview, stage_help
from selftrain.knobs import Scalar, check_known, flatten, override
from selftrain.progress import Output

__all__ = ["leaf_types", "parse", "split_output"]

ALIASES = {"nproc": "machine.processes"}
"""Other names of knobs: as torchrun calls it."""
LONGEST = 4000
"""Characters of a value that is a text: a path can have no more."""
_FIRST_WORD = {"lineage": "lineage.run"}
"""Stage -> the knob that its first word is the value of, if it names none."""


def split_output(argv: Sequence[str]) -> tuple[Output, list[str]]:
    """Take `--quiet` and `--json` out of the words of a command, wherever they stand.

    Both are written alone, with a value (`--quiet true`, as `mlflow run -P quiet=true` gives it),
    or as `--quiet=true`; the last of several wins.

    Returns:
        What they ask for, and the other words.

    Raises:
        InputError: a value is neither true nor false.
    """
    found, left, rest = {"quiet": False, "json": False}, list[str](), list(argv)
    while rest:
        word = rest.pop(0)
        name, has_value, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in found:
            left.append(word)
            # The value of another knob is no option: --study.name --json has none.
            if word.startswith("--") and not has_value and rest and not rest[0].startswith("--"):
                left.append(rest.pop(0))
            continue
        # In front of the stage the next word is that, and before a first word it may be that.
        may_stand = not left or left[-1] in _FIRST_WORD
        if (
            not has_value
            and rest
            and not rest[0].startswith("--")
            and (not may_stand or _is_bool(rest[0]))
        ):
            text, has_value = rest.pop(0), "="
        if has_value and not _is_bool(text):
            raise InputError(f"{name} = {text!r} is neither true nor false.")
        found[name] = text.lower() == "true" if has_value else True
    return Output(**found), left


def _is_bool(text: str) -> bool:
    return text.lower() in ("true", "false")


def parse(argv: Sequence[str], stages: Mapping[str, str]) -> tuple[str, Config]:
    """Return the stage and the config that a command line asks for.

    Args:
        argv: `STAGE --dotted.path value --dotted.path=value ...`, without the program's name. Of
            the stage's own knobs the first part may be left out: `predict --images DIR`. `lineage`
            takes its run as a word of its own. `--pool` names the unlabelled images: as
            `data.pool` does, or by their folder; `--nproc` is `--machine.processes`.
        stages: Name of each stage -> one line about it.

    Raises:
        InputError: a stage or knob is unknown, a value is missing, of a wrong type or out of range.
        SystemExit: help was asked for and printed.
    """
    for word in argv:
        if not _is_text(word):
            raise InputError(f"{word!r} is not valid UTF-8: give names that are, or rename files.")
    if not argv or argv[0] in ("-h", "--help"):
        print(overview(stages))
        raise SystemExit(0)
    stage, *rest = argv
    if stage in _FIRST_WORD and rest and not rest[0].startswith("-"):
        rest = [f"--{_FIRST_WORD[stage]}={rest[0]}", *rest[1:]]
    if stage not in stages:
        raise InputError(f"There is no stage {stage}; there are {', '.join(stages)}.")
    if "-h" in rest or "--help" in rest:
        print(stage_help(stage, stages[stage], _benchmark_named_in(rest)))
        raise SystemExit(0)
    texts = _pairs(rest)
    config = benchmark(texts.pop("benchmark", Config().benchmark))
    known, types = flatten(config), leaf_types(Config)
    texts = _spell_pool({_full_path(path, stage, known): text for path, text in texts.items()})
    for path in texts:
        check_known(path, known)
    return stage, override(config, {k: _value(k, v, types[k]) for k, v in texts.items()})


def _is_text(word: str) -> bool:
    # What is no UTF-8 comes as lone surrogates, which nothing can store.
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


def _benchmark_named_in(words: Sequence[str]) -> Config:
    texts = _pairs([word for word in words if word not in ("-h", "--help")])
    return benchmark(texts.get("benchmark", Config().benchmark))


def _pairs(words: Sequence[str]) -> dict[str, str]:
    """Return {knob: text} of `--knob text` and `--knob=text`; the last of several wins."""
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise InputError(f"{word!r} is no knob: write --dotted.path value.")
        path, has_value, text = word[2:].partition("=")
        if not has_value:
            if not rest or rest[0].startswith("--"):
                raise InputError(f"--{path} has no value: write --{path} VALUE.")
            text = rest.pop(0)
        found[path] = text
    return found


def _full_path(path: str, stage: str, known: Mapping[str, object]) -> str:
    """Return the whole path of a knob that may be named as the stage's own."""
    path = ALIASES.get(path, path)
    own = f"{stage}.{path}"
    section = own.rpartition(".")[0] + "."
    # A misspelt knob of a group of the stage's own is compared with that group's.
    is_own = own in known or ("." in path and any(it.startswith(section) for it in known))
    return own if path not in known and is_own else path


def _spell_pool(texts: dict[str, str]) -> dict[str, str]:
    """Put the knobs that `--pool` stands for in its place."""
    if "pool" not in texts:
        return texts
    pool, others = texts["pool"], {path: it for path, it in texts.items() if path != "pool"}
    if set(pool.split("+")) <= set(POOLS):
        return {"data.pool": pool, **others}
    if not is_folder(pool):
        raise InputError(
            f"pool = {pool!r} is neither a folder nor one of {', '.join(POOLS)}: name one of them."
        )
    # A folder of pictures has no hidden labels.
    folder = {"data.pool": "folder", "machine.pool_root": pool, "pseudo_label.measure": "false"}
    return {**folder, **others}


def _value(path: str, text: str, wanted: Any) -> Scalar:
    """Convert one value; `override` checks what it means."""
    if wanted is bool:
        if not _is_bool(text):
            raise InputError(f"{path} = {text!r} is neither true nor false.")
        return text.lower() == "true"
    if get_origin(wanted) is Literal:
        wanted = type(get_args(wanted)[0])
    if wanted in (str, Path):
        if not text or len(text) > LONGEST:
            length = "nothing" if not text else f"{len(text)} characters long"
            raise InputError(f"{path} is {length}: give a text of 1 to {LONGEST} characters.")
        return wanted(text)  # type: ignore[no-any-return]  # str or Path, which mypy cannot know
    try:
        return int(text) if wanted is int else _number(text)
    except (ValueError, ZeroDivisionError) as error:
        kind = "a whole number" if wanted is int else "a number such as 0.125 or 1/8"
        raise InputError(f"{path} = {text!r} is not {kind}.") from error


def _number(text: str) -> float:
    numerator, is_fraction, denominator = text.partition("/")
    return float(numerator) / float(denominator) if is_fraction else float(text)
