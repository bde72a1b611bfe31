"""Containers of the image under test, and docker commands as data."""

import contextlib
import http.client
import os
import re
import shlex
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

IMAGE = os.environ.get("IMAGE", "")
"""What `make image-check` built."""
ENGINE = os.environ.get("IMAGE_ENGINE", "docker").split()
IS_SLIM = os.environ.get("IMAGE_VARIANT") == "slim"
LIMITS = () if ENGINE == ["docker"] else ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
"""A root without CAP_SYS_RESOURCE cannot raise limits, which podman does unless told not to."""
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp")
LIMIT_SECONDS = 90.0


def engine(*arguments: str | Path, limit: float = LIMIT_SECONDS) -> "subprocess.CompletedProcess[str]":
    """One command of docker or podman."""
    command = [*ENGINE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)


def run(*arguments: str | Path, limit: float = LIMIT_SECONDS) -> "subprocess.CompletedProcess[str]":
    """A container from beginning to end: options, image, arguments."""
    return engine("run", "--rm", *LIMITS, *arguments, limit=limit)


@dataclass
class Container:
    """One that runs in the background."""

    name: str
    port: int
    tls: ssl.SSLContext | None = None

    def get(self, path: str) -> tuple[int, bytes]:
        return self.ask("GET", path)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection
        if self.tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_SECONDS)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=LIMIT_SECONDS, context=self.tls)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Connection": "close"} | (headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/ping")[0] == 200
        return False

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not self.is_ready():
            assert self.state() == "running", self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def state(self) -> str:
        return engine("inspect", "--format", "{{.State.Status}}", self.name).stdout.strip()

    def exit_code(self) -> int:
        return int(engine("inspect", "--format", "{{.State.ExitCode}}", self.name).stdout)

    def log(self) -> str:
        done = engine("logs", self.name)
        return done.stdout + done.stderr

    def execute(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return engine("exec", self.name, *command)

    def stop(self, grace: int = 20) -> float:
        """Seconds that it took to end."""
        began = time.monotonic()
        engine("stop", "--time", str(grace), self.name)
        return time.monotonic() - began


@contextlib.contextmanager
def started(
    *options: str | Path,
    image: str = IMAGE,
    arguments: tuple[str, ...] = (),
    tls: ssl.SSLContext | None = None,
    inner_port: int = 8080,
) -> Iterator[Container]:
    """A container in the background, its port bound to a free one of this machine; removed at the end."""
    port = free_port()
    done = engine(
        "run", "--detach", *LIMITS, "--publish", f"127.0.0.1:{port}:{inner_port}", *options, image, *arguments
    )
    assert done.returncode == 0, done.stderr
    container = Container(done.stdout.split()[-1], port, tls)
    try:
        yield container
    finally:
        engine("rm", "--force", "--volumes", container.name)


@contextlib.contextmanager
def serving(
    *options: str | Path, tls: ssl.SSLContext | None = None, inner_port: int = 8080, arguments: tuple[str, ...] = ()
) -> Iterator[Container]:
    """A container whose server is ready."""
    with started(*options, tls=tls, inner_port=inner_port, arguments=arguments) as container:
        container.wait_until_ready()
        yield container


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class DockerCommand:
    """``docker run OPTIONS IMAGE ARGUMENTS`` as somebody wrote it down."""

    title: str
    options: tuple[str, ...]
    arguments: tuple[str, ...]
    places: dict[str, str] = field(hash=False)
    """Path in the container -> path on the host, of every mount."""

    @property
    def is_batch(self) -> bool:
        return self.arguments[:1] == ("batch",)

    def values(self, option: str) -> list[str]:
        """What was given to an option."""
        return [value for name, value in pairwise(self.options) if name == option]

    def with_values(self, **values: str) -> list[str]:
        """
        The options with other values: of a mount by its place in the container, of anything else by the option's name.

        What publishes a port or names the container's end is left to whoever starts it.
        """
        new: list[str] = []
        options = iter(self.options)
        for option in options:
            if option in ("--rm", "-d"):
                continue
            value = next(options)
            if option == "-v":
                place = value.rpartition(":")[2]
                new += ["-v", f"{values[place]}:{place}"]
            elif option != "-p":
                new += [option, values.get(option, value)]
        return new


FLAGS = ("--rm", "-d")


def docker_commands(text: str) -> list[DockerCommand]:
    """All commands of a page, by the heading above them; a line that is further in belongs to the one before it."""
    found = []
    for title, script in re.findall(r"^## (.+?)\n+```shell\n(.*?)```", text, re.MULTILINE | re.DOTALL):
        line = re.sub(r"\s*\\?\n\s+", " ", script).strip()
        inner = re.search(r"docker run (.*?)\)?$", line)
        assert inner, title
        found.append(_command(title, shlex.split(inner[1])))
    return found


def _command(title: str, words: list[str]) -> DockerCommand:
    at = 0
    while words[at].startswith("-"):
        at += 1 if words[at] in FLAGS else 2
    options = tuple(words[:at])
    mounts = [value for name, value in pairwise(options) if name == "-v"]
    places = {place: host for host, _, place in (mount.rpartition(":") for mount in mounts)}
    return DockerCommand(title, options, tuple(words[at + 1 :]), places)
