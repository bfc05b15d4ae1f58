"""How fast does a served model answer, for one client and for many, and how much is the network?

Logs a network as a training does, lets `mlflow models serve` serve it on 127.0.0.1, and sends it a
drawn scene from 1, 4 and 16 clients at once, each of which waits for an answer before it asks
again:

- file: the picture as a PNG file in the column `image`; the answer is a record with the mask;
- array: its pixels as one array in JSON; the answer is the class ids in JSON.

All settings take turns, so that what else the machine does slows all of them alike, and the bare
forward, `Predictor.labels` of the same pixels in a process of its own, is timed before and after
while the server is idle. Clients run on the same machine. Weights are random: they do not change
the time.

    python -m experiments.speed.serving [--record results/speed/serving.json]

Cost: some minutes on 2 CPU cores. Expected: a file is answered sooner than an array, as it is a
fraction of the bytes; more clients than cores wait for each other, and requests a second stay about
as they are.
"""

import argparse
import base64
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from experiments.speed.measure import machine_facts, median_seconds, report
from experiments.speed.turns import device_name
from selftrain import progress, tracking
from selftrain.checkpoint import ModelCard, load_network, save_network
from selftrain.data.reader import decode_picture
from selftrain.data.scenes import classes, write_split
from selftrain.distributed import choose_device
from selftrain.inference import Predictor
from selftrain.models import build_network

NETWORK, BACKBONE = "fast_scnn", "mobilenet_v2"
FORWARDS = 20
_START = 300
"""Seconds that the server may take to start, and to answer."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured, and how much of it."""

    width: int = 512
    """Of the picture in pixels; the height is half of it."""
    requests: int = 64
    """Of each form and number of clients, over all turns."""
    clients: Sequence[int] = (1, 4, 16)
    rounds: int = 4
    """Turns of each form and number of clients."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a turn took."""

    seconds: list[float]
    """Of each request."""
    wall: float
    """Of all of them."""
    reply: int
    """Bytes of an answer."""


