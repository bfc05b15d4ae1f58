"""The words of a command: unknown, of a wrong type, out of range, no numbers at all."""

from collections.abc import Callable

import pytest
import torch

from bad_input.world import Cases, Found, World
from selftrain.knobs import Scalar

CASES = case = Cases()


def refused(
    knob: str, value: Scalar, *words: str, stage: str = "student"
) -> Callable[[World], Found]:
    """Return a case with such a value of a knob, which is named with the others words."""
    return lambda world: (world.scenes(stage, **{knob: value}), [knob, *words])


CASES |= {
    "an_unknown_knob": refused("student.optim.lrr", 1, "did you mean student.optim.lr?"),
    "a_knob_of_no_group": refused("lr", 0.1, "no knob lr", "did you mean"),
    "a_negative_value": refused("student.optim.lr", -0.1, "= -0.1", "above 0"),
    "a_value_of_zero": refused("student.optim.lr", 0, "= 0", "above 0"),
    "a_value_that_is_nan": refused("student.optim.lr", "nan", "= nan", "above 0"),
    "a_value_that_is_infinite": refused("student.optim.lr", "inf", "= inf", "finite"),
    "a_fraction_that_is_nan": refused("data.labelled_fraction", "nan", "= nan", "above 0 to 1"),
    "a_fraction_by_zero": refused("data.labelled_fraction", "1/0", "'1/0'", "such as 0.125 or 1/8"),
    "a_fraction_of_words": refused("data.labelled_fraction", "a/b", "'a/b'", "a number such as"),
    "a_scale_that_is_huge": refused("data.scale", "1e300", "1e+300", "to 16"),
    "a_threshold_of_two": refused("student.select.threshold", 2, "= 2.0", "0 to 1"),
    "a_value_of_the_wrong_type": refused("student.epochs", "many", "'many'", "whole number"),
    "a_fraction_of_an_epoch": refused("student.epochs", "1.5", "'1.5'", "whole number"),
    "epochs_of_many_digits": refused("student.epochs", "9" * 5000, "whole number"),
    "epochs_beyond_counting": refused("student.epochs", 10**30, "out of range", "up to"),
    "a_number_of_epochs_that_fills_the_memory": refused("student.epochs", 2**30, "1 to 1,000,000"),
    "a_seed_that_no_generator_takes": refused("student.seed", 2**64, "out of range", "up to"),
    "a_negative_seed": refused("student.seed", -1, "= -1", "0 or more"),
    "more_scenes_than_there_are": refused("data.scenes.images", 2_000_000, "1 to 1,000,000"),
    "a_crop_that_fills_the_memory": refused("student.crop.size", 10**6, "32 to 16384"),
    "a_batch_of_one": refused("student.optim.batch_size", 1, "2 to 65536"),
    "more_workers_than_any_machine_has": refused("machine.workers", 10**6, "-1 to 1024"),
    "no_bool": refused("pseudo_label.soft", "maybe", "'maybe'", "neither true nor false"),
    "a_choice_that_is_none": refused("student.crop.schedule", "zigzag", "'zigzag'", "coarse2fine"),
    "an_empty_text": refused("machine.outputs", "", "nothing", "1 to 4000 characters"),
    "an_empty_number": refused("student.epochs", "", "''", "whole number"),
    "an_endless_text": refused("pseudo_label.teacher", "x" * 5000, "5000 characters", "1 to 4000"),
    "a_text_that_is_not_utf_8": lambda world: (
        world.scenes("student", **{"machine.outputs": "caf\udce9"}),
        ["machine.outputs=caf\\udce9", "UTF-8"],
    ),
    "scales_that_are_no_numbers": refused(
        "evaluate.inference.scales", "1,nan", "'1,nan'", "numbers from 0.1 to 4"
    ),
    "scales_beyond_counting": refused("evaluate.inference.scales", "1,1e9", "from 0.1 to 4"),
    "a_job_beyond_the_jobs": refused("pseudo_label.shard", "5/4", "'5/4'", "as in 3/16"),
    "scenes_of_an_odd_width": refused("data.scenes.width", 65, "= 65", "even number from 64"),
    "a_teacher_of_its_own_pseudo_labels": refused(
        "teacher.data.pseudo_ratio", 1.0, "= 1.0", "allowed is 0", stage="teacher"
    ),
    "an_unknown_pool": refused("data.pool", "elsewhere", "'elsewhere'", "train_extra"),
    "a_pool_that_is_no_folder": refused("pool", "nowhere", "'nowhere'", "neither a folder nor"),
    "a_sweep_in_another_database": refused(
        "sweep.storage", "mysql://me:hush@host/x", "me:***@host", "write journal", stage="sweep"
    ),
    "an_unknown_sweep": refused("sweep.name", "sweep_all", "sweep_student", stage="sweep"),
    "a_study_that_is_a_path": refused("study.name", "../../etc/passwd", "table", stage="study"),
}


@case
def an_unknown_stage(world: World) -> Found:
    return ["studnet"], ["studnet", "teacher", "student"]


@case
def an_unknown_benchmark(world: World) -> Found:
    return ["student", "--benchmark", "cityscope"], ["cityscope", "scenes", "camvid_small"]


@case
def a_missing_value(world: World) -> Found:
    return ["student", "--student.epochs"], ["--student.epochs", "VALUE"]


@case
def a_word_that_is_no_knob(world: World) -> Found:
    return ["student", "-student.epochs", "3"], ["'-student.epochs'", "--dotted.path value"]


@case
def a_device_that_is_not_there(world: World) -> Found:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    return world.scenes("teacher", **{"machine.device": "cuda"}), [
        "machine.device = cuda",
        "set machine.device to cpu",
    ]
