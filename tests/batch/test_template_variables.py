"""Times of a run in queries and names of tables."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.definition import definition_from
from batch.errors import JobError
from batch.job import Job
from batch.schedule import Schedule, due_after, due_before
from batch.template_variables import RunTimes, filled, missing_times

TIMES = RunTimes(
    current=datetime(2026, 3, 1, 12, 30, 59, tzinfo=UTC),
    last_completed=datetime(2026, 2, 28, 1, 2, 3, tzinfo=UTC),
    last_scheduled=datetime(2026, 3, 1, 12, tzinfo=UTC),
    next_scheduled=datetime(2026, 3, 1, 13, tzinfo=UTC),
)
EVERY_DAY: dict[str, Any] = {
    "minute": (0,), "hour": (0,), "day_of_month": ("*",), "month": ("*",), "day_of_week": ("*",),
}  # fmt: skip


def job_of(query: str, table: str = "t", **keys: Any) -> Job:
    return definition_from(
        {
            "prediction_endpoint": "http://127.0.0.1:8080",
            "intake_settings": {"type": "snowflake", "query": query},
            "output_settings": {"type": "snowflake", "table": table, "statement_type": "insert"},
            "jdbc_settings": {"url": "jdbc:snowflake://acme.example/"},
            **keys,
        }
    ).job


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("{{ current_run_time }}", "2026-03-01T12:30:59Z", id="now"),
        pytest.param("{{current_run_timestamp}}", "1772368259", id="now in seconds"),
        pytest.param("{{ last_completed_run_time }}", "2026-02-28T01:02:03Z", id="completed"),
        pytest.param("{{ last_scheduled_run_time }}", "2026-03-01T12:00:00Z", id="last"),
        pytest.param("{{ next_scheduled_run_time}}", "2026-03-01T13:00:00Z", id="next"),
        pytest.param("select '{{ {} }}', 1 -- {{", "select '{{ {} }}', 1 -- {{", id="other braces"),
    ],
)
def test_values(text: str, expected: str) -> None:
    job = filled(job_of(text, table=f"t {text}"), TIMES)
    assert job.intake_settings.settings.query == expected  # type: ignore[attr-defined]
    assert job.output_settings.settings.table == f"t {expected}"  # type: ignore[attr-defined]


def test_unknown_variable() -> None:
    """Told with the definition's other problems, with the one that was probably meant."""
    with pytest.raises(JobError) as caught:
        job_of("{{ current_runtime }}", table="{{ colour }}")
    assert list(caught.value.problems) == [
        "intake_settings.query: there is no variable {{ current_runtime }}; did you mean 'current_run_time'?",
        "output_settings.table: there is no variable {{ colour }}",
    ]


def test_a_run_by_hand_has_no_schedule() -> None:
    job = job_of("{{ current_run_time }} {{ last_completed_run_time }} {{ next_scheduled_run_time }}")
    problems = list(missing_times(job, RunTimes.now()))
    wanted = {
        "last_completed_run_time": "needs a run that was completed before, and a single run knows of none",
        "next_scheduled_run_time": "needs a schedule that is due again; give the job a schedule",
    }
    assert problems == [f"intake_settings.query: {{{{ {name} }}}} {text}" for name, text in wanted.items()]
    with pytest.raises(JobError) as caught:
        filled(job, RunTimes.now())
    assert list(caught.value.problems) == problems


def test_a_run_by_hand_of_a_scheduled_job() -> None:
    job = job_of("{{ last_scheduled_run_time }} {{ next_scheduled_run_time }}", schedule=_as_json(EVERY_DAY))
    times = RunTimes.now(job.schedule)
    assert times.last_scheduled is not None
    assert times.next_scheduled is not None
    assert times.last_scheduled <= times.current < times.next_scheduled
    assert not list(missing_times(job, times))


def _as_json(schedule: dict[str, Any]) -> dict[str, Any]:
    return {field: list(times) for field, times in schedule.items()}


def test_times_survive_the_journal() -> None:
    assert RunTimes.from_json(TIMES.as_json()) == TIMES


@pytest.mark.parametrize(
    ("keys", "days"),
    [
        pytest.param({"day_of_month": (1, 2, 3), "day_of_week": ("Tue",)}, [1, 2, 3, 9, 16, 23, 30], id="either"),
        pytest.param({"day_of_week": ("tuesday",)}, [2, 9, 16, 23, 30], id="days of the week"),
        pytest.param({"day_of_month": (7, "15")}, [7, 15], id="days of the month"),
        pytest.param({"day_of_week": (0,)}, [7, 14, 21, 28], id="Sunday is 0"),
        pytest.param({"month": ("FEBRUARY",)}, [], id="another month"),
        pytest.param({"day_of_month": (31,), "month": ("Jan", 2)}, [31], id="no such day is passed over"),
    ],
)
def test_days(keys: dict[str, Any], days: list[int]) -> None:
    """In January 2024."""
    schedule = Schedule(**{**EVERY_DAY, **keys})
    moment, found = datetime(2023, 12, 31, 23, 59, tzinfo=UTC), []
    while (due := due_after(schedule, moment)) is not None and due < datetime(2024, 2, 1, tzinfo=UTC):
        found.append(due.day)
        moment = due
    assert found == days


def test_never_due() -> None:
    never = Schedule(**{**EVERY_DAY, "day_of_month": (30,), "month": (2,)})
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert due_after(never, now) is None
    assert due_before(never, now) is None


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC)),
    st.sets(st.integers(0, 59), min_size=1),
    st.sets(st.integers(0, 23), min_size=1),
)
def test_before_and_after_meet(moment: datetime, minutes: set[int], hours: set[int]) -> None:
    """What is due lies strictly after, or at most at, the moment, and nothing is due between."""
    schedule = Schedule(**{**EVERY_DAY, "minute": tuple(minutes), "hour": tuple(hours)})
    after, before = due_after(schedule, moment), due_before(schedule, moment)
    assert before is not None
    assert after is not None
    assert before <= moment < after
    assert due_after(schedule, before) == after
    assert due_before(schedule, after - timedelta(microseconds=1)) == before
