"""What must hold whatever is uploaded, deleted, edited and asked, in any order, on a server with two workers."""

import contextlib
import itertools
import shutil
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.prediction_api.server_process import ServerProcess, serving
from tests.prediction_api.versions import BODY, CSV, JSON, LONG_BODY, THRESHOLDS, Client, Version, clients_of

SERVER = ("prediction_api",)
NAMES = ("fraud", "churn", "x-1")
BROKEN = b"deployment_id: ["
MIB = 1024 * 1024
RESOLVE_ALWAYS = {"deployed_model_resolver_cache_ttl_sec": 0}


@dataclass
class Deployed:
    """What must be true of one deployment."""

    version: Version | None = None
    """``None``: a file that is no package."""
    threshold: float | None = 0.5
    """``None``: a configuration that cannot be read."""
    alias: str | None = None

    @property
    def answer(self) -> tuple[int, bytes | None]:
        if self.version is None or self.threshold is None:
            return 503, None
        return 200, self.version.answers[self.threshold]


def config_of(deployed: Deployed) -> bytes:
    alias = f"deployment_id: {deployed.alias}\n" if deployed.alias else ""
    return f"{alias}prediction_threshold: {deployed.threshold}\n".encode()


class Life(RuleBasedStateMachine):
    """Uploads and deletions over HTTP, edits by somebody with a shell; the model is a dictionary."""

    server: ServerProcess
    root: Path
    versions: list[Version]
    clients: list[Client]
    numbers = itertools.count()

    @initialize()
    def begin(self) -> None:
        self.truth: dict[str, Deployed] = {}

    def teardown(self) -> None:
        for name in NAMES:
            shutil.rmtree(self.root / name, ignore_errors=True)

    @rule(name=st.sampled_from(NAMES), version=st.integers(0, 2), who=st.integers(0, 3))
    def upload(self, name: str, version: int, who: int) -> None:
        """The configuration that was there stays, good or bad."""
        answer = self.clients[who].upload(name, self.versions[version].package)
        assert answer.status == (200 if name in self.truth else 201), answer.body
        old = self.truth.get(name, Deployed())
        self.truth[name] = Deployed(self.versions[version], old.threshold, old.alias)

    @rule(
        name=st.sampled_from(NAMES),
        version=st.integers(0, 2),
        threshold=st.sampled_from(THRESHOLDS),
        has_alias=st.booleans(),
        who=st.integers(0, 3),
    )
    def upload_with_config(self, name: str, version: int, threshold: float, has_alias: bool, who: int) -> None:
        alias = f"alias-{next(self.numbers)}" if has_alias else None
        deployed = Deployed(self.versions[version], threshold, alias)
        answer = self.clients[who].upload(name, self.versions[version].package, config_of(deployed))
        assert answer.status == (200 if name in self.truth else 201), answer.body
        self.truth[name] = deployed

    @rule(name=st.sampled_from(NAMES), version=st.integers(0, 2), cut=st.integers(1, 200), who=st.integers(0, 3))
    def upload_something_bad(self, name: str, version: int, cut: int, who: int) -> None:
        answer = self.clients[who].upload(name, self.versions[version].package[:-cut])
        assert answer.status == 422

    @rule(name=st.sampled_from(NAMES), who=st.integers(0, 3))
    def delete(self, name: str, who: int) -> None:
        answer = self.clients[who].ask("DELETE", f"/deployments/{name}")
        assert answer.status == (204 if self.truth.pop(name, None) else 404)

    @rule(name=st.sampled_from(NAMES), version=st.none() | st.integers(0, 2))
    def put_file(self, name: str, version: int | None) -> None:
        """A package, or something that is none, renamed into place."""
        self._write(name, "model.mlpkg", b"no package" if version is None else self.versions[version].package)
        old = self.truth.get(name, Deployed())
        found = None if version is None else self.versions[version]
        self.truth[name] = Deployed(found, old.threshold, old.alias)

    @rule(name=st.sampled_from(NAMES), threshold=st.none() | st.sampled_from(THRESHOLDS))
    def edit_config(self, name: str, threshold: float | None) -> None:
        if name in self.truth:
            self.truth[name].threshold = threshold
            self._write(name, "config.yml", BROKEN if threshold is None else config_of(self.truth[name]))

    @rule(name=st.sampled_from(NAMES))
    def predict(self, name: str) -> None:
        """Every worker, again and again."""
        expected = self.truth[name].answer if name in self.truth else (404, None)
        for client in self.clients:
            answer = client.predict(name)
            assert (answer.status, answer.body if answer.status == 200 else None) == expected, answer.body

    @rule(name=st.sampled_from(NAMES))
    def predict_by_alias(self, name: str) -> None:
        deployed = self.truth.get(name)
        if deployed is not None and deployed.alias and deployed.answer[0] == 200:
            answers = [client.predict(deployed.alias) for client in self.clients]
            assert [answer.body for answer in answers] == [deployed.answer[1]] * len(answers)

    @invariant()
    def list_is_true(self) -> None:
        rows = self.clients[0].ask("GET", "/deployments").json["data"]
        states = {row["id"]: row["state"] == "unavailable" for row in rows}
        assert states == {name: deployed.answer[0] != 200 for name, deployed in self.truth.items()}

    @invariant()
    def nothing_is_left_behind(self) -> None:
        assert {path.name for path in (self.root / ".uploads").glob("*")} <= {"lock"}

    def _write(self, name: str, file: str, content: bytes) -> None:
        directory = self.root / name
        directory.mkdir(exist_ok=True)
        (directory / ".new").write_bytes(content)
        (directory / ".new").replace(directory / file)


