"""The pure parts of the engine: order, retries, sizes, the journal, the layout of columns, the limits of errors."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.chunk_size import AUTO, SMALLEST, WANTED_SECONDS, ChunkSize
from batch.definition import definition_from
from batch.error_policy import ErrorPolicy
from batch.isolation import score_all
from batch.journal import entries_of, line_of
from batch.reorder import ReorderBuffer
from batch.retries import RetryPolicy, retry_after_from
from batch.scoring_client import Answer, Refused
from batch.server_parameters import parameters_of
from model_repository.csv_codec import MAX_FIELD


@given(st.permutations(range(12)))
def test_any_arrival_order_leaves_in_order(arrivals: list[int]) -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer()

    left = [due for number in arrivals for due in buffer.push(number, number)]

    assert left == sorted(arrivals)


@pytest.mark.parametrize("again", [0, 2], ids=["already out", "still held"])
def test_a_chunk_cannot_come_twice(again: int) -> None:
    buffer: ReorderBuffer[str] = ReorderBuffer()
    buffer.push(0, "a")
    buffer.push(2, "c")

    with pytest.raises(ValueError, match=f"chunk {again} was pushed twice"):
        buffer.push(again, "?")


@pytest.mark.parametrize("status", [None, 408, 429, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int | None) -> None:
    policy = RetryPolicy(tries=5)

    assert [policy.allows(status, tried) for tried in (1, 4, 5)] == [True, True, False]


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 413, 415, 422])
def test_what_will_not_pass_is_not(status: int) -> None:
    assert not RetryPolicy().allows(status, 1)


def test_a_server_error_is_tried_once_more() -> None:
    assert [RetryPolicy().allows(500, tried) for tried in (1, 2)] == [True, False]


@given(tried=st.integers(1, 60), chance=st.floats(0, 1), asked=st.none() | st.floats(0, 300))
def test_delays_have_bounds(tried: int, chance: float, asked: float | None) -> None:
    policy = RetryPolicy(first_delay=0.25, longest_delay=30, chance=lambda: chance)

    delay = policy.delay(tried, asked)

    assert (asked or 0.0) <= delay <= max(30.0, (asked or 0.0) + 0.25)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("Thu, 01 Jan 2026 00:00:09 GMT", 9.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("soon", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert retry_after_from(text, NOW) == seconds


def test_chunks_shrink_where_the_server_is_slow_and_grow_back() -> None:
    size = ChunkSize.asked_for("auto", None)

    size.took(AUTO, 4 * WANTED_SECONDS)
    assert size.bytes == AUTO // 4
    size.took(size.bytes, 0.1)
    size.took(size.bytes, 0.1)
    size.took(size.bytes, 0.1)
    assert size.bytes == AUTO
    for _ in range(20):
        size.took(size.bytes, 1000)
    assert size.bytes == SMALLEST


def test_a_size_that_was_refused_is_not_tried_again() -> None:
    size = ChunkSize.asked_for(8000, None)

    size.too_large(8000, 100)
    size.took(4000, 0.001)

    assert size.bytes == 4000


@pytest.mark.parametrize(
    ("chunk_size", "expected"), [("auto", AUTO), ("fixed", AUTO), (10, 10), (2**40, 40 * 1024 * 1024)]
)
def test_sizes_asked_for(chunk_size: str | int, expected: int) -> None:
    assert ChunkSize.asked_for(chunk_size, None).bytes == expected


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3), max_size=5),
    st.integers(0, 200),
)
def test_a_torn_journal_keeps_its_whole_entries(entries: list[dict[str, object]], kept: int) -> None:
    lines = [line_of(entry) for entry in entries]
    data = b"".join(lines)[:kept]

    read, taken = entries_of(data)

    assert read == entries[: len(read)]
    assert data[:taken] == b"".join(lines[: len(read)])
    assert sum(map(len, lines[: len(read) + 1])) > kept or len(read) == len(entries)


def test_a_damaged_entry_ends_the_journal() -> None:
    lines = [line_of({"n": n}) for n in range(3)]

    assert entries_of(lines[0] + lines[1].replace(b"1", b"7", 1) + lines[2])[0] == [{"n": 0}]


@pytest.mark.parametrize(
    ("policy", "failed", "read", "stops"),
    [
        (ErrorPolicy(0), 0, 10, False),
        (ErrorPolicy(0), 1, 10, True),
        (ErrorPolicy(None), 10, 10, False),
        (ErrorPolicy(100, 0.01), 101, 10_000, True),
        (ErrorPolicy(100, 0.01), 101, 10_100, False),
        (ErrorPolicy(100, 0.01), 100, 100, False),
    ],
)
def test_error_limits(policy: ErrorPolicy, failed: int, read: int, stops: bool) -> None:
    assert policy.stops(failed, read) is stops


class Numbers(tuple[int, ...]):
    """Rows that are only numbers; the answer to each is itself."""

    names = ("n",)

    def part(self, start: int, stop: int) -> "Numbers":
        return Numbers(self[start:stop])


@given(n_rows=st.integers(1, 300), bad=st.sets(st.integers(0, 299), max_size=5))
async def test_every_bad_row_is_found(n_rows: int, bad: set[int]) -> None:
    bad = {row for row in bad if row < n_rows}
    asked = 0

    async def ask(rows: Numbers) -> Answer:
        nonlocal asked
        asked += 1
        if bad & set(rows):
            raise Refused(422, "row 0, column 'a': bad")
        return Answer(("n",), [b"%d" % row for row in rows])

    outcome = await score_all(Numbers(range(n_rows)), ask)  # type: ignore[arg-type]  # only what is needed of rows

    assert set(outcome.problems) == bad
    assert {problem.message for problem in outcome.problems.values()} <= {"column 'a': bad"}
    assert outcome.lines == [None if row in bad else b"%d" % row for row in range(n_rows)]
    assert asked <= 1 + len(bad) * 2 * n_rows.bit_length()


STORES = {
    "intake_settings": {"type": "filesystem", "path": "a"},
    "output_settings": {"type": "filesystem", "path": "b"},
}


@pytest.mark.parametrize(
    ("keys", "parameters"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param(
            {"max_explanations": 3, "threshold_high": 0.9},
            [("maxExplanations", "3"), ("thresholdHigh", "0.9")],
            id="explanations",
        ),
        pytest.param({"threshold_high": 0.9}, [], id="thresholds alone"),
        pytest.param({"explanation_algorithm": "shap"}, [("explanationAlgorithm", "shap")], id="all of shap"),
        pytest.param({"prediction_warning_enabled": True}, [("predictionWarningEnabled", "true")], id="flag"),
        pytest.param(
            {"timeseries_settings": {"forecast_point_policy": {"configuration": {"offset": "-P2DT5H4M"}}}},
            [
                ("forecastPoint", (NOW - timedelta(days=2, hours=5, minutes=4)).isoformat()),
                ("relaxKnownInAdvanceFeaturesCheck", "false"),
            ],
            id="moving forecast point",
        ),
    ],
)
def test_what_the_server_is_asked(keys: dict[str, object], parameters: list[tuple[str, str]]) -> None:
    job = definition_from({"prediction_endpoint": "http://h:1", **STORES, **keys}).job

    assert parameters_of(job, NOW) == parameters


def test_a_field_may_be_as_long_as_the_server_takes() -> None:
    from batch import dialect

    assert dialect.MAX_FIELD == MAX_FIELD
