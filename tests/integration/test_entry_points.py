"""Every entry point of MLproject through `mlflow run`, on one tiny set of scenes.

The commands start beside the checkout, with no tracking URI set: as far from home as a user may
stand. They share one store, so each finds what those before it have made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from miniature import write_picture
from mlflow.entities import Run
from mlflow.models import Model
from workspace import Finished, Workspace, datasets, role

from selftrain.data.scenes import NAMES
from selftrain.knobs import Scalar

VALUES: dict[str, Scalar] = {
    "data.labelled_fraction": 0.25,  # 4 labelled, 12 in the pool: more than the 8 overlays
    "data.scenes.images": 16,
    "pseudo_label.measure": True,
    "pseudo_label.shard_size": 8,
}
EXTRA = {"student.optim.lr": 0.025}
SIZES = {"a.png": (40, 60), "in a folder/b.jpg": (33, 97), "in a folder/c.bmp": (128, 64)}
"""Height and width of the pictures for predict."""


@dataclass(frozen=True)
class Command:
    """A finished `mlflow run` and its runs in MLflow."""

    finished: Finished
    parents: list[Run]
    """That it has added to the store: one, if all is well."""
    stages: list[Run]
    """That it has made; what it found is not among them."""

    @property
    def parent(self) -> Run:
        """The run that `mlflow run` made."""
        (parent,) = self.parents
        return parent

    def stage(self, role_: str) -> Run:
        """Return the run that made something."""
        (found,) = (run for run in self.stages if role(run) == role_)
        return found


class Commands:
    """The commands so far."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace(folder, values=VALUES)
        self.seen: set[str] = set()

    def run(self, entry_point: str, more: Mapping[str, Scalar] | None = None) -> Command:
        """Run an entry point and look for what is new in the store."""
        finished = self.workspace.mlflow_run(entry_point, more)
        fresh = [run for run in self.workspace.runs() if run.info.run_id not in self.seen]
        self.seen |= {run.info.run_id for run in fresh}
        parents = [run for run in fresh if "mlflow.parentRunId" not in run.data.tags]
        stages = [run for run in fresh if "mlflow.parentRunId" in run.data.tags]
        return Command(finished, parents, stages)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(tmp_path_factory.mktemp("entry-points"))


@pytest.fixture(scope="module")
def workspace(commands: Commands) -> Workspace:
    return commands.workspace


@pytest.fixture(scope="module")
def prepare(commands: Commands) -> Command:
    return commands.run("prepare")


@pytest.fixture(scope="module")
def teacher(commands: Commands, prepare: Command) -> Command:
    return commands.run("teacher")


@pytest.fixture(scope="module")
def pseudo_label(commands: Commands, teacher: Command) -> Command:
    return commands.run("pseudo_label")


@pytest.fixture(scope="module")
def student(commands: Commands, pseudo_label: Command) -> Command:
    return commands.run("student", {"student.epochs": 2})


@pytest.fixture(scope="module")
def student_again(commands: Commands, student: Command) -> Command:
    return commands.run("student", {"student.epochs": 2})


@pytest.fixture(scope="module")
def other_student(commands: Commands, student: Command) -> Command:
    return commands.run("student", {"student.epochs": 2, **EXTRA})


@pytest.fixture(scope="module")
def finetune(commands: Commands, student: Command) -> Command:
    return commands.run("finetune", {"start": student.stage("student").info.run_id})


@pytest.fixture(scope="module")
def evaluate(commands: Commands, student: Command) -> Command:
    return commands.run("evaluate", {"model": student.stage("student").info.run_id})


@pytest.fixture(scope="module")
def export(commands: Commands, student: Command) -> Command:
    values: dict[str, Scalar] = {
        "model": student.stage("student").info.run_id,
        "output": commands.workspace.folder / "exported",
        "height": 32,
        "width": 64,
    }
    return commands.run("export", values)


