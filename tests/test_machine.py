"""What a machine offers, and what is said where it is too small."""

import errno
import multiprocessing
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from miniature import write_picture

from selftrain.config import MachineConfig
from selftrain.errors import InputError
from selftrain.machine import count_workers, describe, enough_memory, enough_space


def test_what_saves_memory_or_time_is_recorded_where_it_is_on() -> None:
    plain = describe(MachineConfig(device="cpu"))
    assert not {"selftrain.compile", "selftrain.checkpointing"} & plain.keys()
    both = describe(MachineConfig(device="cpu", compile=True, checkpointing=True))
    assert both == {**plain, "selftrain.compile": "true", "selftrain.checkpointing": "true"}


def test_too_little_memory_is_one_sentence_with_the_knobs_that_save_it() -> None:
    with pytest.raises(InputError) as caught, enough_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    for knob in ("optim.accumulate", "machine.checkpointing", "crop.size", "inference.window"):
        assert knob in str(caught.value)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_who_has_no_knobs_to_set_gets_another_cure(error: Exception) -> None:
    with pytest.raises(InputError) as caught, enough_memory("send fewer images"):
        raise error
    assert str(caught.value).endswith(" has too little memory: send fewer images.")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError(
            "Caught _ArrayMemoryError in DataLoader worker process 0.\nUnable to allocate"
        ),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError("can't start new thread"),
    ],
)
def test_too_little_memory_of_the_machine_is_one_sentence_too(error: Exception) -> None:
    with pytest.raises(InputError, match="This machine has") as caught, enough_memory():
        raise error
    for knob in ("machine.workers", "optim.accumulate", "crop.size", "inference.window"):
        assert knob in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def allocate(sentences: Connection) -> None:
    """Ask for more memory than this process may have, in all ways, and send what is said."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 200 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    image = np.zeros((100, 100, 3), np.uint8)
    works: list[Callable[[], object]] = [
        lambda: torch.empty(2**31),
        lambda: torch.nn.Conv2d(3, 64, 3)(torch.zeros(1, 3, 1500, 1500)),
        lambda: np.ones(2**31),
        lambda: cv2.resize(image, (30000, 30000)),
        lambda: bytearray(2**32),
    ]
    for work in works:
        try:
            with enough_memory():
                work()
        except InputError as error:
            sentences.send(str(error))
        else:
            sentences.send("")


def test_real_allocations_that_fail_are_recognised() -> None:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=allocate, args=(sender,))
    process.start()
    for _ in range(5):
        assert receiver.poll(60)
        assert receiver.recv().startswith("This machine has too little memory")
    process.join()


LOAD = """
import sys
from pathlib import Path

import numpy
from selftrain.data.reader import Reader
from selftrain.data.sample import ClassTable, Sample
from selftrain.errors import InputError
from selftrain.inference import frames
from selftrain.machine import enough_memory

samples = [Sample(path.stem, path) for path in sorted(Path(sys.argv[1]).iterdir())]
reader = Reader(ClassTable(("road",), ((0, 0, 0),)))
try:
    with enough_memory():
        for _ in frames(samples, reader, with_labels=False, workers=1):
            pass
except InputError as error:
    print(error)
"""


def test_full_shared_memory_is_named_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    for number in range(6):
        write_picture(pictures / f"{number}.png", np.zeros((800, 1000, 3), np.uint8))
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    namespace = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run([*namespace, mount], capture_output=True).returncode != 0:
        pytest.skip("file systems cannot be mounted here: it needs the rights of root")
    done = subprocess.run(
        [*namespace, f'{mount} && exec "$@"', "sh", sys.executable, "-c", LOAD, str(pictures)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    (line,) = done.stdout.splitlines()
    assert "no room in the shared memory (/dev/shm)" in line
    assert "lower machine.workers" in line


def mlflow_error(reason: str) -> Exception:
    """Return what MLflow raises where its database raises something."""
    try:
        try:
            raise sqlite3.OperationalError(reason)
        except sqlite3.OperationalError as error:
            raise RuntimeError(f"(sqlite3.OperationalError) {reason}\n[SQL: ...]") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y"), ["/x/y cannot be written"]),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/x/y"), ["/x/y", "Read-only"]),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/x"), ["/x", "quota"]),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), ["A file", "File too large", "TMPDIR"]),
        (shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]), ["No space left"]),
        (mlflow_error("database or disk is full"), ["The tracking store /s/mlflow.db", "full"]),
        (mlflow_error("attempt to write a readonly database"), ["/s/mlflow.db", "readonly"]),
    ],
)
def test_what_cannot_be_written_is_one_sentence(
    error: Exception, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////s/mlflow.db")
    with pytest.raises(InputError) as caught, enough_space():
        raise error
    assert len(str(caught.value).splitlines()) == 1
    assert "free some space" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def fail_again(error: BaseException) -> None:
    """Raise an error, and on the way out another."""
    try:
        raise error
    finally:
        raise mlflow_error("database or disk is full")


def test_of_several_files_that_cannot_be_written_the_first_is_named() -> None:
    with pytest.raises(InputError, match="the checkpoint"), enough_space():
        fail_again(InputError("the checkpoint cannot be written"))


def test_a_stop_on_a_full_disk_is_a_stop() -> None:
    with pytest.raises(KeyboardInterrupt), enough_space():
        fail_again(KeyboardInterrupt())


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.ENOENT, "No such file", "/x")])
def test_other_errors_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, enough_space(), enough_memory():
        raise error
    assert caught.value is error


def test_other_errors_of_the_device_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="illegal memory access"), enough_memory():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert count_workers(MachineConfig()) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert count_workers(MachineConfig()) == 2
    assert count_workers(MachineConfig(workers=5)) == 5
