"""A long training takes no more memory, file handles or threads at its end than in its middle."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from reliability import Survived

from selftrain import tracking
from selftrain.config import Config
from selftrain.data.centroids import find_centroids
from selftrain.datasets import OpenData
from selftrain.knobs import override
from selftrain.train import TrainingData, train

MEGABYTE = 2**20


@dataclass
class Watch:
    """Looks at this process after each epoch."""

    rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Bytes of memory, file handles, threads, child processes."""

    def __call__(self, epochs: int, miou: float) -> None:
        """Look; called as `on_dev`."""
        process = psutil.Process()
        self.rows.append(
            (
                process.memory_info().rss,
                process.num_fds(),
                process.num_threads(),
                len(process.children(recursive=True)),
            )
        )

    def second_half(self) -> NDArray[np.int64]:
        """Return the rows once everything is warm."""
        return np.array(self.rows[len(self.rows) // 2 :])


@pytest.fixture
def soak(tiny: Config, tiny_data: OpenData, tmp_path: Path) -> Callable[[int, int], Watch]:
    """`soak(epochs, workers)`: a training that measures on dev after each epoch, and is logged."""
    splits, reader = tiny_data.splits, tiny_data.reader
    data = TrainingData(
        reader=reader,
        real=splits.labelled,
        real_centroids=find_centroids(splits.labelled, reader, tile=32),
        pseudo=[],
        pseudo_centroids={},
        dev=splits.dev,
    )

    def run(epochs: int, workers: int) -> Watch:
        watch = Watch()
        values = {"teacher.epochs": epochs, "teacher.eval_every": 1, "machine.workers": workers}
        config = override(tiny, values)
        with tracking.parent_run("soak"), tracking.stage_run("train", "teacher", "soak") as logged:
            train(
                config.teacher,
                data,
                config.machine,
                tmp_path / "soak",
                logged,
                title="soak",
                on_dev=watch,
            )
        return watch

    tracking.connect(tiny.machine.outputs)
    return run


def growth(values: NDArray[np.int64]) -> float:
    """Return by how much a line through the values rises from the first to the last."""
    slope, _ = np.polyfit(np.arange(len(values)), values, 1)
    return float(slope * (len(values) - 1))


def require_steady(watch: Watch, megabytes: float) -> str:
    """Raise AssertionError if anything grows over the second half; return what was found."""
    memory, handles, threads, children = watch.second_half().T
    for what, counts in (("handles", handles), ("threads", threads), ("children", children)):
        # A thread or a process may be about to end when it is counted.
        assert abs(growth(counts)) < 1.5, (what, counts.tolist())
    assert growth(memory) < megabytes * MEGABYTE, (memory // 1024).tolist()
    return (
        f"second half: memory {growth(memory) / MEGABYTE:+.1f} MB of {memory[-1] // MEGABYTE}, "
        f"handles {handles.min()} to {handles.max()}, threads {threads.min()} to {threads.max()}"
    )


@pytest.mark.usefixtures("store")
def test_a_training_of_many_epochs_is_steady(soak: Callable[[int, int], Watch]) -> None:
    watch = soak(14, 0)
    assert len(watch.rows) == 13  # the last epoch is measured when all is done
    require_steady(watch, 12)


@pytest.mark.torture
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("workers", [0, 2])
def test_200_short_epochs_take_no_more_at_their_end(
    workers: int, soak: Callable[[int, int], Watch], survived: Survived
) -> None:
    found = require_steady(soak(200, workers), 8)
    survived(
        f"Soak with {workers} loader processes", tried="200 epochs, each measured", found=found
    )
