"""What networks, servers, disks and inputs do to a job, and what becomes of it."""

import asyncio
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch.errors import IntakeError, ModelChanged, OutputError, ScoringServerError
from batch.retries import RetryPolicy
from batch.runner import RunOptions, run_job
from batch.settings import Credentials
from batch.spool import Spool, publish_copy
from tests.batch.faults import Fate, proxy
from tests.batch.jobs import NO_WAIT, QUICK, ROOT, csv_text, free_port, gold, people_rows, read_csv, serving

NOBODY = Credentials()
IMPATIENT = RunOptions(retry=NO_WAIT, request_timeout=0.5)


def put(tmp_path: Path, n_rows: int) -> str:
    text = csv_text(people_rows(n_rows))
    (tmp_path / "in.csv").write_text(text, newline="")
    return text


SPOILED = ["503", "429 later", "drop", "cut", "few", "many", "html", "error in 200", "no table", "gzip", "endless"]


@pytest.mark.parametrize("fate", SPOILED)
async def test_what_comes_wrong_is_asked_for_again(fate: Fate, job_for: Any, server: str, tmp_path: Path) -> None:
    text = put(tmp_path, 200)
    async with proxy(server, lambda n: fate if n % 3 == 1 else "pass") as between:
        report = await run_job(job_for(between.url, mini_batch_size=20), NOBODY, options=QUICK)

    assert read_csv(tmp_path / "out.csv") == gold(server, text)
    assert report.retries == report.requests - 10 > 0


@pytest.mark.parametrize("fate", ["hang", "drip"])
async def test_a_stalled_connection_is_given_up(fate: Fate, job_for: Any, server: str, tmp_path: Path) -> None:
    """Also one that goes on and on, a byte at a time."""
    text = put(tmp_path, 100)
    async with proxy(server, lambda n: fate if n == 2 else "pass") as between:
        report = await run_job(job_for(between.url, mini_batch_size=20), NOBODY, options=IMPATIENT)

    assert read_csv(tmp_path / "out.csv") == gold(server, text)
    assert report.retry_reasons == {"no answer": 1}


async def test_one_in_three_requests_spoiled(job_for: Any, server: str, tmp_path: Path) -> None:
    text = put(tmp_path, 2000)
    chance = random.Random(5)
    async with proxy(server, lambda _: chance.choices(("pass", "503", "drop", "cut"), (70, 10, 10, 10))[0]) as between:
        report = await run_job(job_for(between.url, mini_batch_size=10, num_concurrent=8), NOBODY, options=QUICK)

    assert read_csv(tmp_path / "out.csv") == gold(server, text)
    assert report.retries > 0


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        pytest.param("503", "503 .3 tries", id="busy"),
        pytest.param("drop", "3 tries", id="dropped"),
        pytest.param("few", "1 predictions came for 20 rows .3 tries", id="rows lost"),
        pytest.param("redirect", "307", id="redirect"),
        pytest.param("503 for long", "it asks to wait 400 s", id="for long"),
    ],
)
async def test_a_server_that_stays_broken_ends_the_job(
    fate: Fate, message: str, job_for: Any, server: str, tmp_path: Path
) -> None:
    put(tmp_path, 100)
    options = RunOptions(retry=RetryPolicy(tries=3, first_delay=0.0))
    async with proxy(server, lambda _: fate) as between:
        with pytest.raises(ScoringServerError, match=message):
            await run_job(job_for(between.url, mini_batch_size=20, num_concurrent=1), NOBODY, options=options)

    assert len(between.seen) == (1 if fate in ("redirect", "503 for long") else 3)
    assert not (tmp_path / "out.csv").exists()


async def test_a_server_error_is_asked_twice_at_most(job_for: Any, server: str, tmp_path: Path) -> None:
    put(tmp_path, 1)
    async with proxy(server, lambda _: "500") as between:
        report = await run_job(job_for(between.url, errors={"mode": "skip"}), NOBODY, options=QUICK)

    assert (report.rows_failed, len(between.seen)) == (1, 2)


async def test_too_large_requests_are_halved(job_for: Any, server: str, tmp_path: Path) -> None:
    text = put(tmp_path, 800)
    async with proxy(server) as between:
        between.fate = lambda n: "413" if len(between.seen[n]) > 5000 else "pass"
        report = await run_job(job_for(between.url, mini_batch_size=100_000), NOBODY, options=QUICK)

    assert read_csv(tmp_path / "out.csv") == gold(server, text)
    assert report.rows_failed == report.retries == 0


async def test_no_more_requests_at_once_than_asked_for(job_for: Any, server: str, tmp_path: Path) -> None:
    put(tmp_path, 300)
    async with proxy(server) as between:
        await run_job(job_for(between.url, mini_batch_size=10, num_concurrent=3), NOBODY, options=QUICK)

    assert between.most_in_flight == 3


