"""A server as a process of its own, and what tests ask of it."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "PREDICTION_API_"
LIMIT_SECONDS = 20.0


def until(condition: Callable[[], Any], what: str, limit: float = LIMIT_SECONDS) -> Any:
    """The first true value of *condition*."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {limit:g} seconds: {what}"
        time.sleep(0.01)
    return value


@dataclass
class ServerProcess:
    """Listens on a free port of 127.0.0.1."""

    process: "subprocess.Popen[str]"
    log_path: Path
    tls: ssl.SSLContext | None = None
    port: int = 0

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log
        self.port = int(line.rpartition(":")[2])

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def workers(self, count: int = 1) -> list[int]:
        """The children once the doorkeeper has left."""
        until(lambda: len(self.children()) == count, f"{count} workers")
        return self.children()

    def open_sockets(self) -> int:
        """Of the only worker at our port: one is the listening socket."""
        [pid] = self.workers()
        table = Path(f"/proc/{pid}/net/tcp").read_text()
        inodes = {line.split()[9] for line in table.splitlines()[1:] if f":{self.port:04X} " in line.split()[1] + " "}
        found = 0
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += entry.readlink().name.removeprefix("socket:[").removesuffix("]") in inodes
        return found

    def connect(self, timeout: float = LIMIT_SECONDS) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        return self.tls.wrap_socket(connection, server_hostname="localhost") if self.tls else connection

    def get(self, path: str, timeout: float = LIMIT_SECONDS) -> tuple[int, bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as client:
            client.sock = self.connect(timeout)
            client.request("GET", path, headers={"Connection": "close"})
            response = client.getresponse()
            return response.status, response.read()

    def status_of(self, path: str, timeout: float = LIMIT_SECONDS) -> int | None:
        """The status of an answer; none when there is no answer."""
        try:
            return self.get(path, timeout)[0]
        except OSError:
            return None

    def exchange(self, request: bytes) -> "Answer":
        """Send, and read until the server closes."""
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(request)
            return Answer(everything_from(connection))

    def end(self, number: signal.Signals = signal.SIGTERM, limit: float = LIMIT_SECONDS) -> int:
        self.process.send_signal(number)
        return self.process.wait(limit)


@dataclass(frozen=True)
class Answer:
    """All bytes of a connection."""

    raw: bytes

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.raw)]

    @property
    def status(self) -> int | None:
        return self.statuses[0] if self.raw else None

    @property
    def message(self) -> str:
        text: str = json.loads(self.raw.partition(b"\r\n\r\n")[2])["message"]
        return text


def memory_of(pid: int, kind: str) -> int:
    """Bytes that a process holds; the kind is ``VmRSS``, or ``VmHWM`` for their peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def everything_from(connection: socket.socket) -> bytes:
    """All bytes until the other side closes, or resets."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


@contextlib.contextmanager
def started(
    *command: str, stand_in: str = "", tls: ssl.SSLContext | None = None, before: Any = None, **settings: object
) -> Iterator[ServerProcess]:
    """A server that may not be ready yet; killed with all its children at the end."""
    variables = {PREFIX + name.upper(): str(value) for name, value in settings.items()}
    port = "HTTPS_PORT" if tls else "HTTP_PORT"
    environ = {**os.environ, "STAND_IN": stand_in, PREFIX + port: "0", **variables}
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *(command or ("tests.prediction_api.stand_in",))],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            preexec_fn=before,
        )
        with process:
            try:
                yield ServerProcess(process, Path(log.name), tls)
            finally:
                process.kill()


@contextlib.contextmanager
def serving(*command: str, **settings: Any) -> Iterator[ServerProcess]:
    """A server that is ready."""
    with started(*command, **settings) as server:
        server.wait_until_ready()
        yield server
