"""One command starts several processes.

What these run here is no training but a `selftrain` of a few lines in the current folder.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from selftrain.errors import InputError
from selftrain.launch import launch, needs_launch

REPOSITORY = Path(__file__).parents[1]
LAUNCH = "import sys; from selftrain.launch import launch; sys.exit(launch(sys.argv[1:], 2))"
TELL = """
import os, pathlib, sys
names = ["WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS", "MLFLOW_RUN_ID"]
told = [*(os.environ.get(name, "") for name in names), *sys.argv[1:]]
pathlib.Path("rank" + os.environ["RANK"]).write_text(" ".join(told))
"""
FAIL = """
import os, sys, time
if os.environ["RANK"] == "1":
    sys.exit("error: the cure is here")
time.sleep(600)
"""
WAIT = """
import os, pathlib, time
pathlib.Path("rank" + os.environ["RANK"]).touch()
time.sleep(600)
"""


def start(
    program: str, folder: Path, *words: str, machines: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Launch two processes of a program that calls itself selftrain.

    Args:
        program: Its code.
        folder: Where it runs.
        words: Of its command line.
        machines: Variables that say on which machines it runs; None: on this one.
    """
    (folder / "selftrain").mkdir(exist_ok=True)
    (folder / "selftrain" / "__init__.py").touch()
    (folder / "selftrain" / "__main__.py").write_text(program)
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", LAUNCH, *words],  # -P: this process takes the true selftrain
        cwd=folder,
        env={**kept, "PYTHONPATH": str(REPOSITORY), "MLFLOW_RUN_ID": "the-run", **(machines or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_only_a_command_that_is_alone_and_wants_company_launches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert needs_launch(2)
    assert not needs_launch(1)
    monkeypatch.setenv("PET_NNODES", "2")  # one process on each of two machines
    assert needs_launch(1)
    monkeypatch.setenv("RANK", "0")
    assert not needs_launch(2)
    assert not needs_launch(1)


def test_every_process_runs_the_command_with_its_share_of_the_cores(tmp_path: Path) -> None:
    started = start(TELL, tmp_path, "student", "--student.optim.lr=0.02")
    output, _ = started.communicate(timeout=300)
    assert started.returncode == 0, output
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    for rank in (0, 1):
        told = (tmp_path / f"rank{rank}").read_text()
        assert told == f"2 {rank} {threads} the-run student --student.optim.lr=0.02"


def test_a_mistake_is_one_sentence_and_ends_the_other_processes(tmp_path: Path) -> None:
    started = start(FAIL, tmp_path)
    output, _ = started.communicate(timeout=300)
    assert started.returncode == 1, output
    assert output.count("error: the cure is here") == 1
    assert "Traceback" not in output


def test_a_command_that_is_stopped_stops_its_processes(tmp_path: Path) -> None:
    started = start(WAIT, tmp_path)
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("rank?"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=300)  # ends only when no process holds the pipe
    assert started.returncode == 128 + signal.SIGTERM, output
    assert "Traceback" not in output


KEEP = """
import os, pathlib, signal, sys, time
def keep(*given):
    time.sleep(float(sys.argv[1]))
    pathlib.Path("kept" + os.environ["RANK"]).touch()
    os._exit(0)
signal.signal(signal.SIGTERM, keep)
pathlib.Path("rank" + os.environ["RANK"]).touch()
time.sleep(600)
"""
OURS = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"


@pytest.mark.parametrize(
    ("seconds", "patience", "are_kept"),
    [
        pytest.param(40, None, True, marks=pytest.mark.torture),  # torchrun's own patience is 30
        (60, "1", False),
    ],
)
def test_processes_have_time_to_keep_what_they_have_unless_the_user_gives_them_less(
    seconds: int,
    patience: str | None,
    are_kept: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(OURS, raising=False)
    if patience is not None:
        monkeypatch.setenv(OURS, patience)
    started = start(KEEP, tmp_path, str(seconds))
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("rank?"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=300)
    assert started.returncode == 128 + signal.SIGTERM, output
    assert len(list(tmp_path.glob("kept?"))) == (2 if are_kept else 0)


def test_the_same_command_on_two_machines_is_one_of_four_processes(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    machines = {
        "PET_NNODES": "2",
        "PET_RDZV_ENDPOINT": f"127.0.0.1:{port}",
        "PET_RDZV_ID": "the-job",
        "PET_LOCAL_ADDR": "127.0.0.1",  # this machine plays both, and may not know its own name
    }
    both = [start(TELL, tmp_path, "student", machines=machines) for _ in range(2)]
    for started in both:
        output, _ = started.communicate(timeout=120)
        assert started.returncode == 0, output
    told = [(tmp_path / f"rank{rank}").read_text().split() for rank in range(4)]
    assert [words[0] for words in told] == ["4"] * 4
    assert [words[1] for words in told] == ["0", "1", "0", "1"]
    assert {words[-1] for words in told} == {"student"}


def test_machines_that_do_not_know_where_to_meet_are_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.delenv("PET_RDZV_ENDPOINT", raising=False)
    with pytest.raises(InputError, match=r"several machines, but PET_RDZV_ENDPOINT does not say"):
        launch(["student"], 1)


def test_machines_that_do_not_meet_are_told_where_they_should(tmp_path: Path) -> None:
    machines = {
        "PET_NNODES": "2",
        "PET_RDZV_ENDPOINT": "127.0.0.1:0",  # at any port, of which the other knows nothing
        "PET_RDZV_CONF": "join_timeout=2",
        "PET_LOCAL_ADDR": "127.0.0.1",
    }
    output, _ = start(TELL, tmp_path, "student", machines=machines).communicate(timeout=120)
    assert "The 2 machines did not meet at 127.0.0.1:0" in output
    assert not list(tmp_path.glob("rank?"))
