"""The services of compose.yaml, by the commands that stand in it, as processes of this machine.

Only what names a container is replaced: addresses, ports, folders, and PostgreSQL's user.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import optuna
import psycopg
import pytest
from compose_file import REPOSITORY, services
from miniature import TINY, flags
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState
from postgres import USER, started_postgres

TRIALS = 4
SECONDS = 600
"""After which a service counts as hung."""
PASSWORD = "hush-4711"
SERVICES = services({"POSTGRES_PASSWORD": PASSWORD, "TRIALS": str(TRIALS), "MLFLOW_WORKERS": "1"})


@dataclass(frozen=True)
class Deployment:
    """What the services of the file have in common here."""

    folder: Path
    postgres: str
    """Folder of PostgreSQL's socket."""
    port: int
    """Of the MLflow server."""

    @property
    def tracking_uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def database(self, name: str) -> str:
        """Return the URI of a database, for SQLAlchemy."""
        return f"postgresql+psycopg://{USER}:{PASSWORD}@/{name}?host={self.postgres}"

    def start(self, service: str, program: list[str], *more: str) -> subprocess.Popen[bytes]:
        """Start a service by its command and its environment."""
        asked = SERVICES[service]
        environment = {key: self._here(value) for key, value in asked["environment"].items()}
        assert environment["PGPASSWORD"] == PASSWORD
        with (self.folder / service).open("ab") as log:
            return subprocess.Popen(
                [*program, *map(self._here, asked["command"]), *more],
                cwd=self.folder,
                env={**plain_environment(), **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _here(self, text: str) -> str:
        """Put in what the parts of a container are here."""
        for database in ("tracking", "sweeps"):
            there = f"selftrain@postgres/{database}"
            text = text.replace(there, f"{USER}@/{database}?host={self.postgres}")
        if not text.startswith("--allowed-hosts"):
            text = text.replace("http://mlflow:5000", self.tracking_uri)
        replaced = {
            "--host=" + ".".join("0000"): "--host=127.0.0.1",
            "--port=5000": f"--port={self.port}",
        }
        return replaced.get(text, text).replace("=/srv/", f"={self.folder}/")

    def answers(self, path: str, host: str = "") -> int:
        """Return the status with which the MLflow server answers; 0: it does not."""
        headers = {"Host": host} if host else {}
        request = urllib.request.Request(f"{self.tracking_uri}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


def plain_environment() -> Mapping[str, str]:
    """Return this process's variables, as an image has them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {
        **kept,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
    }


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """PostgreSQL with the databases of the file, and the MLflow server; both are up."""
    with started_postgres(PASSWORD) as uri, socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
        found.close()
        socket_folder = urlsplit(uri).query.partition("host=")[2]
        it = Deployment(tmp_path_factory.mktemp("services"), socket_folder, port)
        (script,) = (REPOSITORY / "docs" / "docker").glob("*.sql")
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("CREATE DATABASE tracking")
            connection.execute(script.read_bytes())
        server = it.start("mlflow", [sys.executable, "-m", "mlflow"])
        try:
            stop_at = time.monotonic() + SECONDS
            while it.answers("/health") != 200:  # as the file's healthcheck asks
                log = it.folder / "mlflow"
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < stop_at, log.read_text()
                time.sleep(0.2)
            yield it
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


@pytest.fixture(scope="module")
def swept(deployment: Deployment, scenes_root: Path) -> Deployment:
    """Two workers have begun at once, and are done."""
    knobs = {**TINY, "machine.data_root": scenes_root, "sweep.retrain": 0}
    program = [sys.executable, "-m", "selftrain"]
    workers = [deployment.start("worker", program, *flags(knobs)) for _ in range(2)]
    try:
        codes = [worker.wait(SECONDS) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert codes == [0, 0], (deployment.folder / "worker").read_text()
    return deployment


def runs(deployment: Deployment) -> list[Run]:
    client = MlflowClient(deployment.tracking_uri)
    experiment = client.get_experiment_by_name("selftrain")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_the_server_answers_to_its_names_and_to_no_others(deployment: Deployment) -> None:
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    for host in ("mlflow:5000", "localhost:5000", "127.0.0.1:8080", ""):
        assert deployment.answers(path, host) == 200
    assert deployment.answers(path, "elsewhere.example:5000") == 403


def test_two_workers_carry_out_each_trial_once(swept: Deployment) -> None:
    uri = swept.database("sweeps")
    (name,) = optuna.get_all_study_names(uri)
    trials = optuna.load_study(study_name=name, storage=uri).trials
    assert len(trials) == TRIALS
    assert {it.state for it in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    of_trials = [run for run in runs(swept) if run.data.tags["selftrain.stage"] == "trial"]
    numbers = Counter(run.data.tags["selftrain.trial"] for run in of_trials)
    assert numbers == dict.fromkeys(map(str, range(TRIALS)), 1)
    teachers = [run for run in runs(swept) if run.data.tags.get("selftrain.role") == "teacher"]
    assert len(teachers) == 1


def test_what_the_workers_log_lies_with_the_server(swept: Deployment, tmp_path: Path) -> None:
    client = MlflowClient(swept.tracking_uri)
    assert {run.info.status for run in runs(swept)} <= {"FINISHED", "KILLED"}
    assert all(run.info.artifact_uri.startswith("mlflow-artifacts:/") for run in runs(swept))
    (teacher,) = (run for run in runs(swept) if run.data.tags.get("selftrain.role") == "teacher")
    assert {it.path for it in client.list_artifacts(teacher.info.run_id)} >= {"config.json"}
    got = Path(client.download_artifacts(teacher.info.run_id, "config.json", str(tmp_path)))
    (stored,) = (swept.folder / "artifacts").glob(f"**/{teacher.info.run_id}/artifacts/config.json")
    assert got.read_bytes() == stored.read_bytes() != b""
    last = max(runs(swept), key=lambda run: run.info.end_time)
    assert "trials.csv" in {it.path for it in client.list_artifacts(last.info.run_id)}
