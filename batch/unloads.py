"""
What a database unloaded for a job, noted before it is: a killed run cannot remove its files, but the next one can.

The note is a file beside the job's state and locked as long as somebody reads those files.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from batch.errors import JobRunning, OutputError


@dataclass(frozen=True)
class NotedUnloads:
    """A `batch.ports.Leftovers` for files of unloads."""

    file: int
    found: Sequence[str]
    continues: bool
    """Whether there is an unfinished run to be continued, for which its files are still good."""

    def note(self, token: str) -> None:
        """On disk when this returns."""
        os.write(self.file, f"{token}\n".encode())
        os.fsync(self.file)


@contextmanager
def noted_unloads(state: Path, *, continues: bool) -> Iterator[NotedUnloads]:
    """
    The notes of the job whose state is in that directory; they go when the block is left, as the files do before.

    Raises:
        JobRunning: another process reads them.
        OutputError: they cannot be written.
    """
    path = state.with_name(f"{state.name}.unload")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise OutputError(f"{path}: {(exc.strerror or str(exc)).lower()}") from exc
    try:
        _lock(file, path)
        try:
            yield NotedUnloads(file, path.read_text(encoding="utf-8").splitlines(), continues)
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JobRunning(f"{path}: another process runs this job") from None
