from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_repository.timeseries.calendar import Calendar, date_part, iso_utc
from model_repository.timeseries.spec import DatePart
from tests.model_repository.timeseries.reference import spec_of

HOURLY = {"unit": "HOUR", "anchor": datetime(2024, 1, 1)}
IN_OSLO = {"time_zone": "Europe/Oslo"}


def calendar_of(**changes) -> Calendar:
    return Calendar(spec_of(**changes))


def steps_of(calendar: Calendar, *texts: str) -> list[int]:
    moments = calendar.moments([calendar.read(text) for text in texts])
    assert not moments.off_step.any()
    return moments.steps.tolist()


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        pytest.param({"unit": "MINUTE", "step": 15, "anchor": datetime(2024, 2, 28, 23, 45)}, ["2024-02-28T23:45", "2024-02-29T00:00", "2024-02-29 00:15"], id="15 minutes over a leap day"),
        pytest.param(HOURLY, ["2023-12-31T23:00Z", "2024-01-01T00:00:00.000000Z", "2024-01-01T01"], id="hours, Z or not"),
        pytest.param({"unit": "DAY", "anchor": datetime(2023, 2, 28)}, ["2023-02-28", "2023-03-01", "2023-03-02"], id="days of a common year"),
        pytest.param({"unit": "DAY", "anchor": datetime(2024, 2, 28)}, ["2024-02-28", "2024-02-29", "2024-03-01"], id="leap day"),
        pytest.param({"unit": "WEEK", "anchor": datetime(2024, 12, 25)}, ["2024-12-25", "2025-01-01", "2025-01-08"], id="weeks over new year"),
        pytest.param({"unit": "MONTH", "month_day": 31, "anchor": datetime(2024, 1, 31)}, ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"], id="month ends"),
        pytest.param({"unit": "MONTH", "month_day": 31, "anchor": datetime(2023, 2, 28)}, ["2023-02-28", "2023-03-31"], id="month ends from a short one"),
        pytest.param({"unit": "MONTH", "month_day": 30, "anchor": datetime(2023, 1, 30, 6)}, ["2023-01-30T06:00", "2023-02-28T06:00", "2023-03-30T06:00"], id="the 30th at six"),
        pytest.param({"unit": "MONTH", "month_day": 1, "anchor": datetime(2023, 11, 1)}, ["2023-11-01", "2023-12-01", "2024-01-01"], id="first of the month"),
        pytest.param({"unit": "MONTH", "month_day": 31, "step": 3, "anchor": datetime(2024, 3, 31)}, ["2023-12-31", "2024-03-31", "2024-06-30"], id="quarters"),
        pytest.param({**HOURLY, **IN_OSLO, "anchor": datetime(2024, 3, 31)}, ["2024-03-31T01:00", "2024-03-31T03:00", "2024-03-31T04:00"], id="spring: three follows one"),
        pytest.param({**HOURLY, **IN_OSLO, "anchor": datetime(2024, 10, 27)}, ["2024-10-27T02:00+02:00", "2024-10-27T02:00+01:00", "2024-10-27T03:00"], id="autumn: two comes twice"),
        pytest.param({"unit": "DAY", **IN_OSLO, "anchor": datetime(2024, 3, 30)}, ["2024-03-30", "2024-03-31", "2024-04-01T00:00+02:00"], id="a day of 23 hours"),
        pytest.param({"datetime_format": "%d.%m.%Y"}, ["31.01.2024", "01.02.2024"], id="a format of its own"),
    ],
)  # fmt: skip
def test_neighbours(changes, texts):
    """Times that follow one another have numbers that do, and each number leads back to its time."""
    calendar = calendar_of(**changes)
    moments = calendar.moments([calendar.read(text) for text in texts])

    assert not moments.off_step.any()
    assert np.diff(moments.steps).tolist() == [1] * (len(texts) - 1)
    wall, instant = calendar.at(moments.steps)
    assert wall.tolist() == moments.wall.tolist()
    assert instant.tolist() == moments.instant.tolist()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        pytest.param({"unit": "MINUTE", "step": 15, "anchor": datetime(2024, 1, 1)}, "2024-01-01T00:20", id="minutes"),
        pytest.param(HOURLY, "2024-01-01T00:00:01", id="a second late"),
        pytest.param({"unit": "DAY", "anchor": datetime(2024, 1, 1)}, "2024-01-02T06:00", id="time of day"),
        pytest.param({"unit": "WEEK", "anchor": datetime(2024, 1, 1)}, "2024-01-09", id="day of week"),
        pytest.param({"unit": "MONTH", "month_day": 31, "anchor": datetime(2024, 1, 31)}, "2024-02-28", id="not the last of a leap February"),
        pytest.param({"unit": "MONTH", "month_day": 1, "step": 3, "anchor": datetime(2024, 1, 1)}, "2024-02-01", id="not of the quarter"),
    ],
)  # fmt: skip
def test_off_the_step(changes, text):
    calendar = calendar_of(**changes)

    assert calendar.moments([calendar.read(text)]).off_step.tolist() == [True]


