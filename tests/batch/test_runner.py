"""Whole jobs over real files and a real server: the output is what the server says, beside the bytes of the input."""

import asyncio
import csv
import gzip
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch import writing
from batch.errors import (
    IntakeError,
    JobError,
    OutputError,
    RowRefused,
    RowsUnaccounted,
    ScoringServerError,
    TooManyErrors,
)
from batch.pipeline import run_pipeline
from batch.report import Report
from batch.retries import RetryPolicy
from batch.runner import ROWS_TRIED, RunOptions, run_job
from batch.settings import Credentials
from batch.state_place import state_directory
from tests.batch.faults import proxy
from tests.batch.jobs import HEADER, NO_WAIT, QUICK, csv_text, free_port, gold, people_rows, read_csv, serving

NOBODY = Credentials()
LABELS = ("bought_PREDICTION", "THRESHOLD", "POSITIVE_CLASS")


def names_in(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


async def test_every_row_once_in_order_with_its_bytes(job_for: Any, server: str, tmp_path: Path) -> None:
    rows = people_rows(700)
    text = csv_text(rows)
    (tmp_path / "in.csv").write_text(text, newline="")

    report = await run_job(
        job_for(mini_batch_size=50, num_concurrent=8, passthrough_columns_set="all"), NOBODY, options=QUICK
    )

    predictions = gold(server, text)
    assert read_csv(tmp_path / "out.csv") == [
        [*predicted, *row] for predicted, row in zip(predictions, [HEADER, *rows], strict=True)
    ]
    assert (report.rows_read, report.rows_scored, report.rows_failed) == (700, 700, 0)
    assert report.requests == 14
    assert names_in(tmp_path) == ["in.csv", "out.csv"]


async def test_the_raw_text_of_passed_columns_is_kept(job_for: Any, tmp_path: Path) -> None:
    text = csv_text([]) + '00012,30,1e5,"Oslo",true,"a,""b"\n1e5,31,,Oslo,false,"x\ny"\n'
    (tmp_path / "in.csv").write_text(text, newline="")

    await run_job(job_for(id_column="ID", passthrough_columns=["note", "city"]), NOBODY, options=QUICK)

    first, second, third, fourth = (tmp_path / "out.csv").read_text().splitlines()
    assert re.fullmatch("ID,.*,note,city", first)
    assert re.fullmatch('00012,.*,"a,""b","Oslo"', second)
    assert re.fullmatch('1e5,.*,"x', third)
    assert fourth == 'y",Oslo'


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"delimiter": ";", "quotechar": "'"}, id="semicolon"),
        pytest.param({"delimiter": "tab"}, id="tab"),
        pytest.param({"encoding": "latin_1"}, id="latin-1"),
        pytest.param({"encoding": "utf-16"}, id="utf-16"),
    ],
)
async def test_csv_settings_hold_for_both_sides(keys: Any, job_for: Any, server: str, tmp_path: Path) -> None:
    rows = people_rows(200)
    encoding = keys.get("encoding", "utf-8")
    delimiter = {"tab": "\t"}.get(keys.get("delimiter", ","), keys.get("delimiter", ","))
    dialect = {"delimiter": delimiter, "quotechar": keys.get("quotechar", '"')}
    (tmp_path / "in.csv").write_text(csv_text(rows, **dialect), encoding=encoding, newline="")

    job = job_for(csv_settings=keys, passthrough_columns_set="all", mini_batch_size=30)
    await run_job(job, NOBODY, options=QUICK)

    expected = [[*p, *row] for p, row in zip(gold(server, csv_text(rows)), [HEADER, *rows], strict=True)]
    assert read_csv(tmp_path / "out.csv", encoding=encoding, **dialect) == expected


async def test_gzip_in_and_out(job_for: Any, server: str, tmp_path: Path) -> None:
    text = csv_text(people_rows(300))
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(text[:5000].encode()) + gzip.compress(text[5000:].encode()))
    stores = {
        "intake_settings": {"type": "filesystem", "path": str(tmp_path / "in.csv.gz")},
        "output_settings": {"type": "filesystem", "path": str(tmp_path / "out.csv.gz")},
    }

    await run_job(job_for(**stores, mini_batch_size=40), NOBODY, options=QUICK)

    scored = gzip.decompress((tmp_path / "out.csv.gz").read_bytes()).decode()
    assert [line.split(",") for line in scored.splitlines()] == gold(server, text)