def measure(folder: Path, setting: Setting) -> dict[str, object]:
    """Serve a model from the tracking store that is set, and time its answers.

    Returns:
        `forward_ms`, the bare forward; the bytes of a request and of its answer, by form; and under
        "FORM, N clients" the median and the 95th percentile of the milliseconds of an answer, the
        median over the forward, and requests a second.
    """
    width, height = setting.width, setting.width // 2
    write_split(folder / "scene", seed=0, indices=range(1), width=width, height=height)
    png = (folder / "scene" / "images" / "00000.png").read_bytes()
    image = decode_picture(png, "The scene")
    model, predictor = log_model(folder / "network")
    bodies = {"file": request_of_file(png), "array": request_of_array(image)}
    images = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]

    def forward() -> float:
        return 1000 * median_seconds(lambda: predictor.labels(images), FORWARDS)

    turns = [(form, clients) for form in bodies for clients in setting.clients]
    found: dict[tuple[str, int], list[Answered]] = {turn: [] for turn in turns}
    with served(model, folder / "server.log") as port:
        forwards = [forward()]
        for body in bodies.values():
            ask(port, body, clients=1, requests=2)  # the first request pays for lazy imports
        for number in range(setting.rounds):
            progress.say(f"round {number + 1} of {setting.rounds} ...")
            for form, clients in turns:
                some = max(clients, setting.requests // setting.rounds)
                answers = ask(port, bodies[form], clients=clients, requests=some)
                found[form, clients].append(answers)
        forwards.append(forward())
    bare = statistics.mean(forwards)
    return {
        "what": f"answers of `mlflow models serve` to {width}x{height} pictures, {NETWORK}",
        "device": device_name(choose_device("auto")),
        "forward_ms": bare,
        "request_bytes": {form: len(body) for form, body in bodies.items()},
        "reply_bytes": {form: found[form, setting.clients[0]][0].reply for form in bodies},
        **{
            f"{form}, {clients} client{'s' * (clients > 1)}": summarise(answers, bare)
            for (form, clients), answers in found.items()
        },
        "machine": machine_facts(),
    }


def summarise(turns: Sequence[Answered], forward_ms: float) -> dict[str, float]:
    """Return what the turns of a setting come to."""
    each = 1000 * np.array([seconds for turn in turns for seconds in turn.seconds])
    median = float(np.median(each))
    return {
        "requests": float(len(each)),
        "median_ms": median,
        "p95_ms": float(np.percentile(each, 95)),
        "median_over_forward": median / forward_ms,
        "requests_per_s": len(each) / sum(turn.wall for turn in turns),
    }


def request_of_file(file: bytes) -> bytes:
    """Return the body of a request for one picture as a file."""
    text = base64.b64encode(file).decode("ascii")
    return json.dumps({"dataframe_split": {"columns": ["image"], "data": [[text]]}}).encode()


def request_of_array(image: np.ndarray) -> bytes:
    """Return the body of a request for one picture as numbers."""
    return json.dumps({"inputs": image[None].tolist()}).encode()


def log_model(folder: Path) -> tuple[str, Predictor]:
    """Log a network of random weights; return the model's URI, and the network to ask at once."""
    torch.manual_seed(0)
    table = classes()
    network = build_network(
        NETWORK,
        num_classes=len(table),
        backbone=BACKBONE,
        output_stride=16,
        backbone_weights="none",
    )
    card = ModelCard(
        network=NETWORK,
        backbone=BACKBONE,
        output_stride=16,
        head_channels=256,
        classes=list(table.names),
        colors=[list(color) for color in table.colors],
        scale=1.0,
    )
    save_network(folder, network, card)
    tracking.connect(folder.parent / "outputs")
    with tracking.stage_run("train", "teacher", "speed of serving") as run:
        run.log_model(folder)
    device = choose_device("auto")
    network, _ = load_network(folder, device)
    return f"runs:/{run.run_id}/{tracking.MODEL}", Predictor(network, device)


@contextmanager
def served(model: str, log: Path) -> Iterator[int]:
    """Serve a model in processes of their own; yield the port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model),
        *("--host", "127.0.0.1", "--port", str(port), "--env-manager", "local"),
    ]
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        _wait_for(port, server)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START)
            connection.request("GET", "/ping")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"the server does not answer within {_START} s")


def ask(port: int, body: bytes, *, clients: int, requests: int) -> Answered:
    """Send a request again and again, from clients that start together.

    Raises:
        RuntimeError: an answer is not 200.
    """
    seconds: list[float] = []
    problems: list[str] = []
    sizes: list[int] = []
    left = iter(range(requests))
    lock = threading.Lock()

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START)
        while True:
            with lock:
                if next(left, None) is None:
                    break
            start = time.perf_counter()
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read()
            took = time.perf_counter() - start
            with lock:
                seconds.append(took)
                sizes.append(len(data))
                if answer.status != http.HTTPStatus.OK:
                    problems.append(data[:300].decode(errors="replace"))
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - start
    if problems or len(seconds) < requests:
        raise RuntimeError(problems[0] if problems else "a client lost its connection")
    return Answered(seconds=seconds, wall=wall, reply=sizes[0])


def _parse() -> tuple[Setting, Path | None]:
    parser = argparse.ArgumentParser(description="Time the answers of a served model.")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--width", type=int, help="of the picture, twice its height")
    parser.add_argument("--requests", type=int, help="of each form and number of clients")
    parser.add_argument("--clients", type=int, nargs="+", help="at once")
    parser.add_argument("--rounds", type=int, help="turns of each of these")
    given = vars(parser.parse_args())
    names = {field.name for field in fields(Setting)}
    chosen = {name: it for name, it in given.items() if name in names and it is not None}
    return replace(Setting(), **chosen), given["record"]


if __name__ == "__main__":
    chosen, file = _parse()
    file = file and file.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)  # where MLflow keeps the artifacts of a new store
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{temporary}/mlflow.db"
        record = measure(Path(temporary), chosen)
        report(record, file)
        os.chdir("/")
