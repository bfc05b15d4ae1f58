"""The one kind of error that a user is meant to read."""

import traceback


class InputError(ValueError):
    """A mistake that the user can mend.

    The message is one sentence that says what is wrong, where (file, value) and the cure;
    `python -m selftrain` prints it without a traceback and exits with 1.
    """


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


class Terminated(KeyboardInterrupt):
    """The system or the user asks this process to end (SIGTERM, SIGINT): what it has is kept.

    Not an `Exception`, so that nobody who mends errors takes it for one.
    """

    def __init__(self, number: int) -> None:
        """Remember the signal's number."""
        super().__init__(number)
        self.signal = number
