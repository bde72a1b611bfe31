"""When a job is due: five lists, as in a crontab. Read and checked here; the command does not run by it."""

from collections.abc import Iterator
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
