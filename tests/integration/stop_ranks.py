"""What each process of `test_stopped_commands.py` does, of two that torchrun has started.

They train, are stopped by a signal that only the second is sent, go on, and train undisturbed.

python -m torch.distributed.run --nproc-per-node 2 stop_ranks.py FOLDER
"""

import itertools
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rank_work import CLASSES, draw_samples

from selftrain import checkpoint, distributed, signals
from selftrain.config import (
    CropConfig,
    EpochConfig,
    MachineConfig,
    NetworkConfig,
    OptimConfig,
    SamplingConfig,
    TrainConfig,
)
from selftrain.data.reader import Reader
from selftrain.engine import Engine
from selftrain.errors import Terminated
from selftrain.tracking import SILENT
from selftrain.train import Training, TrainingData, train

CONFIG = TrainConfig(
    epochs=2,
    eval_every=1,
    network=NetworkConfig(name="fast_scnn", backbone_weights="none"),  # it has dropout
    data=EpochConfig(repeat=4.0),
    sampling=SamplingConfig(centroid_fraction=0.0),
    crop=CropConfig(size=32),
    optim=OptimConfig(batch_size=4, lr=0.05, ema=0.9),
)
STEPS_DONE = (3, 5, 8)
"""Of five an epoch: inside the first one, at its end, and inside the second."""


def fit(folder: Path, data: TrainingData, minutes: float = 0.0) -> bytes:
    """Train and return the weights' file."""
    machine = MachineConfig(device="cpu", workers=0, checkpoint_minutes=minutes)
    train(CONFIG, data, machine, folder, SILENT, title="test")
    return (folder / checkpoint.WEIGHTS).read_bytes()


def stop(folder: Path, data: TrainingData, steps: int) -> str:
    """Train until the second process is sent a signal in a step; return what ends this one."""
    step, numbers = Engine.step, itertools.count(1)

    def be_stopped(*given: Any, **named: Any) -> Any:
        found = step(*given, **named)
        if next(numbers) == steps and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return found

    try:
        with patch.object(Engine, "step", be_stopped), signals.heard():
            fit(folder, data, minutes=1e-9 if steps == 1 else 0.0)
    except Terminated as error:
        return str(error)
    return ""


def work(folder: Path, data: TrainingData) -> Mapping[str, object]:
    """Return what this process sees."""
    said, before = [], 0
    for steps in STEPS_DONE:
        said.append(stop(folder / "cut", data, steps - before))
        before = steps
    whole = fit(folder / "whole", data)
    state = checkpoint.load_checkpoint(folder / "cut", torch.device("cpu"))
    training = Training(CONFIG, data, MachineConfig(device="cpu", workers=0))
    training.load_state(state or {})
    left = training.next_epoch, training.steps_done
    is_same = fit(folder / "cut", data) == whole
    often = fit(folder / "often", data, minutes=1e-9)
    return {"said": said, "left": left, "same": is_same, "often": often == whole}


def main(folder: Path) -> None:
    """Leave what each process has seen in `folder`."""
    with distributed.process_group(torch.device("cpu")):
        samples = draw_samples(folder / f"data {distributed.rank()}", images=5)
        seen = work(folder, TrainingData(Reader(CLASSES), samples, {}, [], {}, samples))
        torch.save(seen, folder / f"rank{distributed.rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
