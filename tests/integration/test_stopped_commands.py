"""Commands that are asked to end by signals: what they say, leave and go on from."""

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from killing import KillServer, Place
from miniature import flags
from mlflow import MlflowClient
from reliability import Survived
from workspace import TORCHRUN, Workspace

from selftrain.checkpoint import CHECKPOINT, WEIGHTS
from selftrain.signals import ENDING

SECONDS = 300
"""After which something counts as hung."""
LONG = {
    "teacher.data.repeat": 24.0,  # 24 steps of 4 crops
    "machine.checkpoint_minutes": 1e-9,  # so that a checkpoint says that steps are taken
    "machine.workers": 1,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A folder with an empty store."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where pytest has no terminal
    folder = tmp_path_factory.mktemp("signals")
    server = KillServer()
    yield Place(server, folder, LONG)
    server.close()


def wait_for(is_there: Callable[[], object]) -> None:
    stop_at = time.monotonic() + SECONDS
    while not is_there():
        assert time.monotonic() < stop_at
        time.sleep(0.02)


def stop_training(place: Place, number: int, *, after: int) -> tuple[int, str]:
    """Start the teacher's training, stop it after so many checkpoints; return step and output."""
    place.output.unlink(missing_ok=True)
    seen: set[int] = set()

    def is_seen() -> bool:
        for path in place.outputs.glob(f"train-*/{CHECKPOINT}"):
            seen.add(path.stat().st_mtime_ns)
        return len(seen) > after

    pid = place.start("teacher")
    wait_for(is_seen)
    start = time.time()
    os.killpg(pid, number)  # as terminals and batch systems do: the loader's processes too
    assert place.server.wait(pid, SECONDS) == 128 + number, place.output.read_text()
    (path,) = place.outputs.glob(f"train-*/{CHECKPOINT}")
    assert path.stat().st_mtime < start + 10
    said = place.output.read_text()
    assert "Traceback" not in said
    found = re.search(
        rf"^stopped by {signal.Signals(number).name}: the checkpoint of step (\d+) in epoch 0 is "
        r"written; the same command goes on from it$",
        said,
        re.MULTILINE,
    )
    assert found, said
    return int(found[1]), said


def test_a_training_that_is_stopped_goes_on_with_the_next_step(place: Place) -> None:
    step, _ = stop_training(place, signal.SIGTERM, after=1)
    assert 0 < step < 24
    place.output.unlink()
    place.run("teacher")
    assert f"goes on with epoch 0 of 1, after {step} of its steps" in place.output.read_text()
    assert len(list(place.outputs.glob(f"train-*/{WEIGHTS}"))) == 1
    states = [run.info.status for run in place.runs() if "selftrain.key" in run.data.tags]
    assert sorted(states) == ["FINISHED", "KILLED"]


@pytest.mark.torture
def test_a_training_that_is_stopped_again_and_again_ends_like_one_that_is_not(
    place: Place, tmp_path: Path, survived: Survived
) -> None:
    values = {"teacher.data.repeat": 60.0, "machine.workers": 1, "teacher.epochs": 2}
    folders = [tmp_path / name for name in ("whole", "cut")]
    for folder in folders:
        folder.mkdir()
        # One that is torn while mlflow makes it is of no more use.
        MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    whole, cut = (Place(place.server, folder, values) for folder in folders)
    whole.run("teacher")
    rng, stops, longest = random.Random(0), 0, 0.0
    for number in itertools.cycle(ENDING):
        pid = cut.start("teacher")
        code = cut.server.wait(
            pid, rng.uniform(2, 12) * (1 + stops / 10)
        )  # slow machines get on too
        if code is None:
            began = time.monotonic()
            os.killpg(pid, number)
            code = cut.server.wait(pid, SECONDS)
            longest = max(longest, time.monotonic() - began)
        said = cut.output.read_text()
        assert code in (0, 128 + number), said
        assert "Traceback" not in said
        if code == 0:
            break
        stops += 1
    first, second = (
        next(it.outputs.glob(f"train-*/{WEIGHTS}")).read_bytes() for it in (whole, cut)
    )
    survived(
        "Training stopped by SIGTERM, SIGINT, SIGHUP, SIGUSR1",
        tried=f"{stops} stops of one training, loader process included",
        found=f"weights byte for byte those of an undisturbed one; ended {longest:.0f} s after "
        "the signal at most",
    )
    assert stops > 1
    assert first == second


def test_a_labelling_that_is_stopped_ends_at_once(place: Place) -> None:
    place.run("teacher")
    pid = place.start("pseudo_label")
    wait_for(lambda: any(place.outputs.glob("pseudo_label-*")))
    os.killpg(pid, signal.SIGTERM)
    code = place.server.wait(pid, SECONDS)
    assert code == 128 + signal.SIGTERM, place.output.read_text()
    assert "stopped by SIGTERM\n" in place.output.read_text()
    assert "Traceback" not in place.output.read_text()


@pytest.mark.torture
def test_processes_that_train_together_are_stopped_by_one_signal(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    MlflowClient(uri).search_experiments()
    workspace = Workspace(tmp_path, uri)
    values = workspace.knobs({**LONG, "machine.processes": 2})
    started = subprocess.Popen(
        [sys.executable, "-m", "selftrain", "teacher", *flags(values)],
        cwd=workspace.checkout,
        env=workspace.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: any(workspace.outputs.glob(f"train-*/{CHECKPOINT}")))
    family = psutil.Process(started.pid).children(recursive=True)
    began = time.time()
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=SECONDS)
    assert started.returncode == 128 + signal.SIGTERM, output
    (path,) = workspace.outputs.glob(f"train-*/{CHECKPOINT}")
    assert path.stat().st_mtime < began + 10
    assert "Traceback" not in output
    assert (
        len(re.findall(r"stopped by SIGTERM: the checkpoint of step \d+ in epoch 0", output)) == 1
    )
    assert not psutil.wait_procs(family, timeout=60)[1]


def test_processes_that_train_together_stop_after_the_same_step_and_go_on(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    script = Path(__file__).with_name("stop_ranks.py")
    words = ["-m", *TORCHRUN[:-1], str(script), str(tmp_path)]
    done = workspace.call(words, cwd=workspace.checkout)
    assert done.code == 0, done.output
    written = "stopped by SIGUSR1: the checkpoint of step {} in epoch {} is written; the same "
    expected = [written.format(3, 0), written.format(5, 0), written.format(8, 1)]
    for rank in (0, 1):
        seen = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert [text.removesuffix("command goes on from it") for text in seen["said"]] == expected
        assert seen["left"] == (1, 3)
        assert seen["same"]
        assert seen["often"]
