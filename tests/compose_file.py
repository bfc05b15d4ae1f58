"""compose.yaml as `docker compose` reads it: variables are put in, merged parts are merged."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes with mlflow

REPOSITORY = Path(__file__).parents[1]
COMPOSE = REPOSITORY / "compose.yaml"
CUDA = REPOSITORY / "docs" / "docker" / "cuda.yaml"
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def services(
    environment: Mapping[str, str] | None = None, path: Path = COMPOSE
) -> dict[str, dict[str, Any]]:
    """Return the services by name.

    Raises:
        KeyError: a variable is not set, and has no default.
    """
    given = environment or {}

    def value(found: re.Match[str]) -> str:
        name, kind, text = found.groups()
        return given.get(name) or text if kind == "-" else given[name]

    text = _VARIABLE.sub(value, path.read_text())
    read: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return read
