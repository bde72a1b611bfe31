"""Nine ways from one format to another: the predictions are the server's, what is passed through keeps its values."""

import contextlib
import csv
import gzip
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.errors import IntakeError, RowRefused, ScoringServerError
from batch.formats.parquet_pages import page_sizes
from batch.retries import RetryPolicy
from batch.runner import RunOptions, run_job
from batch.settings import Credentials
from tests.batch.faults import proxy
from tests.batch.jobs import QUICK, ROOT, csv_text, gold, people_rows, read_csv

NOBODY = Credentials()
N_ROWS = 150


def people() -> pa.Table:
    """The rows of `people_rows` with types, nulls, and columns that no CSV has."""
    rows = people_rows(N_ROWS)
    income = [float(row[2]) if row[2] else None for row in rows]
    return pa.table(
        {
            "ID": pa.array([row[0] for row in rows]),
            "age": pa.array([int(row[1]) for row in rows], pa.int64()),
            "income": pa.array(income, pa.float64()),
            "city": pa.array([row[3] or None for row in rows]).dictionary_encode(),
            "member": pa.array([row[4] == "true" for row in rows]),
            "count": pa.array([None if i % 5 == 0 else i for i in range(N_ROWS)], pa.int64()),
            "seen": pa.array([datetime(2024, 1, 1 + i % 28) for i in range(N_ROWS)], pa.timestamp("us")),
            "tags": pa.array([["a", "b"][: i % 3] for i in range(N_ROWS)], pa.list_(pa.string())),
        }
    )


def put(path: Path) -> None:
    table = people()
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=40)
    elif path.suffix == ".jsonl":
        rows = table.drop_columns(["seen", "tags"]).to_pylist()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(csv_text(people_rows(N_ROWS)), newline="")


