"""Which images a share holds: seeded, nested, and decided by the names alone.

A name's place is the BLAKE2b digest of seed and name. No generator of numbers is involved, so a
list is the same with every library version and on every machine. A share is the beginning of that
order, hence a smaller one lies within a larger.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selftrain.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The names of a train split by what they may be used for, each list sorted."""

    labelled: list[str]
    pool: list[str]
    dev: list[str]


def order(names: Iterable[str], *, seed: int) -> list[str]:
    """Return the names in the seeded order; where they stood before does not matter.

    Two names keep their order whatever else is in the list.
    """
    return sorted(names, key=lambda name: (_place(name, seed), name))


def take_share(names: Iterable[str], fraction: float, *, seed: int) -> list[str]:
    """Return the first names of the seeded order.

    Args:
        names: Any number, each once.
        fraction: In [0, 1]; the share is rounded to whole names, and is one name at least where
            there is one and the fraction is above 0.
        seed: Another seed gives another share.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie in [0, 1], not {fraction}")
    ordered = order(names, seed=seed)
    size = max(1, round(fraction * len(ordered))) if fraction else 0
    return ordered[:size]


def take_shots(
    has_class: NDArray[np.bool_], names: Sequence[str], shots: int, *, seed: int
) -> list[int]:
    """Choose images so that every class is seen in `shots` of them (Figure 3: ten).

    The rule: in round 1, 2, ... `shots`, for each class from the rarest to the most frequent: if
    fewer of the chosen images show the class than the round's number, take the first image of the
    seeded order that shows it and is not chosen yet. Rare classes go first because their images
    show the frequent ones too, which keeps the total far below classes x shots.

    Args:
        has_class: (N, K), True where image n shows class k.
        names: The N images' names; their order does not matter.
        shots: Images wanted for each class, 1 or more. A class that fewer images show gets all of
            them, one that none shows is passed over.
        seed: Another seed gives other images.

    Returns:
        Rows of `has_class` in the order of their choice: fewer shots give the beginning of it.
    """
    if has_class.ndim != 2 or len(has_class) != len(names):
        raise ValueError(f"has_class {has_class.shape} must be {len(names)} names x classes")
    if shots < 1:
        raise ValueError(f"shots must be 1 or more, not {shots}")
    rows = sorted(range(len(names)), key=lambda row: (_place(names[row], seed), names[row]))
    walk = np.array(rows, dtype=np.intp)
    rarest_first = np.argsort(has_class.sum(axis=0), kind="stable").tolist()
    # One walk for each class. It goes on where it stopped: whatever it passed is chosen.
    walks = {k: iter(walk[has_class[walk, k]].tolist()) for k in rarest_first}

    chosen: dict[int, None] = {}  # keeps the order of choice
    seen = np.zeros(has_class.shape[1], dtype=np.int64)
    for wanted in range(1, shots + 1):
        for k in rarest_first:
            if seen[k] >= wanted:
                continue
            row = next((row for row in walks[k] if row not in chosen), None)
            if row is not None:
                chosen[row] = None
                seen += has_class[row]
    return list(chosen)


def cut_train(
    names: Iterable[str], *, dev_fraction: float, labelled_fraction: float, seed: int
) -> Cut:
    """Cut the names of a train split into dev, labelled and pool.

    dev is a share of all names and does not depend on `labelled_fraction`. The labelled ones are
    a share of the rest, so those of a smaller fraction lie within those of a larger.
    """
    names = set(names)
    dev = take_share(names, dev_fraction, seed=seed)
    rest = names.difference(dev)
    labelled = take_share(rest, labelled_fraction, seed=seed)
    return Cut(labelled=sorted(labelled), pool=sorted(rest.difference(labelled)), dev=sorted(dev))


def require_share(title: str, fraction: float, denominators: Sequence[int]) -> None:
    """Raise InputError unless the fraction is 1 or one of the data set's shares.

    Args:
        title: The data set, as the sentence names it.
        fraction: What the user asked for.
        denominators: 2 stands for 1/2, and so on.
    """
    if fraction != 1 and fraction not in [1 / number for number in denominators]:
        allowed = ", ".join(["1", *(f"1/{number}" for number in denominators)])
        raise InputError(
            f"{title} has no split for labelled_fraction {fraction:g}: give one of {allowed}."
        )


def _place(name: str, seed: int) -> bytes:
    # A file name that is no valid UTF-8 reaches us with surrogates in it.
    text = f"{seed}\t{name}".encode(errors="surrogateescape")
    return hashlib.blake2b(text, digest_size=16).digest()
