"""Crop-size schedules (Table 4), batch sizes and the learning-rate factor."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.errors import InputError
from selftrain.schedules import SCHEDULES, batch_size_for, crop_sizes, expected_speedup, poly

RAMPED = SCHEDULES[1:]


def paper(schedule: str, warm_up: float = 0.0) -> list[int]:
    return crop_sizes(schedule, epochs=180, crop_size=800, warm_up=warm_up, cycles=3)


@pytest.mark.parametrize("schedule", RAMPED)
def test_the_paper_schedules_are_1_82_times_as_fast_and_1_67_with_warm_up(schedule: str) -> None:
    assert expected_speedup(paper(schedule), 800) == pytest.approx(1.82, abs=0.005)
    assert expected_speedup(paper(schedule, 20 / 180), 800) == pytest.approx(1.67, abs=0.005)


@pytest.mark.parametrize("schedule", RAMPED)
def test_the_mean_relative_area_is_0_55(schedule: str) -> None:
    areas = [(size / 800) ** 2 for size in paper(schedule)]
    assert sum(areas) / 180 == pytest.approx(0.55, abs=1e-9)


def test_the_ramps_have_the_order_that_their_names_say() -> None:
    up = [320] * 60 + [560] * 60 + [800] * 60
    short_up = [320] * 20 + [560] * 20 + [800] * 20
    assert paper("constant") == [800] * 180
    assert paper("coarse2fine") == up
    assert paper("fine2coarse") == up[::-1]
    assert paper("coarse2fine_plus") == short_up * 3
    assert paper("fine2coarse_plus") == short_up[::-1] * 3


@given(
    epochs=st.integers(0, 400),
    crop_size=st.integers(1, 1024),
    warm_up=st.floats(0, 1),
    cycles=st.integers(1, 10),
    multiple=st.sampled_from([1, 8, 32]),
)
def test_all_four_share_one_multiset_of_sizes_and_last_all_epochs(
    epochs: int, crop_size: int, warm_up: float, cycles: int, multiple: int
) -> None:
    sizes = {
        schedule: crop_sizes(
            schedule,
            epochs=epochs,
            crop_size=crop_size,
            warm_up=warm_up,
            cycles=cycles,
            multiple=multiple,
        )
        for schedule in SCHEDULES
    }
    assert all(len(found) == epochs for found in sizes.values())
    assert len({frozenset(Counter(sizes[schedule]).items()) for schedule in RAMPED}) == 1
    for found in sizes.values():
        assert all(0 < size <= crop_size for size in found)
        assert all(size % multiple == 0 for size in found if size != crop_size)
        assert found[: round(warm_up * epochs)] == [crop_size] * round(warm_up * epochs)


@given(epochs=st.integers(1, 400))
def test_the_three_sizes_come_equally_often(epochs: int) -> None:
    sizes = crop_sizes("coarse2fine_plus", epochs=epochs, crop_size=800, warm_up=0, cycles=4)
    counts = [sizes.count(size) for size in (320, 560, 800)]
    assert max(counts) - min(counts) <= 1


def test_the_schedule_starts_afresh_after_the_warm_up() -> None:
    sizes = crop_sizes("coarse2fine", epochs=12, crop_size=100, warm_up=0.25, cycles=1, multiple=1)
    assert sizes == [100] * 3 + [40] * 3 + [70] * 3 + [100] * 3


def test_an_unknown_schedule_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'up' but must be one of \('constant', "):
        crop_sizes("up", epochs=1, crop_size=8, warm_up=0, cycles=1)


@pytest.mark.parametrize(
    ("epochs", "crop_size", "warm_up", "cycles"),
    [(-1, 8, 0, 1), (1, 0, 0, 1), (1, 8, 0, 0), (1, 8, -0.1, 1), (1, 8, 1.1, 1)],
)
def test_arguments_out_of_range_are_refused(
    epochs: int, crop_size: int, warm_up: float, cycles: int
) -> None:
    with pytest.raises(InputError):
        crop_sizes(
            "coarse2fine", epochs=epochs, crop_size=crop_size, warm_up=warm_up, cycles=cycles
        )


@given(st.integers(1, 800), st.integers(1, 64))
def test_constant_pixels_never_exceed_those_of_full_size(crop_size: int, batch: int) -> None:
    found = batch_size_for(crop_size, full_size=800, batch_size=batch, constant_pixels=True)
    assert found % batch == 0
    assert found >= batch
    assert found * crop_size**2 <= batch * 800**2


def test_batches_grow_only_with_constant_pixels() -> None:
    assert batch_size_for(320, full_size=800, batch_size=16, constant_pixels=False) == 16
    assert batch_size_for(320, full_size=800, batch_size=16, constant_pixels=True) == 96


@given(st.integers(1, 10_000), st.floats(0, 3))
def test_poly_falls_from_one_to_zero(total: int, power: float) -> None:
    factors = [poly(step, total_steps=total, power=power) for step in (0, total // 2, total)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == (power == 0)


def test_poly_follows_its_formula_and_stays_in_range_outside_it() -> None:
    assert poly(25, total_steps=100, power=0.9) == pytest.approx(0.75**0.9)
    assert poly(101, total_steps=100, power=0.9) == 0
    assert poly(-1, total_steps=100, power=0.9) == 1
    with pytest.raises(InputError):
        poly(0, total_steps=0, power=0.9)
