"""Registered models: one version a network, aliases that follow, a champion that must win."""

import multiprocessing
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import mlflow
import numpy as np
import pytest
from miniature import random_network
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from stage_runs import CLASSES, finished_run, key_of

from selftrain import delivery, model_versions, tracking
from selftrain.actions import ACTIONS
from selftrain.benchmarks import benchmark
from selftrain.config import Config
from selftrain.errors import InputError
from selftrain.knobs import override
from selftrain.locks import FileLock
from selftrain.pipeline import Pipeline
from selftrain.registry import CONTROL, FINETUNED, STUDENT, TEACHER, register, renew_card
from selftrain.spool import Message
from selftrain.tracking import Registration

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["selftrain.tracking"])
MODEL = "selftrain-scenes"
SCENES = benchmark("scenes")
DEV = "d" * 16

Train = Callable[..., str]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_network(tmp_path_factory.mktemp("network"), CLASSES)


@pytest.fixture
def train(store: str, network: Path) -> Train:
    """`train(name, miou)`: a finished training that has reached that on dev, and its run's id."""
    tracking.connect()

    def trained(
        name: str,
        miou: float | None = None,
        *,
        dev: str = DEV,
        role: str = "student",
        upstream: Mapping[str, str] | None = None,
        params: Mapping[str, object] | None = None,
    ) -> str:
        return finished_run(
            role,
            key=key_of(name),
            upstream=upstream,
            data={"real": ("a" * 16, 4), "dev": (dev, 2)},
            metrics={} if miou is None else {"dev/mIoU": miou, "dev/IoU/road": miou},
            params={
                "data.dataset": "scenes",
                "data.scale": 1.0,
                "student.seed": 0,
                **(params or {}),
            },
            network=network,
        )

    return trained


def add(run_id: str, role: str = STUDENT, config: Config = SCENES) -> None:
    register(config, CLASSES.names, [(run_id, role)])


def versions(name: str = MODEL) -> list[ModelVersion]:
    """Return all versions with their tags and aliases, the oldest first."""
    client = MlflowClient()
    found = client.search_model_versions(f"name = '{name}'")
    whole = [client.get_model_version(name, it.version) for it in found]
    return sorted(whole, key=lambda version: int(version.version))


def alias(name: str) -> int | None:
    """Return the version that an alias names."""
    found = MlflowClient().get_registered_model(MODEL).aliases.get(name)
    return None if found is None else int(found)


