"""What happened in a soak run, counted by all its threads, and what of it was not promised."""

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

AFTER_A_KILL_SECONDS = 2.0
"""Within this time of a kill, the requests of the killed worker may be lost."""


@dataclass
class Tally:
    """Counts by kind; anything unexpected with its words."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    killed_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str) -> None:
        with self._lock:
            self.counts[kind] += 1

    def is_wrong(self, what: str) -> None:
        """Note what should not have happened."""
        with self._lock:
            self.counts["wrong"] += 1
            if len(self.wrong) < 20:
                self.wrong.append(what)

    def lost(self, error: Exception, began: float) -> None:
        """A connection ended without an answer: fine if a worker was killed since the request began, or just before."""
        if self.killed_at and self.killed_at > began - AFTER_A_KILL_SECONDS:
            self.count("lost to a kill")
        else:
            self.is_wrong(f"no answer, and no worker was killed: {error!r}")

    def killed(self) -> None:
        self.killed_at = time.monotonic()
        self.count("kills")


def memory_of(pids: Iterable[int]) -> float:
    """Megabytes of all processes together, what they share counted once."""
    return sum(_kilobytes(pid) for pid in pids) / 1024


def _kilobytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # killed in this moment
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def descriptors_of(pids: Iterable[int]) -> int:
    """Open files of all processes."""
    found = 0
    for pid in pids:
        try:
            found += len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:
            continue
    return found
