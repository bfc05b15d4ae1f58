"""Processes that read images: their death is one sentence, and found where a batch is awaited."""

import multiprocessing
import os
import signal
import time

import pytest
from torch.utils.data import DataLoader, Dataset

from selftrain.data.workers import iterate, use_one_thread
from selftrain.datasets import OpenData
from selftrain.errors import InputError, LostWorker
from selftrain.inference import frames


class Numbers(Dataset[int]):
    """The numbers below a hundred; 50 is a mistake, from 60 on nothing comes."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        if index == 50:
            raise InputError("image 50 is broken: mend it.")
        if index == 60:
            raise RuntimeError("a bug")
        return index


def loader(first: int, workers: int) -> DataLoader[int]:
    return DataLoader(
        Numbers(),
        batch_size=None,
        sampler=range(first, 100),
        num_workers=workers,
        worker_init_fn=use_one_thread,
    )


def kill_workers() -> None:
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)


def test_a_death_is_found_where_a_batch_is_awaited_and_nowhere_else() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    batches = iterate(loader(0, 2))
    assert next(batches) == 0
    assert signal.getsignal(signal.SIGCHLD) == before
    kill_workers()
    time.sleep(0.3)  # a step: nothing is raised in it
    with pytest.raises(LostWorker, match=r"killed by .* lower machine\.workers \(there were 2\)"):
        list(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_error_of_a_process_is_its_own_sentence(workers: int) -> None:
    with pytest.raises(InputError) as error:
        list(iterate(loader(45, workers)))
    assert str(error.value) == "image 50 is broken: mend it."


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_a_mistake_of_the_program_stays_one(workers: int) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        list(iterate(loader(55, workers)))


def test_whoever_reads_whole_frames_is_told_too(tiny_data: OpenData) -> None:
    many = [*tiny_data.splits.labelled] * 10
    batches = frames(many, tiny_data.reader, with_labels=True, workers=1)
    next(batches)
    kill_workers()
    with pytest.raises(LostWorker, match="lower machine"):
        list(batches)
