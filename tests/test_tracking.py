"""Runs in MLflow, and stores that do not answer."""

import math
import os
import re
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from miniature import random_network
from mlflow import MlflowClient

from selftrain import delivery, signals, store, tracking
from selftrain.data.sample import ClassTable
from selftrain.errors import InputError, Stopped, Terminated
from selftrain.passwords import hide_passwords
from selftrain.pictures import encode_webp
from selftrain.spool import Message
from selftrain.tracking import SILENT, Run, parent_run, stage_run, trial_run

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
        MlflowClient().log_param(run.run_id, "student.optim.lr", "1e-2")
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
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "KILLED"),
        (Terminated(signal.SIGTERM), "KILLED"),
        (Stopped("early"), "KILLED"),
        (InputError("no"), "FAILED"),
        (SystemExit(1), "FAILED"),
    ],
)
def test_a_run_is_finished_only_if_its_block_ends(error: BaseException, status: str) -> None:
    runs: list[Run] = []
    with pytest.raises(type(error)), parent_run("teacher") as parent:  # noqa: PT012
        runs.append(parent)
        with trial_run(parent, "trial", {}) as trial:
            runs.append(trial)
            with stage_run("train", "teacher", "k") as run:
                runs.append(run)
                raise error
    assert [mlflow.get_run(run.run_id).info.status for run in runs] == [status] * 3
    assert tracking.find_finished("k") is None
    with pytest.raises(InputError, match=f"{run.run_id} is {status}, not FINISHED"):
        tracking.finished(run.run_id)


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("moment", ["begin", "end"])
def test_a_signal_while_a_run_begins_or_ends_leaves_none_running(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_run, deliver = store.begin_run, delivery.deliver

    def begun(*args: Any) -> Callable[[], str]:
        begin = begin_run(*args)

        def begin_and_signal() -> str:
            run_id = begin()
            if moment == "begin":
                os.kill(os.getpid(), signal.SIGTERM)
            return run_id

        return begin_and_signal

    def delivered(run_id: str, messages: Sequence[Message]) -> None:
        if moment == "end" and messages[0].kind == "end":
            monkeypatch.undo()  # once
            os.kill(os.getpid(), signal.SIGTERM)
        deliver(run_id, messages)

    def work() -> None:
        with signals.heard(), parent_run("teacher") as parent:
            ids.append(parent.run_id)
            monkeypatch.setattr(store, "begin_run", begun)
            monkeypatch.setattr(delivery, "deliver", delivered)
            with stage_run("train", "teacher", "k"):
                pass

    ids: list[str] = []
    with pytest.raises(Terminated):
        work()
    experiment = mlflow.get_run(ids[0]).info.experiment_id
    found = MlflowClient().search_runs([experiment], order_by=["attributes.start_time"])
    child = "FINISHED" if moment == "end" else "KILLED"
    assert [run.info.status for run in found] == ["KILLED", child]


@pytest.mark.usefixtures("connected")
def test_a_run_whose_block_ends_is_finished_and_found_by_its_key() -> None:
    with stage_run("train", "teacher", "k") as run:
        run.log_metrics({"dev/mIoU": 0.5})
    assert tracking.find_finished("k") == run.run_id
    found = tracking.finished(run.run_id)
    assert (found.stage, found.key, found.metrics) == ("train", "k", {"dev/mIoU": 0.5})


@pytest.mark.usefixtures("connected")
def test_of_several_finished_runs_the_newest_is_found_in_any_experiment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stage_run("train", "teacher", "k"):
        pass
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    tracking.connect()
    with stage_run("train", "teacher", "k") as newest:
        pass
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "third")
    tracking.connect()
    assert tracking.find_finished("k") == newest.run_id


@pytest.mark.usefixtures("connected")
def test_the_innermost_open_run_is_the_active_one() -> None:
    assert tracking.active_run() == SILENT
    with parent_run("teacher") as parent:
        assert tracking.active_run() == parent
        with trial_run(parent, "trial", {}), stage_run("train", "teacher", "k") as run:
            assert tracking.active_run() == run
        assert tracking.active_run() == parent
    assert tracking.active_run() == SILENT


@pytest.mark.usefixtures("connected")
def test_what_was_measured_is_known_of_own_runs_and_of_others() -> None:
    with stage_run("train", "teacher", "k") as run:
        run.log_metrics({"a": 1.0, "b": math.nan})
        assert run.has_metric("a")
        assert not run.has_metric("b")
    tracking.connect()  # as another process does
    assert run.has_metric("a")
    assert not run.has_metric("b")
    assert not SILENT.has_metric("a")


