"""The one kind of error that a user is meant to read."""

import traceback
from signal import Signals


class InputError(ValueError):
    """A mistake that the user can mend.

    The message is one sentence that says what is wrong, where (file, value) and the cure;
    `python -m selftrain` prints it without a traceback and exits with 1.
    """


def printable(error: InputError) -> str:
    """Return the sentence of an error as a terminal can show it: names of files hold anything."""
    return "".join(
        it if it.isprintable() or it == "\n" else it.encode("unicode_escape").decode()
        for it in str(error)
    )


def from_worker(error: InputError) -> InputError:
    """Return the sentence of an error that a loader's worker raised.

    torch raises it anew in the parent, with the worker's traceback in front of the message, and
    leaves a reference cycle through the loader's iterator: collected so, each worker takes 5 s
    to stop.
    """
    traceback.clear_frames(error.__traceback__)
    return InputError(str(error).rpartition("InputError: ")[2].strip())


class Stopped(Exception):
    """A training is not worth going on with: its checkpoint is kept, its run ends as KILLED."""


class Unavailable(InputError):
    """The machine lacks what a command needs: room, memory, the tracking store.

    Another command on this machine would meet it too, so that a study or a sweep ends with it and
    does not go on to its next arm or trial.
    """


class Refused(Unavailable):
    """The tracking store will not take what a run logs, as of one that was deleted."""


class LostWorker(Unavailable):
    """A process that reads images was killed; what was done with those before is whole."""


class Terminated(KeyboardInterrupt):
    """The system or the user asks this process to end (SIGTERM, SIGINT): what it has is kept.

    Not an `Exception`, so that nobody who mends errors takes it for one.
    """

    def __init__(self, number: int, kept: str = "") -> None:
        """Remember the signal's number.

        Args:
            number: Of the signal.
            kept: What the same command goes on from, as in "the checkpoint of step 3 is written".
        """
        text = f"stopped by {Signals(number).name}"
        super().__init__(f"{text}: {kept}; the same command goes on from it" if kept else text)
        self.signal = number
