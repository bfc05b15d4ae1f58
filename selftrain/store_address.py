"""Where the tracking store is, and whether somebody answers there.

mlflow is not asked: it takes seconds to import, and longer to give up.
"""

import os
import re
import socket
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from selftrain.errors import InputError
from selftrain.files import is_folder
from selftrain.passwords import hide_passwords

_LONGEST_REASON = 240
"""Characters."""


def store_uri() -> str:
    """Return the URI of the store that is written to, without asking whether it is there."""
    return absolute(os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")


def shown_uri() -> str:
    """Return the URI as it may be shown."""
    return hide_passwords(store_uri())


def absolute(uri: str) -> str:
    """Return the URI of a store; a SQLite file's without regard to the current folder."""
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).resolve()}"
    return uri


def require_answer(uri: str) -> None:
    """Ask a server once whether it is there.

    Raises:
        InputError: nobody answers within some seconds, or a folder stands for a file.
    """
    place = uri.removeprefix("sqlite:///")
    if uri.startswith("sqlite:///") and is_folder(place):
        # SQLAlchemy would try again for minutes.
        raise InputError(
            f"The tracking store {uri} is a folder: set MLFLOW_TRACKING_URI to a file in it, as in "
            f"sqlite:///{place.rstrip('/')}/mlflow.db."
        )
    folder = place.rpartition("/")[0] if uri.startswith("sqlite:///") else ""
    if re.search("[?]|%[0-9A-Fa-f]{2}", folder):
        # SQLAlchemy takes them for signs of the URI, and looks for another folder.
        raise InputError(
            f"The tracking store {uri} lies in a folder with ? or % in its name, which no URI of "
            "SQLite can name: set MLFLOW_TRACKING_URI to a file in another folder."
        )
    try:
        ping(uri, timeout=10)
    except (OSError, ValueError, HTTPException) as error:
        raise InputError(
            f"Nobody answers at the tracking URI {hide_passwords(uri)} ({reason_of(error)}): "
            "start the server, or set MLFLOW_TRACKING_URI to another store."
        ) from error


def ping(uri: str, timeout: float) -> None:
    """Ask a server whether it is there: mlflow itself would not ask in so short a time.

    Args:
        uri: Of the store; a file is there.
        timeout: Seconds.

    Raises:
        OSError, ValueError, HTTPException: nobody answers.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        # urllib takes a name and password in front of the host for a part of the host's name.
        place = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        try:
            with urllib.request.urlopen(place.rstrip("/") + "/health", timeout=timeout):
                pass
        except urllib.error.HTTPError:
            pass  # somebody answers; whether they let us in shows at the first call
    elif parts.scheme.startswith("postgresql") and parts.hostname:
        address = (parts.hostname, parts.port or 5432)
        socket.create_connection(address, timeout=timeout).close()


def reason_of(error: BaseException) -> str:
    """Return the first line of an error, without passwords, at a length that fits a sentence."""
    lines = [line for line in hide_passwords(str(error)).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("(raised as a result of"):  # SQLAlchemy's remark
        lines.pop(0)
    # Of a lost connection, what stands before its cause tells nothing.
    text = (lines or [type(error).__name__])[0].rpartition("(Caused by ")[2]
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
