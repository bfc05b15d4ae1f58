"""The files of `experiments/`, wherever they lie: studies and sweeps as data.

A checkout has the folder at its top. A wheel has it inside of the package, where its common name
is in nobody's way (`hatch_build.py`).
"""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType

from selftrain.errors import InputError


def names() -> list[str]:
    """Return the names of the files, without .py.

    Raises:
        InputError: there are none.
    """
    package = import_module(_package())
    return sorted(it.name for it in iter_modules(package.__path__) if not it.ispkg)


def load(name: str) -> ModuleType:
    """Import a file.

    Raises:
        InputError: there are none.
    """
    return import_module(f"{_package()}.{name}")


def _package() -> str:
    for name in ("selftrain.experiments", "experiments"):
        found = find_spec(name)
        # Without an origin it is any folder of that name in the current one.
        if found is not None and found.origin is not None:
            return name
    raise InputError(
        "There are no studies and sweeps here: install the package as a whole (pip install .), or "
        "call `python -m selftrain` in a checkout, which has the folder experiments."
    )
