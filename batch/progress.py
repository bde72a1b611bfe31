"""How far a job is: counted by the engine, shown by the command."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Protocol

import anyio

from batch.logs import json_line
from batch.redaction import Redactor

EVERY: Final = 5.0
"""Seconds between two lines."""
BAR_EVERY: Final = 0.25


@dataclass
class Counts:
    """What the engine has done so far; it alone changes them. At the end ``read = scored + failed + skipped``."""

    rows_read: int = 0
    rows_scored: int = 0
    rows_failed: int = 0
    rows_skipped: int = 0
    bytes_read: int = 0
    """Of the stored input, as far as its rows are written."""
    bytes_total: int | None = None
    """Of the stored input; None: unknown."""
    bytes_written: int = 0
    rows_before: int = 0
    """Of the rows done, those of an earlier run of the job: they say nothing of this run's speed."""
    bytes_before: int = 0
    """Of the bytes read, those of an earlier run."""

    @property
    def rows_done(self) -> int:
        """Rows whose fate is known."""
        return self.rows_scored + self.rows_failed + self.rows_skipped

    @property
    def fraction(self) -> float | None:
        """How much of the input is done, 0 to 1; None: unknown."""
        if not self.bytes_total:
            return None
        return min(1.0, self.bytes_read / self.bytes_total)


@dataclass(frozen=True)
class Speed:
    """What the counts say of a time."""

    seconds: float
    rows_per_second: float
    seconds_left: float | None
    """None: unknown."""


def speed_of(counts: Counts, seconds: float) -> Speed:
    """The speed of a run that began *seconds* ago."""
    rows = counts.rows_done - counts.rows_before
    done = counts.bytes_read - counts.bytes_before
    left = None
    if counts.bytes_total and done > 0:
        left = max(0, counts.bytes_total - counts.bytes_read) * seconds / done
    return Speed(seconds, rows / seconds if seconds > 0 else 0.0, left)


class View(Protocol):
    """Shows how far the job is."""

    every: float
    """Seconds between two looks."""

    def show(self, counts: Counts, speed: Speed) -> None:
        """What is so now."""
        ...


@dataclass
class Lines:
    """One JSON object per look, for whoever collects standard error."""

    redact: Redactor
    every: float = EVERY
    write: Callable[[str], Any] = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: T201

    def show(self, counts: Counts, speed: Speed) -> None:
        """Write a line."""
        self.write(json_line("info", "progress", progress_fields(counts, speed), self.redact))


def progress_fields(counts: Counts, speed: Speed) -> dict[str, Any]:
    """The state of a job for machines."""
    return {
        "rows_read": counts.rows_read,
        "rows_scored": counts.rows_scored,
        "rows_failed": counts.rows_failed,
        "rows_skipped": counts.rows_skipped,
        "bytes_read": counts.bytes_read,
        "bytes_written": counts.bytes_written,
        "percent": None if counts.fraction is None else round(100 * counts.fraction, 1),
        "rows_per_second": round(speed.rows_per_second, 1),
        "seconds": round(speed.seconds, 1),
        "seconds_left": None if speed.seconds_left is None else round(speed.seconds_left, 1),
    }


@contextmanager
def bar(name: str) -> Iterator[View]:
    """A bar on the terminal: share, rows, rate, failed rows, time left. Log lines stand above it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[status]}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, redirect_stdout=False, expand=True, transient=True) as progress:
        task = progress.add_task(name, total=None, status="")

        def show(counts: Counts, speed: Speed) -> None:
            progress.update(
                task,
                total=None if counts.fraction is None else 1.0,
                completed=counts.fraction or 0.0,
                status=in_words(counts, speed),
            )

        yield _Shown(show)


@dataclass
class _Shown:
    show: Callable[[Counts, Speed], None]
    every: float = BAR_EVERY


def in_words(counts: Counts, speed: Speed) -> str:
    """The state of a job for people, on one line."""
    parts = [f"{counts.rows_done:,} rows", f"{speed.rows_per_second:,.0f} rows/s"]
    if counts.fraction is not None:
        parts.insert(0, f"{100 * counts.fraction:.0f} %")
    if counts.rows_failed:
        parts.append(f"{counts.rows_failed:,} failed")
    if speed.seconds_left is not None:
        parts.append(f"{_clock(speed.seconds_left)} left")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@asynccontextmanager
async def shown(counts: Counts, view: View, clock: Callable[[], float] = monotonic) -> AsyncIterator[None]:
    """Show *counts* every now and then as long as the block runs."""
    began = clock()

    async def look() -> None:
        while True:
            await anyio.sleep(view.every)
            view.show(counts, speed_of(counts, clock() - began))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        yield
        tasks.cancel_scope.cancel()
