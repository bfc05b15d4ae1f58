"""Files and folders: all of it, or the old one, one sentence when it fails, and no leftovers."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from selftrain.errors import InputError
from selftrain.files import remove_leftovers, scratch_folder, write_atomically


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_file_holds_the_bytes_and_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == {"file.bin"}


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_file_name_of_full_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_the_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=r"file cannot be written \(No space left on device\)"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_an_interrupt_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_a_plain_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    for path in (tmp_path / "plain" / "file", tmp_path / "plain" / "deeper" / "file"):
        with pytest.raises(InputError, match=f"{path} cannot be written"):
            write_atomically(path, b"new")


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder cannot be written"):
        write_atomically(tmp_path / "folder", b"new")
    assert names(tmp_path) == {"folder"}


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    leftover, folder = tmp_path / f".{'0' * 32}.tmp", tmp_path / "deep" / f".{'1' * 32}.tmp"
    folder.mkdir(parents=True)
    (folder / "half").write_bytes(b"")
    leftover.write_bytes(b"half")
    for name in (".mine.tmp", "0123.tmp", "file"):
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path, deep=False)
    assert names(tmp_path) == {".mine.tmp", "0123.tmp", "file", "deep"}
    assert folder.exists()
    remove_leftovers(tmp_path)
    assert names(tmp_path / "deep") == set()
    remove_leftovers(tmp_path / "nowhere")


def test_what_another_process_works_on_is_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def clean_meanwhile(descriptor: int) -> None:
        remove_leftovers(tmp_path)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", clean_meanwhile)
    write_atomically(tmp_path / "file", b"new")
    with scratch_folder(beside=tmp_path / "folder") as scratch:
        remove_leftovers(tmp_path)
        (scratch / "content").write_bytes(b"new")
        scratch.rename(tmp_path / "folder")
    assert names(tmp_path) == {"file", "folder"}
    assert names(tmp_path / "folder") == {"content"}


def test_a_file_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, times = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        times.append(how)
        if len(times) == 1:  # another process looks for leftovers just now
            remove_leftovers(tmp_path)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    write_atomically(tmp_path / "file", b"new")
    assert names(tmp_path) == {"file"}


def test_a_scratch_folder_that_is_not_moved_is_gone_in_the_end(tmp_path: Path) -> None:
    with scratch_folder(beside=tmp_path / "a" / "b") as scratch:
        (scratch / "content").write_bytes(b"half")
        assert scratch.parent == tmp_path / "a"
    assert names(tmp_path / "a") == set()
