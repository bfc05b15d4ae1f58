"""The tracking store goes away while a stage works: nothing that was logged is lost or doubled."""

import multiprocessing
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import mlflow
import numpy as np
import pytest
from frail_server import Proxy, Server
from matplotlib.figure import Figure
from miniature import random_network
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from mlflow.entities.model_registry import ModelVersion
from workspace import Workspace, role

from selftrain import delivery, store, tracking
from selftrain.data.sample import ClassTable
from selftrain.errors import InputError, Unavailable
from selftrain.knobs import Scalar
from selftrain.stage import Product, Stage, run_stage
from selftrain.sync import sync
from selftrain.tracking import Registration, Run, parent_run, stage_run

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["selftrain.tracking"])
WORK = Stage("work", version=1)
SHORT = 1.0
"""Seconds of an outage in the tests that everybody runs."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What stands between this process and its tracking server."""
    proxy = Proxy(server.port)
    proxy.open()
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setattr(delivery, "_PAUSE", 0.2)
    tracking.connect(Path("outputs"), 120)
    yield proxy
    proxy.close()
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    classes = ClassTable(("road", "car"), ((1, 2, 3), (4, 5, 6)))
    return random_network(tmp_path_factory.mktemp("network"), classes)


def log_all_kinds(run: Run, number: int, network: Path) -> None:
    """Log something of every kind; what a number has logged is known by it."""
    run.log_params({f"param {number}": number, "first": number})
    for epoch in range(10 * number, 10 * number + 3):
        run.log_metrics({"loss": epoch / 8, "speed": 1.0}, step=epoch)
    run.set_tags({"last": str(number)})
    run.log_text(f"text {number}", f"text-{number}.txt")
    run.log_json({"number": number}, f"deep/{number}.json")
    figure = Figure()
    figure.subplots().plot([number, 1])
    run.log_figure(figure, f"figure-{number}.png")
    run.log_picture(np.full((8, 8, 3), number, np.uint8), f"picture-{number}.png")
    run.log_files(network, f"network-{number}")
    run.log_dataset(["a", "b"], name=f"data {number}", digest="abc", context="train")


def require_all_kinds(run_id: str, numbers: list[int], network: Path, folder: Path) -> None:
    """Compare what the store has with what was logged."""
    client = MlflowClient()
    run = client.get_run(run_id)
    expected = {f"param {number}": str(number) for number in numbers}
    assert run.data.params == expected | {"first": str(numbers[0])}
    assert run.data.tags["last"] == str(numbers[-1])
    epochs = [10 * number + i for number in numbers for i in range(3)]
    for name in ("loss", "speed"):
        history = client.get_metric_history(run_id, name)
        assert [metric.step for metric in history] == epochs
        times = [metric.timestamp for metric in history]
        assert times == sorted(times)
    values = [metric.value for metric in client.get_metric_history(run_id, "loss")]
    assert values == [epoch / 8 for epoch in epochs]
    assert sorted(it.dataset.name for it in run.inputs.dataset_inputs) == [
        f"data {number}" for number in numbers
    ]
    got = Path(client.download_artifacts(run_id, "", str(folder)))
    for number in numbers:
        assert (got / f"text-{number}.txt").read_text() == f"text {number}"
        assert (got / "deep" / f"{number}.json").exists()
        assert (got / f"figure-{number}.png").exists()
        assert (got / f"picture-{number}.png").exists()
        for path in network.iterdir():
            assert (got / f"network-{number}" / path.name).read_bytes() == path.read_bytes()


def models_of(run_id: str) -> list[str]:
    """Return the ids of a run's whole models."""
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    assert all(model.status == "READY" for model in found)
    return [model.model_id for model in found]


