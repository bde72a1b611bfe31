"""
Where an unfinished job stands, as lines that a crash can only cut off.

Each line is the CRC-32 of its text, a blank, and a JSON object. A torn or damaged line ends the journal: what follows
it was never seen by anybody.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def line_of(entry: Mapping[str, Any]) -> bytes:
    """One entry as it is written."""
    text = json.dumps(entry, separators=(",", ":"), sort_keys=True).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def entries_of(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """All whole entries, and how many bytes they take."""
    entries: list[dict[str, Any]] = []
    taken = 0
    for line in data.splitlines(keepends=True):
        crc, _, text = line.partition(b" ")
        text = text.removesuffix(b"\n")
        if not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(text):
            break
        entries.append(json.loads(text))
        taken += len(line)
    return entries, taken


@dataclass(frozen=True)
class Mark:
    """A spool up to here belongs to the rows that are done."""

    length: int = 0
    crc: int = 0
    """Of the bytes since the mark before it."""


@dataclass(frozen=True)
class Done:
    """What is known after one chunk."""

    product: int
    """Which file of the output."""
    file: int
    offset: int
    rows: int
    lines: int
    """The place in the input behind the chunk."""
    read: int
    scored: int
    failed: int
    """Rows of the job so far."""
    spool: Mark
    errors: Mark
    synced: bool
    """Whether all before this was on disk when it was written."""
    answer: Sequence[str]
    """Columns of the server's answers."""
    model: str | None = None
    """What the answers said of their model."""
    check: int = 0
    """Of the input before that place, as `Position.check`."""

    def entry(self) -> dict[str, Any]:
        """As it stands in the journal."""
        marks = {"spool": [self.spool.length, self.spool.crc], "errors": [self.errors.length, self.errors.crc]}
        return {"done": vars(self) | marks | {"answer": list(self.answer)}}

    @classmethod
    def read_from(cls, entry: Mapping[str, Any]) -> "Done":
        """The other way."""
        values = dict(entry["done"])
        marks = {name: Mark(*values[name]) for name in ("spool", "errors")}
        return cls(**values | marks | {"answer": tuple(values["answer"])})
