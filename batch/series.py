"""
Tables of time series: cut between series, never inside of one, since every forecast needs its own past.

The table must be in the order of its series, and in each of its time. So only one series and what goes into one request
is in memory, however many there are.
"""

import re
import zoneinfo
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from batch.dialect import WIRE
from batch.errors import IntakeError, ScoringServerError
from batch.isolation import Outcome, Problem
from batch.records import Chunk, Records
from batch.scoring_client import Answer, Refused

MAX_SERIES_BYTES: Final = 45 * 1024 * 1024
"""Of one series: a server takes 50 MB."""
NOTHING: Final = "no rows to forecast"
"""How a server begins to say that some series have nothing that was asked for."""
ORDER: Final = "order the table by series, then by time"
_PLACE: Final = re.compile(r"row (\d+), ")
"""How a server says where: in its request."""

Ask = Callable[[Records], Awaitable[Answer]]
Key = tuple[str, datetime | str]


@dataclass(frozen=True)
class SeriesColumns:
    """What a server tells of the time series that its model takes."""

    time: str
    series: str | None
    target: str
    layout: str | None
    """How times are written; None: ISO 8601."""
    zone: str | None
    distances: int
    """How many forecasts a row may have."""
    optional: tuple[str, ...] = ()
    """Columns that a table may lack."""

    def keys(self, records: Records) -> list[Key]:
        """By row, its series and its time."""
        names = [self.time] if self.series is None else [self.time, self.series]
        return [("" if self.series is None else row[1], self.moment(row[0])) for row in records.texts(names)]

    @lru_cache(maxsize=100_000)  # noqa: B019 - a run has one of these; its series share their times
    def moment(self, text: str) -> datetime | str:
        """A time that can be compared with others; the text itself, where the server will have to say what is wrong."""
        try:
            found = (
                datetime.fromisoformat(text.strip()) if self.layout is None else datetime.strptime(text, self.layout)
            )
            if self.zone is None:
                return found.replace(tzinfo=None)
            there = found if found.tzinfo is not None else found.replace(tzinfo=zoneinfo.ZoneInfo(self.zone))
            return there.astimezone(UTC)
        except (ValueError, OverflowError, zoneinfo.ZoneInfoNotFoundError):
            return text


def series_columns(info: Mapping[str, Any] | None, *, relaxed: bool = False) -> SeriesColumns | None:
    """From ``/info``; None: its model is no time series. *relaxed*: what is known in advance may be absent."""
    told = (info or {}).get("timeseries")
    if not told:
        return None
    target = (info or {})["target"]["name"]
    return SeriesColumns(
        optional=(target, *(told.get("knownInAdvance") or () if relaxed else ())),
        time=told["datetimeColumnName"],
        series=told.get("seriesColumnName"),
        target=target,
        layout=told.get("datetimeColumnFormat"),
        zone=told.get("timeZone"),
        distances=len(told.get("forecastDistances") or [1]),
    )


async def whole_series(chunks: AsyncIterator[Chunk], columns: SeriesColumns, file: str) -> AsyncGenerator[Chunk, None]:
    """
    The same rows, in chunks of whole series.

    Raises:
        IntakeError: naming the first row that is out of order, or a series that is too large for one request.
    """
    order = _Order(columns, file)
    waiting: Chunk | None = None
    async for chunk in chunks:
        starts = order.starts(chunk)
        if waiting is not None:
            shift = len(waiting.records)
            starts = [start + shift for start in starts]
            records = waiting.records.followed_by(chunk.records)
            chunk = replace(chunk, start=waiting.start, records=records, size=waiting.size + chunk.size)
        if starts and starts[-1]:
            whole, chunk = _cut(chunk, starts[-1])
            yield whole
        if chunk.size > MAX_SERIES_BYTES:
            raise IntakeError(
                f"{file}, row {chunk.start.rows}: its series has more than {MAX_SERIES_BYTES} bytes, which is more "
                "than one request takes"
            )
        waiting = chunk
    if waiting is not None:
        yield waiting


def _cut(chunk: Chunk, at: int) -> tuple[Chunk, Chunk]:
    """Before row *at* and from it on. Bytes are shared out by rows: no job of series is continued inside of a file."""
    n_rows = len(chunk.records)
    size = chunk.size * at // n_rows
    middle = replace(chunk.start, rows=chunk.start.rows + at)
    return (
        replace(chunk, end=middle, records=chunk.records.part(0, at), size=size),
        replace(chunk, start=middle, records=chunk.records.part(at, n_rows), size=chunk.size - size),
    )


