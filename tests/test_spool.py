"""Messages on disk: in order, whole, and of a process that lives or of none."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.errors import InputError
from selftrain.locks import FileLock
from selftrain.spool import Message, Spool

CONTEXT = multiprocessing.get_context("fork")  # these processes do nothing with threads


def begun(root: Path) -> Spool:
    return Spool.begin(root, "r" * 32, {"store": "http://here"})


def tags(number: int) -> Message:
    return Message(kind="tags", value={"tags": {"number": str(number)}})


def test_messages_come_back_in_order_with_their_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "a.txt").write_text("a")
    spool = begun(tmp_path / "spool")
    for number in range(12):
        spool.append(tags(number))
    spool.append(Message(kind="files", value={"path": "x"}, files=source))
    # The files are of the moment: what replaces them later is not theirs.
    (source / "deep" / "a.txt").unlink()
    (source / "deep" / "a.txt").write_text("b")
    numbers, messages = zip(*spool.messages(), strict=True)
    assert list(numbers) == list(range(1, 14))
    assert [it.value for it in messages[:12]] == [tags(number).value for number in range(12)]
    assert messages[-1].files is not None
    assert (messages[-1].files / "deep" / "a.txt").read_text() == "a"


def test_what_is_dropped_is_gone_and_an_empty_spool_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    spool = begun(tmp_path / "spool")
    spool.append(tags(1))
    spool.append(Message(kind="files", value={"path": ""}, files=tmp_path / "source"))
    spool.drop(1)
    assert [number for number, _ in spool.messages()] == [2]
    spool.drop(2)
    assert spool.is_empty()
    spool.close()
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_message_that_was_begun_and_not_finished_is_none(tmp_path: Path) -> None:
    spool = begun(tmp_path)
    spool.append(tags(1))
    (spool.folder / "00000002").mkdir()  # its files came, and then the process died
    (spool.folder / "00000002" / "half.txt").touch()
    (spool.folder / ".0123.tmp").write_text("half")
    assert [number for number, _ in spool.messages()] == [1]
    (tmp_path / "whole").mkdir()
    spool.append(Message(kind="files", value={"path": ""}, files=tmp_path / "whole"))
    (_, last) = list(spool.messages())[-1]
    assert last.files is not None
    assert list(last.files.iterdir()) == []


def test_files_on_another_file_system_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(source: str, target: str) -> None:
        raise OSError("another device")

    monkeypatch.setattr("os.link", no_link)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.bin").write_bytes(b"abc")
    spool = begun(tmp_path / "spool")
    spool.append(Message(kind="model", value={}, files=tmp_path / "source"))
    ((_, message),) = spool.messages()
    assert message.files is not None
    assert (message.files / "a.bin").read_bytes() == b"abc"


def keep(root: Path) -> None:
    begun(root).append(tags(1))
    time.sleep(60)


def test_a_spool_is_its_processs_until_that_dies(tmp_path: Path) -> None:
    process = CONTEXT.Process(target=keep, args=(tmp_path,), daemon=True)
    process.start()
    while not list(tmp_path.glob("*/00000001.json")):
        time.sleep(0.01)
    (folder,) = tmp_path.iterdir()
    assert Spool.open_left(folder) is None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    left = Spool.open_left(folder)
    assert left is not None
    assert left.run_id == "r" * 32
    assert left.about["store"] == "http://here"
    assert [message for _, message in left.messages()] == [tags(1)]
    left.append(tags(2))
    assert [number for number, _ in left.messages()] == [1, 2]


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"kind": "tags"}'])
def test_a_damaged_message_is_named_with_the_cure(text: str, tmp_path: Path) -> None:
    spool = begun(tmp_path)
    spool.append(tags(1))
    (spool.folder / "00000001.json").write_text(text)
    with pytest.raises(InputError, match=r"00000001\.json is damaged .*delete it"):
        list(spool.messages())


def test_a_spool_that_is_delivered_while_it_is_looked_at_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(tmp_path).folder
    take = FileLock.take

    def late(lock: FileLock, **note: Any) -> bool:
        shutil.rmtree(folder)
        return take(lock, **note)

    monkeypatch.setattr(FileLock, "take", late)
    assert Spool.open_left(folder) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "1"])
def test_a_damaged_description_is_named_with_the_cure(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json is damaged .*delete"):
        Spool.open_left(folder)


@pytest.mark.parametrize("left", ["lock", ".0123.tmp", "00000001"])
def test_a_folder_without_a_message_whose_process_was_killed_is_removed(
    left: str, tmp_path: Path
) -> None:
    """It died as it began, or when all was delivered."""
    folder = tmp_path / f"{'a' * 32}-01234567"
    folder.mkdir()
    (folder / left).touch()
    assert Spool.open_left(folder) is None
    assert not folder.exists()


def test_a_folder_that_is_none_of_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").touch()
    assert Spool.open_left(tmp_path / "mine") is None
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["a.txt"]


def test_messages_whose_description_is_lost_are_named_with_the_cure(tmp_path: Path) -> None:
    folder = tmp_path / f"{'a' * 32}-01234567"
    folder.mkdir()
    (folder / "00000001.json").write_text('{"kind": "tags", "value": {}}')
    with pytest.raises(InputError, match=r"run\.json is lost: write .* or delete") as caught:
        Spool.open_left(folder)
    cure = str(caught.value).partition("write ")[2].partition(" into it")[0]
    (folder / "run.json").write_text(cure)
    found = Spool.open_left(folder)
    assert found is not None
    assert found.run_id == "a" * 32


def test_a_spool_that_is_taken_for_a_dead_ones_as_it_begins_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = FileLock.take
    taken: list[Path] = []

    def late(lock: FileLock, **note: Any) -> bool:
        if not taken:
            shutil.rmtree(lock.path.parent)
        taken.append(lock.path.parent)
        return take(lock, **note)

    monkeypatch.setattr(FileLock, "take", late)
    spool = begun(tmp_path)
    spool.append(tags(1))
    assert len(taken) == 2
    assert list(tmp_path.iterdir()) == [spool.folder]


def test_a_folder_that_cannot_be_made_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    with pytest.raises(InputError, match=r"spool/r+-.* cannot be made .*machine\.outputs"):
        begun(tmp_path / "spool")


@given(
    st.dictionaries(st.text(), st.floats(allow_nan=False)),
    st.text(alphabet=st.characters(exclude_categories=["Cs"])),
)
def test_any_value_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, float], text: str
) -> None:
    spool = begun(tmp_path_factory.mktemp("spool"))
    message = Message(kind=text, value=value)
    spool.append(message)
    assert [found for _, found in spool.messages()] == [message]
    assert json.dumps(value) == json.dumps(next(spool.messages())[1].value)


def take_and_sleep(path: Path) -> None:
    assert FileLock(path).take(run="mine")
    time.sleep(60)


def test_a_lock_is_its_owners_until_that_dies_and_then_tells_what_it_has_noted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lock"
    process = CONTEXT.Process(target=take_and_sleep, args=(path,), daemon=True)
    process.start()
    lock = FileLock(path)
    while lock.holder().get("run") is None:
        time.sleep(0.01)
    assert not lock.take()
    assert lock.holder()["pid"] == str(process.pid)
    process.kill()
    process.join()
    assert lock.take()
    assert lock.left["run"] == "mine"
    lock.release()
    assert not path.exists()
    again = FileLock(path)
    assert again.take()
    assert again.left == {}  # nobody has died at it
    again.release()


def count_up(path: Path, lock_path: Path, times: int) -> None:
    for _ in range(times):
        lock = FileLock(lock_path)
        while not lock.take():
            time.sleep(0.001)
        number = int(path.read_text())
        path.write_text(str(number + 1))
        lock.release()


def test_a_lock_excludes_though_its_file_comes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("0")
    args = (path, tmp_path / "lock", 100)
    processes = [CONTEXT.Process(target=count_up, args=args) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert path.read_text() == "400"


def test_a_note_that_was_cut_off_is_no_note(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"pid": "1')
    lock = FileLock(tmp_path / "lock")
    assert lock.holder() == {}
    assert lock.take()
    assert lock.left == {}
    lock.release()


def test_a_lock_that_cannot_be_written_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/lock cannot be written .*machine\.outputs"):
        FileLock(tmp_path / "file" / "lock").take()


def test_without_locks_a_process_gets_its_own_lock_again_and_nobody_counts_as_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*words: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.take(run="mine")
    assert second.take()
    assert not second.is_real
    assert second.left == {}
    first.release()
    second.release()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, in this process and those that it forks."""

    def refuse(*words: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_spool_is_its_processs_all_the_same_until_that_dies(
    tmp_path: Path,
) -> None:
    process = CONTEXT.Process(target=keep, args=(tmp_path,), daemon=True)
    process.start()
    while not list(tmp_path.glob("*/00000001.json")):
        time.sleep(0.01)
    (folder,) = tmp_path.iterdir()
    assert Spool.open_left(folder) is None
    assert FileLock(folder / "lock").holder()["pid"] == str(process.pid)
    process.kill()
    process.join()
    left = Spool.open_left(folder)
    assert left is not None
    assert [message for _, message in left.messages()] == [tags(1)]


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize(
    ("change", "is_taken"),
    [
        ({"host": "another"}, False),  # nobody here knows whether it lives
        ({"begun": "long ago"}, True),  # its number has gone to another process
        ({"pid": str(2**22 + 1)}, True),
        ({"pid": "9" * 30}, True),
        ({"pid": "-1"}, True),
        ({}, False),
    ],
)
def test_without_locks_a_spool_is_taken_only_where_its_process_is_known_to_be_dead(
    change: dict[str, str], is_taken: bool, tmp_path: Path
) -> None:
    process = CONTEXT.Process(target=keep, args=(tmp_path,), daemon=True)
    process.start()
    while not list(tmp_path.glob("*/00000001.json")):
        time.sleep(0.01)
    (folder,) = tmp_path.iterdir()
    note = FileLock(folder / "lock").holder() | change
    (folder / "lock").write_text(json.dumps(note))
    assert (Spool.open_left(folder) is not None) == is_taken
    process.kill()
    process.join()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_what_has_no_message_is_left(tmp_path: Path) -> None:
    folder = tmp_path / f"{'a' * 32}-01234567"
    folder.mkdir()
    assert Spool.open_left(folder) is None
    assert folder.exists()
