from collections.abc import Mapping

import pytest

from selftrain.config import Config
from selftrain.errors import InputError
from selftrain.space import (
    Cases,
    Choice,
    LogUniform,
    Space,
    Uniform,
    Whole,
    load_space,
    require_valid,
    space_names,
)

HERE = "experiments/sweep_x.py"


def test_a_space_within_the_knobs_ranges_is_valid() -> None:
    space: Space = {
        "student.optim.name": Choice(["sgd", "adamw"]),
        "student.optim.lr": LogUniform(1e-4, 1e-1),
        "student.epochs": Whole(1, 3),
        "what": Cases({"a": {"student.select.threshold": Uniform(0.0, 1.0)}, "b": {}}),
    }
    require_valid(space, Config(), HERE)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"student.optim.rl": LogUniform(1e-4, 1e-1)}, ["student.optim.rl", "student.optim.lr"]),
        ({"student.sampling.centroid_fraction": Uniform(0.5, 1.5)}, ["1.5", "0 to 1"]),
        ({"student.epochs": Whole(0, 3)}, ["epochs = 0", "1 to 1,000,000"]),
        ({"student.optim.name": Choice(["sgd", "lion"])}, ["lion", "adamw"]),
        ({"student.epochs": Uniform(1.0, 3.0)}, ["student.epochs", "int"]),
        (
            {"what": Cases({"a": {}, "b": {"student.select.threshold": Uniform(0.0, 2.0)}})},
            ["threshold = 2.0", "0 to 1"],
        ),
        ({"student.crop.schedule": Cases({"constant": {}, "wild": {}})}, ["wild", "coarse2fine"]),
    ],
)
def test_what_a_knob_refuses_is_named_with_the_space_that_asks_for_it(
    space: Mapping[str, Choice | Cases | Uniform | LogUniform | Whole], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        require_valid(space, Config(), HERE)
    assert all(word in str(caught.value) for word in [HERE, *words])


def test_an_unknown_sweep_is_refused_with_the_names_of_those_that_exist() -> None:
    assert "sweep_student" in space_names()
    with pytest.raises(InputError, match=r"sweep\.name = sweep_teacher .* sweep_student"):
        load_space("sweep_teacher")
