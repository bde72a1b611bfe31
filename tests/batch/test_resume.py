"""A killed job is continued by the same command, to the bytes that an uninterrupted run would have written."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from batch.errors import JobRunning, ModelChanged, ScoringServerError, StateMismatch
from batch.job import Job
from batch.retries import RetryPolicy
from batch.runner import RunOptions, run_job
from batch.settings import Credentials
from tests.batch.faults import proxy
from tests.batch.jobs import NO_WAIT, QUICK, ROOT, csv_text, people_rows

NOBODY = Credentials()
CHUNK = 20
BROKEN = RunOptions(retry=RetryPolicy(tries=1))

PROCESS = """
import asyncio, json, sys
from batch.definition import definition_from
from batch.runner import run_job
from batch.settings import Credentials
asyncio.run(run_job(definition_from(json.loads(sys.argv[1])).job, Credentials()))
"""


def definition(url: str, place: Path, **keys: Any) -> dict[str, Any]:
    stores = {
        "intake_settings": {"type": "filesystem", "path": str(place / "in.csv")},
        "output_settings": {"type": "filesystem", "path": str(place / "out.csv"), "write_mode": "overwrite"},
        "errors": {"mode": "skip", "path": str(place / "errors.jsonl")},
    }
    return {
        "prediction_endpoint": url,
        "mini_batch_size": CHUNK,
        "passthrough_columns_set": "all",
        **stores,
        **keys,
    }


def started(job: dict[str, Any], *before: str) -> "subprocess.Popen[bytes]":
    command = [*before, sys.executable, "-c", PROCESS, json.dumps(job)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def input_with_bad_rows(place: Path, n_rows: int) -> None:
    rows = [[*row[:1], "old", *row[2:]] if number % 37 == 5 else row for number, row in enumerate(people_rows(n_rows))]
    place.mkdir(exist_ok=True)
    (place / "in.csv").write_text(csv_text(rows), newline="")


async def run(job: dict[str, Any], options: RunOptions = QUICK) -> Any:
    return await run_job(job_of(job), NOBODY, options=options)


def job_of(raw: dict[str, Any]) -> Job:
    from batch.definition import definition_from

    return definition_from(raw).job


async def uninterrupted(url: str, place: Path, n_rows: int) -> tuple[bytes, bytes]:
    """Output and errors of the same input."""
    input_with_bad_rows(place, n_rows)
    await run(definition(url, place))
    return (place / "out.csv").read_bytes(), (place / "errors.jsonl").read_bytes()


@pytest.mark.timeout(120)
async def test_killed_at_ten_moments(server: str, tmp_path: Path) -> None:
    """Each time later than before, by chance; nothing of the output shows until it is whole."""
    n_rows = 1500
    expected = await uninterrupted(server, tmp_path / "whole", n_rows)
    place = tmp_path / "killed"
    input_with_bad_rows(place, n_rows)
    chance = random.Random(11)
    scored = 0
    async with proxy(server) as between:
        for _ in range(10):
            last = len(between.seen) + chance.randint(10, 40)
            process = started(definition(between.url, place))

            def kill(number: int, process: Any = process, last: int = last) -> None:
                if number >= last:
                    process.send_signal(signal.SIGKILL)

            between.arrived = kill
            _, errors = await asyncio.to_thread(process.communicate)
            assert process.returncode == -signal.SIGKILL, errors.decode()
            assert not (place / "out.csv").exists()
            assert not (place / "errors.jsonl").exists()
        between.arrived = lambda _: None
        report = await run(definition(between.url, place))
        scored = len(between.seen)

    assert ((place / "out.csv").read_bytes(), (place / "errors.jsonl").read_bytes()) == expected
    assert report.rows_resumed > 0
    assert report.rows_read == report.rows_scored + report.rows_failed == n_rows
    assert sorted(path.name for path in place.iterdir()) == ["errors.jsonl", "in.csv", "out.csv"]
    assert scored > 0


async def test_only_what_is_missing_is_scored(server: str, tmp_path: Path) -> None:
    place = tmp_path / "job"
    place.mkdir()
    (place / "in.csv").write_text(csv_text(people_rows(400)), newline="")
    async with proxy(server, lambda n: "pass" if n < 10 else "503") as between:
        job = definition(between.url, place, num_concurrent=1)
        with pytest.raises(ScoringServerError):
            await run(job, BROKEN)
        between.fate = lambda _: "pass"
        before = len(between.seen)

        report = await run(job)

        assert len(between.seen) - before == 10
    assert (report.rows_resumed, report.rows_scored) == (200, 400)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"passthrough_columns_set": None, "id_column": "ID"}, "id_column was absent and is ID", id="options"
        ),
        pytest.param("input", r"input in\.csv was .* and is ", id="input"),
        pytest.param("model", r"model was .* and is ", id="model"),
    ],
)
async def test_a_changed_job_refuses_to_continue(
    change: Any, message: str, server: str, regression_server: str, tmp_path: Path
) -> None:
    place = tmp_path / "job"
    input_with_bad_rows(place, 200)
    async with proxy(server, lambda n: "pass" if n < 30 else "503") as between:
        job = definition(between.url, place, num_concurrent=1)
        with pytest.raises(ScoringServerError):
            await run(job, BROKEN)
        between.fate = lambda _: "pass"
        if change == "input":
            input_with_bad_rows(place, 201)
        elif change == "model":
            between.upstream = regression_server
        else:
            job = {key: value for key, value in {**job, **change}.items() if value is not None}
        with pytest.raises(StateMismatch, match=message):
            await run(job)
        await run(job, RunOptions(retry=NO_WAIT, restart=True))

    assert (place / "out.csv").exists()


async def test_speed_may_change(server: str, tmp_path: Path) -> None:
    expected = await uninterrupted(server, tmp_path / "whole", 300)
    place = tmp_path / "job"
    input_with_bad_rows(place, 300)
    async with proxy(server, lambda n: "pass" if n < 30 else "503") as between:
        with pytest.raises(ScoringServerError):
            await run(definition(between.url, place, num_concurrent=1), BROKEN)

    report = await run(definition(server, place, mini_batch_size=7, num_concurrent=3))

    assert report.rows_resumed > 0
    assert ((place / "out.csv").read_bytes(), (place / "errors.jsonl").read_bytes()) == expected


@pytest.mark.parametrize("lost", [1, 40, 200, 10_000])
@pytest.mark.parametrize("name", ["journal", "spool-00000", "errors.jsonl"])
async def test_torn_state_is_done_again(name: str, lost: int, server: str, tmp_path: Path) -> None:
    """As after a machine stopped: the end of a file is not there, or nothing but zeros."""
    expected = await uninterrupted(server, tmp_path / "whole", 200)
    place = tmp_path / "job"
    input_with_bad_rows(place, 200)
    async with proxy(server, lambda n: "pass" if n < 40 else "503") as between:
        with pytest.raises(ScoringServerError):
            await run(definition(between.url, place, num_concurrent=1), BROKEN)
    torn = place / ".out.csv.resume" / name
    size = torn.stat().st_size
    os.truncate(torn, max(0, size - lost))
    if name != "journal" and lost == 200:
        os.truncate(torn, size)

    await run(definition(server, place))

    assert ((place / "out.csv").read_bytes(), (place / "errors.jsonl").read_bytes()) == expected


@pytest.mark.parametrize("keys", [{}, {"passthrough_columns_set": None, "id_column": "ID"}], ids=["same", "other"])
async def test_two_runs_at_once_are_refused(keys: Any, server: str, tmp_path: Path) -> None:
    """Of one job, and of two jobs with one output."""
    place = tmp_path / "job"
    input_with_bad_rows(place, 100)
    begun = asyncio.Event()
    async with proxy(server, lambda _: "hang") as between:
        between.arrived = lambda _: begun.set()
        running = asyncio.create_task(run(definition(between.url, place)))
        await begun.wait()
        with pytest.raises(JobRunning, match="another process runs this job"):
            await run(definition(server, place, **keys))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    await run(definition(server, place))
    assert (place / "out.csv").exists()


async def test_a_swap_between_runs_is_noticed(server: str, regression_server: str, tmp_path: Path) -> None:
    """Even of a model with the same answer columns the end would tell; here the columns do."""
    place = tmp_path / "job"
    input_with_bad_rows(place, 200)
    async with proxy(server) as between:
        between.arrived = lambda n: setattr(between, "upstream", regression_server) if n == 3 else None
        with pytest.raises(ModelChanged):
            await run(definition(between.url, place, num_concurrent=1))


async def test_a_swap_to_a_twin_is_noticed_at_once(server: str, twin_server: str, tmp_path: Path) -> None:
    """By the id in its answers: the columns are the same, and the first model is back before the end."""
    place = tmp_path / "job"
    input_with_bad_rows(place, 200)
    async with proxy(server) as between:
        between.arrived = lambda n: setattr(between, "upstream", twin_server if 3 <= n < 12 else server)
        with pytest.raises(
            ModelChanged, match=r"the model changed while the job ran: [0-9a-f]{24} became [0-9a-f]{24}"
        ):
            await run(definition(between.url, place, num_concurrent=1))
    assert not (place / "out.csv").exists()


async def test_a_swap_to_a_twin_that_no_answer_tells_is_noticed_in_the_end(
    server: str, twin_server: str, tmp_path: Path
) -> None:
    """Before anything is published: by the server's page about its model."""
    place = tmp_path / "job"
    input_with_bad_rows(place, 100)
    async with proxy(server) as between:
        between.hides = b"x-model-id:"
        between.arrived = lambda n: setattr(between, "upstream", twin_server) if n == 3 else None
        with pytest.raises(
            ModelChanged, match=r"the server's model changed while the job ran: binary .* became binary"
        ):
            await run(definition(between.url, place, num_concurrent=1))
    assert not (place / "out.csv").exists()