def got(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    header, *lines = read_csv(path)
    return [dict(zip(header, line, strict=True)) for line in lines]


def stores(tmp_path: Path, source: str, target: str) -> dict[str, Any]:
    return {
        "intake_settings": {"type": "filesystem", "path": str(tmp_path / f"in.{source}")},
        "output_settings": {"type": "filesystem", "path": str(tmp_path / f"out.{target}")},
    }


@pytest.mark.parametrize("target", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("source", ["csv", "jsonl", "parquet"])
async def test_from_any_format_to_any(source: str, target: str, job_for: Any, server: str, tmp_path: Path) -> None:
    put(tmp_path / f"in.{source}")
    job = job_for(**stores(tmp_path, source, target), id_column="ID", passthrough_columns=["age"], mini_batch_size=40)

    report = await run_job(job, NOBODY, options=QUICK)

    header, *expected = gold(server, csv_text(people_rows(N_ROWS)))
    rows = got(tmp_path / f"out.{target}")
    assert report.rows_scored == len(rows) == N_ROWS
    assert list(rows[0]) == ["ID", *header, "age"]
    assert [row["ID"] for row in rows] == [f"{i:05d}" for i in range(N_ROWS)]
    assert [str(row["age"]).removesuffix(".0") for row in rows] == [row[1] for row in people_rows(N_ROWS)]
    for place, name in enumerate(header):
        numeric = name.endswith(("yes_PREDICTION", "no_PREDICTION", "THRESHOLD"))
        column = [float(row[name]) if numeric else row[name] for row in rows]
        assert column == [float(line[place]) if numeric else line[place] for line in expected]


@pytest.mark.parametrize("n_rows", [N_ROWS, 0], ids=["rows", "no rows"])
async def test_parquet_keeps_types_and_nulls(n_rows: int, job_for: Any, tmp_path: Path) -> None:
    pq.write_table(people().slice(0, n_rows), tmp_path / "in.parquet", row_group_size=40)
    job = job_for(**stores(tmp_path, "parquet", "parquet"), passthrough_columns_set="all", mini_batch_size=16)

    await run_job(job, NOBODY, options=QUICK)

    written, before = pq.read_table(tmp_path / "out.parquet"), people().slice(0, n_rows)
    for name in before.column_names:
        assert written.column(name).to_pylist() == before.column(name).to_pylist()
        assert written.schema.field(name).type == before.schema.field(name).type
    assert written.schema.field("bought_yes_PREDICTION").type == pa.float64()
    assert written.schema.field("bought_PREDICTION").type == pa.string()


async def test_json_keeps_numbers_as_they_were_written(job_for: Any, tmp_path: Path) -> None:
    row = {"age": 30, "income": 1.5, "city": "Oslo", "member": True, "note": None, "deep": {"a": [1, 2.50]}}
    text = json.dumps(row).replace("30", "3e1").replace("1.5", "1.50")
    (tmp_path / "in.jsonl").write_text(f"\n{text}\n\n{text}")
    job = job_for(**stores(tmp_path, "jsonl", "jsonl"), passthrough_columns_set="all", include_probabilities=False)

    await run_job(job, NOBODY, options=QUICK)

    first, second = (tmp_path / "out.jsonl").read_text().splitlines()
    assert first == second
    assert first.endswith(
        '"POSITIVE_CLASS":"yes","age":3e1,"income":1.50,"city":"Oslo","member":true,"note":null,"deep":{"a": [1, 2.5]}}'
    )


async def test_numeric_labels_stay_numbers(job_for: Any, multiclass_server: str, tmp_path: Path) -> None:
    put(tmp_path / "in.jsonl")

    await run_job(job_for(multiclass_server, **stores(tmp_path, "jsonl", "jsonl")), NOBODY, options=QUICK)

    assert {row["tier_PREDICTION"] for row in got(tmp_path / "out.jsonl")} <= {1, 2, 3}


@pytest.mark.parametrize(
    "line",
    ['{"age": 1', "[1]", '{"age":1},{"age":2}', '"text"', '{"age":"old","income":1,"city":"x","member":true}'],
    ids=["torn", "array", "two objects", "string", "bad value"],
)
async def test_a_bad_line_is_one_row(line: str, job_for: Any, tmp_path: Path) -> None:
    put(tmp_path / "in.jsonl")
    lines = (tmp_path / "in.jsonl").read_text().splitlines()
    lines[70] = line
    (tmp_path / "in.jsonl").write_text("\n".join(lines))

    with pytest.raises(RowRefused, match=r"in\.jsonl, row 70 \(line 71\)"):
        await run_job(job_for(**stores(tmp_path, "jsonl", "csv")), NOBODY, options=QUICK)

    errors = {"mode": "skip", "path": str(tmp_path / "errors.jsonl")}
    job = job_for(**stores(tmp_path, "jsonl", "jsonl"), errors=errors, passthrough_columns=["ID"])
    report = await run_job(job, NOBODY, options=QUICK)
    assert (report.rows_scored, report.rows_failed) == (N_ROWS - 1, 1)
    assert json.loads((tmp_path / "errors.jsonl").read_text())["row"] == 70


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        pytest.param(lambda data: data[:3], "it has 3 bytes", id="tiny"),
        pytest.param(lambda data: data[:-100], "PAR1", id="cut"),
        pytest.param(lambda data: data[:-8] + b"\xff\xff\xff\x7f" + data[-4:], "footer is longer", id="footer"),
        pytest.param(
            lambda data: data[:4] + b"\xff" * 200 + data[204:], "not a Parquet file that can be read", id="damaged"
        ),
    ],
)
async def test_no_parquet(harm: Any, message: str, job_for: Any, tmp_path: Path) -> None:
    put(tmp_path / "in.parquet")
    (tmp_path / "in.parquet").write_bytes(harm((tmp_path / "in.parquet").read_bytes()))

    with pytest.raises(IntakeError, match=rf"in\.parquet: .*{message}"):
        await run_job(job_for(**stores(tmp_path, "parquet", "csv")), NOBODY, options=QUICK)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "zstd", "snappy"])
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_sizes_of_pages(version: str, compression: str, use_dictionary: bool, tmp_path: Path) -> None:
    """They and their headers add up to what the file itself says of its columns."""
    options: dict[str, Any] = {"write_page_checksum": True, "data_page_version": version, "data_page_size": 500}
    path = tmp_path / "x.parquet"
    table = pa.concat_tables([people()] * 20)
    pq.write_table(table, path, compression=compression, use_dictionary=use_dictionary, **options)
    data, group = path.read_bytes(), pq.read_metadata(path).row_group(0)
    for column in (group.column(place) for place in range(group.num_columns)):
        start = column.dictionary_page_offset or column.data_page_offset
        chunk = data[start : start + column.total_compressed_size]
        pages = list(page_sizes(chunk))
        overhead = column.total_uncompressed_size - sum(pages)
        assert 0 < overhead < 100 * len(pages)
        with pytest.raises(ValueError, match="header"):
            list(page_sizes(chunk + b"\xff"))


