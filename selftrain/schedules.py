"""How crop size, batch size and learning rate change while training (paper, section 3.3, Table 4).

Training on small crops in some epochs is nearly twice as fast. The paper's figure with the
exact sizes is not available; its speed-ups (1.8x, with a warm-up 1.7x, the same for all four
schedules) fit three sizes in equal thirds that differ in their order alone.
"""

from collections.abc import Sequence

from selftrain.errors import InputError

SCHEDULES = ("constant", "coarse2fine", "fine2coarse", "coarse2fine_plus", "fine2coarse_plus")

RELATIVE_SIZES = (0.4, 0.7, 1.0)
"""Crop sizes of a schedule, small to full, as fractions of the full crop size."""


def crop_sizes(
    schedule: str,
    *,
    epochs: int,
    crop_size: int,
    warm_up: float,
    cycles: int,
    multiple: int = 8,
) -> list[int]:
    """Return the crop size of each epoch (Table 4).

    All four schedules hold the same sizes equally often, whatever the number of epochs, so
    they cost the same: `coarse2fine` runs from small to full, `fine2coarse` back, and the
    "plus" variants repeat that ramp `cycles` times.

    The warm-up *replaces* epochs: training starts with `warm_up` of its epochs at full size,
    and the whole schedule is played in the epochs that are left. So the warm-up shortens
    each size's share alike, and all four schedules still cost the same, as in Table 4
    (replacing the schedule's first epochs one for one would cost `coarse2fine` more and
    `fine2coarse` nothing).

    Args:
        schedule: One of `SCHEDULES`; "constant" is the full size throughout.
        epochs: Length of the training, at least 0.
        crop_size: The full size, in pixels; kept as it is.
        warm_up: Share of the epochs at full size before the schedule starts, in [0, 1]
            (paper: 20 of 180).
        cycles: Ramps in a "plus" schedule, at least 1.
        multiple: The smaller sizes are rounded to a multiple of this many pixels.

    Raises:
        InputError: unknown schedule or an argument out of range.
    """
    if schedule not in SCHEDULES:
        raise InputError(f"The crop schedule is {schedule!r} but must be one of {SCHEDULES}.")
    if not 0 <= warm_up <= 1:
        raise InputError(f"warm_up is {warm_up} but must lie in [0, 1].")
    if epochs < 0 or min(crop_size, cycles, multiple) < 1:
        raise InputError(
            f"A crop schedule needs epochs >= 0 and crop_size, cycles, multiple >= 1, not "
            f"{epochs}, {crop_size}, {cycles}, {multiple}."
        )
    if schedule == "constant":
        return [crop_size] * epochs
    warm = round(warm_up * epochs)
    ramps = cycles if schedule.endswith("_plus") else 1
    sizes: list[int] = []
    for ramp in range(ramps):
        for size, count in _multiset(epochs - warm, crop_size, multiple):
            sizes += [size] * ((ramp + 1) * count // ramps - ramp * count // ramps)
    if schedule.startswith("fine"):
        sizes.reverse()
    return [crop_size] * warm + sizes


def _multiset(epochs: int, crop_size: int, multiple: int) -> list[tuple[int, int]]:
    # One epoch more than thirds goes to the middle size, two go to the outer ones: so the
    # mean area stays as near to that of exact thirds as it can.
    third, left = divmod(epochs, 3)
    counts = (third + (left == 2), third + (left == 1), third + (left == 2))
    sizes = [_round_to(fraction * crop_size, multiple) for fraction in RELATIVE_SIZES[:-1]]
    return list(zip([min(size, crop_size) for size in sizes] + [crop_size], counts, strict=True))


def _round_to(value: float, multiple: int) -> int:
    return max(1, int(value / multiple + 0.5)) * multiple


def expected_speedup(sizes: Sequence[int], full: int) -> float:
    """Return how much faster a schedule is at most than `full`-size crops: the ratio of areas."""
    return len(sizes) * full**2 / sum(size**2 for size in sizes)


def batch_size_for(
    crop_size: int, *, full_size: int, batch_size: int, constant_pixels: bool
) -> int:
    """Return the number of crops in a batch at this crop size.

    Args:
        crop_size: Side of the crops, in pixels.
        full_size: Side that `batch_size` was chosen for, in pixels.
        batch_size: Crops in a batch at full size, of all ranks together.
        constant_pixels: Whether smaller crops make larger batches, with at most as many pixels
            as at full size. The learning rate should then grow by the same factor.

    Returns:
        A whole multiple of `batch_size`: what divides the one into ranks and accumulation
        steps divides the other.
    """
    if not constant_pixels:
        return batch_size
    return batch_size * max(1, full_size**2 // crop_size**2)


def poly(step: int, *, total_steps: int, power: float) -> float:
    """Return the learning-rate factor (1 - step / total_steps) ** power, in [0, 1].

    Steps outside 0..total_steps count as the nearer end.
    """
    if total_steps < 1:
        raise InputError(f"total_steps is {total_steps} but must be at least 1.")
    left = 1 - min(max(step, 0), total_steps) / total_steps
    return float(left**power)
