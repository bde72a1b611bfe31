"""Which answers are asked for again, and when. Pure: time and chance are arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import random
from typing import Final

AGAIN: Final = frozenset({408, 429, 502, 503, 504})
"""The server, or something before it, could not answer this time."""
ONCE_MORE: Final = frozenset({500})
"""May be an accident; asked twice at most."""
LONGEST_WAIT: Final = 300.0
"""Seconds; a server that asks for a longer pause is taken to be down."""


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter."""

    tries: int = 8
    first_delay: float = 0.25
    longest_delay: float = 30.0
    chance: Callable[[], float] = random
    """A number from 0 to 1."""

    def allows(self, status: int | None, tried: int) -> bool:
        """Whether a request that was tried *tried* times may be tried again; *status* None: there was no answer."""
        if status is None or status in AGAIN:
            return tried < self.tries
        return status in ONCE_MORE and tried < min(2, self.tries)

    def delay(self, tried: int, retry_after: float | None = None) -> float:
        """Seconds to wait; what the server asks for is never undercut."""
        jitter = self.chance() * min(self.longest_delay, self.first_delay * 2.0 ** (tried - 1))
        return jitter if retry_after is None else retry_after + self.chance() * self.first_delay


def retry_after_from(text: str | None, now: datetime | None = None) -> float | None:
    """Seconds from a ``Retry-After`` header, which says a number or a date; None for none and for nonsense."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
