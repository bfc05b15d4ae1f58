"""The served model: labels for images, and a refusal in one sentence for everything else."""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from bad_input.world import png_that_claims
from miniature import random_network
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from PIL import Image
from reliability import Survived

from selftrain import request, serving, tracking
from selftrain.checkpoint import load_network
from selftrain.data.sample import ClassTable
from selftrain.inference import Predictor

NAME = "selftrain-scenes"
CLASSES = ClassTable(("road", "car"), ((1, 2, 3), (4, 5, 6)))
IMAGES: NDArray[np.uint8] = np.random.default_rng(0).integers(
    0, 256, (2, 33, 40, 3), dtype=np.uint8
)
JSON = "application/json"
Label = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
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
        version = mlflow.register_model(f"runs:/{run.run_id}/{tracking.MODEL}", NAME).version
        mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", version)
        fetched = tracking.download(f"runs:/{run.run_id}/{tracking.MODEL}", place)
        shutil.copytree(fetched, place / "copy")
    return place / "copy"


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """The model as MLflow loads it."""
    return mlflow.pyfunc.load_model(str(folder))


@pytest.fixture(scope="module")
def label(folder: Path) -> Label:
    """Return the labels of an RGB picture, as the network that was logged gives them."""
    network, _ = load_network(folder.parent / "network", torch.device("cpu"))
    return Predictor(network, torch.device("cpu")).label_picture


@pytest.fixture(scope="module")
def expected(label: Label) -> NDArray[np.uint8]:
    """The labels of `IMAGES`."""
    return np.stack([label(it) for it in IMAGES])


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """`mlflow models serve` of the registered model, one for all tests; its URI."""
    store = f"sqlite:///{folder.parent / 'mlflow.db'}"
    with served(f"models:/{NAME}@champion", folder.parent / "log", store) as uri:
        yield uri


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


def encoded(picture: NDArray[np.uint8]) -> bytes:
    """Return an RGB picture as a PNG file."""
    return bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())


def base64_of(file: bytes) -> str:
    return base64.b64encode(file).decode()


def files(*values: object, column: str = "image") -> bytes:
    """Return a request for pictures; bytes are sent in base64."""
    texts = [base64_of(it) if isinstance(it, bytes) else it for it in values]
    return json.dumps(
        {"dataframe_split": {"columns": [column], "data": [[it] for it in texts]}}
    ).encode()


def cmyk() -> bytes:
    file = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(file, "JPEG")
    return file.getvalue()


