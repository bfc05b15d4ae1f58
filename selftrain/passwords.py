"""Passwords do not belong into what a person or a store reads."""

import os
import re

_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
_SHORTEST = 4
"""Characters; a shorter word may stand in a text for another reason."""


def hide_passwords(text: str) -> str:
    """Return a text with the passwords in it made illegible.

    These are the ones of URIs (`://user:password@host`), the values of `password=`, as a database's
    URI or connection string may have them, and what the variables of the environment hold that
    name a password.
    """
    text = re.sub(r"(://[^/:@\s]*):\S*@", r"\1:***@", text)
    text = re.sub(r"(?i)\b((?:ssl)?password\s*=\s*)('[^']*'|[^&\s'\"]+)", r"\1***", text)
    for name in _VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    return text
