"""What is shown while a job runs."""

import io
import json
from dataclasses import dataclass, field

import anyio
import pytest

from batch import progress
from batch.progress import Counts, Lines, Speed, in_words, progress_fields, shown, speed_of
from batch.redaction import Redactor

HALF = Counts(rows_read=700, rows_scored=590, rows_failed=10, bytes_read=5000, bytes_total=10_000, bytes_written=3000)


def test_speed_and_time_left() -> None:
    assert speed_of(HALF, 10.0) == Speed(10.0, 60.0, 10.0)


def test_what_an_earlier_run_did_is_no_speed() -> None:
    continued = Counts(rows_scored=1000, bytes_read=6000, bytes_total=10_000, rows_before=900, bytes_before=4000)
    assert speed_of(continued, 10.0) == Speed(10.0, 10.0, 20.0)


@pytest.mark.parametrize(
    ("counts", "seconds", "text"),
    [
        pytest.param(HALF, 10.0, "50 %, 600 rows, 60 rows/s, 10 failed, 0:10 left", id="half"),
        pytest.param(Counts(), 0.0, "0 rows, 0 rows/s", id="nothing yet"),
        pytest.param(Counts(rows_scored=1_234_567), 10.0, "1,234,567 rows, 123,457 rows/s", id="unknown size"),
        pytest.param(
            Counts(rows_scored=1, bytes_read=1, bytes_total=4001),
            1.0,
            "0 %, 1 rows, 1 rows/s, 1:06:40 left",
            id="hours",
        ),
        pytest.param(
            Counts(rows_scored=1, bytes_read=12, bytes_total=10), 1.0, "100 %, 1 rows, 1 rows/s, 0:00 left", id="grown"
        ),
    ],
)
def test_in_words(counts: Counts, seconds: float, text: str) -> None:
    assert in_words(counts, speed_of(counts, seconds)) == text


def test_a_line_is_json() -> None:
    written: list[str] = []
    Lines(Redactor(), write=written.append).show(HALF, speed_of(HALF, 10.0))
    line = json.loads(written[0])
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "message": "progress", **progress_fields(HALF, speed_of(HALF, 10.0))}
    assert line["percent"] == 50.0


@dataclass
class Looked:
    """Counts the looks, and says when there were three."""

    every: float = 0.0
    seen: list[int] = field(default_factory=list)
    enough: anyio.Event = field(default_factory=anyio.Event)

    def show(self, counts: Counts, speed: Speed) -> None:
        self.seen.append(counts.rows_scored)
        if len(self.seen) == 3:
            self.enough.set()


async def test_looks_as_long_as_the_block_runs() -> None:
    counts, view = Counts(), Looked()
    async with shown(counts, view):
        counts.rows_scored = 7
        await view.enough.wait()
    looks = len(view.seen)
    await anyio.lowlevel.checkpoint()
    assert set(view.seen) == {7}
    assert len(view.seen) == looks


def test_the_bar_shows_share_and_failed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal; a name that looks like markup stays as it is."""
    terminal = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.bar("[red]job") as view:
        view.show(HALF, speed_of(HALF, 10.0))
    assert "[red]job" in terminal.getvalue()
    assert "50 %, 600 rows, 60 rows/s, 10 failed" in terminal.getvalue()