def test_the_command_student_registers_teacher_and_student_once(
    store: str, tiny: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking.connect(tiny.machine.outputs)
    for _ in range(2):  # the second finds both by their keys
        pipeline = Pipeline(tiny)
        with tracking.parent_run("student") as parent:
            ACTIONS["student"](pipeline, parent)
    teacher, student = versions()
    assert [teacher.run_id, student.run_id] == [pipeline.teacher.run_id, pipeline.student.run_id]
    assert (alias("teacher"), alias("student")) == (1, 2)
    assert teacher.tags["selftrain.role"] == "teacher"
    assert student.tags["selftrain.key"] == pipeline.student.key
    assert tracking.finished(f"models:/{MODEL}@student").run_id == pipeline.student.run_id
    model = mlflow.pyfunc.load_model(f"models:/{MODEL}@student")
    assert model.predict(np.zeros((1, 32, 64, 3), np.uint8)).shape == (1, 32, 64)
    said = capsys.readouterr().out
    assert (
        said.count(f"{MODEL}: version 2 is student {pipeline.student.key[:6]}, registered\n") == 1
    )
    assert said.count("registered before\n") == 2
    better = student.tags["selftrain.dev_miou"] > teacher.tags["selftrain.dev_miou"]
    assert alias("champion") == (2 if better else 1)
    assert list((tiny.machine.outputs / "spool").iterdir()) == []


def test_a_card_says_what_a_network_is_from_what_it_was_made_and_what_it_has_reached(
    store: str, tiny: Config
) -> None:
    tracking.connect(tiny.machine.outputs)
    pipeline = Pipeline(tiny)
    with tracking.parent_run("student") as parent:
        ACTIONS["student"](pipeline, parent)
    card = versions()[1].description
    experiment = mlflow.get_run(pipeline.student.run_id).info.experiment_id
    for product in (pipeline.pseudo_labels, pipeline.teacher):
        assert f"{product.key}](#/experiments/{experiment}/runs/{product.run_id})" in card
    for text in (
        "**Student** for the benchmark scenes: fast_scnn, 1 epochs",
        f"4 images of scenes (0.5 of train), digest `{pipeline.data.labelled_digest}`",
        f"pool: 4 images, digest `{pipeline.data.pool_digest}`",
        "4 of 4 images, 100.0 % of their pixels; 1.0 pseudo-labelled crops for each real one",
        "drawn by this program: Apache-2.0",
        "| class | IoU on dev |",
    ):
        assert text in card, text
    measured = tracking.finished(pipeline.student.run_id).metrics
    assert f"| road | {100 * measured['dev/IoU/road']:.2f} |" in card
    assert "test" not in card

    with tracking.parent_run("evaluate") as parent:
        ACTIONS["evaluate"](pipeline, parent)
    measured = mlflow.get_run(parent.run_id).data.metrics
    card = versions()[1].description
    assert f"test mIoU {100 * measured['test/mIoU']:.2f}]" in card
    assert "On evaluation splits** (measured by `evaluate`; nothing was chosen by them)" in card
    assert len(versions()) == 2


def test_the_champion_moves_only_when_dev_rises_and_it_is_said(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, miou in {"a": 0.38, "b": 0.412, "c": 0.4, "d": 0.412}.items():
        add(train(name, miou))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("champion")]
    assert said == [
        f"champion of {MODEL}: version 1 (dev mIoU 38.00), the first",
        f"champion of {MODEL}: version 2 (dev mIoU 41.20) replaces version 1 (38.00)",
        f"champion of {MODEL}: stays version 2 (dev mIoU 41.20); version 3 (dev mIoU 40.00) is "
        "not better",
        f"champion of {MODEL}: stays version 2 (dev mIoU 41.20); version 4 (dev mIoU 41.20) is "
        "not better",
    ]
    assert (alias("champion"), alias("student")) == (2, 4)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"dev": "e" * 16}, "digest"),
        ({"params": {"data.scale": 0.5}}, "scale"),
        ({"params": {"data.short_side": 720}}, "short_side"),
    ],
)
def test_what_was_measured_on_another_dev_split_is_not_compared_and_that_is_said(
    other: Mapping[str, object], what: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    add(train("a", 0.3))
    add(train("b", 0.9, **other))
    assert alias("champion") == 1
    said = capsys.readouterr().out
    assert f"(dev mIoU 90.00) was measured on another dev split ({what})" in said


def test_with_other_classes_dev_is_another_one(train: Train) -> None:
    add(train("a", 0.3))
    register(SCENES, ("road", "bus"), [(train("b", 0.9), STUDENT)])
    assert alias("champion") == 1


def test_what_was_not_measured_on_dev_is_never_champion(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    add(train("a"))
    assert alias("champion") is None
    assert "none, for version 1 was not measured on dev" in capsys.readouterr().out
    add(train("b", 0.1))
    add(train("c"))
    assert alias("champion") == 2
    assert "version 3 was not measured on dev" in capsys.readouterr().out


def test_a_champion_that_was_registered_by_hand_is_measured_by_its_run(train: Train) -> None:
    client = MlflowClient()
    by_hand = train("a", 0.5)
    mlflow.register_model(f"runs:/{by_hand}/model", MODEL)
    client.set_registered_model_alias(MODEL, "champion", "1")
    add(train("b", 0.4))
    assert alias("champion") == 1
    add(train("c", 0.6))
    assert alias("champion") == 3


def test_a_version_made_by_hand_of_the_same_run_is_the_runs_version(train: Train) -> None:
    run_id = train("a", 0.5)
    mlflow.register_model(f"runs:/{run_id}/model", MODEL)
    add(run_id)
    assert len(versions()) == 1
    assert alias("student") == 1
    assert "**Student**" in versions()[0].description


def test_the_champion_that_a_user_has_chosen_stays_until_something_better_comes(
    train: Train,
) -> None:
    for name, miou in {"a": 0.3, "b": 0.5}.items():
        add(train(name, miou))
    MlflowClient().set_registered_model_alias(MODEL, "champion", "1")
    add(train("c", 0.2))
    assert alias("champion") == 1
    add(train("d", 0.4))
    assert alias("champion") == 4


def test_several_teachers_are_registered_and_leave_the_alias_where_it_is(train: Train) -> None:
    first, second, third = (train(name, 0.3, role="teacher") for name in "abc")
    add(first, TEACHER)
    labels = finished_run(
        "pseudo labels", stage="pseudo_label", upstream={"teacher": f"{second}+{third}"}
    )
    student = train("s", 0.4, upstream={"pseudo_labels": labels})
    add(student)
    assert [version.run_id for version in versions()] == [first, second, third, student]
    assert (alias("teacher"), alias("student")) == (1, 4)


def test_the_teacher_of_a_second_round_is_a_student_and_gets_both_names(train: Train) -> None:
    student = train("s", 0.4)
    add(student)
    labels = finished_run("pseudo labels", stage="pseudo_label", upstream={"teacher": student})
    add(train("t", 0.5, upstream={"pseudo_labels": labels}))
    assert len(versions()) == 2
    assert (alias("teacher"), alias("student"), alias("champion")) == (1, 2, 2)


def test_a_control_that_is_the_teacher_itself_is_one_version_with_its_alias(train: Train) -> None:
    teacher, student, control = train("a", 0.3), train("b", 0.4), train("c", 0.5)
    networks = [(teacher, TEACHER), (teacher, CONTROL), (student, STUDENT)]
    register(SCENES, CLASSES.names, networks)
    assert [version.run_id for version in versions()] == [teacher, student]
    assert (alias("teacher"), alias("student"), alias("champion")) == (1, 2, 2)
    add(control, CONTROL)
    assert alias("champion") == 3
    assert sorted(MlflowClient().get_registered_model(MODEL).aliases) == [
        "champion",
        "student",
        "teacher",
    ]


def test_a_fine_tuned_network_may_be_champion_and_has_no_name_of_its_own(train: Train) -> None:
    add(train("a", 0.3))
    add(train("b", 0.4), FINETUNED)
    assert (alias("student"), alias("champion")) == (1, 2)


def test_every_benchmark_has_a_model_of_its_own(train: Train) -> None:
    run_id = train("a", 0.3)
    add(run_id)
    add(run_id, config=benchmark("camvid"))
    assert [version.run_id for version in versions("selftrain-camvid")] == [run_id]
    assert len(versions()) == 1


def test_registration_can_be_turned_off(train: Train) -> None:
    off = override(SCENES, {"machine.register": False})
    add(train("a", 0.3), config=off)
    renew_card(off, train("a", 0.3))
    assert MlflowClient().search_registered_models() == []


def test_an_alias_follows_the_command_that_asked_last_whoever_was_trained_last(
    train: Train,
) -> None:
    old, new = train("a", 0.3), train("b", 0.4)
    add(old)
    add(new)
    assert alias("student") == 2
    add(old)
    assert alias("student") == 1


def test_what_is_delivered_late_moves_no_alias_back(train: Train) -> None:
    old, new = train("a", 0.3), train("b", 0.4)
    late = Registration(name=MODEL, role="student", alias="student", description="late", asked=1)
    add(new)
    tracking.Run(old).register(late)
    assert [version.run_id for version in versions()] == [new, old]
    assert alias("student") == 1


def test_an_edited_description_stays_and_one_that_nobody_has_touched_is_renewed(
    train: Train,
) -> None:
    client, (edited, other) = MlflowClient(), (train("a", 0.3), train("b", 0.4))
    add(edited)
    add(other)
    client.update_model_version(MODEL, "1", versions()[0].description + " Mine.")
    for run_id in (edited, other):
        finished_run(
            "evaluate student",
            stage="evaluate",
            key=key_of(f"evaluate {run_id}"),
            upstream={"model": run_id},
            metrics={"test/mIoU": 0.123},
        )
        renew_card(SCENES, run_id)
    mine, renewed = (version.description for version in versions())
    assert mine.endswith(" Mine.")
    assert "12.30" not in mine
    assert "test mIoU 12.30" in renewed


def test_what_is_not_registered_gets_no_card(train: Train) -> None:
    renew_card(SCENES, train("a", 0.3))
    assert MlflowClient().search_registered_models() == []


def test_no_description_is_longer_than_a_store_takes(train: Train) -> None:
    text = Registration(name=MODEL, role="student", description="ä" * 9000, asked=1)
    run_id = train("a", 0.3)
    tracking.Run(run_id).register(text)
    assert len(versions()[0].description) == 5000
    add(run_id)  # it is still known as nobody's edit
    assert "**Student**" in versions()[0].description


def test_a_run_without_a_model_is_named_with_the_cure(store: str, tmp_path: Path) -> None:
    tracking.connect()
    run_id = finished_run("student", key=key_of("empty"))
    with pytest.raises(InputError, match=rf"Run {run_id} has no model .*mlflow runs delete"):
        add(run_id)


@pytest.mark.parametrize(
    "step",
    [
        "create_registered_model",
        "create_model_version",
        "set_model_version_tag",
        "set_registered_model_alias",
    ],
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_registration_that_dies_at_any_step_is_finished_by_the_next_command(
    step: str, moment: str, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = train("a", 0.3)
    real = getattr(MlflowClient, step)

    def die(client: MlflowClient, *args: object, **named: object) -> None:
        if moment == "after":
            real(client, *args, **named)
        raise SystemExit

    monkeypatch.setattr(MlflowClient, step, die)
    with pytest.raises(SystemExit):
        add(run_id)
    monkeypatch.setattr(MlflowClient, step, real)
    tracking.connect()  # leaves what waits, as the end of the process does
    with tracking.parent_run("student"):
        pass
    (version,) = versions()
    assert version.run_id == run_id
    assert (alias("student"), alias("champion")) == (1, 1)
    assert version.description
    assert list(Path("outputs/spool").iterdir()) == []


def test_a_registration_may_be_delivered_twice(train: Train) -> None:
    run_id = train("a", 0.3)
    value = {"name": MODEL, "role": "student", "alias": "student", "description": "x", "asked": 5}
    message = Message(kind=delivery.REGISTER, value={**value, "dev_miou": 0.3})
    for _ in range(2):
        delivery.deliver(run_id, [message])
    assert len(versions()) == 1
    assert (alias("student"), alias("champion")) == (1, 1)


def test_versions_that_two_machines_made_at_once_become_one_but_none_in_use_goes(
    train: Train,
) -> None:
    run_id, client = train("a", 0.3), MlflowClient()
    add(run_id)
    source = versions()[0].source
    for _ in range(2):
        client.create_model_version(MODEL, source, run_id, tags={"selftrain.key": "k"})
    client.set_registered_model_alias(MODEL, "mine", "3")
    add(run_id)
    assert [int(version.version) for version in versions()] == [1, 3]


def register_all(folder: Path, uri: str, run_ids: list[str]) -> None:
    """Register some runs, as a worker does."""
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    tracking.connect()
    for run_id in run_ids:
        add(run_id)
    tracking.flush()


def test_processes_that_register_at_once_make_one_version_a_run_and_find_the_best_champion(
    train: Train, store: str, tmp_path: Path
) -> None:
    runs = {train(str(number), 0.3 + number / 100): number for number in range(4)}
    orders = [list(runs)[first:] + list(runs)[:first] for first in range(4)]
    processes = [
        CONTEXT.Process(target=register_all, args=(tmp_path, store, order)) for order in orders
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    found = versions()
    assert sorted(version.run_id for version in found) == sorted(runs)
    (best,) = (version for version in found if runs[str(version.run_id)] == 3)
    assert alias("champion") == int(best.version)
    assert not list(Path("outputs/spool").iterdir())


def test_who_takes_too_long_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_versions, "_PATIENCE", 0.1)
    monkeypatch.setattr(FileLock, "take", lambda lock: False)
    with model_versions.one_at_a_time(tmp_path):
        pass


def test_a_student_whose_maker_was_killed_before_it_noted_the_chain_gets_it(
    train: Train,
) -> None:
    teacher = train("t", 0.2, role="teacher")
    labels = finished_run("pseudo labels", stage="pseudo_label", upstream={"teacher": teacher})
    student = train("s", 0.3, upstream={"pseudo_labels": labels})
    add(student)
    assert re.search(
        rf"runs/{teacher}\)", mlflow.get_run(student).data.tags[tracking.DESCRIPTION_TAG]
    )


def test_a_student_that_was_described_but_not_given_its_chain_gets_it_too(train: Train) -> None:
    teacher = train("t", 0.2, role="teacher")
    labels = finished_run("pseudo labels", stage="pseudo_label", upstream={"teacher": teacher})
    student = train("s", 0.3, upstream={"pseudo_labels": labels})
    tracking.Run(student).describe(["A student.", "", "Every knob."])
    add(student)
    text = mlflow.get_run(student).data.tags[tracking.DESCRIPTION_TAG]
    assert text.startswith("A student.\n")
    assert re.search(rf"runs/{teacher}\)", text)
