"""
Log lines to standard error: text for people, or one JSON object per line.

A line is one line whatever clients send: what is not printable is escaped. Nothing waits for the reader of the log:
while it stalls, lines are kept up to a bound, then dropped and counted, because a server must not hang with its log
collector. A worker gathers its lines and its event loop writes them a few times a second, which costs less than a
write per request.
"""

import logging
import os
import select
import time
from collections import deque
from contextvars import ContextVar
from typing import Any, Final

import msgspec
import orjson

from prediction_api.settings import Settings

ACCESS_LOGGER: Final = "prediction_api.access"
OUR_LOGGERS: Final = ("prediction_api", "model_repository", "batch")
BLOCK_BYTES: Final = select.PIPE_BUF
"""What a pipe takes in one piece, so that the lines of two processes never mix."""
KEPT_BYTES: Final = 1024 * 1024
LAST_FLUSH_SECONDS: Final = 1.0

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Stands in every record that is made while a request is answered."""


class LineSink:
    """Whole lines to a file descriptor, at once or when `flush` is called; never waits for its reader."""

    def __init__(self, descriptor: int = 2) -> None:
        self.gathering = False
        """Whether lines wait for `flush`."""
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()  # its ends are safe to use from several threads
        self._kept_bytes = 0
        self._dropped = 0
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def start_gathering(self) -> None:
        """From now on wait for `flush`; a copy in a forked process begins empty."""
        self._lines.clear()
        self._kept_bytes = self._dropped = 0
        self.gathering = True

    def write(self, line: bytes) -> None:
        """Take one line, with its end."""
        if self._kept_bytes + len(line) > KEPT_BYTES:
            self._dropped += 1
            return
        self._kept_bytes += len(line)
        self._lines.append(line)
        if not self.gathering:
            self.flush()

    def flush(self, patience: float = 0.0) -> None:
        """Write what was gathered; give up when the reader takes nothing for *patience* seconds."""
        while self._lines and self._poll.poll(patience * 1000):
            block = self._next_block()
            try:
                os.write(self._descriptor, block)
            except OSError:  # nobody reads any more, and there is nobody to tell
                self._dropped = 0
        if self._dropped and not self._lines:
            lost, self._dropped = self._dropped, 0
            logging.getLogger("prediction_api").warning("%d log lines were dropped: their reader is too slow", lost)

    def _next_block(self) -> bytes:
        block = self._lines.popleft()
        while self._lines and len(block) + len(self._lines[0]) <= BLOCK_BYTES:
            block += self._lines.popleft()
        self._kept_bytes -= len(block)
        return block


class SinkHandler(logging.Handler):
    """Formats records into a sink."""

    def __init__(self, sink: LineSink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over one record; a warning or worse is written at once, in case the process dies of it."""
        try:
            self._sink.write(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
            if record.levelno >= logging.WARNING:
                self._sink.flush()
        except Exception:
            self.handleError(record)


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO prediction_api.server[4711] message``; a traceback follows on indented lines."""

    def __init__(self) -> None:
        super().__init__()
        self._second = -1
        self._clock = ""

    def format(self, record: logging.LogRecord) -> str:
        """One record; only a traceback makes it more than one line."""
        message = escaped(record.getMessage())
        given_id = request_id.get()
        if given_id:
            message = f"[{given_id}] {message}"
        line = f"{self._time_of(record)} {record.levelname} {record.name}[{os.getpid()}] {message}"
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line = "\n    ".join([line, *map(escaped, trace)])
        return line

    def _time_of(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._clock}.{int(record.msecs):03d}Z"


class JsonFormatter(TextFormatter):
    """The same as one JSON object; a message that is a structure gives its fields instead of a text."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, one line."""
        fields: dict[str, Any] = {
            "time": self._time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "pid": os.getpid(),
        }
        if given_id := request_id.get():
            fields["request_id"] = given_id
        if isinstance(record.msg, msgspec.Struct):
            fields |= msgspec.structs.asdict(record.msg)
        else:
            fields["message"] = record.getMessage()
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(fields).decode()
        except orjson.JSONEncodeError:  # half a surrogate pair in a name or path
            fields = {key: escaped(value) if isinstance(value, str) else value for key, value in fields.items()}
            return orjson.dumps(fields).decode()


def escaped(text: str) -> str:
    """*text* with everything that is not printable as a backslash sequence: line ends, terminal codes, text marks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def configure_logs(settings: Settings) -> LineSink:
    """Send every log record of the process to standard error, as *settings* say; the sink is for who flushes it."""
    sink = LineSink()
    handler = SinkHandler(sink)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    level = logging.getLevelName(settings.log_level.upper())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(level)
    logging.getLogger(ACCESS_LOGGER).setLevel(level if settings.access_log_enabled else logging.CRITICAL)
    logging.captureWarnings(capture=True)
    _leave_out_what_no_line_shows()
    return sink


def _leave_out_what_no_line_shows() -> None:
    """The standard library's own advice on speed; it halves the cost of an access log line."""
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False