async def test_a_continued_run_knows_the_model_of_the_answers(server: str, twin_server: str, tmp_path: Path) -> None:
    """The pages about the model are still the old one's; its answers are not."""
    place = tmp_path / "job"
    input_with_bad_rows(place, 200)
    async with proxy(server, lambda n: "pass" if n < 30 else "503") as between:
        job = definition(between.url, place, num_concurrent=1)
        with pytest.raises(ScoringServerError):
            await run(job, BROKEN)
        between.fate = lambda _: "pass"
        between.arrived = lambda _: setattr(between, "upstream", twin_server)
        before = len(between.seen)
        with pytest.raises(ModelChanged, match=r": [0-9a-f]{24} became [0-9a-f]{24}$"):
            await run(job)
        assert len(between.seen) == before + 1, "the first answer tells"


SHOWS: Final = "write,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,rmdir"
"""System calls that change what is on the disk."""
ROWS: Final = 60


@pytest.mark.needs("strace")
@pytest.mark.timeout(300)
async def test_killed_at_every_write_sync_and_rename(server: str, tmp_path: Path) -> None:
    """The output is absent or exact after each, and exact after the next run."""
    expected = await uninterrupted(server, tmp_path / "whole", ROWS)
    points = await asyncio.to_thread(points_of, server, tmp_path / "count")
    assert {call for call, _ in points} >= {"write", "fsync", "rename"}
    assert len(points) > 20
    for call, number in points:
        place = tmp_path / f"{call}-{number}"
        input_with_bad_rows(place, ROWS)
        job = definition(server, place)
        if call not in ("unlinkat", "unlink", "rmdir"):  # that is after the end, and a second run is another one
            job["output_settings"]["write_mode"] = "error"  # what the killed run has published is its own
        process = started(job, *traced(place, f"inject={call}:signal=KILL:when={number}"))
        await asyncio.to_thread(process.communicate)
        for name, whole in zip(("out.csv", "errors.jsonl"), expected, strict=True):
            assert not (place / name).exists() or (place / name).read_bytes() == whole, (call, number, name)

        await run(job)

        assert ((place / "out.csv").read_bytes(), (place / "errors.jsonl").read_bytes()) == expected, (call, number)
        assert sorted(path.name for path in place.iterdir()) == ["errors.jsonl", "in.csv", "out.csv"], (call, number)


