"""Telling a platform of a job: what it is told, and that nothing of it can harm the job."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from batch.definition import definition_from
from batch.job import Job
from batch.progress import Counts
from batch.writeback import announcement, api_root, written_back

ROOT = "/api/v2/batchPredictions/"


class Platform:
    """A platform that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, Any]] = []
        self.tokens: set[str | None] = set()
        self.answer: tuple[int, bytes] = (202, b'{"id":"000000000000000000000007"}')
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                platform.told.append((self.command, self.path, json.loads(body)))
                platform.tokens.add(self.headers["authorization"])
                status, answer = platform.answer
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_PATCH = do_POST  # noqa: N815  the library calls it so

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def platform() -> Iterator[Platform]:
    made = Platform()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def job(**more: Any) -> Job:
    return definition_from(
        {
            "prediction_endpoint": "http://bob:hunter2@127.0.0.1:8080",
            "deployment_id": "loans",
            "intake_settings": {"type": "filesystem", "path": "/data/in.csv"},
            "output_settings": {"type": "filesystem", "path": "/data/out.csv"},
            **more,
        }
    ).job


async def test_the_whole_course(platform: Platform) -> None:
    counts = Counts()
    async with written_back(platform.url, "s3cret", counts) as writer:
        await writer.begin(announcement(job(), "5dc5b1015e6e762a6241f900"))
        counts.rows_scored, counts.rows_failed, counts.bytes_read, counts.bytes_written = 90, 10, 2000, 1000
        await writer.end(completed=True, text="Job done processing")
    created, running, ended = platform.told
    assert created[:2] == ("POST", ROOT)
    assert created[2]["deploymentId"] == "5dc5b1015e6e762a6241f900"
    assert running[:2] == ended[:2] == ("PATCH", f"{ROOT}000000000000000000000007/")
    assert running[2]["status"] == "RUNNING"
    assert running[2]["started"].endswith("Z")
    assert ended[2].pop("completed").endswith("Z")
    assert ended[2] == {
        "status": "COMPLETED",
        "scoredRows": 90,
        "failedRows": 10,
        "skippedRows": 0,
        "jobIntakeSize": 2000,
        "jobOutputSize": 1000,
        "logs": ["Job started processing", "Job done processing"],
    }
    assert platform.tokens == {"Bearer s3cret"}


async def test_an_abort(platform: Platform) -> None:
    async with written_back(f"{platform.url}/api/v2/", "s3cret", Counts()) as writer:
        await writer.begin({})
        await writer.end(completed=False, text="the disk is full")
    ended = platform.told[-1][2]
    assert (ended["status"], ended["logs"][-1]) == ("ABORTED", "the disk is full")
    assert "aborted" in ended


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((500, b"oops"), id="500"),
        pytest.param((200, b"<p>hello"), id="no JSON"),
        pytest.param((200, b"[]"), id="no object"),
        pytest.param((200, b'{"id": 3}'), id="no id"),
        pytest.param((302, b""), id="redirect"),
    ],
)
async def test_a_platform_that_fails_is_told_nothing_more(
    answer: tuple[int, bytes], platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    platform.answer = answer
    async with written_back(platform.url, "s3cret", Counts()) as writer:
        await writer.begin({})
        await writer.end(completed=True, text="done")
    assert [told[0] for told in platform.told] == ["POST"]
    assert "status write-back" in caplog.text
    assert "s3cret" not in caplog.text


async def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    async with written_back("http://127.0.0.1:9", "s3cret", Counts()) as writer:
        await writer.begin({})
        await writer.end(completed=True, text="done")
    assert "POST /batchPredictions/ failed" in caplog.text


@pytest.mark.parametrize("host", ["https://h", "https://h/", "https://h/api/v2", "https://h/api/v2/"])
def test_root_of_a_platform(host: str) -> None:
    assert api_root(host) == "https://h/api/v2"


@pytest.mark.parametrize("host", ["", "h", "ftp://h", "https://", "https://h?x=1"])
def test_no_platform(host: str) -> None:
    with pytest.raises(ValueError, match="expected an http or https URL"):
        api_root(host)


def test_what_is_announced() -> None:
    """Only what a platform's own API has, spelled its way, and no secret."""
    told = announcement(
        job(
            id_column="ID",
            passthrough_columns=["a"],
            column_names_remapping={"old_name": "new_name"},
            csv_settings={"delimiter": ";", "header": False},
            timeseries_settings={"forecast_point": "2024-01-01"},
            max_explanations=3,
            mini_batch_size=10,
            intake_settings={"type": "http", "url": "https://bob:hunter2@b/k?sig=x"},
        ),
        None,
    )
    assert told == {
        "deploymentId": None,
        "intakeSettings": {"type": "http", "format": "csv", "url": "https://b/k"},
        "outputSettings": {"type": "filesystem", "path": "/data/out.csv"},
        "csvSettings": {"delimiter": ";", "quotechar": '"', "encoding": "utf-8"},
        "timeseriesSettings": {
            "type": "forecast",
            "forecastPoint": "2024-01-01",
            "relaxKnownInAdvanceFeaturesCheck": False,
        },
        "passthroughColumns": ["ID", "a"],
        "columnNamesRemapping": {"old_name": "new_name"},
        "maxExplanations": 3,
    }
