"""Runs in MLflow, and stores that do not answer."""

import math
from pathlib import Path

import mlflow
import numpy as np
import pytest
from miniature import random_network

from selftrain import tracking
from selftrain.data.sample import ClassTable
from selftrain.errors import InputError
from selftrain.tracking import SILENT, Run, parent_run, stage_run

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def connected(store: str) -> None:
    tracking.connect()


def test_connecting_makes_a_relative_store_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert tracking.connect() == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.mark.usefixtures("connected")
def test_params_that_mlflow_run_has_logged_are_kept_in_its_spelling() -> None:
    with parent_run("test") as run:
        mlflow.log_param("student.optim.lr", "1e-2")
        run.log_params({"student.optim.lr": 0.01, "student.epochs": 3, "long": "x" * 9000})
    params = mlflow.get_run(run.run_id).data.params
    assert params["student.optim.lr"] == "1e-2"
    assert params["student.epochs"] == "3"
    assert len(params["long"]) == 6000


@pytest.mark.usefixtures("connected")
def test_a_metric_that_is_no_number_is_left_out() -> None:
    with parent_run("test") as run:
        run.log_metrics({"road": np.float64(0.5), "bus": math.nan, "car": math.inf}, step=2)
        run.log_metrics({"bus": math.nan})
    assert mlflow.get_run(run.run_id).data.metrics == {"road": 0.5}


@pytest.mark.usefixtures("connected")
def test_stages_are_children_of_the_command() -> None:
    with parent_run("student") as parent, stage_run("train", "student", "0123456789abcdef") as run:
        pass
    tags = mlflow.get_run(run.run_id).data.tags
    assert tags["mlflow.parentRunId"] == parent.run_id
    assert tags["selftrain.stage"] == "train"
    assert tags["selftrain.role"] == "student"
    assert mlflow.get_run(run.run_id).info.run_name == "student 012345"


@pytest.mark.usefixtures("connected")
def test_a_run_is_finished_only_if_its_block_ends() -> None:
    with pytest.raises(KeyboardInterrupt), stage_run("train", "teacher", "k") as run:
        raise KeyboardInterrupt
    assert tracking.find_finished("k") is None
    with pytest.raises(InputError, match=f"{run.run_id} is FAILED, not FINISHED"):
        tracking.finished(run.run_id)
    with stage_run("train", "teacher", "k") as again:
        again.log_metrics({"dev/mIoU": 0.5})
    assert tracking.find_finished("k") == again.run_id
    found = tracking.finished(again.run_id)
    assert (found.stage, found.key, found.metrics) == ("train", "k", {"dev/mIoU": 0.5})


@pytest.mark.usefixtures("connected")
def test_of_several_finished_runs_the_newest_is_found_in_any_experiment() -> None:
    with stage_run("train", "teacher", "k"):
        pass
    mlflow.set_experiment("another")
    with stage_run("train", "teacher", "k") as newest:
        pass
    mlflow.set_experiment("third")
    assert tracking.find_finished("k") == newest.run_id


@pytest.mark.usefixtures("connected")
def test_a_deleted_run_is_not_found() -> None:
    with stage_run("train", "teacher", "k") as run:
        pass
    mlflow.delete_run(run.run_id)
    assert tracking.find_finished("k") is None


@pytest.mark.usefixtures("connected")
def test_a_silent_run_logs_nothing(tmp_path: Path) -> None:
    before = len(mlflow.search_runs(search_all_experiments=True))
    SILENT.log_params({"a": 1})
    SILENT.log_metrics({"a": 1.0})
    SILENT.set_tags({"a": "b"})
    SILENT.log_text("a", "a.txt")
    SILENT.log_json({}, "a.json")
    SILENT.log_picture(np.zeros((4, 4, 3), np.uint8), "a.png")
    SILENT.log_files(tmp_path, "a")
    SILENT.log_dataset(["a"], name="a", digest="a", context="a")
    SILENT.log_model(tmp_path)
    assert mlflow.active_run() is None
    assert len(mlflow.search_runs(search_all_experiments=True)) == before


@pytest.mark.usefixtures("connected")
def test_a_logged_model_labels_pictures_without_this_checkout(tmp_path: Path) -> None:
    classes = ClassTable(("road", "car"), ((1, 2, 3), (4, 5, 6)))
    folder = random_network(tmp_path / "network", classes)
    (folder / "checkpoint.pt").write_bytes(b"large")
    with stage_run("train", "teacher", "k") as run:
        run.log_model(folder)
    model = mlflow.pyfunc.load_model(f"runs:/{run.run_id}/model")
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)
    labels = model.predict(images)
    assert labels.shape == (2, 40, 48)
    assert labels.dtype == np.uint8
    assert labels.max() < 2
    fetched = tracking.download(f"runs:/{run.run_id}/model", tmp_path)
    files = {path.name for path in (fetched / "artifacts" / "network").iterdir()}
    assert files == {"weights.safetensors", "model.json"}


@pytest.mark.usefixtures("connected")
def test_an_artifact_that_is_not_there_is_named(tmp_path: Path) -> None:
    with stage_run("train", "teacher", "k") as run:
        pass
    with pytest.raises(InputError, match=f"runs:/{run.run_id}/model cannot be fetched"):
        tracking.download(f"runs:/{run.run_id}/model", tmp_path)


@pytest.mark.usefixtures("connected")
def test_a_run_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"no run 0123 in sqlite:.*mlflow\.db"):
        tracking.finished("0123")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://me:hush@127.0.0.1:9/", "http://me:***@127.0.0.1:9/"),
        ("http://me:hu@sh@127.0.0.1:9/", "http://me:***@127.0.0.1:9/"),
        ("nosuch://me:hush@host/x", "nosuch://me:***@host/x"),
        ("postgresql://me:hush@127.0.0.1:9/x", "postgresql://me:***@127.0.0.1:9/x"),
        ("file:./mlruns", "file:./mlruns"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_a_store_that_cannot_be_used_is_named_without_its_password(
    uri: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError) as caught:
        tracking.connect()
    assert shown in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "hu@sh" not in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_parent_adopts_the_run_that_mlflow_run_has_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracking.connect()
    experiment = mlflow.get_experiment_by_name("selftrain")
    made = mlflow.MlflowClient().create_run(experiment.experiment_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    tracking.connect()
    with parent_run("student") as run:
        assert isinstance(run, Run)
    assert run.run_id == made.info.run_id
    assert mlflow.get_run(run.run_id).info.status == "FINISHED"
