"""A tracking server and nothing else: no folder of products, no checkout."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Run
from numpy.typing import NDArray
from workspace import Workspace, role

LOAD_AND_PREDICT = """
import importlib.util, pathlib, sys

# The development install puts the checkout on the path: this machine has none.
sys.path = [p for p in sys.path if not (pathlib.Path(p or ".") / "selftrain").is_dir()]
assert importlib.util.find_spec("selftrain") is None

import mlflow, numpy

uri, images, masks = sys.argv[1:]
model = mlflow.pyfunc.load_model(uri)
numpy.save(masks, model.predict(numpy.load(images)))
print(sys.modules["selftrain"].__file__)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server on this machine, which alone knows where artifacts are; its URI."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
                *("--artifacts-destination", str(folder / "artifacts")),
            ],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while not answers(uri):
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.5)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def answers(uri: str) -> bool:
    """Tell whether a server is up."""
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def labelled(server: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """The runs of a teacher and its pseudo labels, made on a machine that is gone."""
    folder = tmp_path_factory.mktemp("first machine")
    workspace = Workspace(folder, server, {"machine.data_root": data})
    finished = workspace.selftrain("pseudo_label")
    assert finished.code == 0, finished.output
    shutil.rmtree(folder)
    return workspace.stages()


@pytest.fixture(scope="module")
def second(
    server: str, data: Path, labelled: list[Run], tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """Another machine, on which a student has been trained."""
    folder = tmp_path_factory.mktemp("second machine")
    workspace = Workspace(folder, server, {"machine.data_root": data})
    finished = workspace.selftrain("student")
    assert finished.code == 0, finished.output
    return workspace


def test_a_student_is_trained_from_the_artifacts_of_the_stages_before_it(
    labelled: list[Run], second: Workspace
) -> None:
    assert [role(run) for run in labelled] == ["teacher", "pseudo labels"]
    assert [role(run) for run in second.stages()] == ["teacher", "pseudo labels", "student"]
    for run in labelled:
        tags = run.data.tags
        name = f"{tags['selftrain.stage']}-{tags['selftrain.key']}"
        assert (second.outputs / name / "product.json").exists()
        assert not list((second.outputs / name).glob("checkpoint*"))


def test_a_logged_model_needs_neither_the_checkout_nor_the_products(
    second: Workspace, tmp_path: Path
) -> None:
    student = second.stages()[-1]
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 80, 3), dtype=np.uint8)
    expected = local_masks(second.outputs / f"train-{student.data.tags['selftrain.key']}", images)
    second.outputs.rename(tmp_path / "moved away")
    np.save(tmp_path / "images.npy", images)
    finished = second.call(
        [
            *("-I", "-c", LOAD_AND_PREDICT, f"runs:/{student.info.run_id}/model"),
            *(str(tmp_path / "images.npy"), str(tmp_path / "masks.npy")),
        ],
        cwd=tmp_path,
    )
    assert finished.code == 0, finished.output
    code = Path(finished.output.strip().splitlines()[-1])
    assert code.parts[-3:] == ("code", "selftrain", "__init__.py")
    masks = np.load(tmp_path / "masks.npy")
    assert masks.dtype == np.uint8
    np.testing.assert_array_equal(masks, expected)


def local_masks(folder: Path, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Label images with the network in a folder."""
    import torch

    from selftrain.checkpoint import load_network
    from selftrain.inference import Predictor

    network, _ = load_network(folder, torch.device("cpu"))
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    labels, _ = Predictor(network, torch.device("cpu")).labels(tensor)
    return np.asarray(labels.numpy(), dtype=np.uint8)
