"""Signals that ask a command to end: of the user, of a batch system, of torchrun.

They raise `Terminated` in the main thread, wherever that stands. A block that must not be torn
puts this off until it is done.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from selftrain.errors import Terminated

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Batch systems give notice by SIGTERM or, as Slurm's --signal=USR1@60 does, by SIGUSR1; a terminal
sends SIGINT for Ctrl-C and SIGHUP when it is closed."""
_SAME_WISH = 10.0
"""Seconds after a signal in which another one says nothing new: torchrun sends one to processes
that a terminal has told already, and an impatient user two. Later ones end what hangs."""


_MOMENT = 0.05
"""Seconds."""


class _Listener:
    """The handler of a process's signals."""

    def __init__(self) -> None:
        self.defers = False
        self.waiting: int | None = None
        """A signal that came while this was put off."""
        self._process = os.getpid()
        self._last = -math.inf

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take in a signal."""
        if os.getpid() != self._process:
            return  # a forked child that has no handlers of its own yet
        now = time.monotonic()
        if now - self._last < _SAME_WISH:
            return
        self.note()
        if self.defers and self.waiting is not None:
            # What it waits for hangs. Not `Terminated`: the block must not be torn and go on.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not self.defers:
            raise Terminated(number)
        self.waiting = number

    def note(self) -> None:
        """Take a signal for heard: those of the next seconds say nothing new."""
        self._last = time.monotonic()

    def repeat(self, number: int) -> None:
        """Send a signal again, a moment later."""
        self._last = -math.inf
        threading.Timer(_MOMENT, os.kill, (self._process, number)).start()


class Deferred:
    """What a block knows of signals that wait for its end."""

    def __init__(self, listener: _Listener) -> None:
        self._listener = listener

    @property
    def signal(self) -> int | None:
        """The number of the signal that waits, if one does."""
        return self._listener.waiting

    def obey(self, number: int) -> NoReturn:
        """Raise Terminated for a signal that this process, or another rank, was sent."""
        self._listener.note()
        raise Terminated(number)


@contextmanager
def heard() -> Iterator[None]:
    """Let signals raise Terminated while the block runs; those that are ignored stay so.

    Does nothing in a thread other than the main one, to which Python gives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    listener = _Listener()
    before = {number: signal.getsignal(number) for number in ENDING}
    mine = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    hook = sys.unraisablehook

    def find_lost(lost: "sys.UnraisableHookArgs") -> None:
        if isinstance(lost.exc_value, Terminated):
            listener.repeat(lost.exc_value.signal)
        else:
            hook(lost)

    for number in mine:
        signal.signal(number, listener)
    # What is raised while Python deletes an object is dropped: a signal may come just then.
    sys.unraisablehook = find_lost
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, old in mine.items():
            signal.signal(number, old)


@contextmanager
def deferred() -> Iterator[Deferred]:
    """Let signals wait until the block ends; it may look for them, and end by `obey`.

    A block inside another one leaves it to that. Outside of `heard`, and in other threads than the
    main one, there is nothing to put off.

    Raises:
        Terminated: at the end of the block, if a signal waits.
    """
    found = (signal.getsignal(number) for number in ENDING)
    listener = next((it for it in found if isinstance(it, _Listener)), _Listener())
    if listener.defers or threading.current_thread() is not threading.main_thread():
        yield Deferred(listener)
        return
    listener.defers = True
    try:
        yield Deferred(listener)
    finally:
        listener.defers = False
        number, listener.waiting = listener.waiting, None
    if number is not None:
        raise Terminated(number)


def leave_to_parent(worker: int = 0) -> None:
    """In a child process: take no notice of signals that its whole group is sent, but of SIGTERM.

    The parent has got them too, and ends its children when it has no more work for them.
    """
    for number in ENDING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)


def outlast(worker: int = 0) -> None:
    """In a forked child with one thread: obey SIGTERM from nobody but the parent.

    So that the parent can still finish what it is at, where batch systems and torchrun send
    SIGTERM to all processes at once.
    """
    leave_to_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # of later threads too
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
