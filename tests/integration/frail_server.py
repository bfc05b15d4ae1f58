"""A tracking server that fails on command: mlflow's own, and a proxy in front of it."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_OF_THE_CONNECTION = {"connection", "content-length", "host", "transfer-encoding"}


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """`mlflow server` on SQLite, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                    *("--host", "127.0.0.1", "--port", str(self.port)),
                    *("--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"),
                    *("--artifacts-destination", str(self.folder / "artifacts")),
                ],
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """Kill it, with its workers, at whatever it does."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Proxy:
    """Stands in front of a server, and fails as it is told."""

    def __init__(self, port: int) -> None:
        self.behind, self.port = port, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.fault: int | str = "none"
        """none, a status to answer with, hang, lose (pass the request on and drop the answer), or
        lose once (the same at the first request to each path)."""
        self.only = ""
        """Part of the paths at which it fails; the others pass."""
        self._lost: set[str] = set()
        self._listening: ThreadingHTTPServer | None = None

    def open(self) -> None:
        """Listen."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def _pass_on(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = _read_chunks(self.rfile)
                fault = proxy.fault if proxy.only in self.path else "none"
                if fault == "hang":
                    while proxy.fault == "hang":
                        time.sleep(0.05)
                    self.close_connection = True
                    return
                if isinstance(fault, int):
                    self._answer(fault, b"no", [])
                    return
                status, answer, headers = proxy.ask(
                    self.command, self.path, body, dict(self.headers)
                )
                if fault == "lose" or (fault == "lose once" and proxy.is_first(self.path)):
                    self.close_connection = True
                    return
                self._answer(status, answer, headers)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

            def _answer(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in _OF_THE_CONNECTION:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

        class Listening(ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._listening = Listening(("127.0.0.1", self.port), Handler)
        serve = self._listening.serve_forever
        threading.Thread(target=serve, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Listen no more: connections are refused."""
        if self._listening is not None:
            self._listening.shutdown()
            self._listening.server_close()
            self._listening = None

    def ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, list[tuple[str, str]]]:
        """Pass a request on to the server."""
        connection = HTTPConnection("127.0.0.1", self.behind, timeout=60)
        kept = {n: v for n, v in headers.items() if n.lower() not in _OF_THE_CONNECTION}
        try:
            connection.request(method, path, body=body, headers=kept)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheaders()
        except OSError:
            return 502, b"nobody behind", []
        finally:
            connection.close()

    def is_first(self, path: str) -> bool:
        """Note a request to a path, and say whether it is the first of its kind."""
        path = re.sub("(m-)?[0-9a-f]{32}", "ID", path.partition("?")[0])
        path = path.partition("/artifacts/")[0]
        is_first = path not in self._lost
        self._lost.add(path)
        return is_first

    def fail(self, fault: int | str, only: str = "") -> None:
        """Fail from now on: as `fault` says, or by refusing connections ("away")."""
        if fault == "away":
            self.close()
        else:
            self.only, self.fault = only, fault

    def mend(self) -> None:
        """Work again."""
        self.fault, self.only = "none", ""
        if self._listening is None:
            self.open()

    @contextmanager
    def failing(self, fault: int | str, only: str = "") -> Iterator[None]:
        """Fail for the length of the block."""
        self.fail(fault, only)
        try:
            yield
        finally:
            self.mend()


def _read_chunks(stream: object) -> bytes:
    """Read a body in HTTP/1.1's chunks."""
    body = b""
    while size := int(stream.readline().split(b";")[0], 16):  # type: ignore[attr-defined]
        body += stream.read(size)  # type: ignore[attr-defined]
        stream.readline()  # type: ignore[attr-defined]
    stream.readline()  # type: ignore[attr-defined]
    return body