PNGS = [encoded(IMAGES[0]), encoded(IMAGES[1][:20, :30])]
"""Two pictures of different sizes."""
SPOILT: dict[str, tuple[bytes, str]] = {
    "no base64": (files("?!"), "is no base64"),
    "no picture": (files(b"hello world"), "is no PNG or JPEG"),
    "a path": (files("/etc/passwd"), "is no base64"),
    "an address": (files("http://127.0.0.1/x.png"), "is no base64"),
    "a truncated picture": (files(PNGS[0][:-40]), "is truncated or damaged"),
    "a picture that claims to be huge": (files(png_that_claims(60000, 60000)), "60000x60000"),
    "a picture of 16 bits": (
        files(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint16))[1].tobytes()),
        "of 16 bits a channel",
    ),
    "a picture for print": (files(cmyk()), "is CMYK"),
    "an empty text": (files(""), "is empty"),
    "a number instead of a picture": (files(7), "is int"),
    "a good one and a bad one": (files(PNGS[0], PNGS[1], b"GIF89a"), "Picture 3 of the request"),
    "too many pictures": (files(*[png_that_claims(1, 1)] * 257), "257 images, but at most 256"),
}
"""Requests for pictures, and words of the sentence that is answered."""


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
    "an image that is too wide": (pixels(1, 1, request.LONGEST_SIDE + 1, 3), JSON),
    "too many images": (pixels(request.MOST_IMAGES + 1, 1, 1, 3), JSON),
    "a params key": (b'{"inputs": [1], "params": {"os": "system"}}', JSON),
    "another charset": (pixels(1, 4, 4, 3), f"{JSON}; charset=latin-1"),
    "a form": (b"inputs=1", "application/x-www-form-urlencoded"),
    "parquet that is none": (b"PAR1" + bytes(100) + b"PAR1", "application/vnd.apache.parquet"),
    "a picture in another column": (files(PNGS[0], column="picture"), JSON),
    "no picture at all": (files(), JSON),
    "null instead of a picture": (files(None), JSON),
    "a list instead of a picture": (files([1, 2]), JSON),
    "a dict instead of a picture": (files({"a": 1}), JSON),
    "the column twice": (
        json.dumps(
            {"dataframe_split": {"columns": ["image", "image"], "data": [["a", "b"]]}}
        ).encode(),
        JSON,
    ),
    "an index of its own": (
        json.dumps(
            {"dataframe_split": {"columns": ["image"], "index": [{}], "data": [["a"]]}}
        ).encode(),
        JSON,
    ),
    "one long text and many short ones": (inputs(["a" * 100_000, *["b"] * 100_000]), JSON),
    **{name: (body, JSON) for name, (body, _) in SPOILT.items()},
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


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_picture_is_answered_with_400_and_one_sentence(name: str, server: str) -> None:
    body, words = SPOILT[name]
    status, text = ask(server, body)
    assert status == 400
    sentence = json.loads(text)["message"]
    assert words in sentence
    assert len(sentence) < 250  # what was sent is not sent back
    assert sentence.endswith(".")
    assert "\n" not in sentence


def read_mask(record: dict[str, Any]) -> NDArray[np.uint8]:
    """Return the mask of a record."""
    data = np.frombuffer(base64.b64decode(record["mask"], validate=True), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), dtype=np.uint8)


def records(answer: tuple[int, str]) -> list[dict[str, Any]]:
    """Return the records of an answer."""
    status, text = answer
    assert status == 200, text
    found: list[dict[str, Any]] = json.loads(text)["predictions"]
    return found


def require_record(record: dict[str, Any], labels: NDArray[np.uint8]) -> None:
    """Check a record against the labels of its picture."""
    np.testing.assert_array_equal(read_mask(record), labels)
    assert record["classes"] == list(CLASSES.names)
    shares = [float(np.mean(labels == it)) for it in range(len(CLASSES))]
    assert record["shares"] == pytest.approx(shares)
    assert sum(record["shares"]) == pytest.approx(1)


TEXTS = [base64_of(file) for file in PNGS]
FORMS = {
    "split": {"dataframe_split": {"columns": ["image"], "data": [[it] for it in TEXTS]}},
    "records": {"dataframe_records": [{"image": it} for it in TEXTS]},
    "instances": {"instances": [{"image": it} for it in TEXTS]},
    "named inputs": {"inputs": {"image": TEXTS}},
    "inputs": {"inputs": TEXTS},
}


@pytest.mark.parametrize("form", FORMS)
def test_pictures_are_answered_with_mask_names_and_shares_in_their_order(
    form: str, server: str, label: Label
) -> None:
    found = records(ask(server, json.dumps(FORMS[form]).encode()))
    assert len(found) == 2
    require_record(found[0], label(IMAGES[0]))
    require_record(found[1], label(IMAGES[1][:20, :30]))


def test_a_table_of_bytes_is_answered_as_well(server: str, label: Label) -> None:
    parquet = pd.DataFrame({"image": PNGS[:1]}).to_parquet()
    (record,) = records(ask(server, parquet, "application/vnd.apache.parquet"))
    require_record(record, label(IMAGES[0]))


def test_the_mask_of_a_photo_stands_upright(server: str) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6  # the camera was turned: 33x40 is to be shown as 40x33
    photo = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(photo, "JPEG", exif=tag, quality=95)
    (record,) = records(ask(server, files(photo.getvalue())))
    assert read_mask(record).shape == (40, 33)


