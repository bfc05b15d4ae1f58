"""Runs that are named to go on from, and are not there, not finished, or something else."""

import pytest

from bad_input.world import FEW, Cases, Found, World
from selftrain import tracking
from selftrain.pipeline import EVALUATE
from selftrain.trained_runs import TRAIN

CASES = case = Cases()


@case
def a_teacher_that_is_not_finished(world: World) -> Found:
    tracking.connect()
    with pytest.raises(KeyboardInterrupt), tracking.stage_run("train", "teacher", "0" * 16) as run:
        raise KeyboardInterrupt
    return world.scenes("pseudo_label", **{"pseudo_label.teacher": run.run_id}), [
        run.run_id,
        "not FINISHED",
        "again",
    ]


@case
def a_teacher_of_other_classes(world: World) -> Found:
    run_id = world.product(TRAIN, FEW)
    return world.scenes("pseudo_label", **{"pseudo_label.teacher": run_id}), [
        run_id,
        "2 classes road, car",
        "same classes",
    ]


@case
def a_teacher_that_does_not_exist(world: World) -> Found:
    return world.scenes("pseudo_label", **{"pseudo_label.teacher": "f" * 32}), [
        "no run " + "f" * 32,
        "mlflow.db",
        "MLFLOW_TRACKING_URI",
    ]


@case
def a_teacher_of_another_stage(world: World) -> Found:
    run_id = world.product(EVALUATE, FEW)
    return world.scenes("pseudo_label", **{"pseudo_label.teacher": run_id}), [
        run_id,
        "stage evaluate",
        "train",
    ]


@case
def a_teacher_that_is_no_stage(world: World) -> Found:
    tracking.connect()
    with tracking.parent_run("teacher") as run:
        pass
    return world.scenes("pseudo_label", **{"pseudo_label.teacher": run.run_id}), [
        run.run_id,
        "selftrain.key",
    ]


@case
def a_model_to_evaluate_of_other_classes(world: World) -> Found:
    run_id = world.product(TRAIN, FEW)
    return world.scenes("evaluate", **{"evaluate.model": run_id}), [run_id, "2 classes"]


@case
def a_model_uri_that_leads_nowhere(world: World) -> Found:
    world.picture()
    return world.predict("models:/nothing@best"), ["models:/nothing@best"]


@case
def a_run_that_is_a_path(world: World) -> Found:
    world.picture()
    return world.predict("runs:/../../etc"), ["runs:/../../etc"]


@case
def a_run_with_a_name_that_is_too_long_for_a_file(world: World) -> Found:
    world.picture()
    return world.predict("x" * 300), ["no run " + "x" * 300]


@case
def pseudo_labels_of_a_run_that_does_not_exist(world: World) -> Found:
    return ["inspect_pseudo_labels", f"--labels={'f' * 32}"], ["no run " + "f" * 32]


@case
def a_lineage_of_a_run_that_does_not_exist(world: World) -> Found:
    return ["lineage", "f" * 32], ["no run " + "f" * 32, "MLFLOW_TRACKING_URI"]


@case
def a_lineage_of_a_command_that_made_something(world: World) -> Found:
    tracking.connect()
    with tracking.parent_run("teacher") as run:
        run.set_tags({tracking.PRODUCT_TAG: "0123"})
    return ["lineage", f"runs:/{run.run_id}"], [run.run_id, "selftrain.key", "made is run 0123"]


@case
def a_lineage_drawn_into_a_file_that_is_no_picture(world: World) -> Found:
    return ["lineage", "f" * 32, "--output=chain.docx"], ["lineage.output = chain.docx", ".png"]