@pytest.mark.needs("strace")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "ftruncate"])
async def test_an_error_of_the_disk_is_named(call: str, server: str, tmp_path: Path) -> None:
    """The first of those calls fails, one in the middle, the last; the output is absent or exact, then exact."""
    expected = await uninterrupted(server, tmp_path / "whole", ROWS)
    numbers = [n for name, n in await asyncio.to_thread(points_of, server, tmp_path / "count") if name == call]
    for number in sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]}):
        place = tmp_path / str(number)
        input_with_bad_rows(place, ROWS)
        job = definition(server, place)
        process = started(job, *traced(place, f"inject={call}:error=EIO:when={number}"))
        _, said = await asyncio.to_thread(process.communicate)
        assert process.returncode == 1, (number, said.decode())
        assert b"OutputError" in said, said.decode()
        assert b"input/output error" in said, said.decode()
        for name, whole in zip(("out.csv", "errors.jsonl"), expected, strict=True):
            assert not (place / name).exists() or (place / name).read_bytes() == whole, (number, name)

        await run(job)

        assert ((place / "out.csv").read_bytes(), (place / "errors.jsonl").read_bytes()) == expected, number
        assert sorted(path.name for path in place.iterdir()) == ["errors.jsonl", "in.csv", "out.csv"], number


