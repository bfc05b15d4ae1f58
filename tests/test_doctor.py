"""What the doctor finds, on machines that lack something."""

import http.server
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from miniature import camvid_tree

from selftrain import doctor, doctor_checks, doctor_torch
from selftrain.benchmarks import benchmark
from selftrain.config import Config
from selftrain.doctor import examine
from selftrain.doctor_checks import (
    Check,
    check_cores,
    check_data,
    check_leftovers,
    check_outputs,
    check_packages,
    check_store,
)
from selftrain.doctor_torch import check_torch
from selftrain.knobs import Scalar, override
from selftrain.locks import FileLock

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for torch, also where many tests run at once."""
    monkeypatch.setattr(doctor_torch, "SECONDS", 100.0)
    monkeypatch.setattr(doctor, "SECONDS", 100.0)


def config(tmp_path: Path, more: dict[str, Scalar] | None = None, name: str = "scenes") -> Config:
    places: dict[str, Scalar] = {
        "machine.outputs": tmp_path / "outputs",
        "machine.data_root": tmp_path / "data",
        "machine.device": "cpu",
    }
    return override(benchmark(name), {**places, **(more or {})})


def only(checks: list[Check], name: str) -> Check:
    (found,) = (check for check in checks if check.name == name)
    return found


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_on_a_machine_with_all_there_nothing_fails_and_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    summary = examine(config(tmp_path))
    assert summary.failed == ""
    assert everything(tmp_path) == set()
    said = capsys.readouterr().out
    assert "not there yet, the first command makes it" in said
    checks: Any = summary.details["checks"]
    assert {it["name"] for it in checks} >= {"python", "packages", "outputs", "store", "data"}


def test_torch_tells_its_version_and_how_much_the_trainings_write(tmp_path: Path) -> None:
    checks = check_torch(config(tmp_path))
    assert only(checks, "torch").status == "ok"
    assert "threads on the CPU" in only(checks, "gpu").found
    assert "teacher, student and control write about" in only(checks, "disk").found


def test_a_torch_that_does_not_fit_its_torchvision_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "torchvision.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.setattr(doctor_torch, "__file__", str(fake / "selftrain" / "doctor_torch.py"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    check = only(check_torch(config(tmp_path)), "torch")
    assert check.status == "failed"
    assert "operator torchvision::nms does not exist" in check.found
    assert "as a pair" in check.cure


def test_a_torch_that_takes_too_long_is_a_warning_with_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "torchvision.py").write_text("import time\ntime.sleep(100)")
    monkeypatch.setattr(doctor_torch, "__file__", str(fake / "selftrain" / "doctor_torch.py"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr(doctor_torch, "SECONDS", 1.0)
    check = only(check_torch(config(tmp_path)), "torch")
    assert check.status == "warning"
    assert doctor_checks.LATE in check.found


def test_cuda_that_is_asked_for_and_not_there_fails(tmp_path: Path) -> None:
    asked = config(tmp_path, {"machine.device": "cuda"})
    found: dict[str, Any] = {"gpus": [], "cuda": None, "threads": 2}
    check = doctor_torch._check_device(asked, found)
    assert (check.status, "a build for the CPU" in check.found) == ("failed", True)
    found["gpus"] = [{"name": "GPU", "total": 2**34, "bf16": True}]
    assert doctor_torch._check_device(asked, found) == Check("gpu", "ok", "1: GPU, 16.0 GiB, bf16")
    many = override(asked, {"machine.processes": 2})
    assert doctor_torch._check_device(many, found).status == "failed"


def test_published_weights_that_are_not_fetched_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    values: dict[str, Scalar] = {
        f"{who}.network.backbone_weights": "IMAGENET1K_V1" for who in ("teacher", "student")
    }
    check = only(check_torch(config(tmp_path, values, "camvid_small")), "weights")
    assert check.status == "warning"
    assert "mobilenet_v2-" in check.found
    assert str(tmp_path / "hub" / "checkpoints") in check.cure


def test_packages_of_other_versions_are_a_warning_and_missing_ones_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert only(check_packages(config(tmp_path)), "packages").status == "ok"
    monkeypatch.setattr(doctor_checks, "_pins", lambda: {"rich": "1.0", "numpy": "2.4.6"})
    check = only(check_packages(config(tmp_path)), "packages")
    assert check.status == "warning"
    assert check.found.endswith("instead of 1.0")
    monkeypatch.setattr(doctor_checks, "_pins", lambda: {"no-such-package": "1.0"})
    check = only(check_packages(config(tmp_path)), "packages")
    assert (check.status, check.found) == ("failed", "missing: no-such-package==1.0")


def test_too_little_shared_memory_is_a_warning(tmp_path: Path) -> None:
    values: dict[str, Scalar] = {
        "machine.workers": 1000,
        "student.optim.batch_size": 4096,
        "student.crop.size": 8192,
    }
    check = only(check_cores(config(tmp_path, values)), "shared memory")
    assert (check.status, "--shm-size" in check.cure) == ("warning", True)
    checks = check_cores(config(tmp_path, {"machine.workers": 0}))
    assert [check.name for check in checks] == ["cores"]


def test_outputs_that_cannot_be_written_fail(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    inside = config(tmp_path, {"machine.outputs": Path("/proc/outputs")})
    check = only(check_outputs(inside), "outputs")
    assert (check.status, "machine.outputs" in check.cure) == ("failed", True)
    assert only(check_outputs(config(tmp_path)), "outputs").status == "failed"


def use(monkeypatch: pytest.MonkeyPatch, uri: str, tmp_path: Path) -> Check:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return only(check_store(config(tmp_path)), "store")


def test_a_store_that_is_there_is_read_and_not_changed(store: str, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    before = (file.read_bytes(), everything(tmp_path))
    check = only(check_store(config(tmp_path)), "store")
    assert (check.status, check.found) == ("ok", f"{store}: 0 finished runs")
    assert (file.read_bytes(), everything(tmp_path)) == before


def test_a_store_that_cannot_be_used_fails_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.db").write_text("no database at all, though as long as one" * 9)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE runs_of_horses (name TEXT)")
    for uri, reason in {
        f"sqlite:///{tmp_path}": "is a folder",
        f"sqlite:///{tmp_path}/text.db": "is no database of MLflow, or is damaged",
        f"sqlite:///{tmp_path}/other.db": "no such table: runs",
        f"sqlite:///{tmp_path}/none/mlflow.db": "is missing",
        "http://127.0.0.1:9": "nobody answers at http://127.0.0.1:9 ([Errno 111] Connection",
        "postgresql://user:secret@127.0.0.1:9/runs": "nobody answers at postgresql://user:***@",
        str(tmp_path): "is a folder, which MLflow takes no more",
    }.items():
        check = use(monkeypatch, uri, tmp_path)
        assert check.status == "failed", uri
        assert reason in check.found
        assert "MLFLOW_TRACKING_URI" in check.cure


class Strict(http.server.BaseHTTPRequestHandler):
    """A server that lets one user in."""

    def do_GET(self) -> None:
        is_known = self.headers.get("Authorization") == "Basic dXNlcjpzZWNyZXQ="
        self.send_response(200 if is_known or self.path == "/health" else 401)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strict) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_a_server_is_asked_whether_it_lets_us_in(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = use(monkeypatch, server, tmp_path)
    assert (check.status, "does not let us in (401)" in check.found) == ("failed", True)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert use(monkeypatch, server, tmp_path).found == f"{server}: answers, and lets us in"


DYING = """
import os, sys
from pathlib import Path
from selftrain.locks import FileLock
from selftrain.spool import Message, Spool
outputs = Path(sys.argv[1])
outputs.mkdir()
FileLock(outputs / "train-0123.lock").take()
Spool.begin(outputs / "spool", "abc", {}).append(Message(kind="tags", value={"tags": {}}))
os.kill(os.getpid(), 9)
"""


def test_what_dead_processes_have_left_is_named_with_the_cure(tmp_path: Path) -> None:
    mine = config(tmp_path)
    assert check_leftovers(mine) == [Check("leftovers", "ok", "none")]
    subprocess.run(
        [sys.executable, "-c", DYING, str(mine.machine.outputs)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    before = everything(tmp_path)
    messages, product = check_leftovers(mine)
    assert "messages of 1 runs wait" in messages.found
    assert messages.cure == f"python -m selftrain sync --machine.outputs {mine.machine.outputs}"
    assert "has died at" in product.found
    assert "train-0123" in product.found
    assert everything(tmp_path) == before


def test_a_lock_of_a_living_process_is_no_leftover(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    script = (
        "import sys; from pathlib import Path; from selftrain.locks import FileLock\n"
        "FileLock(Path(sys.argv[1])).take(); print('taken', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(outputs / "train-0123.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        (check,) = check_leftovers(config(tmp_path))
        assert (check.name, check.status) == ("at work", "ok")
        assert f"process {process.pid} on " in check.found
        other = FileLock(outputs / "train-0123.lock")
        assert not other.take()  # the look has not given it back
        process.communicate()


def test_data_are_listed_and_missing_ones_fail_with_the_place(
    tmp_path: Path, camvid_root: Path
) -> None:
    listed = config(
        tmp_path,
        {"machine.data_root": camvid_root, "data.labelled_fraction": 1 / 16},
        "camvid_small",
    )
    check = only(check_data(listed), "data")
    assert check.status == "ok"
    assert "in the pool" in check.found
    missing = override(listed, {"machine.data_root": tmp_path / "nowhere"})
    check = only(check_data(missing), "data")
    assert check.status == "failed"
    assert str(tmp_path / "nowhere") in check.found
    assert "docs/data.md" in check.cure


def test_scenes_are_counted_and_not_drawn(tmp_path: Path) -> None:
    check = only(check_data(config(tmp_path)), "data")
    assert check.found == (
        f"scenes: nothing drawn yet; train, dev, test will be drawn into {tmp_path / 'data'}"
    )
    assert everything(tmp_path) == set()


def test_a_weights_file_that_is_missing_fails(tmp_path: Path) -> None:
    values: dict[str, Scalar] = {
        "teacher.network.backbone_weights": str(tmp_path / "none.pth"),
        "student.network.backbone_weights": "IMAGENET1K_V1",
    }
    camvid_tree(tmp_path / "data")
    values["data.labelled_fraction"] = 1 / 16
    check = only(check_data(config(tmp_path, values, "camvid_small")), "weights")
    assert (check.status, str(tmp_path / "none.pth") in check.found) == ("failed", True)


def test_a_check_that_hangs_or_fails_itself_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: Config) -> list[Check]:
        raise ZeroDivisionError("of a check")

    def hang(config: Config) -> list[Check]:
        threading.Event().wait(20)
        return []

    mended = {name: lambda config: [Check("x", "ok", "")] for name in doctor._CHECKS}
    monkeypatch.setattr(doctor, "_CHECKS", {**mended, "data": fail, "store": hang})
    monkeypatch.setattr(doctor, "SECONDS", 0.2)
    checks: Any = doctor.examine(config(tmp_path)).details["checks"]
    texts = [it["found"] for it in checks if it["status"] == "warning"]
    assert texts == [
        doctor_checks.LATE,
        "it could not be checked (ZeroDivisionError: of a check)",
    ]


def test_the_command_fails_with_exit_code_1_and_tells_a_script(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "selftrain", "doctor", "--benchmark", "camvid_small"),
            *("--machine.data_root", "nowhere", "--json", "--quiet"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["stage"], found["status"]) == ("doctor", "failed")
    assert "data" in [it["name"] for it in found["checks"] if it["status"] == "failed"]
    assert done.stderr == f"error: {found['error']}\n"
    assert everything(tmp_path) == set()
