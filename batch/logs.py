"""What the command says on standard error: lines for people, or one JSON object per line; never a secret."""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from batch.redaction import Redactor

LOG: Final = logging.getLogger("batch")
"""A record's ``fields``, given as ``extra``, stand in the JSON beside its message."""


class TextFormatter(logging.Formatter):
    """``prediction-api: message``, as the command's other messages; the level where it is not a plain message."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """A line for each line of the message."""
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        lines = self._redact(record.getMessage()).splitlines() or [""]
        return "\n".join(f"prediction-api: {level}{_printable(line)}" for line in lines)


class JsonFormatter(logging.Formatter):
    """One object per record: time, level, message, and what the record was given besides."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """The object on one line."""
        return json_line(record.levelname.lower(), record.getMessage(), getattr(record, "fields", {}), self._redact)


def json_line(level: str, message: str, fields: Mapping[str, Any], redact: Redactor) -> str:
    """A JSON object of these, and of now, without a secret in any text of it."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    values = {"time": time, "level": level, "message": message, **fields}
    return json.dumps(redacted(values, redact), ensure_ascii=False, default=str)


def redacted(value: Any, redact: Redactor) -> Any:
    """*value*, JSON all through, with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(name)): redacted(inner, redact) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner, redact) for inner in value]
    return value


def _printable(line: str) -> str:
    """Without characters that move a terminal's cursor or start a line of their own."""
    return "".join(
        character if character.isprintable() or character == "\t" else repr(character)[1:-1] for character in line
    )


class _StderrHandler(logging.Handler):
    """Writes to what is standard error at that moment: a progress bar takes it over for a while."""

    def __init__(self, stream: Callable[[], TextIO]) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """A reader that went away is no reason to fail."""
        try:
            stream = self._stream()
            stream.write(self.format(record) + "\n")
            stream.flush()
        except OSError:
            pass


def configure_logs(log_format: str, *, verbose: bool, redact: Redactor) -> None:
    """Send what batch logs to standard error, and of other libraries only what is asked for with *verbose*."""
    handler = _StderrHandler(lambda: sys.stderr)
    handler.setFormatter(JsonFormatter(redact) if log_format == "json" else TextFormatter(redact))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    LOG.setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.captureWarnings(capture=True)
    if not verbose:
        logging.getLogger("py.warnings").setLevel(logging.ERROR)