@pytest.mark.parametrize("files", [12, 30])
async def test_running_out_of_files_is_survived(files: int, server: str, tmp_path: Path) -> None:
    """Where too few can be open the job ends with an error that says so; with more, the same command completes it."""
    expected = await uninterrupted(server, tmp_path / "whole", 200)
    place = tmp_path / "job"
    input_with_bad_rows(place, 200)
    job = definition(server, place, num_concurrent=32, mini_batch_size=5)
    process = started(job, "prlimit", f"--nofile={files}")
    _, said = await asyncio.to_thread(process.communicate)

    if process.returncode:
        assert b"OutputError" in said, said.decode()
        assert b"too many open files" in said
        assert not (place / "out.csv").exists() or (place / "out.csv").read_bytes() == expected[0]
        await run(job)

    assert ((place / "out.csv").read_bytes(), (place / "errors.jsonl").read_bytes()) == expected


def traced(place: Path, *rules: str) -> list[str]:
    """A command before a command: trace, or spoil, calls that touch the files of a job."""
    state = place / ".out.csv.resume"
    paths = [place / "out.csv", place / "errors.jsonl", place, state]
    paths += [place / ".errors.jsonl.part"]
    paths += [state / name for name in ("journal", "spool-00000", "errors.jsonl", "lock")]
    options = [f"--trace-path={path}" for path in paths]
    options += [word for rule in (f"trace={SHOWS}", *rules) for word in ("-e", rule)]
    return ["strace", "-f", "-qq", "-o", f"{place}.trace", *options]


def points_of(server: str, place: Path) -> list[tuple[str, int]]:
    """Each call and how many times a thread makes it: how strace counts."""
    input_with_bad_rows(place, ROWS)
    process = started(definition(server, place), *traced(place))
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    trace = Path(f"{place}.trace").read_text()
    most: Counter[str] = Counter()
    for (_, call), times in Counter(re.findall(r"^(\d+) +(\w+)\(", trace, re.MULTILINE)).items():
        most[call] = max(most[call], times)
    return [(call, number) for call, times in most.items() for number in range(1, times + 1)]
