"""Fixtures: a tracking store of one's own, tiny scenes, a miniature CamVid.

mlflow and torch are imported by the fixtures that need them: most tests need neither.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selftrain.config import Config
    from selftrain.datasets import OpenData

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
# Tiny tensors: threads that wait for each other's cores make them ten times as slow (measured).
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["reliability"]

OwnStore = Callable[[Path], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> OwnStore:
    """`with own_store(folder) as uri`: work in the folder, with a tracking store of its own.

    To make a store takes seconds, to copy one does not: it is made once.
    """
    import mlflow

    blank = tmp_path_factory.mktemp("blank") / "mlflow.db"
    here = Path.cwd()
    os.chdir(blank.parent)  # mlflow makes a folder mlruns beside it
    mlflow.MlflowClient(f"sqlite:///{blank}").search_experiments()
    os.chdir(here)
    return partial(_copied_store, blank)


@contextmanager
def _copied_store(blank: Path, folder: Path) -> Iterator[str]:
    import mlflow

    before, here = dict(os.environ), Path.cwd()
    shutil.copy(blank, folder / "mlflow.db")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.pop(name, None)
    uri = os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    os.chdir(folder)  # where a new experiment's artifacts go
    try:
        yield uri
    finally:
        while mlflow.active_run() is not None:
            mlflow.end_run("FAILED")
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def store(own_store: OwnStore, tmp_path: Path) -> Iterator[str]:
    """An empty tracking store in `tmp_path`, which is the current folder; its URI."""
    with own_store(tmp_path) as uri:
        yield uri


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data root that all tests share: scenes are drawn by the first and found by the others.

    To change a file of it, copy it.
    """
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture
def tiny(scenes_root: Path, tmp_path: Path) -> "Config":
    """A pipeline that takes seconds, with its outputs in `tmp_path / "outputs"`."""
    from miniature import tiny_config

    return tiny_config(scenes_root, tmp_path / "outputs")


@pytest.fixture
def tiny_data(tiny: "Config") -> "OpenData":
    """The tiny scenes: 4 labelled, 4 in the pool, 2 in dev, 2 in test, 64x32 pixels."""
    from selftrain.datasets import open_data

    return open_data(tiny)


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    """A miniature of CamVid's tree, for the labelled fraction 1/16."""
    from miniature import camvid_tree

    return camvid_tree(tmp_path / "camvid")
