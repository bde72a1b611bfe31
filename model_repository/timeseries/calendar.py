"""
Times as steps: which number each time has on the package's grid, and back.

Minutes and hours are steps of the clock that never changes: an hour is an hour, also in the night in which the wall
clock jumps, and a day has 23 or 25 of them then. Days, weeks and months are steps of the calendar on the wall: one more
day is the same time on the next date. A month's step is a day of the month; where a month is too short, its last day,
so that 31 means "the end of each month".

With a time zone, a text without an offset means the wall clock there; of an hour that comes twice, the first. Without
one, every text is taken as it is written, and an offset other than zero is refused: it could mean either.
"""

import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.cells import shown
from model_repository.timeseries.spec import DatePart, TimeSeries, Unit

Times = NDArray[np.datetime64]
Steps = NDArray[np.int64]

MICROSECONDS: Final[dict[Unit, int]] = {
    "MINUTE": 60_000_000,
    "HOUR": 3_600_000_000,
    "DAY": 86_400_000_000,
    "WEEK": 7 * 86_400_000_000,
}
_CLOCK_UNITS: Final = frozenset({"MINUTE", "HOUR"})
_WORDS: Final[dict[Unit, str]] = {"MINUTE": "minute", "HOUR": "hour", "DAY": "day", "WEEK": "week", "MONTH": "month"}
_NOT_IN_ZONE: Final = "is not a time that the time zone has: clocks are put forward over it"


@dataclass(frozen=True, slots=True)
class Moments:
    """Some times, however they were written."""

    wall: Times
    """On the wall clock, in microseconds."""
    instant: Times
    """In UTC; without a time zone, the same."""
    steps: Steps
    off_step: NDArray[np.bool_]
    """Where a time is not on the step; its number is that of the step before then."""

    def take(self, places: Any) -> "Moments":
        """The times at *places*."""
        return Moments(self.wall[places], self.instant[places], self.steps[places], self.off_step[places])