@pytest.mark.usefixtures("connected")
def test_the_machine_is_watched_while_a_stage_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    before = threading.active_count()
    with stage_run("train", "teacher", "k") as run:
        deadline = time.monotonic() + 30
        while not run.has_metric("system/cpu_utilization_percentage"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert threading.active_count() == before
    steps = tracking.metric_steps(run.run_id, "system/cpu_utilization_percentage")
    assert list(steps) == list(range(len(steps)))


@pytest.mark.usefixtures("connected")
def test_pictures_of_a_step_are_filed_as_mlflow_files_its_own(tmp_path: Path) -> None:
    file = encode_webp(np.zeros((4, 6, 3), np.uint8), quality=80)
    with stage_run("train", "teacher", "k") as run:
        run.log_images({"dev/1 a+b": file, "dev/2 ä%": file}, step=7)
        MlflowClient().log_image(run.run_id, np.zeros((4, 6, 3), np.uint8), key="dev/own", step=7)
    names = {it.path for it in MlflowClient().list_artifacts(run.run_id, "images")}
    form = r"images/dev~(.+)\+step\+7\+timestamp\+\d{13}\+[0-9a-f-]+(\+compressed)?\.(webp|png)"
    found = [re.fullmatch(form, name) for name in names]
    assert None not in found
    keys = sorted(it[1] for it in found if it)
    assert keys == ["1 a_b", "1 a_b", "2 __", "2 __", "own", "own"]
    path = MlflowClient().download_artifacts(run.run_id, min(names), str(tmp_path))
    assert Path(path).read_bytes() == file
    assert mlflow.get_run(run.run_id).data.tags["mlflow.loggedImages"] == "True"


@pytest.mark.usefixtures("connected")
def test_a_run_is_described_and_has_a_page() -> None:
    with stage_run("train", "teacher", "k", "a name") as run:
        run.describe(["first", "", "second"])
    found = mlflow.get_run(run.run_id)
    assert found.info.run_name == "a name"
    assert found.data.tags["mlflow.note.content"] == "first\n\nsecond"
    page = tracking.page_of(run.run_id)
    assert page == f"#/experiments/{found.info.experiment_id}/runs/{run.run_id}"


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
    SILENT.log_images({"a": b"a"}, step=0)
    SILENT.describe(["a"])
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


@pytest.mark.usefixtures("connected")
def test_a_command_leaves_its_words_without_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["selftrain", "sweep", "--sweep.storage=postgresql://me:hush@host/x"]
    monkeypatch.setattr("sys.argv", words)
    with parent_run("sweep") as run:
        run.set_tags({"storage": words[-1]})
        run.log_params({"storage": words[-1]})
    path = MlflowClient().download_artifacts(run.run_id, "command.txt")
    assert Path(path).read_text() == "selftrain sweep --sweep.storage=postgresql://me:***@host/x"
    data = mlflow.get_run(run.run_id).data
    assert "hush" not in f"{data.tags} {data.params}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hush@host/x", "postgresql://me:***@host/x"),
        ("at http://me:hu@sh@host:5000/x.", "at http://me:***@host:5000/x."),
        (
            "postgresql://host/x?user=me&password=hush&a=b",
            "postgresql://host/x?user=me&password=***&a=b",
        ),
        ("host=h password=hush dbname=x", "host=h password=*** dbname=x"),
        ("host=h password='hu sh' dbname=x", "host=h password=*** dbname=x"),
        ("the token hush-hush", "the token ***"),
        ("postgresql://me:hu/sh@host/x", "postgresql://me:***@host/x"),
        ("http://host:5000/a", "http://host:5000/a"),
        ("set a password for me@host", "set a password for me@host"),
    ],
)
def test_passwords_are_hidden_wherever_they_stand(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hush-hush")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "at")  # too short to be told from a word
    assert hide_passwords(text) == shown


def test_a_store_of_an_older_mlflow_is_named_with_the_cure(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("update alembic_version set version_num = '0a8213491aaa'")
    with pytest.raises(InputError, match=r"mlflow\.db cannot be used .*mlflow db upgrade"):
        tracking.connect()


def test_a_store_that_cannot_be_written_is_said_before_any_stage(tmp_path: Path) -> None:
    tracking.connect()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute(
            "create trigger full before insert on runs begin "
            "select raise(abort, 'attempt to write a readonly database'); end"
        )
    with pytest.raises(InputError, match=r"cannot be used .*readonly.*MLFLOW_TRACKING_URI") as it:
        parent_run("teacher").__enter__()
    assert len(str(it.value).splitlines()) == 1


def test_artifacts_that_cannot_be_written_are_said_before_any_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    mlflow.create_experiment("odd", artifact_location=(tmp_path / "file" / "x").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "odd")
    tracking.connect()
    with pytest.raises(InputError, match=r"artifacts of .* cannot be written to .*/file/x.*room"):
        parent_run("teacher").__enter__()
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FAILED"


@pytest.mark.usefixtures("connected")
def test_a_nearly_full_disk_for_artifacts_is_said_before_any_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = shutil.disk_usage(Path())._replace(free=5 * 2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="only 5 MiB are free: make room for at least 100 MiB"):
        parent_run("teacher").__enter__()
