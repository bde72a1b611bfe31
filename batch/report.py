"""What a run did, for machines; on disk it is one JSON object."""

from collections.abc import Sequence
from typing import Any

import msgspec


class Report(msgspec.Struct, kw_only=True, frozen=True):
    """The end of a run that did what it should."""

    status: str
    """``COMPLETED``, or ``VALIDATED`` where nothing was to be written."""
    name: str | None
    rows_read: int
    rows_scored: int
    rows_failed: int
    rows_skipped: int
    rows_resumed: int
    """Of those read, how many an earlier run had done."""
    bytes_read: int
    bytes_written: int
    seconds: dict[str, float]
    """In total and by stage; stages overlap, and several requests run at once."""
    rows_per_second: float
    """Of this run alone."""
    requests: int
    retries: int
    retry_reasons: dict[str, int]
    model: dict[str, Any] | None
    """What the server says of it."""
    inputs: Sequence[dict[str, Any]]
    """Name, size and version of each."""
    outputs: Sequence[str]
    """What was published, as the output names it."""
