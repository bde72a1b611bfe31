"""Packages that can be told apart by what they answer, and a client that asks a server process for it."""

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from model_repository import create_package
from model_repository.repository import load_model
from prediction_api.app import create_app
from prediction_api.settings import Settings
from tests.prediction_api.server_process import LIMIT_SECONDS, ServerProcess

N_ROWS = 12
ROWS = [{"x": place / 10, "y": place % 3, "id": f"row {place}"} for place in range(N_ROWS)]
BODY = json.dumps(ROWS).encode()
LONG_BODY = b"x,y\n" + b"".join(b"%.3f,%d\n" % (place / 997, place % 3) for place in range(3000))
"""Too long to be scored between two other requests: it goes to a thread."""
JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv", "Accept": "text/csv"}
PACKAGE = {"Content-Type": "application/octet-stream"}
THRESHOLDS = (0.5, 0.9)


@dataclass(frozen=True)
class Version:
    """One package; its answers in single-model mode are what every other mode must answer."""

    path: Path
    package: bytes
    answers: dict[float, bytes]
    """To `BODY`, by threshold."""
    long_answer: bytes
    """To `LONG_BODY`, as CSV."""


def make_version(path: Path, seed: int) -> Version:
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"x": rng.normal(size=60), "y": rng.integers(0, 3, 60).astype(float)})
    bad = pd.Series(np.where(rows["x"] * (seed + 1) + rng.normal(size=60) > 0, "yes", "no"), name="bad")
    estimator = LogisticRegression().fit(rows, bad)
    answers = {}
    for threshold in THRESHOLDS:
        create_package(
            path,
            estimator,
            rows.join(bad),
            target="bad",
            positive_class="yes",
            threshold=threshold,
            name=f"seed {seed}",
        )
        answers[threshold] = anyio.run(answer_of, path, BODY, JSON)
    create_package(path, estimator, rows.join(bad), target="bad", positive_class="yes", name=f"seed {seed}")
    return Version(path, path.read_bytes(), answers, anyio.run(answer_of, path, LONG_BODY, CSV))


async def answer_of(package: Path, body: bytes, headers: dict[str, str]) -> bytes:
    transport = httpx.ASGITransport(app=create_app(load_model(package), Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        answer = await client.post("/predictions", content=body, headers=headers)
    assert answer.status_code == 200
    return answer.content


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        text: str = self.json["message"]
        return text


class Client:
    """Asks over one kept connection."""

    def __init__(self, server: ServerProcess) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_SECONDS)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answered:
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        return Answered(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def predict(self, name: str) -> Answered:
        return self.ask("POST", f"/deployments/{name}/predictions", BODY, JSON)

    def upload(self, name: str, package: bytes, config: bytes | None = None) -> Answered:
        if config is None:
            return self.ask("POST", f"/deployments/{name}", package, PACKAGE)
        body, headers = multipart(file=package, config=config)
        return self.ask("POST", f"/deployments/{name}", body, headers)

    def close(self) -> None:
        self._connection.close()


def multipart(**parts: bytes) -> tuple[bytes, dict[str, str]]:
    body = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="%b"; filename="%b"\r\n\r\n%b\r\n'
        % (name.encode(), name.encode(), content)
        for name, content in parts.items()
    )
    return body + b"--edge--\r\n", {"Content-Type": "multipart/form-data; boundary=edge"}


@contextlib.contextmanager
def clients_of(server: ServerProcess, count: int) -> Iterator[list[Client]]:
    """So many connections; the workers share them out among themselves."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Client(server))) for _ in range(count)]
