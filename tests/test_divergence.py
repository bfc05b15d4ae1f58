"""A loss or a gradient that is no number is found, with its step."""

import math
from pathlib import Path

import pytest
import torch

from selftrain.data.plan import Crop
from selftrain.data.sample import Sample
from selftrain.divergence import Watch, name_crops

CPU = torch.device("cpu")


def watch(*steps: tuple[float, float]) -> Watch:
    """Note a loss and the norm of a gradient for each step."""
    found = Watch(CPU)
    for loss, norm in steps:
        found.note(torch.tensor(loss), torch.tensor(norm))
    return found


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps() -> None:
    sight = watch((1.0, 5.0), (2.0, 5.0), (6.0, 5.0)).look()
    assert (sight.loss, sight.bad_step) == (3.0, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_loss_is_kept(bad: float) -> None:
    sight = watch((1.0, 1.0), (bad, 1.0), (2.0, 1.0), (math.nan, math.nan)).look()
    assert sight.bad_step == 1
    assert repr(sight.bad_loss) == repr(bad)


def test_a_bad_gradient_of_a_good_loss_is_found() -> None:
    sight = watch((1.0, 1.0), (2.0, 1.0), (3.0, math.nan)).look()
    assert (sight.bad_step, sight.bad_loss) == (2, 3.0)


def test_on_the_cpu_a_glance_sees_all_there_is() -> None:
    found = watch((1.0, 1.0))
    first = found.glance()
    found.note(torch.tensor(math.nan), torch.tensor(1.0))
    second = found.glance()
    assert first is not None
    assert second is not None
    assert (first.bad_step, second.bad_step) == (None, 1)


def test_ten_crops_are_named_and_the_others_counted(tmp_path: Path) -> None:
    samples = [Sample(f"image {number}", tmp_path) for number in range(12)]
    crops = [Crop(number, None, None, 32, 100 + number) for number in range(12)]
    crops[1] = Crop(1, (7, 8), 0, 32, 101)
    text = name_crops(crops, samples)
    assert text.startswith(
        "image 0 anywhere with seed 100; image 1 around (7, 8) with seed 101; image 2 anywhere"
    )
    assert text.endswith("image 9 anywhere with seed 109; and 2 more")
    assert name_crops(crops[:10], samples).endswith("with seed 109")
