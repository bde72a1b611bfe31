"""What the engine moves: rows of an input as their format holds them, and where a run stands in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self


class Records(Protocol):
    """Some rows of an input, in order."""

    @property
    def names(self) -> Sequence[str]:
        """The columns that can be passed through; the same in the whole input."""
        ...

    def __len__(self) -> int:
        """How many rows."""
        ...

    def part(self, start: int, stop: int) -> Self:
        """Rows *start* to *stop*."""
        ...

    def take(self, rows: Sequence[int]) -> Self:
        """These rows, in this order; one may be taken many times."""
        ...

    def followed_by(self, other: Self) -> Self:
        """These rows, then others of the same file."""
        ...

    def texts(self, names: Sequence[str]) -> list[list[str]]:
        """By row, these columns as a server reads them; nothing for a missing value."""
        ...

    def request(self) -> tuple[bytes, str]:
        """A body that asks for the predictions of these rows, and its content type."""
        ...

    def line_of(self, row: int) -> int | None:
        """The physical line that a row begins on, counted from the first row here as 0; None: there are no lines."""
        ...

    def shown(self, row: int) -> dict[str, Any]:
        """One row for a report, as JSON values."""
        ...

    def kept_fields(self, names: Sequence[str], *, ragged: bool = False) -> list[bytes]:
        """By row, these columns as fields of the output's CSV; *ragged*: some rows may not have the header's width."""
        ...

    def kept_members(self, names: Sequence[str], keys: Sequence[bytes]) -> list[bytes]:
        """By row, these columns as members of a JSON object, without its braces; *keys* are ``"name":``, as JSON."""
        ...

    def kept_columns(self, names: Sequence[str]) -> Any:
        """These columns with their types and nulls, as a ``pyarrow.Table``: not imported here, it takes its time."""
        ...


@dataclass(frozen=True)
class Position:
    """A place between two rows of a file."""

    offset: int = 0
    """Bytes of the text before it, decompressed and as UTF-8; 0 in formats that are not text."""
    rows: int = 0
    lines: int = 0
    """Line ends before it."""
    check: int = 0
    """CRC-32 of all rows before it, where a store cannot tell that it was not changed."""


START = Position()


@dataclass(frozen=True)
class Chunk:
    """What goes into one request, and where it came from."""

    file: int
    """Which of the intake's files."""
    start: Position
    end: Position
    records: Records
    size: int
    """About how many bytes a request for it has."""
    rows: Sequence[int] | None = None
    """By record, which row from the start it is; None: one after another."""

    def row(self, record: int) -> int:
        """Where in the file a record stands."""
        return self.start.rows + (record if self.rows is None else self.rows[record])
