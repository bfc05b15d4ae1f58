"""The sweep of the tiny pipeline, killed and gone on with; and its parts with a pretended one."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from miniature import tiny_config, truncate
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.pruners import BasePruner, ThresholdPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from selftrain import sweep, tracking
from selftrain.config import Config
from selftrain.errors import InputError
from selftrain.knobs import Scalar, override
from selftrain.search import RETRY_OF, search
from selftrain.space import Choice, LogUniform, Space, Uniform
from selftrain.stage import Product
from selftrain.study import Study as Arms
from selftrain.sweep import Objective, fresh_seeds, log_study, retrain, run_sweep, sweep_name
from selftrain.sweep_storage import SharedStudy, open_study
from selftrain.train import OnDev, Training

DATA = ["labelled", "pool", "dev"]
SPACE: Space = {"student.optim.lr": LogUniform(1e-3, 1e-1)}
EPOCHS = 3


def mini_sweep(data_root: Path, outputs: Path, **values: Scalar) -> Config:
    """Return a sweep of 4 trials of the tiny pipeline."""
    knobs: dict[str, Scalar] = {
        "student.epochs": EPOCHS,
        "sweep.trials": 4,
        **{f"sweep.{name}": value for name, value in values.items()},
    }
    return override(tiny_config(data_root, outputs), knobs)


def command(config: Config) -> None:
    """Run the sweep as the command line does."""
    tracking.connect()
    with tracking.parent_run("sweep") as run:
        run_sweep(config, run)


def killed_command(config: Config) -> None:
    """Run the sweep until the second epoch of its second trial, then be killed."""
    train_epoch, numbers = Training.train_epoch, iter(range(100))

    def dying(self: Training, *words: object) -> dict[str, float]:
        # One of the teacher, those of the first trial, and the first of the second.
        if next(numbers) == 1 + EPOCHS + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_epoch(self, *words)  # type: ignore[arg-type]

    Training.train_epoch = dying  # type: ignore[method-assign, assignment]
    command(config)


def runs(**tags: str) -> list[Run]:
    """Return the store's runs with these tags of ours, the oldest first."""
    client = MlflowClient()
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(places, order_by=["attributes.start_time ASC"])
    wanted = {f"selftrain.{name}": value for name, value in tags.items()}
    return [run for run in found if wanted.items() <= run.data.tags.items()]