@pytest.fixture(scope="module")
def predict(commands: Commands, student: Command) -> Command:
    folder = commands.workspace.folder
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        write_picture(folder / "pictures" / name, rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    places: dict[str, Scalar] = {
        "model": f"runs:/{student.stage('student').info.run_id}",
        "images": folder / "pictures",
        "output": folder / "predictions",
    }
    return commands.run("predict", places)


@pytest.fixture(scope="module")
def main(commands: Commands, evaluate: Command) -> Command:
    return commands.run("main", {"student.epochs": 2})


COMMANDS = {
    "prepare": ["prepare"],
    "teacher": ["teacher"],
    "pseudo_label": ["pseudo labels"],
    "student": ["student"],
    "student_again": [],
    "other_student": ["student"],
    "finetune": ["finetune"],
    "evaluate": ["evaluate model"],
    "export": [],
    "predict": [],
    "main": ["control", "evaluate teacher", "evaluate control"],
}
"""What each command makes, beside what it finds: main finds the student's evaluation too."""


@pytest.mark.parametrize("name", COMMANDS)
def test_an_entry_point_adopts_the_run_that_mlflow_made_and_makes_only_what_is_missing(
    name: str, request: pytest.FixtureRequest
) -> None:
    command: Command = request.getfixturevalue(name)
    assert command.finished.code == 0, command.finished.output
    assert "Warning" not in command.finished.output
    assert command.parent.info.status == "FINISHED"
    assert command.parent.data.tags["selftrain.stage"] == "pipeline"
    assert command.parent.data.tags["mlflow.project.entryPoint"] == name.removesuffix(
        "_again"
    ).removeprefix("other_")
    assert [role(run) for run in command.stages] == COMMANDS[name]
    for run in command.stages:
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == command.parent.info.run_id


def test_a_stage_is_tagged_and_keeps_its_exact_config(
    workspace: Workspace, prepare: Command, teacher: Command, pseudo_label: Command
) -> None:
    for command, stage in [
        (prepare, "prepare"),
        (teacher, "train"),
        (pseudo_label, "pseudo_label"),
    ]:
        (run,) = command.stages
        assert run.data.tags["selftrain.stage"] == stage
        key = run.data.tags["selftrain.key"]
        assert (workspace.outputs / f"{stage}-{key}" / "product.json").exists()
        assert {"config.json", "identity.json"} <= workspace.artifacts(run)
    config = workspace.config(teacher.stage("teacher"))
    assert config["teacher.optim.batch_size"] == 4
    assert config["data.scenes.images"] == 16


def test_values_given_with_p_are_params_of_both_runs(student: Command) -> None:
    assert student.parent.data.params["student.epochs"] == "2"
    params = student.stage("student").data.params
    assert params["student.epochs"] == "2"
    assert params["student.crop.size"] == "32"
    assert params["student.data.pseudo_ratio"] == "1.0"
    assert params["data.scenes.width"] == "64"


def test_a_training_logs_each_epoch_and_each_class(workspace: Workspace, student: Command) -> None:
    run = student.stage("student")
    for metric in ("train/loss", "train/lr", "dev/mIoU"):
        points = workspace.client.get_metric_history(run.info.run_id, metric)
        assert [point.step for point in points] == [0, 1], metric
    found = {name.removeprefix("dev/IoU/") for name in run.data.metrics if "dev/IoU/" in name}
    assert found
    assert found <= set(NAMES)
    assert {"history.csv", "dev_confusion.png"} <= workspace.artifacts(run)


def test_a_training_logs_system_metrics(teacher: Command, student: Command) -> None:
    for run in (teacher.stage("teacher"), student.stage("student")):
        assert any(metric.startswith("system/cpu") for metric in run.data.metrics)


def test_runs_say_what_they_read_and_the_same_data_have_the_same_digest(
    teacher: Command, pseudo_label: Command, student: Command, evaluate: Command
) -> None:
    by_teacher = datasets(teacher.stage("teacher"))
    by_student = datasets(student.stage("student"))
    pool = datasets(pseudo_label.stage("pseudo labels"))
    assert {name: context for name, (context, _) in by_teacher.items()} == {
        "real": "train",
        "dev": "dev",
    }
    assert {name: context for name, (context, _) in by_student.items()} == {
        "real": "train",
        "dev": "dev",
        "pseudo": "train",
    }
    assert {name: context for name, (context, _) in pool.items()} == {"pool": "unlabelled"}
    test = datasets(evaluate.stage("evaluate model"))
    assert {name: context for name, (context, _) in test.items()} == {"test": "evaluation"}
    assert by_student["real"] == by_teacher["real"]
    assert by_student["pseudo"][1] == pseudo_label.stages[0].data.tags["selftrain.key"]
    digests = [digest for _, digest in [*by_student.values(), *pool.values(), *test.values()]]
    assert all(digests)
    assert len(set(digests)) == len(digests)


def test_runs_name_those_they_were_made_from(
    teacher: Command, pseudo_label: Command, student: Command, evaluate: Command, main: Command
) -> None:
    labels, trained = pseudo_label.stage("pseudo labels"), student.stage("student")
    assert labels.data.tags["selftrain.upstream.teacher"] == teacher.stages[0].info.run_id
    assert trained.data.tags["selftrain.upstream.pseudo_labels"] == labels.info.run_id
    evaluated = evaluate.stage("evaluate model")
    assert evaluated.data.tags["selftrain.upstream.model"] == trained.info.run_id
    for role_, run in {
        "teacher": teacher.stages[0],
        "control": main.stage("control"),
        "student": trained,
    }.items():
        assert main.parent.data.tags[f"selftrain.{role_}"] == run.info.run_id


def test_the_logged_model_takes_an_array_or_a_column_of_files(
    workspace: Workspace, student: Command
) -> None:
    (output,) = student.stage("student").outputs.model_outputs
    model = workspace.client.get_logged_model(output.model_id)
    signature = Model.load(model.artifact_location).signature
    (given,) = signature.inputs
    # Objects: MLflow lets arrays through by it, and a column of files.
    assert (given.name, given.type, given.shape) == ("image", np.dtype(object), (-1,))


def test_pseudo_labels_come_with_an_audit_frequencies_and_their_quality(
    workspace: Workspace, pseudo_label: Command
) -> None:
    run = pseudo_label.stage("pseudo labels")
    assert {"class_frequency.csv", "class_frequency.md"} <= workspace.artifacts(run)
    assert {"audit.html", "confusion.csv"} <= workspace.artifacts(run, "audit")
    assert {"card.json", "manifest.parquet"} <= workspace.artifacts(run, "product")
    assert run.data.metrics["labels/images"] == 12
    assert 0 <= run.data.metrics["labels/mIoU"] <= 1


def test_another_value_for_the_student_leaves_teacher_and_labels_as_they_are(
    student: Command, other_student: Command
) -> None:
    before, after = student.stage("student"), other_student.stage("student")
    assert before.data.tags["selftrain.key"] != after.data.tags["selftrain.key"]
    upstream = "selftrain.upstream.pseudo_labels"
    assert before.data.tags[upstream] == after.data.tags[upstream]
    assert after.data.params["student.optim.lr"] == "0.025"


def test_an_evaluation_names_its_split_in_every_metric(
    workspace: Workspace, evaluate: Command
) -> None:
    run = evaluate.stage("evaluate model")
    measured = {name for name in run.data.metrics if not name.startswith("system/")}
    assert {"test/mIoU", "test/accuracy"} <= measured
    assert all(name.startswith("test/") for name in measured)
    assert "confusion_test.png" in workspace.artifacts(run)
    assert {"metrics.json", "per_class.csv"} <= workspace.artifacts(run, "product")


def test_predict_writes_each_picture_at_its_own_size(
    workspace: Workspace, predict: Command
) -> None:
    import cv2

    for name, size in SIZES.items():
        for kind, suffix in {"masks": ".png", "colors": ".png", "overlays": ".jpg"}.items():
            path = (workspace.folder / "predictions" / kind / name).with_suffix(suffix)
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert picture is not None, path
            assert picture.shape[:2] == size
    mask = cv2.imread(str(workspace.folder / "predictions/masks/a.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask.ndim == 2
    assert mask.max() < len(NAMES)


def test_main_compares_teacher_control_and_student(workspace: Workspace, main: Command) -> None:
    for role_ in ("teacher", "control", "student"):
        assert 0 <= main.parent.data.metrics[f"{role_}/test/mIoU"] <= 1
    tables = workspace.artifacts(main.parent, "comparison")
    assert {"comparison.md", "side_by_side.jpg"} <= tables
    assert "student - control" in main.finished.output


def test_each_network_of_the_commands_is_registered_once(
    workspace: Workspace, finetune: Command, other_student: Command, main: Command
) -> None:
    name = "selftrain-scenes"
    versions = workspace.client.search_model_versions(f"name = '{name}'")
    trained = [run for run in workspace.stages() if run.data.tags["selftrain.stage"] == "train"]
    assert sorted(it.run_id for it in versions) == sorted(run.info.run_id for run in trained)
    aliases = workspace.client.get_registered_model(name).aliases
    assert set(aliases) == {"teacher", "student", "champion"}
    of_student = workspace.client.get_model_version(name, aliases["student"])
    assert of_student.run_id == main.parent.data.tags["selftrain.student"]


def test_lineage_is_shown_without_a_stage(
    commands: Commands, teacher: Command, student: Command, main: Command
) -> None:
    command = commands.run("lineage", {"run": student.stage("student").info.run_id})
    assert command.finished.code == 0, command.finished.output
    assert f"labelled by teacher {teacher.stages[0].data.tags['selftrain.key']}" in (
        command.finished.output
    )
    assert command.parent.info.status == "FINISHED"
    assert command.stages == []


def test_a_wrong_value_ends_in_one_sentence_and_a_failed_run(
    commands: Commands, main: Command
) -> None:
    command = commands.run("teacher", {"teacher.optim.lr": "fast"})
    assert command.finished.code != 0
    assert "error: teacher.optim.lr = 'fast' is not a number" in command.finished.output
    assert "Traceback" not in command.finished.output
    assert command.parent.info.status == "FAILED"
    assert command.stages == []


def test_nothing_is_written_into_the_checkout(workspace: Workspace, main: Command) -> None:
    names = {path.name for path in workspace.checkout.iterdir()}
    assert names == {"selftrain", "MLproject", "conda.yaml"}
