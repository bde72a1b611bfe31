"""A real server of a small model, tables with awkward cells, and jobs that bring them together."""

import csv
import io
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from batch.definition import definition_from
from batch.job import Job
from batch.retries import RetryPolicy
from batch.runner import RunOptions
from tests.conftest import linear_inputs

ROOT = Path(__file__).parent.parent.parent
CITIES = ("Oslo", "São Paulo", '"quoted"', "two\nlines", "a,b", "", "Bergen")
NO_WAIT = RetryPolicy(tries=12, first_delay=0.0)
QUICK = RunOptions(retry=NO_WAIT)
HEADER = ["ID", "age", "income", "city", "member", "note"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(package: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A server process that answers; it is ended in any case."""
    command = [sys.executable, "-m", "prediction_api", "serve", "--model-repository", str(package), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        wait_until_ready(process, port)
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def wait_until_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    limit = time.monotonic() + 30
    while time.monotonic() < limit and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/ping", trust_env=False).status_code == 200:
                return
        time.sleep(0.02)  # another process's start can only be polled
    process.kill()
    raise AssertionError(f"the server did not become ready: {process.communicate()[1].decode()}")


@pytest.fixture(scope="session")
def server(binary: Any) -> Iterator[str]:
    """URL of a server with the binary model."""
    port = free_port()
    with serving(binary.path, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def twin_server(made: Any) -> Iterator[str]:
    """URL of a server with another model that answers with the same columns as the binary one."""
    model = make_pipeline(linear_inputs(), LogisticRegression(C=0.01))
    port = free_port()
    with serving(made("binary", model, "bought").path, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def regression_server(regression: Any) -> Iterator[str]:
    """URL of a server with the regression model."""
    port = free_port()
    with serving(regression.path, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def multiclass_server(multiclass: Any) -> Iterator[str]:
    """URL of a server with the model whose labels are numbers."""
    port = free_port()
    with serving(multiclass.path, port):
        yield f"http://127.0.0.1:{port}"


def people_rows(n_rows: int, seed: int = 3) -> list[list[str]]:
    """Rows with awkward cells: leading zeros, exponents, quotes, newlines, blanks."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n_rows):
        income = "" if i % 9 == 4 else f"{rng.normal(50_000, 12_000):.2f}"
        age, city = str(rng.integers(18, 90)), CITIES[int(rng.integers(0, len(CITIES)))]
        rows.append([f"{i:05d}", age, income, city, "true" if i % 3 else "false", "1e5" if i % 2 else 'a,"b"'])
    return rows


def csv_text(rows: list[list[str]], header: list[str] | None = None, **dialect: Any) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, **{"lineterminator": "\n", **dialect})
    writer.writerows([header or HEADER, *rows])
    return text.getvalue()


def read_csv(path: Path, encoding: str = "utf-8", **dialect: Any) -> list[list[str]]:
    with path.open(newline="", encoding=encoding) as file:
        return list(csv.reader(file, **dialect))


@pytest.fixture
def job_for(server: str, tmp_path: Path) -> Callable[..., Job]:
    """Jobs from ``in.csv`` to ``out.csv`` in the test's directory; keys of the definition on top."""

    def make(url: str = server, **keys: Any) -> Job:
        stores = {
            "intake_settings": {"type": "filesystem", "path": str(tmp_path / "in.csv")},
            "output_settings": {"type": "filesystem", "path": str(tmp_path / "out.csv")},
        }
        return definition_from({"prediction_endpoint": url, **stores, **keys}).job

    return make


def gold(url: str, text: str, **query: Any) -> list[list[str]]:
    """What the server itself answers for the whole table, as rows."""
    headers = {"content-type": "text/csv", "accept": "text/csv"}
    answer = httpx.post(f"{url}/predictions", content=text.encode(), headers=headers, params=query, trust_env=False)
    assert answer.status_code == 200, answer.text
    return list(csv.reader(io.StringIO(answer.text, newline="")))