@pytest.mark.parametrize(
    ("changes", "text", "problem"),
    [
        pytest.param({}, "soon", "'soon' is not a date or time in ISO 8601", id="no time"),
        pytest.param({}, "2024-02-30", "'2024-02-30' is not a date or time in ISO 8601", id="no day"),
        pytest.param({"datetime_format": "%d.%m.%Y"}, "2024-01-31", "'2024-01-31' is not a time like '%d.%m.%Y'", id="other format"),
        pytest.param({}, "2024-01-31T00:00+02:00", "'2024-01-31T00:00+02:00' has an offset, and the model has no time zone; write the wall clock's time", id="offset without zone"),
        pytest.param({**HOURLY, **IN_OSLO}, "2024-03-31T02:30", "'2024-03-31T02:30' is not a time that the time zone has: clocks are put forward over it", id="skipped hour"),
        pytest.param({**HOURLY, **IN_OSLO}, "0001-01-01", "'0001-01-01' is too far away for its time zone", id="before all zones"),
    ],
)  # fmt: skip
def test_unreadable(changes, text, problem):
    with pytest.raises(ValueError) as refusal:
        calendar_of(**changes).read(text)

    assert str(refusal.value) == problem


@given(st.datetimes(datetime(1950, 1, 1), datetime(2200, 1, 1)), st.integers(-500, 500))
def test_days_in_a_zone_are_days_of_its_calendar(anchor, days):
    """However long they are."""
    anchor = anchor.replace(hour=0, minute=0, second=0, microsecond=0)
    calendar = calendar_of(unit="DAY", time_zone="America/Sao_Paulo", anchor=anchor)

    assert steps_of(calendar, (anchor + timedelta(days=days)).isoformat()) == [days]


@given(st.datetimes(datetime(1980, 1, 1), datetime(2030, 1, 1)), st.integers(-10_000, 10_000))
def test_hours_in_a_zone_are_hours_of_the_clock(anchor, hours):
    """An offset or its zone: the same instant."""
    anchor = anchor.replace(minute=0, second=0, microsecond=0)
    calendar = calendar_of(unit="HOUR", time_zone="Europe/Oslo", anchor=anchor)
    time = (anchor + timedelta(hours=hours)).replace(tzinfo=UTC)

    assert steps_of(calendar, time.isoformat(), time.astimezone(calendar.zone).isoformat()) == [hours, hours]


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_date_parts(time):
    wall = np.array([time], dtype="datetime64[us]")
    expected: dict[DatePart, int] = {
        "year": time.year,
        "quarter": (time.month + 2) // 3,
        "month": time.month,
        "day": time.day,
        "day_of_week": time.weekday(),
        "day_of_year": time.timetuple().tm_yday,
        "hour": time.hour,
        "minute": time.minute,
    }

    assert {part: date_part(wall, part)[0] for part in expected} == expected


def test_times_are_written_in_utc():
    times = np.array(["2024-02-29T12:30", "1900-01-01"], dtype="datetime64[us]")

    assert iso_utc(times) == ["2024-02-29T12:30:00.000000Z", "1900-01-01T00:00:00.000000Z"]
    assert iso_utc(times, "s") == ["2024-02-29T12:30:00Z", "1900-01-01T00:00:00Z"]
