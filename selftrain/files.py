"""Files that are there in full or not at all."""

import os
import uuid
from pathlib import Path

from selftrain.errors import InputError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that no reader, and no crash, ever meets half of it.

    The bytes go to a temporary file in the same folder, reach the disk, and only then take
    the name; an older file of that name stays whole until that moment. Missing folders are
    made. Several processes may write the same path: the last one wins.

    Raises:
        InputError: the file cannot be written (disk full, read-only, a plain file where a
            folder should be, ...). No temporary file is left and the old file is untouched.
    """
    # Not tempfile: its files are readable by their owner only, and outputs are shared.
    # Not the target's name in front: with it a name of full length would become too long.
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}): "
            "free some space or choose a folder that you may write to."
        ) from error
