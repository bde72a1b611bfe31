"""When a job is due: five lists, as in a crontab, in UTC. The command does not run by it, but can tell the times."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec

from batch.declared import key

MONTHS: Final = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
                 "november", "december")  # fmt: skip
DAYS: Final = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
FIELDS: Final = {
    "minute": (0, 59, ()),
    "hour": (0, 23, ()),
    "day_of_month": (1, 31, ()),
    "month": (1, 12, MONTHS),
    "day_of_week": (0, 6, DAYS),
}
"""Least, most, and the names that count from least."""
_FAR: Final = 366 * 8 + 1
"""Days within which even a 29th of February comes, over a century that has none."""

Times = tuple[int | str, ...]


def _times(meaning: str, wanted: str) -> Any:
    return key(meaning, wanted=f'["*"] or a list of {wanted}')


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """``schedule``: the minutes at which a job is due, in UTC."""

    minute: Annotated[Times, _times("Minutes of the hour.", "0 to 59")]
    hour: Annotated[Times, _times("Hours of the day.", "0 to 23")]
    day_of_month: Annotated[Times, _times("Days of the month.", "1 to 31")]
    month: Annotated[Times, _times("Months.", "1 to 12 or names")]
    day_of_week: Annotated[
        Times,
        _times("Days of the week; where days of the month are given too, either will do.", "0 (Sunday) to 6 or names"),
    ]


def wrong_times(schedule: Schedule) -> Iterator[tuple[str, int | str | None]]:
    """Fields and their elements that are no time; None for an empty list."""
    for field, (least, most, names) in FIELDS.items():
        times: Times = getattr(schedule, field)
        if not times:
            yield field, None
        if times != ("*",):
            yield from ((field, item) for item in times if not _is_time(item, least, most, names))


def _is_time(item: int | str, least: int, most: int, names: tuple[str, ...]) -> bool:
    if isinstance(item, str):
        word = item.lower()
        if word in names or word in {name[:3] for name in names}:
            return True
        if not (word.isascii() and word.isdigit() and len(word) <= 2):
            return False
    return least <= int(item) <= most


def due_after(schedule: Schedule, moment: datetime) -> datetime | None:
    """The first time of *schedule* after *moment*; None: it is never due."""
    first = moment.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    for day in range(_FAR):
        date = first.date() + timedelta(days=day)
        for time in _times_of(schedule, date):
            if time >= first:
                return time
    return None


def due_before(schedule: Schedule, moment: datetime) -> datetime | None:
    """The last time of *schedule* at or before *moment*."""
    last = moment.astimezone(UTC)
    for day in range(_FAR):
        date = last.date() - timedelta(days=day)
        for time in reversed(_times_of(schedule, date)):
            if time <= last:
                return time
    return None


def _times_of(schedule: Schedule, date: date) -> list[datetime]:
    """All times of one day, in order."""
    if not _is_day(schedule, date):
        return []
    hours, minutes = _numbers(schedule.hour, "hour"), _numbers(schedule.minute, "minute")
    return [datetime(date.year, date.month, date.day, hour, minute, tzinfo=UTC) for hour in hours for minute in minutes]


def _is_day(schedule: Schedule, date: date) -> bool:
    """Days of the month and of the week add up where both are restricted."""
    in_month = date.day in _numbers(schedule.day_of_month, "day_of_month")
    in_week = date.isoweekday() % 7 in _numbers(schedule.day_of_week, "day_of_week")
    either = schedule.day_of_month != ("*",) and schedule.day_of_week != ("*",)
    is_day = in_month or in_week if either else in_month and in_week
    return is_day and date.month in _numbers(schedule.month, "month")


def _numbers(times: Times, field: str) -> list[int]:
    """What a field means, in order."""
    least, most, names = FIELDS[field]
    if times == ("*",):
        return list(range(least, most + 1))
    return sorted({_number(item, least, names) for item in times})


def _number(item: int | str, least: int, names: tuple[str, ...]) -> int:
    word = str(item).lower()
    named = [number for number, name in enumerate(names, least) if word in (name, name[:3])]
    return named[0] if named else int(word)