def runs_of(key: str) -> list[StoredRun]:
    """Return all runs with a key."""
    client = MlflowClient()
    experiments = [found.experiment_id for found in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.`selftrain.key` = '{key}'"))


OUTAGES = [
    "away",
    500,
    pytest.param(503, marks=pytest.mark.torture),
    pytest.param("hang", marks=pytest.mark.torture),
    pytest.param("lose", marks=pytest.mark.torture),
]


@pytest.mark.parametrize("fault", OUTAGES)
def test_what_is_logged_in_an_outage_arrives_once_and_in_order(
    fault: int | str,
    proxy: Proxy,
    network: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with parent_run("test"), stage_run("train", "teacher", f"outage {fault}") as run:
        log_all_kinds(run, 0, network)
        with proxy.failing(fault):
            log_all_kinds(run, 1, network)
            time.sleep(SHORT)
            log_all_kinds(run, 2, network)
            run.log_model(network)
            assert run.has_metric("loss")
            ended = time.time() * 1000
        log_all_kinds(run, 3, network)
    require_all_kinds(run.run_id, [0, 1, 2, 3], network, tmp_path)
    assert len(models_of(run.run_id)) == 1
    client = MlflowClient()
    assert client.get_run(run.run_id).info.status == "FINISHED"
    # A metric has the time at which it was measured, not that of its arrival.
    times = {it.step: it.timestamp for it in client.get_metric_history(run.run_id, "loss")}
    assert times[20] - times[10] > SHORT * 1000
    assert times[22] <= ended
    # The machine was watched all the time.
    steps = tracking.metric_steps(run.run_id, "system/cpu_utilization_percentage")
    assert list(steps) == list(range(len(steps)))
    assert list(Path("outputs/spool").iterdir()) == []
    said = capsys.readouterr().out
    assert said.count("does not answer") == 1
    assert said.count("is back and has got what waited") == 1


def test_what_the_store_has_taken_while_its_answer_was_lost_is_there_once(
    proxy: Proxy, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each path's first answer is lost, so that all is sent twice at least."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with parent_run("test"):
        with stage_run("train", "teacher", "lost") as run, proxy.failing("lose once"):
            log_all_kinds(run, 0, network)
            run.log_model(network)
            tracking.flush()
        require_all_kinds(run.run_id, [0], network, tmp_path)
    (model,) = models_of(run.run_id)
    stored = MlflowClient().get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert Counter(it.model_id for it in stored.outputs.model_outputs)[model] == 1


def test_a_run_whose_beginning_was_answered_in_vain_is_begun_once(proxy: Proxy) -> None:
    begin = store.begin_run("0", "teacher", {"selftrain.key": "begun"})
    with proxy.failing("lose", "runs/create"), pytest.raises(mlflow.MlflowException):
        begin()
    (run,) = runs_of("begun")
    assert begin() == run.info.run_id
    assert len(runs_of("begun")) == 1


class Work:
    """A stage during which the store goes away."""

    def __init__(self, proxy: Proxy, fault: int | str) -> None:
        self.proxy, self.fault, self.calls = proxy, fault, 0

    def make(self, folder: Path, run: Run) -> None:
        self.calls += 1
        run.log_metrics({"dev/mIoU": 0.25}, step=1)
        if self.calls == 1:
            self.proxy.fail(self.fault)
        run.log_metrics({"dev/mIoU": 0.5}, step=2)
        (folder / "result.txt").write_text("made")

    def run(self) -> Product:
        identity = {"fault": str(self.fault), "uri": self.proxy.uri}
        return run_stage(WORK, identity, self.make, outputs=Path("outputs"), title="work")


@pytest.mark.parametrize("fault", ["away", 500])
def test_if_the_store_never_returns_the_product_waits_for_sync_and_is_then_found(
    fault: int | str, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Work(proxy, fault)
    tracking.connect(Path("outputs"), 1)
    with pytest.raises(InputError) as caught, parent_run("test") as parent:
        work.run()
    text = str(caught.value)
    (folder,) = Path("outputs").glob("work-*")
    for word in (str(folder), "outputs/spool", "python -m selftrain sync", "same command"):
        assert word in text
    assert len(text.splitlines()) == 1
    assert (folder / "result.txt").read_text() == "made"
    assert not list(Path("outputs").glob("*.lock"))
    with pytest.raises(InputError, match="Nobody answers" if fault == "away" else "500"):
        sync(Path("outputs"), 0)

    proxy.mend()
    capsys.readouterr()
    sync(Path("outputs"), 0)
    said = capsys.readouterr().out
    assert "which ends FINISHED: " in said
    assert "which ends FAILED: 1 messages delivered" in said
    assert MlflowClient().get_run(parent.run_id).info.status == "FAILED"
    with parent_run("test"):
        product = work.run()
    assert product.is_reused
    assert work.calls == 1
    assert tracking.metric_steps(product.run_id, "dev/mIoU") == {1: 0.25, 2: 0.5}
    assert "nothing waits" in sync(Path("outputs"), 0).what


def test_what_waits_is_delivered_by_the_next_command_too(proxy: Proxy) -> None:
    work = Work(proxy, "away")
    tracking.connect(Path("outputs"), 0.2)
    with pytest.raises(InputError), parent_run("test"):
        work.run()
    proxy.mend()
    with parent_run("test"):
        assert work.run().is_reused
    assert work.calls == 1


def die_in_an_outage(folder: Path, proxy_port: int) -> None:
    """Log something of a run whose store is away, and be killed."""
    os.chdir(folder)
    tracking.connect(Path("outputs"), 30)
    run_id = store.begin_run("0", "teacher", {"selftrain.key": "killed"})()
    run = Run(run_id)
    tracking._process.outbox.own(run_id)
    (folder / "run").write_text(run_id)
    while not (folder / "away").exists():
        time.sleep(0.02)
    for step in range(5):
        run.log_metrics({"loss": float(step)}, step=step)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_had_still_to_say_is_delivered_and_its_run_ends_killed(
    proxy: Proxy, tmp_path: Path
) -> None:
    process = CONTEXT.Process(target=die_in_an_outage, args=(tmp_path, proxy.port))
    process.start()
    while not (tmp_path / "run").exists():
        assert process.is_alive()
        time.sleep(0.05)
    with proxy.failing("away"):
        (tmp_path / "away").touch()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    run_id = (tmp_path / "run").read_text()
    assert MlflowClient().get_run(run_id).info.status == "RUNNING"
    sync(Path("outputs"), 0)
    assert tracking.metric_steps(run_id, "loss") == {step: float(step) for step in range(5)}
    assert MlflowClient().get_run(run_id).info.status == "KILLED"


def test_what_the_store_refuses_is_left_and_named_with_the_cure(proxy: Proxy) -> None:
    work = Work(proxy, "away")
    tracking.connect(Path("outputs"), 0)
    with pytest.raises(InputError), parent_run("test"):
        work.run()
    proxy.mend()
    client = MlflowClient()
    waiting = [path.name.partition("-")[0] for path in Path("outputs/spool").iterdir()]
    (run_id,) = (it for it in waiting if "selftrain.key" in client.get_run(it).data.tags)
    client.delete_run(run_id)
    with pytest.raises(InputError, match=rf"refuses what run {run_id}.*restore.*delete outputs"):
        sync(Path("outputs"), 0)
    client.restore_run(run_id)
    sync(Path("outputs"), 0)


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_what_a_stage_logs_to_a_run_that_is_deleted_meanwhile_costs_nothing(
    what: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"its {what} is deleted")
    tracking.connect(Path("outputs"), 1)
    client = MlflowClient()
    made: list[Run] = []

    def make(folder: Path, run: Run) -> None:
        made.append(run)
        run.log_metrics({"loss": 1.0}, step=0)
        (folder / "result.txt").write_text("made")
        stored = client.get_run(run.run_id).info
        if len(made) == 1 and what == "run":
            client.delete_run(run.run_id)
        elif len(made) == 1:
            client.delete_experiment(stored.experiment_id)
        run.log_metrics({"loss": 0.5}, step=1)

    def work() -> Product:
        with parent_run("test"):
            return run_stage(WORK, {"deleted": what}, make, outputs=Path("outputs"), title="work")

    with pytest.raises(Unavailable) as caught:
        work()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    for word in (made[0].run_id, "deleted", "same command", f"mlflow {what}s restore", "sync"):
        assert word in text
    (folder,) = Path("outputs").glob("work-*")
    assert (folder / "result.txt").read_text() == "made"

    stored = client.get_run(made[0].run_id).info
    if what == "experiment":
        words = rf"is deleted: restore it .*--experiment-id {stored.experiment_id}\)"
        with pytest.raises(InputError, match=words):
            tracking.connect(Path("outputs"), 1)
        client.restore_experiment(stored.experiment_id)
    tracking.connect(Path("outputs"), 1)
    capsys.readouterr()
    product = work()  # the same command
    assert len(made) == 2
    assert product.run_id == made[1].run_id
    assert tracking.metric_steps(product.run_id, "loss") == {0: 1.0, 1: 0.5}
    assert client.get_run(product.run_id).info.status == "FINISHED"

    said = capsys.readouterr().out
    if what == "run":
        assert f"refuses what run {made[0].run_id} has logged" in said
        client.restore_run(made[0].run_id)
        sync(Path("outputs"), 0)
        said = capsys.readouterr().out
    # How many: the machine's metrics may be among them.
    assert re.search(rf"run {made[0].run_id}, which ends FAILED: \d+ messages delivered\n", said)
    assert tracking.metric_steps(made[0].run_id, "loss") == {0: 1.0, 1: 0.5}
    assert client.get_run(made[0].run_id).info.status == "FAILED"
    assert list(Path("outputs/spool").iterdir()) == []


def test_a_run_that_a_dead_command_has_left_and_somebody_has_deleted_is_in_nobodys_way(
    proxy: Proxy,
) -> None:
    begin = store.begin_run("0", "teacher", {"selftrain.key": "left"})
    command, run_id = begin(), store.begin_run("0", "student", {"selftrain.key": "left"})()
    for it in (command, run_id):
        MlflowClient().delete_run(it)
    tracking.bury(command, run_id)
    tracking.bury("0" * 32, "1" * 32)  # of another store
    assert not list(Path("outputs").glob("spool/*"))


def test_a_question_waits_for_the_store_and_then_gives_up_with_the_cure(proxy: Proxy) -> None:
    with parent_run("test"), stage_run("train", "teacher", "asked") as run:
        pass
    with proxy.failing(500):
        timer = threading.Timer(SHORT, proxy.mend)
        timer.start()
        began = time.monotonic()
        assert tracking.find_finished("asked") == run.run_id
        assert time.monotonic() - began >= SHORT / 2
        timer.join()
    tracking.connect(Path("outputs"), 0.5)
    with proxy.failing("away"):
        began = time.monotonic()
        with pytest.raises(InputError, match=r"does not answer .*refused.*same command again"):
            tracking.find_finished("asked")
        with pytest.raises(InputError, match=r"cannot be fetched|does not answer"):
            tracking.download(f"runs:/{run.run_id}/x", Path("fetched"))
        assert time.monotonic() - began < 30


def test_a_password_in_the_uri_of_a_server_is_not_printed_with_the_address_of_a_run(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")  # comes back in the end
    with parent_run("test") as run:
        pass
    assert f"/runs/{run.run_id}" in capfd.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri.replace("//", "//me:hush-4711@"))
    tracking.connect()
    with parent_run("test") as run, stage_run("train", "teacher", "with a password") as stage:
        stage.log_text("text", "text.txt")
    printed = capfd.readouterr()
    assert "hush" not in printed.out + printed.err
    assert run.run_id not in printed.out


def registration(name: str) -> Registration:
    return Registration(
        name=name, role="student", alias="student", description="card", dev_miou=0.5, asked=1
    )


def require_registered_once(name: str, run_id: str) -> None:
    """Compare what the registry has with what was asked for."""
    client = MlflowClient()
    version: ModelVersion
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert version.run_id == run_id
    aliases = client.get_registered_model(name).aliases
    assert {alias: int(number) for alias, number in aliases.items()} == {
        "student": 1,
        "champion": 1,
    }
    assert version.description.startswith("card")
    assert list(Path("outputs/spool").iterdir()) == []


@pytest.mark.parametrize("fault", ["away", 500, "lose once"])
def test_a_network_that_is_registered_in_an_outage_becomes_one_version(
    fault: int | str, proxy: Proxy, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    name = f"outage-{fault}".replace(" ", "-")
    with parent_run("test"):
        with stage_run("train", "teacher", name) as run:
            run.log_model(network)
        with proxy.failing(fault):
            run.register(registration(name))
            if fault == "lose once":
                tracking.flush()
    require_registered_once(name, run.run_id)


def test_a_network_whose_store_never_returns_is_registered_by_sync(
    proxy: Proxy, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking.connect(Path("outputs"), 0.2)
    with pytest.raises(InputError, match="python -m selftrain sync"), parent_run("test"):  # noqa: PT012  # the end of the block raises
        with stage_run("train", "teacher", "unregistered") as run:
            run.log_model(network)
        proxy.fail("away")
        run.register(registration("synced"))
    proxy.mend()
    tracking.connect()  # leaves what waits, as the end of the process does
    sync(Path("outputs"), 0)
    require_registered_once("synced", run.run_id)
    assert "champion of synced: version 1 (dev mIoU 50.00), the first" in capsys.readouterr().out
    assert MlflowClient().get_run(run.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_credentials_are_said_at_once(status: int, proxy: Proxy) -> None:
    began = time.monotonic()
    with proxy.failing(status), pytest.raises(InputError, match=r"let us in.*MLFLOW_TRACKING_USER"):
        tracking.connect()
    tracking.connect()
    with (
        proxy.failing(status, "runs/create"),
        pytest.raises(InputError, match=r"let us in.*MLFLOW_TRACKING_USERNAME"),
    ):
        parent_run("test").__enter__()
    assert time.monotonic() - began < 30  # and not after a patience of 120


def test_an_artifact_store_that_fails_is_said_before_any_stage(proxy: Proxy) -> None:
    with (
        proxy.failing(500, "mlflow-artifacts/artifacts/"),
        pytest.raises(InputError, match=r"artifacts .* cannot be written .*make room"),
    ):
        parent_run("test").__enter__()


def test_a_hung_server_takes_no_more_than_a_tenth_of_the_time(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(delivery, "_PING", 0.2)
    tries, ping = list[float](), store.ping

    def count(uri: str, timeout: float) -> None:
        tries.append(timeout)
        ping(uri, timeout)

    monkeypatch.setattr(store, "ping", count)
    with parent_run("test") as run, proxy.failing("hang"):
        run.log_metrics({"loss": 1.0})  # finds it out
        calls, began = 0, time.monotonic()
        while time.monotonic() - began < 6:
            run.log_metrics({"loss": 1.0})
            calls += 1
            time.sleep(0.1)
        assert 1 <= len(tries) <= 4  # in 6 s, of 0.2 s each: not at every one of the calls
    assert calls > 10


@pytest.mark.torture
@pytest.mark.parametrize(("seed", "fault"), enumerate(["killed server", 500, "hang"]))
def test_a_training_goes_on_through_a_minute_without_its_server(
    seed: int,
    fault: int | str,
    server: Server,
    scenes_root: Path,
    tmp_path: Path,
) -> None:
    """The command itself, and each epoch's metrics against those in its checkpoint's history."""
    proxy = Proxy(server.port)
    proxy.open()
    epochs = 100
    values: dict[str, Scalar] = {
        "machine.data_root": scenes_root,
        "machine.tracking_patience": 600,
        "teacher.epochs": epochs,
        "teacher.seed": seed,  # the server has the teachers of the others
    }
    workspace = Workspace(tmp_path, proxy.uri, values)
    pool = ThreadPool(1)
    command = pool.apply_async(workspace.selftrain, ("teacher",))
    while not list(workspace.outputs.glob("train-*/checkpoint.pt")):
        assert not command.ready(), command.get().output
        time.sleep(0.1)
    if fault == "killed server":
        server.kill()
        time.sleep(60)
        server.start()
    else:
        with proxy.failing(fault):
            time.sleep(60)
    finished = command.get()
    proxy.close()
    assert finished.code == 0, finished.output
    client = MlflowClient(server.uri)
    teachers = [it for it in Workspace(tmp_path, server.uri).stages() if role(it) == "teacher"]
    (run,) = [it for it in teachers if it.data.params["teacher.seed"] == str(seed)]
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "train/epoch_seconds"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in history] == list(range(epochs))


def sync_in(folder: Path, uri: str) -> None:
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    sync(Path("outputs"), 0)


@pytest.mark.torture
def test_sync_may_be_killed_at_any_moment(proxy: Proxy, network: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kills = 0
    for number in range(10):
        tracking.connect(Path("outputs"), 0)
        with (  # noqa: PT012
            pytest.raises(InputError),
            parent_run("test"),
            stage_run("train", "teacher", f"synced {number}") as run,
        ):
            proxy.fail("away")
            for i in range(4):
                log_all_kinds(run, i, network)
            run.log_model(network)
        proxy.mend()
        tracking.connect()  # leaves what waits, as the end of the process does
        attempts = 0
        while list(Path("outputs/spool").iterdir()):
            attempts += 1
            process = CONTEXT.Process(target=sync_in, args=(tmp_path, proxy.uri))
            process.start()
            process.join(float(rng.uniform(0.2, 1.0)) * attempts)
            if process.is_alive():
                process.kill()
                kills += 1
            process.join()
        require_all_kinds(run.run_id, [0, 1, 2, 3], network, tmp_path / str(number))
        assert len(models_of(run.run_id)) == 1
        assert MlflowClient().get_run(run.run_id).info.status == "FINISHED"
    assert kills >= 10
