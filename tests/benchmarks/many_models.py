"""What many models cost over one, measured on our own server alone."""

import asyncio
import contextlib
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from starlette.types import ASGIApp

from model_repository.deployments import Repository
from model_repository.repository import load_model
from prediction_api.app import create_app
from prediction_api.deployments import Deployment
from prediction_api.many import Deployer, create_app_of_many
from prediction_api.settings import Settings
from tests.benchmarks.inputs import Bodies, Subject
from tests.benchmarks.measures import Figure
from tests.benchmarks.peers import OURS, Question
from tests.benchmarks.processes import MIB, Server, free_ports, serving

CALLS: Final = 1000
ROUNDS: Final = 15
COLD_MODELS: Final = 95
MODELS: Final = 100
FURTHER_WORKERS: Final = 2


def figures_of_many(subject: Subject, bodies: Bodies) -> list[Figure]:
    """All of them."""
    question = OURS.ask_json(bodies.one)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(MODELS):
            (root / f"model-{number}").mkdir()
            shutil.copy(subject.package, root / f"model-{number}" / "model.mlpkg")
        return [
            _hit(subject, root, question),
            _cold_load(subject, root, question),
            *_throughput(root, question),
            _further_worker(root, question),
        ]


# In this process: a few microseconds drown in the noise of a network


def _hit(subject: Subject, root: Path, question: Question) -> Figure:
    single = create_app(load_model(subject.package), Settings())
    many = create_app_of_many(_repository(root), Settings())

    async def measure() -> float:
        asks = _asker(single, "/predictions", question), _asker(many, "/deployments/model-0/predictions", question)
        differences = []
        for _ in range(ROUNDS):
            alone, among = [await _seconds_of(ask) for ask in asks]
            differences.append(among - alone)
        return statistics.median(differences)

    return Figure("cache hit: over single-model mode", asyncio.run(measure()) * 1e6, "µs", "at most 20 µs")


def _cold_load(subject: Subject, root: Path, question: Question) -> Figure:
    """Alternating, so that both meet the same machine."""
    many = create_app_of_many(_repository(root), Settings())

    async def measure() -> float:
        bare, served = [], []
        await _asker(many, "/deployments/model-99/predictions", question)()
        for number in range(COLD_MODELS):
            bare.append(await _timed(_loaded, subject.package))
            ask = _asker(many, f"/deployments/model-{number}/predictions", question)
            cold = await _timed(ask)
            served.append(cold - await _timed(ask))
        return _quick(served) / _quick(bare)

    return Figure("cold load: over reading, verifying and replaying", asyncio.run(measure()), "x", "at most 1.3x")


def _quick(times: list[float]) -> float:
    """The fastest quarter's slowest: what it takes when nothing else runs."""
    return sorted(times)[len(times) // 4]


async def _loaded(package: Path) -> None:
    load_model(package)


def _repository(root: Path) -> Repository[Deployment]:
    return Repository(root, build=Deployer(Settings()))


def _asker(app: ASGIApp, path: str, question: Question) -> Callable[[], Awaitable[None]]:
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"content-type", question.content_type.encode()),
            (b"content-length", str(len(question.body)).encode()),
        ],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": question.body, "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200, message

    async def ask() -> None:
        await app({**scope}, receive, send)

    return ask


async def _seconds_of(ask: Callable[[], Awaitable[None]]) -> float:
    return statistics.median([await _timed(ask) for _ in range(CALLS)])


async def _timed(work: Callable[..., Awaitable[None]], *arguments: Any) -> float:
    began = time.perf_counter()
    await work(*arguments)
    return time.perf_counter() - began


# Real servers


def _throughput(root: Path, question: Question) -> Iterator[Figure]:
    for places, requests in ((128, 3000), (4, 300)):
        with _serving_many(root, scoring_model_cache_maxsize=places) as server:
            _ask_in_turn(server, question, MODELS)
            began = time.perf_counter()
            _ask_in_turn(server, question, requests)
            rate = requests / (time.perf_counter() - began)
        note = "all loaded" if places >= MODELS else "each request loads"
        yield Figure(f"{MODELS} models in turn, {places} places, c=1 ({note})", rate, "requests/s", "")


def _further_worker(root: Path, question: Question) -> Figure:
    """Memory that it has for itself, after every worker has loaded the same models."""
    totals = []
    for workers in (1, 1 + FURTHER_WORKERS):
        with _serving_many(root, workers=workers, preload_models_enabled=True) as server:
            for _ in range(4 * workers):
                _ask_in_turn(server, question, 4)
            totals.append(sum(_proportional_bytes(pid) for pid in server.pids()))
    each = (totals[1] - totals[0]) / FURTHER_WORKERS
    return Figure("memory of a further worker, 4 models preloaded", each / MIB, "MiB", "")


@contextlib.contextmanager
def _serving_many(root: Path, **settings: object) -> Iterator[Server]:
    port = free_ports(1)
    environ = {f"PREDICTION_API_{name.upper()}": str(value) for name, value in settings.items()}
    environ |= {"PREDICTION_API_MODEL_REPOSITORY_PATH": str(root), "PREDICTION_API_HTTP_PORT": str(port)}
    environ |= {"PREDICTION_API_ACCESS_LOG_ENABLED": "false"}
    with serving([sys.executable, "-m", "prediction_api", "serve"], port, "/ping", environ) as server:
        yield server


def _ask_in_turn(server: Server, question: Question, count: int) -> None:
    """So many requests over one connection, each to the next model."""
    requests = [
        Question(f"/deployments/model-{number}/predictions", question.content_type, question.body).http()
        for number in range(min(MODELS, count))
    ]
    with socket.create_connection(("127.0.0.1", server.port)) as connection, connection.makefile("rb") as stream:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(count):
            connection.sendall(requests[place % len(requests)])
            status = stream.readline()
            if b" 200 " not in status:
                raise RuntimeError(f"answered {status!r}")
            length = 0
            while (line := stream.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            stream.read(length)


def _proportional_bytes(pid: int) -> int:
    """Of a page that n processes share, each has 1/n."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