def test_the_client_on_the_page_gets_a_mask(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "http://127.0.0.1:5001/" in code
    monkeypatch.chdir(tmp_path)
    Image.fromarray(IMAGES[0]).save("street.jpg")
    exec(code.replace("http://127.0.0.1:5001", server), {})
    mask = cv2.imread("mask.png", cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask.shape == (33, 40)


def test_clients_that_ask_at_once_get_their_own_answers(
    server: str, expected: NDArray[np.uint8], label: Label
) -> None:
    small = label(IMAGES[1][:20, :30])

    def work(number: int) -> None:
        if number % 2:
            np.testing.assert_array_equal(good(server), expected)
        else:
            (record,) = records(ask(server, files(PNGS[1])))
            require_record(record, small)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))


def test_in_python_the_model_takes_an_array_or_a_table(
    model: Any, expected: NDArray[np.uint8], label: Label
) -> None:
    np.testing.assert_array_equal(model.predict(IMAGES), expected)
    for values in (PNGS, TEXTS):
        found = model.predict(pd.DataFrame({"image": values}))
        require_record(found[0], label(IMAGES[0]))
        require_record(found[1], label(IMAGES[1][:20, :30]))
    for wrong in (IMAGES.astype(np.float32), IMAGES[0], IMAGES.tolist(), "road"):
        with pytest.raises(MlflowException) as caught:
            model.predict(wrong)
        assert caught.value.get_http_status_code() == 400


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
        (np.empty(2, dtype=object), ["Picture 1 of the request is NoneType"]),
        (np.empty((2, 2), dtype=object), ["array 2x2"]),
        ({"image": np.empty(1, dtype=object)}, ["Picture 1 of the request is NoneType"]),
        ({"other": np.zeros((1, 4, 4, 3), np.uint8)}, ["NoneType, not an array"]),
        ([[1]], ["list, not an array"]),
        (None, ["NoneType"]),
        # Zeros that nobody has touched take no memory.
        (np.zeros((1, 4097, 4096, 3), np.uint8), ["4096x4097", "16777216 pixels", "cut them"]),
        (np.zeros((1, 1, 16385, 3), np.uint8), ["16385x1", "a side of 16384"]),
        (np.zeros((257, 1, 1, 3), np.uint8), ["257 images", "at most 256"]),
        (np.zeros((5, 4096, 4096, 3), np.uint8), ["5 images of 83886080", "67108864 pixels"]),
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
        assert request.require_images(images) is images


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
def served(model: str, log: Path, store: str) -> Iterator[str]:
    """`mlflow models serve`, as docs/serving.md has it; yields its URI."""
    port = free_port()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "models", "serve", "-m", model),
                *("--host", "127.0.0.1", "--port", str(port), "--env-manager", "local"),
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": store,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
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
    server: str, expected: NDArray[np.uint8], survived: Survived
) -> None:
    rng = np.random.default_rng(0)
    wholes = [json.dumps({"inputs": IMAGES.tolist()}).encode(), files(*PNGS)]
    np.testing.assert_array_equal(good(server), expected)
    tried = 0
    for body, content_type in GARBAGE.values():
        assert 400 <= ask(server, body, content_type)[0] < 500
        tried += 1
    while tried < 1000:
        whole = wholes[tried % 4 // 2]
        spoilt = bytearray(whole[: rng.integers(1, len(whole))] if tried % 2 else whole)
        for place in rng.integers(0, len(spoilt), 1 + tried % 8):
            spoilt[place] = rng.integers(256)
        status, text = ask(server, bytes(spoilt))
        assert status == 200 or 400 <= status < 500, text  # a digit of a pixel may be another
        tried += 1
    np.testing.assert_array_equal(good(server), expected)
    survived(
        "Garbage sent to `mlflow models serve`",
        tried=f"{tried} requests",
        found="all refused or answered, and the server goes on",
    )