class _Order:
    """Where series begin in one file, and that they and their times are in order."""

    def __init__(self, columns: SeriesColumns, file: str) -> None:
        self._columns = columns
        self._file = file
        self._seen: set[str] = set()
        self._last: Key | None = None

    def starts(self, chunk: Chunk) -> list[int]:
        """Rows of the chunk at which another series begins."""
        found = []
        for row, key in enumerate(self._columns.keys(chunk.records)):
            series, moment = key
            if self._last is None or series != self._last[0]:
                if series in self._seen:
                    raise IntakeError(
                        f"{self._where(chunk, row)}: series {series!r} begins again, after others; {ORDER}"
                    )
                self._seen.add(series)
                found.append(row)
            elif _is_before(moment, self._last[1]):
                whose = f" of series {series!r}" if self._columns.series is not None else ""
                raise IntakeError(f"{self._where(chunk, row)}: is not later than the row{whose} before it; {ORDER}")
            self._last = key
        return found

    def _where(self, chunk: Chunk, row: int) -> str:
        return f"{self._file}, row {chunk.start.rows + row}"


def _is_before(one: datetime | str, other: datetime | str) -> bool:
    return isinstance(one, datetime) and isinstance(other, datetime) and one <= other


async def latest_point(
    chunks: AsyncIterator[Chunk], columns: SeriesColumns, until: datetime | None = None
) -> datetime | None:
    """
    The latest time of rows with a target.

    Args:
        until: no later than this, whether rows have a target or not.
    """
    best: datetime | None = None
    async for chunk in chunks:
        has_target = columns.target in chunk.records.names
        for time, target in chunk.records.texts([columns.time, columns.target if has_target else columns.time]):
            moment = columns.moment(time)
            if not isinstance(moment, datetime) or (not target and until is None):
                continue
            if until is not None and moment.replace(tzinfo=UTC) > until:
                continue
            if best is None or moment > best:
                best = moment
    return best


@dataclass(frozen=True)
class SeriesOutcome(Outcome):
    """What became of whole series: an answer line per forecast."""

    rows: Sequence[int] = ()
    """By line, the row of the chunk that it is about."""
    skipped: int = 0
    """Rows of the chunk that are only history."""

    def chunk_of(self, chunk: Chunk) -> Chunk:
        """A row for each line."""
        return replace(chunk, records=chunk.records.take(self.rows), rows=self.rows)

    @property
    def scored(self) -> int:
        """Rows that have a forecast; in a range a row has many."""
        return len(set(self.rows) - {self.rows[line] for line in self.problems})


async def score_series(records: Records, columns: SeriesColumns, ask: Ask) -> SeriesOutcome:
    """Forecasts of whole series; one that the server refuses fails as one row, and its other rows are skipped."""
    keys = columns.keys(records)
    return await _scored(records, keys, columns, ask)


async def _scored(records: Records, keys: Sequence[Key], columns: SeriesColumns, ask: Ask) -> SeriesOutcome:
    try:
        answer = await ask(records)
    except Refused as refusal:
        starts = [row for row in range(len(keys)) if not row or keys[row][0] != keys[row - 1][0]]
        if len(starts) == 1:
            if refusal.message.startswith(NOTHING):
                return SeriesOutcome(None, [], {}, skipped=len(keys))
            row, problem = _problem(refusal, keys)
            return SeriesOutcome(None, [None], {0: problem}, rows=[row], skipped=len(keys) - 1)
        middle = starts[len(starts) // 2]
        left = await _scored(records.part(0, middle), keys[:middle], columns, ask)
        right = await _scored(records.part(middle, len(keys)), keys[middle:], columns, ask)
        return _joined(left, right, middle)
    rows = list(_rows_of(answer, keys, columns))
    return SeriesOutcome(answer.names, list(answer.lines), {}, rows=rows, skipped=len(keys) - len(set(rows)))


def _problem(refusal: Refused, keys: Sequence[Key]) -> tuple[int, Problem]:
    """Where the one series of a request fails: at the row that the server names, else at its first."""
    place = _PLACE.match(refusal.message)
    if place is not None and int(place[1]) < len(keys):
        return int(place[1]), Problem(refusal.status, refusal.message[place.end() :])
    return 0, Problem(refusal.status, refusal.message)


def _joined(left: SeriesOutcome, right: SeriesOutcome, middle: int) -> SeriesOutcome:
    moved = {line + len(left.lines): problem for line, problem in right.problems.items()}
    return SeriesOutcome(
        left.names or right.names,
        [*left.lines, *right.lines],
        left.problems | moved,
        rows=[*left.rows, *(row + middle for row in right.rows)],
        skipped=left.skipped + right.skipped,
    )


def _rows_of(answer: Answer, keys: Sequence[Key], columns: SeriesColumns) -> Iterator[int]:
    """By line, the row that it is about: its series and its time stand in it."""
    places = {key: row for row, key in enumerate(keys)}
    try:
        time = answer.names.index("FORECAST_POINT") + 1
    except ValueError:
        raise ScoringServerError(f"the server's answers are no forecasts: {', '.join(answer.names)}") from None
    for line in answer.lines:
        cells = WIRE.raw_cells(line)
        series = "" if columns.series is None else WIRE.text(cells[0])
        row = places.get((series, columns.moment(WIRE.text(cells[time]))))
        if row is None:
            told = b", ".join(cells[: time + 1]).decode(errors="replace")
            raise ScoringServerError(f"the server forecast a row that was not sent: {told}")
        yield row
