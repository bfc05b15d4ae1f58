"""Knobs by their dotted paths: a config as a flat table, and back.

Works on any nested dataclass; which knobs there are is `config.py`'s to say.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from selftrain.errors import InputError

Scalar = str | int | float | bool | Path
"""A knob's value."""

T = TypeVar("T")
_LARGEST = 2**31 - 1
"""Whole number: what counts things and seeds generators has no need of more."""


def flatten(config: object) -> dict[str, Scalar]:
    """Return {dotted path: value} of every knob; the inverse of `override`."""
    return dict(_leaves(config, ""))


def _leaves(config: object, prefix: str) -> Iterator[tuple[str, Scalar]]:
    # `object` stands for any config dataclass; typing has no public name for one.
    for item in dataclasses.fields(config):  # type: ignore[arg-type]  # see above
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, value


def override(config: T, values: Mapping[str, Scalar]) -> T:
    """Return a copy with other values.

    Args:
        config: A config dataclass.
        values: Dotted path -> value of the knob's type.

    Raises:
        InputError: a knob is unknown (the nearest is named), of another type or out of range.
    """
    known = flatten(config)
    for path in values:
        check_known(path, known)
    replaced: T = _replace(config, values, "")
    return replaced


def check_known(path: str, known: Mapping[str, object]) -> None:
    """Raise InputError with the nearest knob if `path` is none of the `known`."""
    if path in known:
        return
    near = get_close_matches(path, known, n=1, cutoff=0.0)
    raise InputError(f"There is no knob {path}; did you mean {near[0]}?")


def _replace(config: Any, values: Mapping[str, Scalar], prefix: str) -> Any:
    types = get_type_hints(type(config))
    changes: dict[str, object] = {}
    for item in dataclasses.fields(config):
        path = prefix + item.name
        if path in values:
            changes[item.name] = _typed(path, values[path], types[item.name])
        elif any(key.startswith(path + ".") for key in values):
            changes[item.name] = _replace(getattr(config, item.name), values, path + ".")
    try:
        return dataclasses.replace(config, **changes)
    except InputError as error:  # a part of the config does not know where in the whole it stands
        raise InputError(prefix + str(error)) from error


def _typed(path: str, value: Scalar, wanted: Any) -> Scalar:
    """Check the type; an int is taken for a float, a str for a Path, nothing else is bent."""
    allowed = get_args(wanted)
    if allowed:  # Literal
        if value not in allowed:
            raise InputError(f"{path} = {value!r} is none of {', '.join(map(str, allowed))}.")
        return value
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if not (isinstance(value, Path) if wanted is Path else type(value) is wanted):
        raise InputError(f"{path} = {value!r} is not a {wanted.__name__}.")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise InputError(f"{path} is out of range: allowed is a whole number up to {_LARGEST:,}.")
    return value
