"""What a run did, for machines; on disk it is one JSON object."""

from collections.abc import Sequence
from typing import Any

import msgspec


class Report(msgspec.Struct, kw_only=True, frozen=True):
    """A run that ended, or what is known of it so far."""

    status: str
    """``COMPLETED``, ``VALIDATED`` where nothing was to be written, or ``ABORTED``."""
    name: str | None
    rows_read: int = 0
    rows_scored: int = 0
    rows_failed: int = 0
    rows_skipped: int = 0
    rows_resumed: int = 0
    """Of those read, how many an earlier run had done."""
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: dict[str, float] = {}
    """In total and by stage; stages overlap, and several requests run at once."""
    rows_per_second: float = 0.0
    """Of this run alone."""
    requests: int = 0
    retries: int = 0
    retry_reasons: dict[str, int] = {}
    model: dict[str, Any] | None = None
    """What the server says of it; None: it was not asked, or does not tell."""
    inputs: Sequence[dict[str, Any]] = ()
    """Name, size and version of each."""
    outputs: Sequence[str] = ()
    """What was published, as the output names it."""
