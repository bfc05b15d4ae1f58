"""What a sweep searches, as data: knobs and the values that each may take.

A name with a dot is a knob. A name without one only chooses between `Cases`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from selftrain import experiment_files
from selftrain.errors import InputError
from selftrain.knobs import Scalar, override

Option: TypeAlias = str | int | float | bool


@dataclass(frozen=True)
class Choice:
    """One of some values without an order."""

    options: Sequence[Option]


@dataclass(frozen=True)
class Cases:
    """One of some values, each with what is searched only where it is taken."""

    options: "Mapping[Option, Space]"


@dataclass(frozen=True)
class Uniform:
    """A number between two others, both included."""

    low: float
    high: float


@dataclass(frozen=True)
class LogUniform:
    """A number above 0 whose logarithm is uniform: for what counts by factors."""

    low: float
    high: float


@dataclass(frozen=True)
class Whole:
    """A whole number between two others, both included."""

    low: int
    high: int


Space: TypeAlias = Mapping[str, Choice | Cases | Uniform | LogUniform | Whole]


def space_names() -> list[str]:
    """Return the names of the sweeps in `experiments/`."""
    return [name for name in experiment_files.names() if name.startswith("sweep")]


def load_space(name: str) -> Space:
    """Return the space of a sweep by the name of its file.

    Raises:
        InputError: there is no such sweep.
    """
    if name not in (names := space_names()):
        raise InputError(f"sweep.name = {name} is no sweep; there are {', '.join(names)}.")
    found: Space = experiment_files.load(name).SPACE
    return found


def require_valid(space: Space, config: object, where: str) -> None:
    """Check that a config can take every value of the space, before hours are spent on it.

    Args:
        space: Is searched.
        config: The config dataclass whose knobs it names.
        where: The space, as the user knows it.

    Raises:
        InputError: a knob is unknown, or the config refuses an end of a range or an option.
    """
    for corner in _corners(space):
        try:
            override(config, corner)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error


def _corners(space: Space) -> Iterator[Mapping[str, Scalar]]:
    """Yield the ends of every range and every option, one knob at a time."""
    for name, values in space.items():
        is_knob = "." in name
        if isinstance(values, Cases):
            for option, below in values.options.items():
                chosen: dict[str, Scalar] = {name: option} if is_knob else {}
                yield chosen
                yield from ({**chosen, **corner} for corner in _corners(below))
        elif isinstance(values, Choice):
            yield from ({name: option} for option in values.options if is_knob)
        else:
            yield from ({name: end} for end in (values.low, values.high))
