"""What runs are called."""

import pytest

from selftrain.benchmarks import benchmark
from selftrain.config import Config
from selftrain.knobs import Scalar, override
from selftrain.pipeline import control_config
from selftrain.run_names import fraction, name_labels, name_training


def student(values: dict[str, Scalar], name: str = "scenes") -> str:
    config = override(benchmark(name), {f"student.{knob}": v for knob, v in values.items()})
    return name_training("student", config.student, benchmark(name).student)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "student 1:1 CS s0"),
        (
            {"data.pseudo_ratio": 3.0, "crop.schedule": "coarse2fine_plus"},
            "student 1:3 CS coarse2fine_plus s0",
        ),
        ({"sampling.centroid_fraction": 0.0, "seed": 2}, "student 1:1 without CS s2"),
        ({"sampling.scope": "pseudo"}, "student 1:1 CS of pseudo s0"),
        ({"select.rule": "cbst", "select.share": 0.5}, "student 1:1 CS cbst 0.5 s0"),
        ({"select.threshold": 0.9}, "student 1:1 CS from 0.9 s0"),
        (
            {"select.images": "confidence", "select.images_share": 0.25},
            "student 1:1 CS confidence 0.25 s0",
        ),
        ({"data.pseudo_ratio": 0.0, "data.repeat": 4.0}, "student x4 CS s0"),
        (
            {"network.name": "pspnet", "network.backbone": "resnet50"},
            "student 1:1 CS pspnet resnet50 s0",
        ),
    ],
)
def test_a_student_is_called_by_what_tells_it_from_others(
    values: dict[str, Scalar], name: str
) -> None:
    assert student(values) == name


def test_a_network_is_named_only_where_it_is_not_the_benchmarks_own() -> None:
    assert student({}, "cityscapes") == "student 1:7 CS s0"
    other = student({"network.backbone": "resnet101"}, "cityscapes")
    assert other == "student 1:7 CS deeplabv3plus resnet101 s0"


def test_the_teacher_and_the_control_say_how_many_crops_they_see() -> None:
    usual: Config = benchmark("camvid_small")
    assert name_training("teacher", usual.teacher, usual.teacher) == "teacher CS s0"
    control = control_config(usual.student)
    assert name_training("control", control, usual.student) == "control x2 CS s0"


def test_labels_name_their_one_teacher_or_count_them() -> None:
    assert name_labels("pseudo labels", ["teacher s0"]) == "pseudo labels of teacher s0"
    assert name_labels("pseudo labels", ["run a", "run b"]) == "pseudo labels of 2 teachers"


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.125, "1/8"), (1 / 30, "1/30"), (0.5, "1/2"), (1.0, "1"), (0.1234, "0.1234")],
)
def test_a_share_is_said_as_a_fraction_where_it_is_one(share: float, said: str) -> None:
    assert fraction(share) == said
