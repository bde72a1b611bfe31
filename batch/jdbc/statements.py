"""SQL text. Names are data: each is quoted as the database's own metadata says, and never anything else."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from batch.errors import JobError

_REGULAR: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
Bound = int | datetime


@dataclass(frozen=True)
class Names:
    """How a database writes names."""

    quote: str
    """Nothing or a blank: it has no quotes."""
    longest: int = 0
    """0: not known."""

    def quoted(self, name: str) -> str:
        """One name; raises `JobError` where it cannot be one."""
        quote = self.quote.strip()
        if not name or "\0" in name or (self.longest and len(name.encode()) > self.longest):
            raise JobError(f"{name[:80]!r} cannot be a name in this database")
        if not quote and not _REGULAR.fullmatch(name):
            raise JobError(f"{name[:80]!r} cannot be a name in this database, which has no quotes for names")
        return f"{quote}{name.replace(quote, quote * 2)}{quote}" if quote else name

    def qualified(self, parts: Sequence[str | None]) -> str:
        """Names with a dot between; None is left out."""
        return ".".join(self.quoted(part) for part in parts if part)

    def listed(self, names: Sequence[str]) -> str:
        """Names with commas between."""
        return ", ".join(map(self.quoted, names))


def insert(names: Names, table: str, columns: Sequence[str]) -> str:
    """A row, its values as parameters; *table* is quoted already, here and below."""
    return f"INSERT INTO {table} ({names.listed(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608


def update(names: Names, table: str, columns: Sequence[str], where: Sequence[str]) -> str:
    """New values, then those that find the row."""
    new, found = (
        [f"{names.quoted(name)} = ?" for name in columns],
        [f"{names.quoted(name)} = ?" for name in where],
    )
    return f"UPDATE {table} SET {', '.join(new)} WHERE {' AND '.join(found)}"  # noqa: S608


def copy_in(names: Names, table: str, columns: Sequence[str]) -> str:
    """Rows as CSV, an empty field for null."""
    return f"COPY {table} ({names.listed(columns)}) FROM STDIN WITH (FORMAT csv, NULL '')"


def copy_out(query: str, as_text: Sequence[bool]) -> str:
    """Rows of a query in PostgreSQL's binary format, some columns cast to text."""
    if any(as_text):
        names = [f"c{place}" for place in range(len(as_text))]
        columns = ", ".join(f"{name}::text" if cast else name for name, cast in zip(names, as_text, strict=True))
        query = f"SELECT {columns} FROM (\n{query}\n) AS q ({', '.join(names)})"  # noqa: S608
    return f"COPY (\n{query}\n) TO STDOUT WITH (FORMAT binary)"


def create_table(names: Names, table: str, columns: Sequence[tuple[str, str]]) -> str:
    """Columns with their types."""
    return f"CREATE TABLE {table} ({', '.join(f'{names.quoted(name)} {type_}' for name, type_ in columns)})"


def bound_from(value: int | str) -> Bound:
    """A number or a time; raises `JobError`."""
    if isinstance(value, int) or re.fullmatch(r"[+-]?\d{1,18}", value.strip()):
        return int(value)
    try:
        return datetime.fromisoformat(value).replace(tzinfo=None)
    except ValueError:
        raise JobError(f"lower_bound, upper_bound: expected a whole number, a date or a time, got {value!r}") from None


def partitions(column: str, low: Bound, high: Bound, count: int, moment: str) -> Iterator[str]:
    """
    Conditions on a quoted *column*, each row fulfilling exactly one of them.

    The bounds set the stride and filter nothing: the first part has everything below, and null; the last everything
    above. *moment* is `Template.moment`.
    """
    width = (high - low) // timedelta(microseconds=1) if isinstance(high, datetime) else high - low  # type: ignore[operator]
    count = max(1, min(count, width))
    steps = [_moved(low, width * place // count, moment) for place in range(1, count)]
    if not steps:
        yield ""
        return
    yield f"{column} < {steps[0]} OR {column} IS NULL"
    for start, stop in pairwise(steps):
        yield f"{column} >= {start} AND {column} < {stop}"
    yield f"{column} >= {steps[-1]}"


def _moved(low: Bound, by: int, moment: str) -> str:
    if isinstance(low, int):
        return str(low + by)
    return moment.format((low + timedelta(microseconds=by)).isoformat(sep=" ", timespec="microseconds"))
