"""The served model: labels for images, and a refusal in one sentence for everything else."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from miniature import random_network
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from reliability import Survived

from selftrain import serving, tracking
from selftrain.checkpoint import load_network
from selftrain.data.sample import ClassTable
from selftrain.inference import Predictor

CLASSES = ClassTable(("road", "car"), ((1, 2, 3), (4, 5, 6)))
IMAGES: NDArray[np.uint8] = np.random.default_rng(0).integers(
    0, 256, (2, 33, 40, 3), dtype=np.uint8
)
JSON = "application/json"
OwnStore = Callable[[Path], AbstractContextManager[str]]


@pytest.fixture(scope="module")
def folder(own_store: OwnStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A logged model's folder, beside the network that it was made of."""
    place = tmp_path_factory.mktemp("served")
    network = random_network(place / "network", CLASSES)
    with own_store(place):
        tracking.connect()
        with tracking.stage_run("train", "teacher", "key") as run:
            run.log_model(network)
        fetched = tracking.download(f"runs:/{run.run_id}/{tracking.MODEL}", place)
        shutil.copytree(fetched, place / "copy")
    return place / "copy"


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """The model as MLflow loads it."""
    return mlflow.pyfunc.load_model(str(folder))


@pytest.fixture(scope="module")
def expected(folder: Path) -> NDArray[np.uint8]:
    """The labels of `IMAGES`."""
    network, _ = load_network(folder.parent / "network", torch.device("cpu"))
    turned = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())
    return np.asarray(Predictor(network, torch.device("cpu")).labels(turned)[0], dtype=np.uint8)


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def server(model: Any) -> Iterator[str]:
    """MLflow's scoring server in this process; its URI."""
    import uvicorn
    from mlflow.pyfunc.scoring_server import init

    port, before = free_port(), dict(os.environ)
    settings = uvicorn.Config(init(model), host="127.0.0.1", port=port, log_level="critical")
    running = uvicorn.Server(settings)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        wait_for(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join()
        os.environ.clear()
        os.environ.update(before)


def wait_for(uri: str) -> None:
    """Wait until a server answers."""
    for _ in range(3000):
        try:
            with urllib.request.urlopen(f"{uri}/ping", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise TimeoutError(uri)


def ask(uri: str, body: bytes, content_type: str = JSON) -> tuple[int, str]:
    """Send a request; return the status and the text of the answer."""
    request = urllib.request.Request(
        f"{uri}/invocations", body, {"Content-Type": content_type}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def good(uri: str) -> NDArray[np.uint8]:
    """Return what a server answers to `IMAGES`."""
    status, text = ask(uri, json.dumps({"inputs": IMAGES.tolist()}).encode())
    assert status == 200, text
    return np.array(json.loads(text)["predictions"], dtype=np.uint8)


def inputs(value: object) -> bytes:
    return json.dumps({"inputs": value}).encode()


def pixels(*shape: int) -> bytes:
    return inputs(np.zeros(shape, int).tolist())


GARBAGE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", JSON),
    "random bytes": (np.random.default_rng(1).bytes(4096), JSON),
    "random bytes as a picture": (np.random.default_rng(2).bytes(4096), "image/png"),
    "random bytes as a table": (np.random.default_rng(3).bytes(4096), "text/csv"),
    "a table": (b"a,b\n1,2\n", "text/csv"),
    "no JSON": (b"{'inputs': 1}", JSON),
    "half a JSON": (pixels(1, 33, 40, 3)[:-20], JSON),
    "a list": (b"[1, 2, 3]", JSON),
    "a number": (b"17", JSON),
    "another key": (b'{"images": [1]}', JSON),
    "both keys": (b'{"inputs": [1], "instances": [1]}', JSON),
    "a scalar": (inputs(3), JSON),
    "a text": (inputs("road"), JSON),
    "texts": (inputs([["road"]]), JSON),
    "dicts": (inputs([{"a": 1}]), JSON),
    "null": (inputs(None), JSON),
    "ragged rows": (inputs([[[[1, 2, 3]], [[1, 2, 3], [1, 2, 3]]]]), JSON),
    "one axis": (pixels(3), JSON),
    "three axes": (pixels(33, 40, 3), JSON),
    "five axes": (pixels(1, 1, 33, 40, 3), JSON),
    "no image": (inputs([]), JSON),
    "no row": (inputs([[]]), JSON),
    "no column": (inputs([[[]]]), JSON),
    "gray": (pixels(1, 33, 40, 1), JSON),
    "transparent": (pixels(1, 33, 40, 4), JSON),
    "channels first": (pixels(1, 3, 33, 40), JSON),
    "a value above 255": (inputs(np.full((1, 4, 4, 3), 256).tolist()), JSON),
    "a value below 0": (inputs(np.full((1, 4, 4, 3), -1).tolist()), JSON),
    "not a number": (inputs(np.full((1, 4, 4, 3), np.nan).tolist()), JSON),
    "infinite": (inputs(np.full((1, 4, 4, 3), np.inf).tolist()), JSON),
    "an image that is too wide": (pixels(1, 1, serving.LONGEST_SIDE + 1, 3), JSON),
    "too many images": (pixels(serving.MOST_IMAGES + 1, 1, 1, 3), JSON),
    "a params key": (b'{"inputs": [1], "params": {"os": "system"}}', JSON),
    "another charset": (pixels(1, 4, 4, 3), f"{JSON}; charset=latin-1"),
    "a form": (b"inputs=1", "application/x-www-form-urlencoded"),
    "parquet that is none": (b"PAR1" + bytes(100) + b"PAR1", "application/vnd.apache.parquet"),
    "a pickle": (b"cos\nsystem\n(S'true'\ntR.", "application/octet-stream"),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_refused_and_the_next_request_is_answered(
    name: str, server: str, expected: NDArray[np.uint8]
) -> None:
    status, text = ask(server, *GARBAGE[name])
    assert 400 <= status < 500, text
    assert text.strip()
    np.testing.assert_array_equal(good(server), expected)


def test_requests_that_mlflow_itself_fails_on_do_not_end_the_server(
    server: str, expected: NDArray[np.uint8]
) -> None:
    for body, content_type in [(b"[" * 200_000, JSON), (pixels(1, 4, 4, 3), "")]:
        status, _ = ask(server, body, content_type)
        assert status >= 400
    np.testing.assert_array_equal(good(server), expected)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (np.zeros((1, 4, 4, 3), np.float32), ["float32 1x4x4x3", "uint8 (B, H, W, 3)"]),
        (np.zeros((1, 4, 4, 3), np.int64), ["int64", "uint8"]),
        (np.zeros((4, 4, 3), np.uint8), ["uint8 4x4x3", "(B, H, W, 3)"]),
        (np.zeros((1, 4, 4, 4), np.uint8), ["1x4x4x4"]),
        (np.zeros((), np.uint8), ["uint8 ()"]),
        (np.zeros((0, 4, 4, 3), np.uint8), ["0x4x4x3", "without a pixel"]),
        (np.zeros((1, 0, 4, 3), np.uint8), ["1x0x4x3", "without a pixel"]),
        (np.empty(2, dtype=object), ["object 2"]),
        ([[1]], ["list, not an array"]),
        (None, ["NoneType"]),
        # Zeros that nobody has touched take no memory.
        (np.zeros((1, 4097, 4096, 3), np.uint8), ["4096x4097", "16777216 pixels", "cut them"]),
        (np.zeros((1, 1, 16385, 3), np.uint8), ["16385x1", "a side of 16384"]),
        (np.zeros((257, 1, 1, 3), np.uint8), ["257 images", "at most 256"]),
        (np.zeros((5, 4096, 4096, 3), np.uint8), ["5 images of 4096x4096", "67108864 pixels"]),
    ],
)
def test_what_is_no_images_or_too_much_is_refused_in_a_sentence(
    found: object, words: list[str]
) -> None:
    with pytest.raises(MlflowException) as caught:
        serving.SegmentationModel().predict(None, found)  # type: ignore[arg-type]
    assert caught.value.get_http_status_code() == 400
    assert len(caught.value.message.splitlines()) == 1
    for word in words:
        assert word in caught.value.message


def test_as_much_as_is_allowed_is_accepted() -> None:
    for shape in [(1, 4096, 4096, 3), (4, 4096, 4096, 3), (256, 512, 512, 3), (1, 1, 16384, 3)]:
        images = np.zeros(shape, np.uint8)
        assert serving.require_images(images) is images


def test_images_that_go_through_the_network_in_parts_get_their_own_labels(
    model: Any, expected: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = np.concatenate([IMAGES, IMAGES[::-1]])
    inside = model.unwrap_python_model()
    code = sys.modules[type(inside).__module__]
    monkeypatch.setattr(code, "MOST_PIXELS_OF_IMAGE", 33 * 40)
    np.testing.assert_array_equal(
        inside.predict(None, many), np.concatenate([expected, expected[::-1]])
    )


def test_too_little_memory_is_refused_in_a_sentence(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = model.unwrap_python_model()

    def fail(images: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr(type(inside), "_label", lambda self, images: fail(images))
    with pytest.raises(MlflowException, match="too little memory: send fewer images") as caught:
        inside.predict(None, IMAGES)
    assert "optim." not in caught.value.message  # who sends a request sets no knobs
    assert caught.value.get_http_status_code() == 400


@contextmanager
def served(folder: Path, log: Path) -> Iterator[str]:
    """`mlflow models serve`, as the README has it; yields its URI."""
    port = free_port()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(folder)),
                *("--host", "127.0.0.1", "--port", str(port), "--env-manager", "local"),
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.mark.torture
def test_a_server_of_its_own_outlasts_a_thousand_requests_of_garbage(
    folder: Path, expected: NDArray[np.uint8], tmp_path: Path, survived: Survived
) -> None:
    rng = np.random.default_rng(0)
    whole = json.dumps({"inputs": IMAGES.tolist()}).encode()
    with served(folder, tmp_path / "log") as uri:
        np.testing.assert_array_equal(good(uri), expected)
        tried = 0
        for body, content_type in GARBAGE.values():
            assert 400 <= ask(uri, body, content_type)[0] < 500
            tried += 1
        while tried < 1000:
            spoilt = bytearray(whole[: rng.integers(1, len(whole))] if tried % 2 else whole)
            for place in rng.integers(0, len(spoilt), 1 + tried % 8):
                spoilt[place] = rng.integers(256)
            status, text = ask(uri, bytes(spoilt))
            assert status == 200 or 400 <= status < 500, text  # a digit of a pixel may be another
            tried += 1
        np.testing.assert_array_equal(good(uri), expected)
    survived(
        "Garbage sent to `mlflow models serve`",
        tried=f"{tried} requests",
        found="all refused or answered, and the server goes on",
    )