async def test_a_directory_becomes_a_directory(job_for: Any, server: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    parts = [people_rows(60, seed) for seed in range(3)]
    for number, rows in enumerate(parts):
        (tmp_path / "in" / f"{number}.csv.gz").write_bytes(gzip.compress(csv_text(rows).encode()))
    stores = {
        "intake_settings": {"type": "filesystem", "path": f"{tmp_path}/in/"},
        "output_settings": {"type": "filesystem", "path": f"{tmp_path}/out/"},
    }

    report = await run_job(job_for(**stores, include_row_id=True), NOBODY, options=QUICK)

    outputs = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in outputs] == ["part-00000.csv", "part-00001.csv", "part-00002.csv"]
    assert list(report.outputs) == [path.name for path in outputs]
    numbers = [row[0] for path in outputs for row in read_csv(path)[1:]]
    assert numbers == [str(i) for i in range(180)]
    for path, rows in zip(outputs, parts, strict=True):
        assert [row[1:] for row in read_csv(path)] == gold(server, csv_text(rows))


async def test_many_files_become_one(job_for: Any, server: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rows = people_rows(90)
    for number in range(3):
        (tmp_path / "in" / f"{number}.csv").write_text(csv_text(rows[30 * number : 30 * number + 30]), newline="")
    stores = {"intake_settings": {"type": "filesystem", "path": f"{tmp_path}/in/"}}

    await run_job(job_for(**stores), NOBODY, options=QUICK)

    assert read_csv(tmp_path / "out.csv") == gold(server, csv_text(rows))


async def test_without_headers(job_for: Any, server: str, tmp_path: Path) -> None:
    rows = people_rows(50)
    bare = [row[1:5] for row in rows]
    (tmp_path / "in.csv").write_text("".join(csv_text([row]).partition("\n")[2] for row in bare), newline="")
    job = job_for(csv_settings={"header": False, "output_header": False})

    await run_job(job, NOBODY, options=QUICK)

    assert read_csv(tmp_path / "out.csv") == gold(server, csv_text(rows))[1:]


COLUMNS = ["bought_yes_PREDICTION", "bought_no_PREDICTION", "bought_PREDICTION", "THRESHOLD", "POSITIVE_CLASS"]


@pytest.mark.parametrize(
    ("keys", "columns"),
    [
        pytest.param({}, COLUMNS, id="as the server"),
        pytest.param({"include_probabilities": False}, COLUMNS[2:], id="no probabilities"),
        pytest.param({"include_probabilities_classes": ["no"]}, COLUMNS[1:], id="one class"),
        pytest.param({"include_prediction_status": True}, [*COLUMNS, "prediction_status"], id="status"),
        pytest.param({"include_row_id": True, "id_column": "ID"}, ["row_id", "ID", *COLUMNS], id="ids"),
        pytest.param(
            {
                "column_names_remapping": {"THRESHOLD": None, "bought_PREDICTION": "label"},
                "passthrough_columns": ["note"],
            },
            [*COLUMNS[:2], "label", "POSITIVE_CLASS", "note"],
            id="renamed",
        ),
    ],
)
async def test_columns(keys: Any, columns: list[str], job_for: Any, server: str, tmp_path: Path) -> None:
    rows = people_rows(30)
    (tmp_path / "in.csv").write_text(csv_text(rows), newline="")

    await run_job(job_for(**keys), NOBODY, options=QUICK)

    written = read_csv(tmp_path / "out.csv")
    assert written[0] == columns
    full = gold(server, csv_text(rows))
    for name in set(columns) & set(COLUMNS):
        assert [row[columns.index(name)] for row in written] == [row[COLUMNS.index(name)] for row in full]


async def test_another_threshold(job_for: Any, server: str, tmp_path: Path) -> None:
    rows = people_rows(100)
    (tmp_path / "in.csv").write_text(csv_text(rows), newline="")

    await run_job(job_for(prediction_threshold=0.1), NOBODY, options=QUICK)

    expected = [
        [p, q, "yes" if float(p) > 0.1 else "no", "0.1", "yes"] for p, q, *_ in gold(server, csv_text(rows))[1:]
    ]
    assert read_csv(tmp_path / "out.csv")[1:] == expected


@pytest.mark.parametrize(
    ("text", "written"),
    [
        pytest.param("", b"", id="empty"),
        pytest.param("\n\n", b"", id="blank lines"),
        pytest.param(",".join(HEADER), (",".join([*COLUMNS, "ID"]) + "\n").encode(), id="header only"),
    ],
)
async def test_no_rows(text: str, written: bytes, job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(text)

    report = await run_job(job_for(passthrough_columns=["ID"]), NOBODY, options=QUICK)

    assert report.rows_read == 0
    assert (tmp_path / "out.csv").read_bytes() == written


@pytest.mark.parametrize("times", [0, 2], ids=["lost", "doubled"])
async def test_rows_that_do_not_add_up_publish_nothing(
    times: int, job_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours, made on purpose: one chunk is written not at all, or twice."""
    (tmp_path / "in.csv").write_text(csv_text(people_rows(100)), newline="")

    async def faulty(chunks: Any, score: Any, write: Any, **options: Any) -> None:
        async def write_third(chunk: Any, outcome: Any) -> None:
            for _ in range(times if chunk.start.rows == 20 else 1):
                await write(chunk, outcome)

        await run_pipeline(chunks, score, write_third, **options)

    monkeypatch.setattr(writing, "run_pipeline", faulty)
    message = f"100 rows were read, but {90 + 10 * times} scored, 0 failed and 0 skipped; nothing was published"
    with pytest.raises(RowsUnaccounted, match=message):
        await run_job(job_for(mini_batch_size=10), NOBODY, options=QUICK)

    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("width", [9_000, 100], ids=["many columns", "long cells"])
async def test_wide_rows(width: int, job_for: Any, tmp_path: Path) -> None:
    """Thousands of cells, or cells of megabytes; behind the mark of an encoding."""
    cell = "x" if width > 100 else "\t'é\u2028\r\n" * 300_000
    rows = [[*row[:5], cell, *["1"] * width] for row in people_rows(5)]
    header = [*HEADER, *(f"c{number}" for number in range(width))]
    (tmp_path / "in.csv").write_text("\ufeff" + csv_text(rows, header), newline="", encoding="utf-8")

    await run_job(job_for(passthrough_columns=["note", header[-1]]), NOBODY, options=QUICK)

    assert [row[-2:] for row in read_csv(tmp_path / "out.csv")] == [["note", header[-1]], *[[cell, "1"]] * 5]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        pytest.param(b"a\0b", "a NUL character", id="NUL"),
        pytest.param(b"\xff\xfe", "not utf-8", id="no UTF-8"),
    ],
)
async def test_odd_bytes_late_in_a_file_are_a_row_that_fails(
    cell: bytes, message: str, job_for: Any, tmp_path: Path
) -> None:
    """Named by its number; all others are scored, in order."""
    lines = csv_text([[*row[:3], "Oslo", *row[4:]] for row in people_rows(5000)]).encode().split(b"\n")
    lines[4321] = lines[4321].replace(b"Oslo", cell)
    (tmp_path / "in.csv").write_bytes(b"\n".join(lines))
    errors = {"mode": "skip", "path": str(tmp_path / "errors.jsonl")}

    report = await run_job(job_for(errors=errors, passthrough_columns=["ID"]), NOBODY, options=QUICK)

    told = json.loads((tmp_path / "errors.jsonl").read_text())
    assert (told["row"], told["line"]) == (4320, 4322)
    assert message in told["message"]
    assert report.rows_failed == 1
    assert [row[-1] for row in read_csv(tmp_path / "out.csv")[1:]] == [f"{i:05d}" for i in range(5000) if i != 4320]


async def test_no_newline_at_the_end(job_for: Any, server: str, tmp_path: Path) -> None:
    text = csv_text(people_rows(20))
    (tmp_path / "in.csv").write_text(text.rstrip("\n"), newline="")

    await run_job(job_for(), NOBODY, options=QUICK)

    assert read_csv(tmp_path / "out.csv") == gold(server, text)


def with_bad_rows(rows: list[list[str]], *bad: int) -> list[list[str]]:
    return [[*row[:1], "old", *row[2:]] if number in bad else row for number, row in enumerate(rows)]


async def test_a_bad_row_ends_the_job_by_default(job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_text(with_bad_rows(people_rows(500), 123, 400)), newline="")

    with pytest.raises(RowRefused, match=r"in\.csv, row 123 \(line \d+\): column 'age': "):
        await run_job(job_for(mini_batch_size=100), NOBODY, options=QUICK)

    assert not (tmp_path / "out.csv").exists()


async def test_bad_rows_are_skipped_and_reported(job_for: Any, server: str, tmp_path: Path) -> None:
    rows = people_rows(1000)
    (tmp_path / "in.csv").write_text(csv_text(with_bad_rows(rows, 3, 500, 999)), newline="")
    errors = {"mode": "skip", "path": str(tmp_path / "errors.jsonl")}

    report = await run_job(job_for(errors=errors, mini_batch_size=250), NOBODY, options=QUICK)

    good = [row for number, row in enumerate(rows) if number not in (3, 500, 999)]
    assert read_csv(tmp_path / "out.csv") == gold(server, csv_text(good))
    assert (report.rows_read, report.rows_scored, report.rows_failed) == (1000, 997, 3)
    told = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert [line["row"] for line in told] == [3, 500, 999]
    assert [line["input"]["ID"] for line in told] == ["00003", "00500", "00999"]
    assert all(line["code"] == 422 and line["message"].startswith("column 'age'") for line in told)
    lines = csv_text(with_bad_rows(rows, 3, 500, 999)).split("\n")
    assert [lines[line["line"] - 1].split(",")[1] for line in told] == ["old"] * 3


async def test_a_bad_row_costs_few_requests(job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_text(with_bad_rows(people_rows(500), 321)), newline="")

    report = await run_job(job_for(errors={"mode": "skip"}), NOBODY, options=QUICK)

    assert report.requests <= 21


async def test_the_status_column_keeps_every_row(job_for: Any, tmp_path: Path) -> None:
    rows = with_bad_rows(people_rows(60), 0, 30)
    (tmp_path / "in.csv").write_text(csv_text(rows), newline="")

    await run_job(job_for(include_prediction_status=True, passthrough_columns=["ID"]), NOBODY, options=QUICK)

    written = read_csv(tmp_path / "out.csv")[1:]
    assert [row[-1] for row in written] == [row[0] for row in rows]
    assert [number for number, row in enumerate(written) if row[5] != "OK"] == [0, 30]
    assert written[0][:5] == [""] * 5
    assert "age" in written[0][5]


async def test_rows_of_the_wrong_width_stay_with_the_width_of_the_output(job_for: Any, tmp_path: Path) -> None:
    rows = people_rows(60)
    (tmp_path / "in.csv").write_text(csv_text([*rows[:20], [*rows[20], "more"], rows[21][:5], *rows[22:]]), newline="")

    keys = {"include_prediction_status": True, "passthrough_columns_set": "all"}
    await run_job(job_for(**keys), NOBODY, options=QUICK)

    written = read_csv(tmp_path / "out.csv")
    assert [row[5] for row in written[21:23]] == ["7 fields, expected 6", "5 fields, expected 6"]
    assert [row[6:] for row in written] == [HEADER, *rows[:21], [*rows[21][:5], ""], *rows[22:]]


@pytest.mark.parametrize(
    ("keys", "n_bad", "stops"),
    [
        pytest.param({"errors": {"mode": "skip", "max_errors": 2}}, 3, True, id="above max_errors"),
        pytest.param({"errors": {"mode": "skip", "max_errors": 3}}, 3, False, id="at max_errors"),
        pytest.param({"include_prediction_status": True}, 101, True, id="above 100 and 1 %"),
        pytest.param({"include_prediction_status": True}, 100, False, id="100"),
        pytest.param({"abort_on_error": False}, 101, False, id="no limit"),
    ],
)
async def test_too_many_errors(keys: Any, n_bad: int, stops: bool, job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_text(with_bad_rows(people_rows(130), *range(n_bad))), newline="")
    job = job_for(**keys)

    if stops:
        with pytest.raises(TooManyErrors, match=f"{n_bad} rows failed, at most"):
            await run_job(job, NOBODY, options=QUICK)
        assert not (tmp_path / "out.csv").exists()
    else:
        assert (await run_job(job, NOBODY, options=QUICK)).rows_failed == n_bad


async def test_a_failed_chunk_without_row_level_handling(job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_text(with_bad_rows(people_rows(40), 5)), newline="")
    job = job_for(errors={"mode": "skip"}, disable_row_level_error_handling=True, mini_batch_size=10)

    report = await run_job(job, NOBODY, options=QUICK)

    assert (report.rows_scored, report.rows_failed, report.requests) == (30, 10, 4)


async def test_a_row_of_the_wrong_width_is_named_by_its_line(job_for: Any, tmp_path: Path) -> None:
    rows = people_rows(300)
    rows[200].append("one more")
    (tmp_path / "in.csv").write_text(csv_text(rows), newline="")
    line = next(n for n, text in enumerate(csv_text(rows).split("\n"), 1) if text.endswith("one more"))

    with pytest.raises(RowRefused, match=rf"in\.csv, row 200 \(line {line}\): 7 fields, expected 6"):
        await run_job(job_for(mini_batch_size=64), NOBODY, options=QUICK)


async def test_missing_columns_are_told_before_anything_is_sent(job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("age,city\n3,Oslo\n")

    with pytest.raises(IntakeError, match=r"in\.csv: missing columns: income, member"):
        await run_job(job_for(), NOBODY, options=QUICK)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param({"passthrough_columns": ["nope"]}, "not in the input: 'nope'", id="passthrough"),
        pytest.param({"column_names_remapping": {"nope": "x"}}, "no such column in the output: 'nope'", id="remapping"),
        pytest.param({"include_probabilities_classes": ["maybe"]}, "no class 'maybe'", id="class"),
        pytest.param({"column_names_remapping": {"THRESHOLD": "bought_PREDICTION"}}, "twice: 'bought", id="twice"),
        pytest.param(
            {"include_probabilities": False, "column_names_remapping": dict.fromkeys(LABELS)}, "no column", id="none"
        ),
    ],
)
@pytest.mark.parametrize("validate", [True, False], ids=["validate", "run"])
async def test_columns_that_cannot_be(validate: bool, keys: Any, message: str, job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_text(people_rows(5)), newline="")

    with pytest.raises(JobError, match=message):
        await run_job(job_for(**keys), NOBODY, options=RunOptions(validate=validate, retry=NO_WAIT))


@pytest.mark.parametrize("validate", [True, False], ids=["validate", "run"])
async def test_options_that_the_server_refuses_are_no_bad_row(validate: bool, job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_text(people_rows(50)), newline="")
    options = RunOptions(validate=validate, retry=NO_WAIT)

    with pytest.raises(ScoringServerError, match=r"refuses the job's options: 'maxExplanations': .* from 0 to 10"):
        await run_job(job_for(max_explanations=11, errors={"mode": "skip"}), NOBODY, options=options)

    assert names_in(tmp_path) == ["in.csv"]


async def test_validating_writes_nothing(job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_text(people_rows(5)), newline="")

    report = await run_job(job_for(), NOBODY, options=RunOptions(validate=True))

    assert (report.status, report.requests) == ("VALIDATED", 1)
    assert names_in(tmp_path) == ["in.csv"]


async def test_validating_asks_for_the_first_rows_only(job_for: Any, server: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_text(people_rows(5000)), newline="")
    async with proxy(server) as between:
        await run_job(job_for(between.url), NOBODY, options=RunOptions(validate=True))

    assert [len(list(csv.reader(io.StringIO(body.decode())))) for body in between.seen] == [ROWS_TRIED + 1]


@pytest.mark.parametrize("keys", [{}, {"errors": {"mode": "skip"}}], ids=["abort", "skip"])
async def test_validating_meets_a_bad_row(keys: Any, job_for: Any, tmp_path: Path) -> None:
    """That would end the job, unless it is skipped."""
    (tmp_path / "in.csv").write_text(csv_text(with_bad_rows(people_rows(5), 3)), newline="")

    if keys:
        await run_job(job_for(**keys), NOBODY, options=RunOptions(validate=True))
    else:
        with pytest.raises(RowRefused, match=r"in\.csv, row 3 \(line \d+\): column 'age'"):
            await run_job(job_for(), NOBODY, options=RunOptions(validate=True))


@pytest.fixture(params=[0o555, 0o600], ids=["read-only", "closed"])
def read_only(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory that nobody may write to or even enter, also if the tests are run by root."""
    place = Path(tempfile.mkdtemp())
    place.chmod(request.param)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield place
    os.seteuid(before)
    place.rmdir()


@pytest.mark.parametrize("validate", [True, False], ids=["validate", "run"])
@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param({"path": "missing/out.csv"}, "missing/out.csv: no such file or directory", id="no directory"),
        pytest.param({"path": "missing/out/"}, "missing/out/: no such file or directory", id="no parent"),
        pytest.param({"path": "there", "write_mode": "error"}, "there: exists", id="exists"),
        pytest.param({"path": "directory"}, "directory: is not a regular file", id="a directory"),
        pytest.param({"path": "there/out.csv"}, "there/out.csv: not a directory", id="below a file"),
    ],
)
async def test_what_is_wrong_with_the_output_is_seen_before_anybody_is_asked(
    output: Any, message: str, validate: bool, job_for: Any, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text(csv_text(people_rows(5)), newline="")
    (tmp_path / "there").touch()
    (tmp_path / "directory").mkdir()
    settings = {"type": "filesystem", **output, "path": f"{tmp_path}/{output['path']}"}
    nobody = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(OutputError, match=message):
        await run_job(job_for(nobody, output_settings=settings), NOBODY, options=RunOptions(validate=validate))

    assert names_in(tmp_path) == ["directory", "in.csv", "there"]


async def test_a_directory_that_cannot_be_written_is_seen_before_anybody_is_asked(
    job_for: Any, read_only: Path
) -> None:
    settings = {"type": "filesystem", "path": f"{read_only}/out.csv"}
    job = job_for(f"http://127.0.0.1:{free_port()}", output_settings=settings)

    with pytest.raises(OutputError, match=r"out\.csv: permission denied"):
        await run_job(job, NOBODY, options=RunOptions(validate=True))


async def test_a_state_that_cannot_be_kept_is_seen_before_anybody_is_asked(
    job_for: Any, server: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    job = job_for(f"http://127.0.0.1:{free_port()}", output_settings={"type": "http", "url": f"{server}/out.csv"})
    options = RunOptions(state_dir=tmp_path / "file/state")

    with pytest.raises(OutputError, match=r"file/state/\w+: cannot be written"):
        await run_job(job, Credentials(private_addresses_enabled=True), options=options)


@pytest.mark.parametrize("fate", ["fails", "is cancelled"])
async def test_the_report_of_what_failed(fate: str, job_for: Any, server: str, tmp_path: Path) -> None:
    """As far as it came: the account, the server's work and its model."""
    (tmp_path / "in.csv").write_text(csv_text(people_rows(100)), newline="")
    reports: list[Report] = []
    begun = asyncio.Event()
    async with proxy(server, lambda n: ("503", "pass", "pass", "hang")[min(n, 3)]) as between:
        between.arrived = lambda n: begun.set() if n == 3 else None
        options = RunOptions(retry=RetryPolicy(tries=2, first_delay=0.0), request_timeout=0.5)
        job = job_for(between.url, mini_batch_size=10, num_concurrent=1)
        running = asyncio.create_task(run_job(job, NOBODY, options=options, ended=reports.append))
        await begun.wait()
        if fate == "is cancelled":
            running.cancel()
        with pytest.raises(ScoringServerError if fate == "fails" else asyncio.CancelledError):
            await running

    (report,) = reports
    assert (report.status, report.outputs) == ("ABORTED", ())
    assert report.rows_scored in (10, 20)  # the second chunk may be on its way to the disk
    assert report.requests >= (5 if fate == "fails" else 4)
    assert report.retries == (2 if fate == "fails" else 1)
    assert report.retry_reasons["503"] == 1
    assert (report.model or {})["name"] == "binary"
    assert [file["name"] for file in report.inputs] == ["in.csv"]
    assert report.seconds["scoring"] > 0


async def test_only_the_first_rows(job_for: Any, server: str, tmp_path: Path) -> None:
    rows = people_rows(100)
    (tmp_path / "in.csv").write_text(csv_text(rows), newline="")

    report = await run_job(job_for(mini_batch_size=30), NOBODY, options=RunOptions(limit=40))

    assert report.rows_read == 40
    assert read_csv(tmp_path / "out.csv") == gold(server, csv_text(rows[:40]))


async def test_a_single_model_server_may_be_given_a_deployment_id(job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_text(people_rows(5)), newline="")

    assert (await run_job(job_for(deployment_id="fraud"), NOBODY, options=QUICK)).rows_scored == 5


async def test_a_model_that_is_not_there_is_named(binary: Any, job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_text(people_rows(5)), newline="")
    (tmp_path / "models" / "loans").mkdir(parents=True)
    shutil.copy(binary.path, tmp_path / "models" / "loans")
    port = free_port()

    with serving(tmp_path / "models", port), pytest.raises(ScoringServerError, match="404: no deployment 'fraud'"):
        await run_job(job_for(url=f"http://127.0.0.1:{port}", deployment_id="fraud"), NOBODY, options=QUICK)


async def test_a_job_that_did_nothing_leaves_nothing(job_for: Any, tmp_path: Path) -> None:
    """So the corrected job is another job, and nothing stands in its way."""
    (tmp_path / "in.csv").write_text(csv_text(people_rows(5)), newline="")

    with pytest.raises(JobError):
        await run_job(job_for(passthrough_columns=["nope"]), NOBODY, options=QUICK)

    assert names_in(tmp_path) == ["in.csv"]
    assert (await run_job(job_for(), NOBODY, options=QUICK)).rows_scored == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("ID,ID,age,income,city,member\n1,2,3,4,Oslo,true\n", "twice: 'ID'", id="a column twice"),
        pytest.param('age,income,city,member\n3,4,"Oslo,true\n5,6,x,true\n', "never closed", id="open quote"),
    ],
)
async def test_an_input_that_is_no_table_is_no_bad_row(text: str, message: str, job_for: Any, tmp_path: Path) -> None:
    """Skipping it would skip all of it."""
    (tmp_path / "in.csv").write_text(text)

    with pytest.raises(IntakeError, match=message):
        await run_job(job_for(errors={"mode": "skip"}), NOBODY, options=QUICK)


@pytest.mark.parametrize("validate", [True, False], ids=["validate", "run"])
@pytest.mark.parametrize("path", ["missing/bad.jsonl", "", "x" * 300], ids=["no directory", "a directory", "no name"])
async def test_a_place_for_errors_is_looked_at_first(validate: bool, path: str, job_for: Any, tmp_path: Path) -> None:
    """After the work would be late: the output has its name by then."""
    (tmp_path / "in.csv").write_text(csv_text(people_rows(5)), newline="")
    job = job_for(errors={"mode": "skip", "path": str(tmp_path / path)})

    with pytest.raises(OutputError, match=r"errors\.path: .* cannot be written"):
        await run_job(job, NOBODY, options=RunOptions(validate=validate, retry=NO_WAIT))

    assert names_in(tmp_path) == ["in.csv"]


async def test_errors_stay_below_the_root(job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    job = job_for(errors={"mode": "skip", "path": str(tmp_path / "jobs/../bad.jsonl")})

    with pytest.raises(JobError, match="lies outside of PREDICTION_API_BATCH_ROOT"):
        await run_job(job, Credentials(root=tmp_path / "jobs"), options=QUICK)


@pytest.mark.parametrize("path", ["missing/out.csv", "missing/out/"], ids=["file", "directory"])
async def test_a_misspelt_output_is_not_made(path: str, job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_text(people_rows(5)), newline="")
    job = job_for(output_settings={"type": "filesystem", "path": f"{tmp_path}/{path}"})

    with pytest.raises(OutputError, match="no such file or directory"):
        await run_job(job, NOBODY, options=QUICK)

    assert names_in(tmp_path) == ["in.csv"]


def test_the_state_is_beside_what_a_link_leads_to(job_for: Any, tmp_path: Path) -> None:
    """Beside the link it could be on another file system, where the result cannot be renamed."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.csv").symlink_to(tmp_path / "elsewhere/real.csv")

    assert state_directory(job_for(), None) == tmp_path / "elsewhere/.real.csv.resume"


async def test_an_encoding_that_lacks_a_character_is_named(job_for: Any, tmp_path: Path) -> None:
    row = {"age": 1, "income": 2, "city": "Oslo", "member": True, "note": "日本"}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    intake = {"type": "filesystem", "path": f"{tmp_path}/in.jsonl"}

    with pytest.raises(OutputError, match="latin_1 cannot write '日本'"):
        await run_job(
            job_for(intake_settings=intake, csv_settings={"encoding": "latin_1"}, passthrough_columns=["note"]),
            NOBODY,
            options=QUICK,
        )


async def test_bytes_that_are_no_text_become_a_failed_row_in_parquet(job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"age,income,city,member,note\n1,2,Oslo,true,\xff\n1,2,Oslo,true,fine\n")
    output = {"type": "filesystem", "path": f"{tmp_path}/out.parquet"}

    report = await run_job(
        job_for(output_settings=output, passthrough_columns=["note"], include_prediction_status=True),
        NOBODY,
        options=QUICK,
    )

    assert (report.rows_scored, report.rows_failed) == (1, 1)
