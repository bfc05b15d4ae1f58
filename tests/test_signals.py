"""Signals that ask a command to end: raised at once, or put off, and never twice."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from selftrain import signals
from selftrain.__main__ import main
from selftrain.errors import Terminated


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def _interruptible() -> None:
    """Whoever starts pytest in the background lets it ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", signals.ENDING)
def test_a_signal_is_raised_and_the_handlers_before_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(it) for it in signals.ENDING]

    def work() -> None:
        with signals.heard():
            send(number)
            time.sleep(60)

    with pytest.raises(Terminated, match=f"stopped by {number.name}") as stop:
        work()
    assert stop.value.signal == number
    assert [signal.getsignal(it) for it in signals.ENDING] == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with signals.heard():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_waits_for_the_end_of_what_must_not_be_torn() -> None:
    done: list[int | None] = []

    def work() -> None:
        with signals.heard():
            with signals.deferred() as asked:
                assert asked.signal is None
                send(signal.SIGINT)
                done.append(asked.signal)
            done.append(None)

    with pytest.raises(Terminated):
        work()
    assert done == [signal.SIGINT]


def test_who_looks_for_a_signal_obeys_it_earlier_and_it_is_not_raised_again() -> None:
    def work() -> None:
        with signals.heard(), signals.deferred() as asked:
            send()
            try:
                asked.obey(asked.signal or 0)
            finally:
                send()  # torchrun's, after that of the batch system

    with pytest.raises(Terminated) as stop:
        work()
    assert stop.value.signal == signal.SIGTERM


def test_a_second_signal_does_not_disturb_the_end_but_a_late_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = []

    def work() -> None:
        with signals.heard():
            try:
                send(signal.SIGINT)
            finally:
                send(signal.SIGINT)
                send(signal.SIGTERM)
                done.append("tidied up")
                monkeypatch.setattr(signals, "_SAME_WISH", 0.0)
                send(signal.SIGTERM)  # what tidies up hangs
                done.append("hung")

    with pytest.raises(Terminated) as stop:
        work()
    assert done == ["tidied up"]
    assert stop.value.signal == signal.SIGTERM


HANGING = """
import os, signal, time
from selftrain import signals
signals._SAME_WISH = 0.0
with signals.heard(), signals.deferred():
    os.kill(os.getpid(), signal.SIGTERM)
    print("waits", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("hung", flush=True)
"""


def test_a_later_signal_ends_what_hangs_although_it_must_not_be_torn() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGTERM
    assert ended.stdout == "waits\n"


class Deleted:
    """Is deleted while a signal comes."""

    def __del__(self) -> None:
        send()
        time.sleep(0)


def test_a_signal_that_comes_where_python_drops_errors_is_not_lost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work() -> None:
        with signals.heard():
            Deleted()
            time.sleep(60)

    with pytest.raises(Terminated):
        work()
    assert capsys.readouterr().err == ""


def test_an_error_of_a_block_is_not_replaced_by_a_signal() -> None:
    def work() -> None:
        with signals.heard(), signals.deferred():
            send()
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        work()


def test_outside_of_a_command_a_block_puts_nothing_off() -> None:
    def work() -> None:
        with signals.deferred():
            send(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work()


def test_a_thread_other_than_the_first_hears_nothing() -> None:
    heard = []

    def work() -> None:
        with signals.heard():
            heard.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [signal.getsignal(signal.SIGTERM)]


CHILD = """
import os, signal, time
from selftrain import signals
child = os.fork()
if child == 0:
    signals.outlast()
    os.write(1, b"settled ")
    time.sleep(60)
    os._exit(3)
time.sleep(0.5)
stranger = os.fork()
if stranger == 0:
    for number in signals.ENDING:
        os.kill(child, number)
    os._exit(0)
os.waitpid(stranger, 0)
time.sleep(0.5)
assert os.waitpid(child, os.WNOHANG) == (0, 0)
os.kill(child, signal.SIGTERM)
assert os.waitpid(child, 0) == (child, 0)
"""


def test_a_child_obeys_its_parent_and_nobody_else() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"settled "), done.stderr


def test_a_command_that_is_stopped_exits_with_the_signals_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def stop(words: object) -> None:
        send(signal.SIGUSR1)

    monkeypatch.setattr("selftrain.__main__.run", stop)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 128 + signal.SIGUSR1
    assert capsys.readouterr().err == "stopped by SIGUSR1\n"


def test_a_deferred_block_inside_another_leaves_the_signal_to_that() -> None:
    waiting = []

    def nest() -> None:
        with signals.heard(), signals.deferred():
            with signals.deferred() as asked:
                os.kill(os.getpid(), signal.SIGTERM)
            waiting.append(asked.signal)

    with pytest.raises(Terminated):
        nest()
    assert waiting == [signal.SIGTERM]