@pytest.mark.timeout(120)
def test_life(tmp_path, versions):
    with (
        serving(*SERVER, workers=2, model_repository_path=tmp_path, **RESOLVE_ALWAYS) as server,
        clients_of(server, 4) as clients,
    ):

        class OnThisServer(Life):
            pass

        OnThisServer.server, OnThisServer.root = server, tmp_path
        OnThisServer.versions, OnThisServer.clients = versions, clients
        run_state_machine_as_test(
            OnThisServer,
            settings=settings(
                max_examples=8,
                stateful_step_count=20,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
        assert server.process.poll() is None
        assert "Traceback" not in server.log


# Load


def request_of(name: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    head = f"POST /deployments/{name}/predictions HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answers_to(
    server: ServerProcess, requests: list[bytes], count: int, enough: Callable[[], bool] = lambda: True
) -> set[bytes]:
    """The bodies of so many answers to *requests* in turn, and more until *enough*; each must be a 200."""
    bodies: set[bytes] = set()
    with server.connect() as connection, connection.makefile("rb") as stream:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place, request in enumerate(itertools.cycle(requests)):
            if place >= count and enough():
                return bodies
            connection.sendall(request)
            assert stream.readline().split()[1] == b"200", stream.read1()
            length = 0
            while (line := stream.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            bodies.add(stream.read(length))
    raise AssertionError("a cycle ended")


@pytest.mark.parametrize(
    ("requests", "swaps_by", "resolver"),
    [
        pytest.param(10_000, "file", RESOLVE_ALWAYS, id="files, every 100 ms"),
        pytest.param(2_000, "upload", {}, id="uploads, one after the other"),
    ],
)
def test_swap_under_load(tmp_path, versions, requests, swaps_by, resolver):
    """Small and large requests while the package is replaced: no error, no answer made of two versions."""
    stop = threading.Event()
    swaps = 0
    (tmp_path / "live").mkdir()
    shutil.copy(versions[0].path, tmp_path / "live" / "model.mlpkg")

    def swap(client: Client) -> None:
        nonlocal swaps
        for version in itertools.cycle(versions):
            if swaps_by == "upload":
                assert client.upload("live", version.package).status == 200
            else:
                (tmp_path / "live" / ".new").write_bytes(version.package)
                (tmp_path / "live" / ".new").replace(tmp_path / "live" / "model.mlpkg")
            swaps += 1
            if stop.wait(0.1 if swaps_by == "file" else 0):
                return

    many = request_of("live", BODY, JSON)
    mixed = [*[many] * 9, request_of("live", LONG_BODY, CSV)]
    with (
        serving(*SERVER, workers=2, model_repository_path=tmp_path, access_log_enabled=False, **resolver) as server,
        clients_of(server, 1) as [client],
        ThreadPoolExecutor(5) as pool,
    ):
        swapping = pool.submit(swap, client)
        try:
            asked = [pool.submit(answers_to, server, mixed, requests // 4, lambda: swaps >= 9) for _ in range(4)]
            answers = set().union(*(one.result() for one in asked))
        finally:
            stop.set()
        swapping.result()
        assert answers <= {version.answers[0.5] for version in versions} | {version.long_answer for version in versions}
        assert len(answers) == 6  # every version was seen, small and large
        assert "WARNING" not in server.log


def test_memory_stays_flat_over_many_deployments(tmp_path, multiclass):
    """200 models, 4 places: rounds over all of them cost no more memory than the first did."""
    rows = multiclass.inputs.head(3).to_json(orient="records").encode()
    for number in range(200):
        (tmp_path / f"model-{number}").mkdir()
        shutil.copy(multiclass.path, tmp_path / f"model-{number}" / "model.mlpkg")
    requests = [request_of(f"model-{number}", rows, JSON) for number in range(200)]
    with serving(*SERVER, model_repository_path=tmp_path, access_log_enabled=False) as server:
        [worker] = server.workers()
        answers_to(server, requests, 200)
        after_first = resident_bytes(worker)
        assert len(answers_to(server, requests, 600)) == 1
        growth = resident_bytes(worker) - after_first
        with clients_of(server, 1) as [client]:
            rows_listed = client.ask("GET", "/deployments").json["data"]
    assert sum(row["loaded"] for row in rows_listed) == 4
    assert growth < 6 * MIB


def test_every_place_is_right_under_churn(tmp_path, versions):
    """More models than places, several clients, both workers: each answer is that of its model."""
    for number in range(6):
        (tmp_path / f"model-{number}").mkdir()
        shutil.copy(versions[number % 3].path, tmp_path / f"model-{number}" / "model.mlpkg")
    options = {"workers": 2, "scoring_model_cache_maxsize": 2, "access_log_enabled": False}
    with serving(*SERVER, model_repository_path=tmp_path, **options) as server, ThreadPoolExecutor(6) as pool:

        def ask(number: int) -> set[bytes]:
            return answers_to(server, [request_of(f"model-{number}", BODY, JSON)], 100)

        for number, answers in enumerate(pool.map(ask, range(6))):
            assert answers == {versions[number % 3].answers[0.5]}


def resident_bytes(pid: int) -> int:
    """Of the process alone, without what it shares with its parent."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    with contextlib.suppress(StopIteration):
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))
    raise AssertionError(lines)