async def test_the_server_restarts_in_the_middle(binary: Any, job_for: Any, tmp_path: Path) -> None:
    text = put(tmp_path, 400)
    first, second = free_port(), free_port()
    patient = RunOptions(retry=RetryPolicy(tries=200, first_delay=0.2, longest_delay=0.2))
    begun = asyncio.Event()
    with serving(binary.path, first) as process:
        expected = gold(f"http://127.0.0.1:{first}", text)
        async with proxy(f"http://127.0.0.1:{first}") as between:
            between.arrived = lambda n: begun.set() if n == 5 else None
            job = job_for(between.url, mini_batch_size=5, num_concurrent=2)
            running = asyncio.create_task(run_job(job, NOBODY, options=patient))
            await begun.wait()
            process.terminate()
            await asyncio.to_thread(process.wait)
            between.upstream = f"http://127.0.0.1:{second}"
            again = serving(binary.path, second)
            await asyncio.to_thread(again.__enter__)
            try:
                report = await running
            finally:
                await asyncio.to_thread(again.__exit__, None, None, None)

    assert read_csv(tmp_path / "out.csv") == expected
    assert report.retries > 0


async def test_another_model_in_the_middle(job_for: Any, server: str, regression_server: str, tmp_path: Path) -> None:
    put(tmp_path, 200)
    async with proxy(server) as between:

        def swap(number: int) -> None:
            if number == 5:
                between.upstream = regression_server

        between.arrived = swap
        with pytest.raises(ModelChanged):
            await run_job(job_for(between.url, mini_batch_size=10), NOBODY, options=QUICK)

    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        pytest.param(lambda path: path.write_text(path.read_text() + "x"), "changed", id="grown"),
        pytest.param(lambda path: os.truncate(path, 5000), "changed|ends at byte", id="shrunk"),
        pytest.param(lambda path: path.unlink(), "no such file|changed", id="gone"),
    ],
)
async def test_an_input_that_changes_is_refused(
    harm: Callable[[Path], None], message: str, job_for: Any, server: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        (tmp_path / "in" / f"{number}.csv").write_text(csv_text(people_rows(300)), newline="")
    stores = {"intake_settings": {"type": "filesystem", "path": f"{tmp_path}/in/"}}
    async with proxy(server) as between:
        between.arrived = lambda n: harm(tmp_path / "in" / "1.csv") if n == 0 else None
        with pytest.raises(IntakeError, match=rf"1\.csv.*({message})"):
            await run_job(job_for(between.url, **stores, mini_batch_size=10, num_concurrent=1), NOBODY, options=QUICK)

    assert not (tmp_path / "out.csv").exists()


async def test_a_full_disk_is_named_and_leaves_no_output(job_for: Any, server: str, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the same call fails in the same place."""
    text = put(tmp_path, 400)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"spool-00000: file too large"):
            await run_job(job_for(mini_batch_size=20), NOBODY, options=QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out.csv").exists()

    await run_job(job_for(mini_batch_size=20), NOBODY, options=QUICK)

    assert read_csv(tmp_path / "out.csv") == gold(server, text)


def test_reports_that_cannot_be_published_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "errors.jsonl").mkdir()
    spool = Spool(tmp_path / "spool")

    with pytest.raises(OutputError, match=r"errors\.jsonl: is a directory"):
        publish_copy(spool, tmp_path / "errors.jsonl")

    spool.close()
    assert {place.name for place in tmp_path.iterdir()} == {"errors.jsonl", "spool"}


ENDLESS = """
import asyncio, resource, sys
from batch.definition import definition_from
from batch.errors import IntakeError
from batch.runner import run_job
from batch.settings import Credentials
import pyarrow
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
job = definition_from({"prediction_endpoint": sys.argv[1],
    "intake_settings": {"type": "filesystem", "path": sys.argv[2]},
    "output_settings": {"type": "filesystem", "path": sys.argv[3]}}).job
try:
    asyncio.run(run_job(job, Credentials()))
except IntakeError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, error)
"""


def test_a_field_without_end_is_refused_with_flat_memory(server: str, tmp_path: Path) -> None:
    place = tmp_path / "in.csv"
    place.write_text('age,income,city,member\n30,1,"')
    os.truncate(place, 2 * 1024**3)
    command = [sys.executable, "-c", ENDLESS, server, str(place), str(tmp_path / "out.csv")]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    megabytes, _, message = done.stdout.partition(" ")
    assert "in.csv: after line 1: a record is longer than 17 MiB" in message
    assert int(megabytes) < 120


async def test_a_slow_window_bounds_what_is_read(job_for: Any, server: str, tmp_path: Path) -> None:
    """With the first answer held back, only so many chunks are asked for."""
    put(tmp_path, 400)
    async with proxy(server, lambda n: "hang" if n == 0 else "pass") as between:
        options = replace(QUICK, request_timeout=1.0, retry=RetryPolicy(tries=1))
        with pytest.raises(ScoringServerError, match="no whole answer within 1 s"):
            await run_job(job_for(between.url, mini_batch_size=5, num_concurrent=4), NOBODY, options=options)

    assert len(between.seen) == 6