class Calendar:
    """The grid of one package."""

    def __init__(self, spec: TimeSeries) -> None:
        self._spec = spec
        self._anchor = np.datetime64(spec.anchor, "us")
        self._is_clock = spec.unit in _CLOCK_UNITS

    @cached_property
    def zone(self) -> tzinfo | None:
        """Where the wall is."""
        return None if self._spec.time_zone is None else zoneinfo.ZoneInfo(self._spec.time_zone)

    @property
    def step_name(self) -> str:
        """One step in words."""
        word = _WORDS[self._spec.unit]
        return word if self._spec.step == 1 else f"{self._spec.step} {word}s"

    def read(self, text: str) -> datetime:
        """
        A time as the package's columns have it; see `placed`.

        Raises:
            ValueError: what is wrong with it, in the client's words.
        """
        layout = self._spec.datetime_format
        try:
            found = datetime.fromisoformat(text.strip()) if layout is None else datetime.strptime(text, layout)
        except ValueError:
            wanted = "a date or time in ISO 8601" if layout is None else f"a time like {layout!r}"
            raise ValueError(f"{shown(text)} is not {wanted}") from None
        return self.placed(found, shown(text))

    def placed(self, found: datetime, text: str) -> datetime:
        """
        A time without its offset, or, where there is a time zone, with that of the zone.

        Raises:
            ValueError: it has an offset that cannot be understood, or is none that the zone has.
        """
        if self.zone is None:
            if found.tzinfo is None:
                return found
            if found.utcoffset():
                raise ValueError(f"{text} has an offset, and the model has no time zone; write the wall clock's time")
            return found.replace(tzinfo=None)
        try:
            if found.tzinfo is not None:
                return found.astimezone(self.zone)
            there = found.replace(tzinfo=self.zone)
            back = there.astimezone(UTC).astimezone(self.zone)
        except (OverflowError, ValueError):
            raise ValueError(f"{text} is too far away for its time zone") from None
        if self._is_clock and back.replace(tzinfo=None) != found:
            raise ValueError(f"{text} {_NOT_IN_ZONE}")
        return there

    def moments(self, times: Sequence[datetime]) -> Moments:
        """Times from `placed` on the grid."""
        if self.zone is None:
            wall = instant = _array(times)
        else:
            wall = _array([time.replace(tzinfo=None) for time in times])
            instant = _array([time.astimezone(UTC).replace(tzinfo=None) for time in times])
        if self._spec.unit == "MONTH":
            steps, off_step = self._months(wall)
        else:
            length = np.int64(MICROSECONDS[self._spec.unit] * self._spec.step)
            since = ((instant if self._is_clock else wall) - self._anchor).astype(np.int64)
            steps, rests = np.divmod(since, length)
            off_step = rests != 0
        return Moments(wall, instant, steps, off_step)

    def _months(self, wall: Times) -> tuple[Steps, NDArray[np.bool_]]:
        months = wall.astype("datetime64[M]")
        steps, rests = np.divmod((months - self._anchor.astype("datetime64[M]")).astype(np.int64), self._spec.step)
        return steps, (rests != 0) | (wall != self._in_months(months))

    def _in_months(self, months: Times) -> Times:
        """The grid's time in each month."""
        first_days = months.astype("datetime64[D]")
        last_days = (months + 1).astype("datetime64[D]") - 1
        days = np.minimum(first_days + ((self._spec.month_day or 1) - 1), last_days)
        midnight = self._anchor.astype("datetime64[D]")
        times: Times = days.astype("datetime64[us]") + (self._anchor - midnight)
        return times

    def at(self, steps: Steps) -> tuple[Times, Times]:
        """Wall clock and UTC of steps."""
        if self._spec.unit == "MONTH":
            wall = self._in_months(self._anchor.astype("datetime64[M]") + steps * self._spec.step)
        else:
            length = MICROSECONDS[self._spec.unit] * self._spec.step
            wall = self._anchor + (steps * length).astype("timedelta64[us]")
        if self.zone is None:
            return wall, wall
        distinct, places = np.unique(wall, return_inverse=True)
        if self._is_clock:
            there = [time.replace(tzinfo=UTC).astimezone(self.zone).replace(tzinfo=None) for time in distinct.tolist()]
            return _array(there)[places], wall
        instants = [time.replace(tzinfo=self.zone).astimezone(UTC).replace(tzinfo=None) for time in distinct.tolist()]
        return wall, _array(instants)[places]

    def shown(self, step: int) -> str:
        """A step for a message, as short as it can be said."""
        try:
            wall, _ = self.at(np.array([step], dtype=np.int64))
        except (OverflowError, AttributeError, TypeError, ValueError):  # beyond the years that Python knows
            return f"step {step}"
        text = str(np.datetime_as_string(wall[0], unit="s"))
        return text.removesuffix("T00:00:00") if not self._is_clock else text


def _array(times: Sequence[datetime]) -> Times:
    return np.array(times, dtype="datetime64[us]")


def date_part(wall: Times, part: DatePart) -> NDArray[np.float64]:
    """A part of each wall-clock time as a number: months and days count from 1, days of the week from Monday as 0."""
    days = wall.astype("datetime64[D]")
    months = wall.astype("datetime64[M]")
    match part:
        case "year":
            found = wall.astype("datetime64[Y]").astype(np.int64) + 1970
        case "quarter":
            found = months.astype(np.int64) % 12 // 3 + 1
        case "month":
            found = months.astype(np.int64) % 12 + 1
        case "day":
            found = (days - months.astype("datetime64[D]")).astype(np.int64) + 1
        case "day_of_week":
            found = (days.astype(np.int64) + 3) % 7  # 1 January 1970 was a Thursday
        case "day_of_year":
            found = (days - wall.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) + 1
        case "hour":
            found = (wall - days).astype("timedelta64[h]").astype(np.int64)
        case "minute":
            found = (wall - days).astype("timedelta64[m]").astype(np.int64) % 60
    return found.astype(np.float64)


def iso_utc(times: Times, unit: str = "us") -> list[str]:
    """ISO 8601 in UTC, to microseconds or seconds."""
    return [f"{text}Z" for text in np.datetime_as_string(times, unit=unit).tolist()]  # type: ignore[call-overload]