@given(st.binary(max_size=200))
def test_any_bytes_are_pages_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert all(size >= 0 for size in page_sizes(data))


BOMB = """
import asyncio, sys
from pathlib import Path
from batch.definition import definition_from
from batch.errors import BatchError
from batch.runner import RunOptions, run_job
from batch.settings import Credentials
def job(name):
    return definition_from({"prediction_endpoint": sys.argv[1],
        "intake_settings": {"type": "filesystem", "path": sys.argv[2] + "/" + name},
        "output_settings": {"type": "filesystem", "path": sys.argv[2] + "/out.csv"}}).job
for name in sys.argv[3:]:
    try:
        done = asyncio.run(run_job(job(name), Credentials(), options=RunOptions(limit=20_000)))
        print(done.rows_scored)
    except BatchError as error:
        print(error)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def test_bombs_are_read_in_flat_memory_or_refused(server: str, tmp_path: Path) -> None:
    """Small files that unpack to much: rows without end in gzip and in a row group, a cell, and a page."""
    row = {"age": 30, "income": 1.0, "city": "Oslo", "member": True}
    with gzip.open(tmp_path / "rows.csv.gz", "wb", compresslevel=1) as file:
        file.write(b"age,income,city,member\n")
        for _ in range(100):
            file.write(b"30,1.0,Oslo,true\n" * 100_000)
    with gzip.open(tmp_path / "cell.csv.gz", "wb", compresslevel=1) as file:
        file.write(b'age,income,city,member\n30,1.0,"')
        for _ in range(400):
            file.write(bytes(2**20))
    many = pa.RecordBatch.from_pylist([row] * 10_000)
    with pq.ParquetWriter(tmp_path / "rows.parquet", many.schema) as writer:
        for _ in range(2000):
            writer.write_batch(many, row_group_size=20_000_000)
    one = pa.Table.from_pylist([{**row, "city": "x" * 300_000_000}])
    pq.write_table(one, tmp_path / "page.parquet", compression="zstd", use_dictionary=False, write_statistics=False)
    names = ["rows.csv.gz", "cell.csv.gz", "rows.parquet", "page.parquet"]
    assert max((tmp_path / name).stat().st_size for name in names) < 20_000_000

    command = [sys.executable, "-c", BOMB, server, str(tmp_path), *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    in_gzip, cell, in_group, page, kilobytes = done.stdout.splitlines()
    assert (in_gzip, in_group) == ("20000", "20000")
    assert "cell.csv.gz: after line 1: a record is longer than 17 MiB" in cell
    assert "page.parquet: row group 0, column 'city': a page unpacks to 300000" in page
    assert int(kilobytes) < 300 * 1024


async def test_parquet_within_gzip_is_refused(job_for: Any, tmp_path: Path) -> None:
    """Where a directory holds it, and its format is only known from the job."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    intake = {"type": "filesystem", "path": f"{tmp_path}/in/", "format": "parquet"}

    with pytest.raises(IntakeError, match=r"x\.parquet\.gz: a Parquet file is compressed inside"):
        await run_job(job_for(intake_settings=intake), NOBODY, options=QUICK)


FORMULAS = ["=1+1", "+cmd", "-2+3", "@sum", "\ttab", "\rline", '=HYPERLINK("x","y")', "-", "=a,b"]
PLAIN = ["-1.5", "+3", "1e-5", "-inf", ".5", "a=b", "", "'=1", "a,=b", " x", "-.5E+3"]


