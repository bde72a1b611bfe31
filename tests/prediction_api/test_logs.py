"""Log lines: whole, escaped, and never in the way."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from prediction_api.logs import KEPT_BYTES, JsonFormatter, LineSink, TextFormatter, escaped, request_id
from prediction_api.monitoring import RequestDone

DONE = RequestDone("id-1", "GET", "/a%0d", "other", 404, 0.0015, 20, 0, None)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    yield ends
    for end in ends:
        os.close(end)


def record(message: Any, *arguments: object, exc_info: Any = None) -> logging.LogRecord:
    made = logging.LogRecord("prediction_api.x", logging.INFO, "", 0, message, arguments, exc_info)
    made.created, made.msecs = 0.25, 250.0
    return made


def test_text_line() -> None:
    line = TextFormatter().format(record("loaded %s", "a\nb"))

    assert line == f"1970-01-01T00:00:00.250Z INFO prediction_api.x[{os.getpid()}] loaded a\\nb"


def test_json_line() -> None:
    fields = json.loads(JsonFormatter().format(record("loaded %s", "a\nb\x1b[31m")))

    assert fields == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "INFO",
        "logger": "prediction_api.x",
        "pid": os.getpid(),
        "message": "loaded a\nb\x1b[31m",
    }


def test_a_structure_gives_its_fields() -> None:
    fields = json.loads(JsonFormatter().format(record(DONE)))

    assert fields["path"] == "/a%0d"
    assert fields["status"] == 404
    assert "message" not in fields


@pytest.mark.parametrize("form", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_request_id_stands_in_every_record(form: logging.Formatter) -> None:
    token = request_id.set("id-7")
    try:
        assert "id-7" in form.format(record("x"))
    finally:
        request_id.reset(token)
    assert "id-7" not in form.format(record("x"))


@pytest.mark.parametrize("form", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
@pytest.mark.parametrize("text", ["a\r\nb", "\x1b]0;x\x07", "\u2028", "\u202e", "\udc80", "\0"])
def test_nothing_breaks_a_line_in_two(form: logging.Formatter, text: str) -> None:
    line = form.format(record("%s", text))

    assert "\n" not in line
    assert isinstance(form, JsonFormatter) or len(line.splitlines()) == 1
    assert "\x1b" not in line


def test_traceback_follows_on_indented_lines() -> None:
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        first, *others = TextFormatter().format(record("failed", exc_info=sys.exc_info())).splitlines()

    assert first.endswith("failed")
    assert all(line.startswith("    ") for line in others)
    assert others[-1].strip() == "two"


def test_escaping() -> None:
    assert escaped("São Paulo / 東京") == "São Paulo / 東京"
    assert escaped("a\tb") == "a\\tb"


def test_lines_are_written_at_once_or_together(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = LineSink(writer)
    sink.write(b"one\n")
    assert os.read(reader, 100) == b"one\n"

    sink.start_gathering()
    sink.write(b"two\n")
    sink.write(b"three\n")
    with pytest.raises(BlockingIOError):
        os.read(reader, 100)
    sink.flush()

    assert os.read(reader, 100) == b"two\nthree\n"


def test_a_reader_that_stalls_stops_nobody(pipe: tuple[int, int]) -> None:
    """Lines are kept up to a bound, then dropped, then their number is told."""
    reader, writer = pipe
    sink = LineSink(writer)
    line = b"x" * 999 + b"\n"
    began = time.monotonic()

    for _ in range(2 * KEPT_BYTES // len(line)):
        sink.write(line)
    assert time.monotonic() - began < 5

    received = b""
    while True:
        try:
            received += os.read(reader, 65536)
        except BlockingIOError:
            break
        sink.flush()
    assert received.replace(line, b"") == b""
    assert KEPT_BYTES * 0.9 < len(received) < KEPT_BYTES + 100_000


def test_what_was_dropped_is_told() -> None:
    """The whole of it in a process of its own, because it takes over all logging there."""
    program = """
import logging, os
from prediction_api.logs import configure_logs
from prediction_api.settings import Settings
sink = configure_logs(Settings(log_format="json"))
sink.start_gathering()
for _ in range(3):
    sink.write(b"x" * 500_000 + b"\\n")
logging.getLogger("prediction_api.access").info("not seen: too many lines are waiting" * 20_000)
logging.getLogger("somebody.else").info("not seen: not ours")
logging.getLogger("prediction_api.y").debug("not seen: below the level")
sink.flush(1)
import warnings
warnings.warn("seen too")
sink.flush(1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    lines = [line for line in done.stderr.splitlines() if not line.startswith("x")]
    assert [json.loads(line)["message"].partition(" ")[2].strip()[:23] for line in lines] == [
        "log lines were dropped:",
        "UserWarning: seen too",
    ]
