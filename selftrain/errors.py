"""The one kind of error that a user is meant to read."""


class InputError(ValueError):
    """A mistake that the user can mend.

    The message is one sentence that says what is wrong, where (file, value) and the cure;
    `python -m selftrain` prints it without a traceback and exits with 1.
    """