@pytest.mark.parametrize("source", ["csv", "quoted.csv", "jsonl", "parquet"])
@pytest.mark.parametrize("keys", [{}, {"csv_settings": {"delimiter": ";", "quotechar": "'"}}], ids=["comma", "other"])
async def test_formulas_are_made_text_if_asked_for(source: str, keys: Any, job_for: Any, tmp_path: Path) -> None:
    """Only what could be one; without the option every cell is passed as it is."""
    formulas = [cell for cell in FORMULAS if source != "csv" or "\r" not in cell]  # it is a line end
    cells = formulas + PLAIN
    row = {"age": 1, "income": 2, "city": "Oslo", "member": True}
    dialect = keys.get("csv_settings", {})
    if source.endswith("csv"):
        rows = [["1", "2", "Oslo", "true", cell, "x"] for cell in cells]
        quoting = csv.QUOTE_ALL if source == "quoted.csv" else csv.QUOTE_MINIMAL
        text = csv_text(rows, [*row, "note", "=id"], quoting=quoting, **dialect)
        (tmp_path / f"in.{source}").write_text(text, newline="")
    elif source == "jsonl":
        lines = [json.dumps({**row, "note": cell, "=id": "x"}) for cell in cells]
        (tmp_path / "in.jsonl").write_text("\n".join(lines))
    else:
        pq.write_table(
            pa.Table.from_pylist([{**row, "note": cell, "=id": "x"} for cell in cells]), tmp_path / "in.parquet"
        )

    for escape in (False, True):
        output = {"passthrough_columns": ["note", "=id"], "csv_formula_escape": escape}
        await run_job(job_for(**stores(tmp_path, source, "csv"), **keys, **output), NOBODY, options=QUICK)
        header, *written = read_csv(tmp_path / "out.csv", **dialect)
        assert header[-1] == ("'=id" if escape else "=id")
        assert [row[-2] for row in written] == [f"'{cell}" if escape else cell for cell in formulas] + PLAIN


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(gzip.compress(b"a,b\n" * 1000)[:-20], "ends too early", id="cut"),
        pytest.param(b"a,b\n1,2\n", "damaged gzip", id="none"),
    ],
)
async def test_no_gzip(data: bytes, message: str, job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv.gz").write_bytes(data)

    with pytest.raises(IntakeError, match=rf"in\.csv\.gz: .*{message}"):
        await run_job(job_for(**stores(tmp_path, "csv.gz", "csv")), NOBODY, options=QUICK)


async def test_bytes_of_another_encoding(job_for: Any, tmp_path: Path) -> None:
    text = csv_text(people_rows(5))
    (tmp_path / "in.csv").write_bytes(text.encode() + b"\xff\xff\n")

    with pytest.raises(IntakeError, match=r"in\.csv: not shift_jis after byte 0"):
        await run_job(job_for(csv_settings={"encoding": "shift_jis"}), NOBODY, options=QUICK)


@pytest.mark.parametrize("target", ["csv.gz", "parquet", "jsonl"])
@pytest.mark.parametrize("source", ["csv", "csv.gz", "jsonl", "parquet"])
async def test_continued_files_are_the_same(
    source: str, target: str, job_for: Any, server: str, tmp_path: Path
) -> None:
    """Also those that no bytes can be appended to."""
    place = tmp_path / f"in.{source}"
    if source == "csv.gz":
        place.write_bytes(gzip.compress(csv_text(people_rows(N_ROWS)).encode()))
    else:
        put(place)
    keys = {**stores(tmp_path, source, target), "num_concurrent": 1, "passthrough_columns_set": "all"}
    await run_job(job_for(**keys, mini_batch_size=13), NOBODY, options=QUICK)
    whole = (tmp_path / f"out.{target}").read_bytes()
    (tmp_path / f"out.{target}").unlink()
    async with proxy(server, lambda n: "pass" if n < 4 else "503") as between:
        with pytest.raises(ScoringServerError):
            await run_job(
                job_for(between.url, **keys, mini_batch_size=13),
                NOBODY,
                options=RunOptions(retry=RetryPolicy(tries=1)),
            )

    report = await run_job(job_for(**keys, mini_batch_size=7), NOBODY, options=QUICK)

    assert report.rows_resumed >= 39
    assert (tmp_path / f"out.{target}").read_bytes() == whole
