"""Whole jobs from store to store: the bytes are those that the same job writes to a file."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from batch.errors import ScoringServerError
from batch.job import Job
from batch.partitions import MISSING
from batch.retries import RetryPolicy
from batch.runner import RunOptions, run_job
from batch.settings import Credentials
from tests.batch.adapters.conftest import STORES, Case
from tests.batch.faults import proxy
from tests.batch.jobs import NO_WAIT, csv_text, people_rows
from tests.stores import Web

TEXT = csv_text(people_rows(300))


async def run(job: Job, credentials: Credentials, tmp_path: Path) -> None:
    report = await run_job(job, credentials, options=RunOptions(retry=NO_WAIT, state_dir=tmp_path / "state"))
    assert (report.rows_read, report.rows_scored) == (300, 300)


@pytest.fixture
async def gold(job_for: Callable[..., Job], tmp_path: Path) -> bytes:
    """What the job writes from file to file."""
    (tmp_path / "in.csv").write_text(TEXT, newline="")
    await run(job_for(passthrough_columns=["ID", "note"]), Credentials(), tmp_path)
    return (tmp_path / "out.csv").read_bytes()


def stores(case: Case, reads: str, writes: str) -> dict[str, Any]:
    at = "path" if case.type == "filesystem" else "url"
    return {
        "intake_settings": {"type": case.type, at: case.address(reads), **case.options},
        "output_settings": {"type": case.type, at: case.address(writes), **case.options},
        "passthrough_columns": ["ID", "note"],
    }


async def test_csv(case: Case, job_for: Callable[..., Job], gold: bytes, tmp_path: Path) -> None:
    case.put("in.csv", TEXT.encode())

    await run(job_for(**stores(case, "in.csv", "res.csv"), chunk_size=4000), case.credentials, tmp_path)

    assert case.stored()["res.csv"] == gold
    assert not case.unfinished()


async def test_many_compressed_files(case: Case, job_for: Callable[..., Job], gold: bytes, tmp_path: Path) -> None:
    rows = people_rows(300)
    for number in range(3):
        case.put(f"in/{number}.csv.gz", gzip.compress(csv_text(rows[100 * number : 100 * number + 100]).encode()))

    await run(job_for(**stores(case, "in/*.csv.gz", "out/")), case.credentials, tmp_path)

    written = {name: data for name, data in sorted(case.stored().items()) if name.startswith("out/")}
    assert len(written) == 3
    plain = [gzip.decompress(data) if name.endswith(".gz") else data for name, data in written.items()]
    head = gold[: gold.index(b"\n") + 1]
    assert head + b"".join(data.removeprefix(head) for data in plain) == gold


async def test_parquet(case: Case, job_for: Callable[..., Job], gold: bytes, tmp_path: Path) -> None:
    table = pyarrow.csv.read_csv(
        io.BytesIO(TEXT.encode()),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types={"ID": pa.string(), "note": pa.string()}),
    )
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, row_group_size=100)
    case.put("in.parquet", sink.getvalue())

    await run(job_for(**stores(case, "in.parquet", "out.parquet")), case.credentials, tmp_path)

    scored = pyarrow.parquet.read_table(io.BytesIO(case.stored()["out.parquet"]))
    expected = pyarrow.csv.read_csv(
        io.BytesIO(gold), convert_options=pyarrow.csv.ConvertOptions(column_types={"ID": pa.string()})
    )
    assert scored.column("ID").to_pylist() == expected.column("ID").to_pylist()
    assert scored.num_rows == 300


@pytest.mark.parametrize("case", [name for name in STORES if name != "nanio"], indirect=True)  # signs % otherwise
async def test_parquet_in_directories_by_value(
    case: Case, job_for: Callable[..., Job], server: str, tmp_path: Path
) -> None:
    """Whole in each store, also when it is continued."""
    case.put("in.csv", TEXT.encode())
    keys = stores(case, "in.csv", "out/") | {"passthrough_columns_set": "all", "passthrough_columns": None}
    keys["output_settings"] |= {"format": "parquet", "partition_columns": ["city", "member"]}
    options = RunOptions(retry=RetryPolicy(tries=1), state_dir=tmp_path / "state")
    keys |= {"mini_batch_size": 20, "num_concurrent": 1}
    async with proxy(server, lambda n: "pass" if n < 9 else "503") as between:
        with pytest.raises(ScoringServerError):
            await run_job(job_for(between.url, **keys), case.credentials, options=options)
    assert [name for name in case.stored() if ".resume/" not in name] == ["in.csv"]

    await run(job_for(**keys), case.credentials, tmp_path)

    expected: dict[str, list[str]] = {}
    for row in people_rows(300):
        name = f"out/city={quote(row[3], safe='') or MISSING}/member={row[4]}/part-00000.parquet"
        expected.setdefault(name, []).append(row[0])
    written = {name: data for name, data in case.stored().items() if name.startswith("out/")}
    tables = {name: pyarrow.parquet.read_table(pa.BufferReader(data)) for name, data in written.items()}
    assert {name: table.column("ID").to_pylist() for name, table in tables.items()} == expected
    assert not case.unfinished()


async def test_http(web: Web, job_for: Callable[..., Job], gold: bytes, tmp_path: Path) -> None:
    web.files["in.csv"] = TEXT.encode()
    job = job_for(
        intake_settings={"type": "http", "url": f"{web.url}/in.csv"},
        output_settings={"type": "http", "url": f"{web.url}/out.csv"},
        passthrough_columns=["ID", "note"],
    )

    await run(job, Credentials(private_addresses_enabled=True), tmp_path)

    assert web.files["out.csv"] == gold
