from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from selftrain.data.shares import cut_train, order, require_share, take_share, take_shots
from selftrain.errors import InputError

NAMES = st.sets(st.text(max_size=6), max_size=40).map(sorted)
SEEDS = st.integers(0, 2**32)
FRACTIONS = st.floats(0, 1)


@st.composite
def tables(draw: st.DrawFn) -> tuple[NDArray[np.bool_], list[str]]:
    """Draw which image shows which class, and the images' names."""
    names, classes = draw(NAMES), draw(st.integers(1, 6))
    rows = st.lists(st.booleans(), min_size=classes, max_size=classes)
    table = draw(st.lists(rows, min_size=len(names), max_size=len(names)))
    return np.array(table, dtype=bool).reshape(len(names), classes), names


def test_the_order_is_the_same_on_every_machine() -> None:
    names = ["Zürich 1", "aachen_000001", "b", "c/d", "e"]
    assert order(names, seed=0) == ["Zürich 1", "c/d", "aachen_000001", "e", "b"]
    assert order(names, seed=1) != order(names, seed=0)


def test_a_name_that_is_no_unicode_has_a_place() -> None:
    assert sorted(order(["caf\udce9", "b"], seed=0)) == ["b", "caf\udce9"]


@given(NAMES, SEEDS, st.randoms())
def test_order_depends_on_the_names_and_not_on_where_they_stood(
    names: list[str], seed: int, random: Random
) -> None:
    shuffled = names.copy()
    random.shuffle(shuffled)
    assert order(shuffled, seed=seed) == order(names, seed=seed)
    assert sorted(order(names, seed=seed)) == names


@given(NAMES, SEEDS)
def test_two_names_keep_their_order_whatever_else_is_listed(names: list[str], seed: int) -> None:
    few = names[::2]
    assert order(few, seed=seed) == [n for n in order(names, seed=seed) if n in set(few)]


@given(NAMES, FRACTIONS, FRACTIONS, SEEDS)
def test_a_smaller_share_is_the_beginning_of_a_larger(
    names: list[str], one: float, other: float, seed: int
) -> None:
    small, large = (take_share(names, f, seed=seed) for f in sorted([one, other]))
    assert large[: len(small)] == small


@given(NAMES, FRACTIONS, SEEDS)
def test_a_share_has_its_size_and_at_least_one_name(
    names: list[str], fraction: float, seed: int
) -> None:
    size = len(take_share(names, fraction, seed=seed))
    assert abs(size - fraction * len(names)) <= 0.5 or size == 1
    assert (size > 0) == (fraction > 0 and len(names) > 0)


def test_a_whole_share_is_everything() -> None:
    assert sorted(take_share("abc", 1.0, seed=3)) == ["a", "b", "c"]


@pytest.mark.parametrize("fraction", [-0.1, 1.5])
def test_a_share_beyond_the_whole_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"fraction must lie in \[0, 1\], not {fraction}"):
        take_share(["a"], fraction, seed=0)


def test_shares_spread_over_the_names() -> None:
    names = [f"{i:05d}" for i in range(18000)]
    chosen = np.array([int(name) for name in take_share(names, 0.1, seed=0)])
    counts = np.histogram(chosen, bins=10, range=(0, 18000))[0]
    assert len(chosen) == 1800
    assert counts.min() > 140
    assert counts.max() < 220


@given(tables(), st.integers(1, 5), SEEDS)
def test_each_class_gets_its_shots_or_all_that_it_has(
    case: tuple[NDArray[np.bool_], list[str]], shots: int, seed: int
) -> None:
    has_class, names = case
    chosen = take_shots(has_class, names, shots, seed=seed)
    wanted = np.minimum(shots, has_class.sum(axis=0))
    assert len(set(chosen)) == len(chosen) <= wanted.sum()
    assert (has_class[chosen].sum(axis=0) >= wanted).all()


@given(tables(), st.integers(1, 5), SEEDS)
def test_fewer_shots_are_the_beginning_of_more(
    case: tuple[NDArray[np.bool_], list[str]], shots: int, seed: int
) -> None:
    few = take_shots(*case, shots, seed=seed)
    assert take_shots(*case, shots + 1, seed=seed)[: len(few)] == few


@given(tables(), st.integers(1, 5), SEEDS)
def test_shots_do_not_depend_on_the_order_of_the_rows(
    case: tuple[NDArray[np.bool_], list[str]], shots: int, seed: int
) -> None:
    has_class, names = case
    forward = [names[row] for row in take_shots(has_class, names, shots, seed=seed)]
    turned = names[::-1]
    backward = [turned[row] for row in take_shots(has_class[::-1], turned, shots, seed=seed)]
    assert forward == backward


def test_an_image_of_rare_classes_serves_the_frequent_ones_too() -> None:
    has_class = np.zeros((100, 3), dtype=bool)
    has_class[:, 0] = True  # a road is in every image
    has_class[:20, 1] = True
    has_class[:10, 2] = True  # and whatever shows the rarest shows all three
    chosen = take_shots(has_class, [f"{i}" for i in range(100)], 10, seed=0)
    assert sorted(chosen) == list(range(10))


def test_a_class_that_no_image_shows_is_passed_over() -> None:
    has_class = np.array([[True, False], [True, False]])
    assert len(take_shots(has_class, ["a", "b"], 1, seed=0)) == 1


def test_a_table_of_other_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has_class \(2, 3\) must be 1 names x classes"):
        take_shots(np.ones((2, 3), dtype=bool), ["a"], 1, seed=0)


def test_no_shots_are_refused() -> None:
    with pytest.raises(ValueError, match="shots must be 1 or more, not 0"):
        take_shots(np.ones((1, 1), dtype=bool), ["a"], 0, seed=0)


@given(NAMES, FRACTIONS, FRACTIONS, FRACTIONS, SEEDS)
def test_a_cut_gives_every_name_one_use_and_nested_shares(
    names: list[str], dev: float, one: float, other: float, seed: int
) -> None:
    small, large = (
        cut_train(names, dev_fraction=dev, labelled_fraction=fraction, seed=seed)
        for fraction in sorted([one, other])
    )
    for cut in (small, large):
        assert sorted(cut.labelled + cut.pool + cut.dev) == names
    assert small.dev == large.dev == sorted(take_share(names, dev, seed=seed))
    assert set(small.labelled) <= set(large.labelled)


def test_a_share_that_the_data_set_has_passes() -> None:
    for fraction in (1.0, 0.5, 0.2):
        require_share("Mapillary", fraction, (2, 5))


def test_another_share_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        InputError,
        match=r"Mapillary has no split for labelled_fraction 0\.3: give one of 1, 1/2, 1/5",
    ):
        require_share("Mapillary", 0.3, (2, 5))