@pytest.fixture(scope="module")
def own_scenes(scenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny scenes whose test pictures are cut off: who opens one, fails."""
    from selftrain.datasets import open_data

    open_data(tiny_config(scenes_root, tmp_path_factory.mktemp("outputs")))  # draws them
    root = tmp_path_factory.mktemp("own")
    shutil.copytree(scenes_root, root, dirs_exist_ok=True)
    cut_off = list(root.glob("scenes-v*-seed0-64x32/test-2/**/*.png"))
    assert len(cut_off) == 4
    for path in cut_off:
        truncate(path)
    return root


def test_a_sweep_that_is_killed_goes_on_and_chooses_on_dev_alone(
    own_scenes: Path, store: str, tmp_path: Path
) -> None:
    config = mini_sweep(own_scenes, tmp_path / "outputs", retrain=0)
    process = multiprocessing.get_context("spawn").Process(target=killed_command, args=(config,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert Counter(run.info.status for run in runs()) > Counter({"RUNNING": 3})

    command(config)  # the test split is unreadable, and nobody has noticed
    assert "RUNNING" not in {run.info.status for run in runs()}
    trials = runs(stage="trial")
    states = [run.data.tags["selftrain.state"] for run in trials]
    assert states[:3] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert Counter(states)["FAIL"] == 1
    assert len(trials) == 5
    first, lost, retried = trials[:3]
    assert lost.info.status == "KILLED"
    assert retried.data.params == lost.data.params

    # The retry has gone on from the checkpoint: the step that the lost one has logged is there
    # once, and those of an uninterrupted trial are all there.
    for run in (first, retried):
        steps = tracking.metric_steps(run.info.run_id, "dev/mIoU")
        assert sorted(steps) == list(range(EPOCHS))
        (stage,) = runs(stage="train", trial=run.data.tags["selftrain.trial"])
        assert stage.data.tags["mlflow.parentRunId"] == run.data.tags["mlflow.parentRunId"]
        assert steps == tracking.metric_steps(stage.info.run_id, "dev/mIoU")
    assert not runs(stage="evaluate")


def test_what_a_sweep_has_found_is_logged_and_its_best_trained_with_fresh_seeds(
    scenes_root: Path, store: str, tmp_path: Path
) -> None:
    config = mini_sweep(scenes_root, tmp_path / "outputs", trials=2, retrain=1)
    command(override(config, {"sweep.objective": "dev_and_time", "student.epochs": 1}))
    (parent,) = runs(stage="pipeline")
    client = MlflowClient()
    names = {Path(it.path).name for it in client.list_artifacts(parent.info.run_id, "sweep")}
    assert names >= {"history.png", "pareto_front.png"}
    best = json.loads(Path(client.download_artifacts(parent.info.run_id, "best.json")).read_text())
    table = Path(client.download_artifacts(parent.info.run_id, "trials.csv")).read_text()
    rows = list(csv.DictReader(table.splitlines()))
    winner = max(rows, key=lambda row: float(row["dev/mIoU"]))
    assert {knob: str(value) for knob, value in best.items()}.items() <= winner.items()
    assert all(float(row["train/seconds"]) > 0 for row in rows)

    student, control = runs(stage="arm", study="sweep_student")
    assert student.data.tags["selftrain.arm"] == "best of sweep"
    assert control.data.tags["selftrain.arm"] == "control of best"
    for arm in (student, control):
        assert arm.data.tags["selftrain.seed"] == "1"
        assert "test/mIoU" in arm.data.metrics
    trained = [client.get_run(arm.data.tags["selftrain.trained"]) for arm in (student, control)]
    assert [run.data.params["student.seed"] for run in trained] == ["1", "1"]
    assert trained[0].data.params["student.data.pseudo_ratio"] != "0.0"
    assert trained[1].data.params["student.data.pseudo_ratio"] == "0.0"
    registered = client.get_model_version_by_alias("selftrain-scenes", "student")
    assert registered.run_id == trained[0].info.run_id


@dataclass(frozen=True)
class PretendedPipeline:
    """Trains nothing: its student's dev mIoU is its learning rate from the first epoch on."""

    config: Config
    on_dev: OnDev

    @property
    def student(self) -> Product:
        """Measure, be stopped or finish, in a run like a stage's."""
        lr, key = self.config.student.optim.lr, str(self.config.student.optim.lr)
        with tracking.stage_run("train", "student", key) as run:
            for epochs in range(1, EPOCHS):
                run.log_metrics({"dev/mIoU": lr}, step=epochs - 1)
                self.on_dev(epochs, lr)
            run.log_metrics({"dev/mIoU": lr}, step=EPOCHS - 1)
        return Product(key, Path(), run.run_id, is_reused=False)


@pytest.fixture
def objective(
    store: str, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Objective]:
    """The objective of a search whose trials are stopped below a dev mIoU of 0.01."""
    tracking.connect()
    monkeypatch.setattr(sweep, "Pipeline", PretendedPipeline)
    shared = open_study(
        "journal", "s", tmp_path, directions=["maximize"], pruner=ThresholdPruner(lower=0.01)
    )
    with tracking.parent_run("sweep") as run:
        yield Objective(override(tiny, {"student.epochs": EPOCHS}), SPACE, "s", shared, run)


def test_a_stopped_trial_and_its_stage_end_as_killed_and_the_sweep_goes_on(
    objective: Objective,
) -> None:
    search(objective.shared, objective, trials=8, seed=0)
    states = Counter(trial.state for trial in objective.shared.study.trials)
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert runs(stage="pipeline")[0].info.status == "RUNNING"  # its block is still open
    for number, trial in enumerate(objective.shared.study.trials):
        run, stage = runs(trial=str(number))
        is_stopped = trial.params["student.optim.lr"] < 0.01
        status = "KILLED" if is_stopped else "FINISHED"
        assert trial.state == (TrialState.PRUNED if is_stopped else TrialState.COMPLETE)
        assert run.data.tags["selftrain.state"] == trial.state.name
        assert [run.info.status, stage.info.status] == [status, status]
        assert float(run.data.params["student.optim.lr"]) == trial.params["student.optim.lr"]
        assert run.data.tags["mlflow.parentRunId"] == objective.command.run_id
        assert stage.data.tags["mlflow.parentRunId"] == objective.command.run_id
        steps = tracking.metric_steps(run.info.run_id, "dev/mIoU")
        assert len(steps) == (1 if is_stopped else EPOCHS)


class LatePruner(BasePruner):
    """Stops every trial, but only once its last epoch is reported."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return trial.last_step == EPOCHS


def test_the_last_epoch_stops_no_trial(objective: Objective) -> None:
    objective.shared.study.pruner = LatePruner()
    trial = objective.shared.study.ask()
    watch = sweep.DevWatch(trial, objective.command, {}, epochs=EPOCHS)
    for epochs in range(1, EPOCHS + 1):
        watch(epochs, 0.5)
    assert trial.should_prune()


def test_what_a_lost_trial_has_reported_may_stop_its_retry_before_it_trains(
    objective: Objective,
) -> None:
    study = objective.shared.study
    trial = study.ask()
    lr = trial.suggest_float("student.optim.lr", 1e-3, 1e-1, log=True)
    trial.report(0.001, 1)  # and its worker dies before it is told to stop
    search(objective.shared, objective, trials=1, seed=0)
    retried = study.trials[1]
    assert retried.user_attrs[RETRY_OF] == [0]
    assert retried.state == TrialState.PRUNED
    assert retried.params == {"student.optim.lr": lr}
    assert not runs(stage="train")


def test_the_runs_of_a_dead_command_are_ended(objective: Objective) -> None:
    client = MlflowClient()
    place = client.get_run(objective.command.run_id).info.experiment_id
    dead = client.create_run(place)
    below = {"mlflow.parentRunId": dead.info.run_id}
    child, done = client.create_run(place, tags=below), client.create_run(place, tags=below)
    client.set_terminated(done.info.run_id)
    tracking.kill_runs_of(dead.info.run_id, {"selftrain.state": "FAIL"})
    tracking.kill_runs_of("0" * 32, {})  # of another store: left alone
    dead, child, done = (client.get_run(run.info.run_id) for run in (dead, child, done))
    assert [run.info.status for run in (dead, child, done)] == ["KILLED", "KILLED", "FINISHED"]
    assert child.data.tags["selftrain.state"] == "FAIL"
    assert "selftrain.state" not in done.data.tags
    assert client.get_run(objective.command.run_id).info.status == "RUNNING"


def test_without_a_complete_trial_there_is_no_best_and_the_first_reason_is_said(
    objective: Objective,
) -> None:
    def failing(trial: object) -> float:
        raise InputError("The loss is not finite.")

    search(objective.shared, failing, trials=2, seed=0)
    with pytest.raises(InputError, match=r"None of 2 trials.*The loss is not finite"):
        log_study(objective.shared.study, objective.command)


def test_the_best_is_trained_with_its_control_and_what_another_worker_trains_is_left_to_it(
    objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, str, int]] = []
    knobs: list[Mapping[str, Scalar]] = []

    def run_arm(config: Config, study: Arms, name: str, seed: int) -> None:
        called.append((config.study.name, name, seed))
        knobs.append(study.arms[name].knobs)

    class Busy:
        """A study whose control of seed 2 another worker trains."""

        def lock(self, name: str, *, wait: bool = True) -> AbstractContextManager[bool]:
            assert not wait
            return nullcontext(name != "control of best 2")

    monkeypatch.setattr(sweep, "run_arm", run_arm)
    registered: list[int] = []

    def register(config: Config) -> None:
        registered.append(config.student.seed)

    monkeypatch.setattr(sweep, "_register", register)
    config = override(objective.config, {"sweep.retrain": 2})
    best: dict[str, Scalar] = {"student.optim.lr": 0.02}
    shared: SharedStudy = Busy()  # type: ignore[assignment]  # only its locks are asked for
    retrain(config, best, shared)
    assert called == [
        ("sweep_student", "best of sweep", 1),
        ("sweep_student", "control of best", 1),
        ("sweep_student", "best of sweep", 2),
    ]
    assert knobs == [best] * 3
    assert registered == [1]


def test_fresh_seeds_are_none_that_the_search_has_used(tiny: Config) -> None:
    values: dict[str, Scalar] = {"teacher.seed": 0, "student.seed": 2, "sweep.retrain": 3}
    assert fresh_seeds(override(tiny, values)) == [1, 3, 4]
    assert fresh_seeds(override(tiny, {"sweep.retrain": 0})) == []


def test_commands_that_may_work_together_are_on_one_study_and_others_are_not(tiny: Config) -> None:
    name = sweep_name(tiny, SPACE, DATA)
    together: list[dict[str, Scalar]] = [
        {"sweep.trials": 5},
        {"sweep.timeout": 5},
        {"sweep.storage": "postgresql://a@b/c"},
        {"machine.outputs": Path("elsewhere")},
    ]
    apart: list[dict[str, Scalar]] = [
        {"sweep.objective": "dev_and_time"},
        {"sweep.seed": 1},
        {"student.epochs": 2},
        {"data.labelled_fraction": 0.25},
    ]
    assert {sweep_name(override(tiny, values), SPACE, DATA) for values in together} == {name}
    others = {sweep_name(override(tiny, values), SPACE, DATA) for values in apart}
    assert len(others - {name}) == len(apart)
    assert sweep_name(tiny, {"student.optim.momentum": Uniform(0.5, 0.9)}, DATA) != name
    assert sweep_name(tiny, {"student.optim.lr": Choice([0.1])}, DATA) != name
    assert sweep_name(tiny, SPACE, ["other", "images"]) != name


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"machine.processes": 2},
            r"machine\.processes = 2, .*start the command once for each GPU",
        ),
        ({"rounds": 2}, r"rounds = 2.*set rounds to 1"),
        ({"data.train_on": "train+dev"}, r"train\+dev leaves no dev .* data\.train_on to train"),
        ({"sweep.name": "sweep_all"}, r"sweep\.name = sweep_all .* sweep_student"),
        ({"sweep.storage": "redis://x"}, r"sweep\.storage = redis://x .* journal"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_sentence(
    values: dict[str, Scalar], words: str, tiny: Config
) -> None:
    with pytest.raises(InputError, match=words):
        run_sweep(override(tiny, values), tracking.SILENT)
