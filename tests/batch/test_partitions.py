"""Parquet in directories by value: every row is in the right one, in order, however often the job was interrupted."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch import partitions
from batch.errors import JobError, OutputError, ScoringServerError
from batch.formats.parquet import block_of
from batch.partitions import MISSING, directories
from batch.retries import RetryPolicy
from batch.runner import RunOptions, run_job
from batch.settings import Credentials
from tests.batch.faults import proxy
from tests.batch.jobs import QUICK, csv_text, people_rows

NOBODY = Credentials()
N_ROWS = 150


def parted(place: Path, *columns: str) -> dict[str, Any]:
    """Keys of a job that parts its output."""
    output = {
        "type": "filesystem",
        "path": f"{place}/out/",
        "format": "parquet",
        "partition_columns": list(columns or ("city", "member")),
    }
    return {"output_settings": output, "passthrough_columns_set": "all", "mini_batch_size": 13}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """With an input."""
    (tmp_path / "in.csv").write_text(csv_text(people_rows(N_ROWS)), newline="")
    return tmp_path


def files_in(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


async def test_each_row_is_in_its_directory_in_order(job_for: Any, place: Path) -> None:
    report = await run_job(job_for(**parted(place)), NOBODY, options=QUICK)

    expected: dict[str, list[str]] = {}
    for row in people_rows(N_ROWS):
        name = f"city={quote(row[3], safe='') or MISSING}/member={row[4]}/part-00000.parquet"
        expected.setdefault(name, []).append(row[0])
    tables = {name: pq.read_table(pa.BufferReader(data)) for name, data in files_in(place / "out").items()}
    assert {name: table.column("ID").to_pylist() for name, table in tables.items()} == expected
    assert all({"city", "member"}.isdisjoint(table.column_names) for table in tables.values())
    assert list(report.outputs) == [f"{place}/out/"]
    assert not [name for name in files_in(place) if ".resume" in name]


async def test_pyarrow_reads_it_back(job_for: Any, place: Path) -> None:
    await run_job(job_for(**parted(place)), NOBODY, options=QUICK)

    rows = pq.read_table(place / "out").to_pylist()
    assert {row["ID"]: row["city"] for row in rows} == {row[0]: row[3] or None for row in people_rows(N_ROWS)}
    assert len(rows) == N_ROWS


async def test_continued_directories_are_the_same(job_for: Any, place: Path) -> None:
    keys = parted(place)
    await run_job(job_for(**keys), NOBODY, options=QUICK)
    whole = files_in(place / "out")
    for path in (place / "out").rglob("*.parquet"):
        path.unlink()
    async with proxy(job_for().prediction_endpoint, lambda n: "pass" if n < 4 else "503") as between:
        with pytest.raises(ScoringServerError):
            await run_job(
                job_for(between.url, **keys, num_concurrent=1),
                NOBODY,
                options=RunOptions(retry=RetryPolicy(tries=1)),
            )
    assert not list((place / "out").rglob("*.parquet"))

    report = await run_job(job_for(**keys | {"mini_batch_size": 7}), NOBODY, options=QUICK)

    assert report.rows_resumed >= 39
    assert files_in(place / "out") == whole


async def test_too_many_directories(job_for: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "MOST", 100)
    with pytest.raises(OutputError, match="partition_columns ID: more than 100 different values"):
        await run_job(job_for(**parted(place, "ID")), NOBODY, options=QUICK)
    assert not list((place / "out").rglob("*.parquet"))


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize(
    ("keys", "columns", "message"),
    [
        pytest.param({}, ["town"], "partition_columns: not in the output: 'town'", id="unknown"),
        pytest.param({"column_names_remapping": {"city": None}}, ["city"], "not in the output: 'city'", id="left out"),
    ],
)
async def test_columns_that_are_not_there(
    validate: bool, keys: Any, columns: list[str], message: str, job_for: Any, place: Path
) -> None:
    options = RunOptions(validate=validate, retry=QUICK.retry)
    with pytest.raises(JobError, match=message):
        await run_job(job_for(**parted(place, *columns), **keys), NOBODY, options=options)


@pytest.mark.parametrize(
    ("column", "names"),
    [
        pytest.param(pa.array(["a/b", "..", None, "", "100 %"]), ["a%2Fb", "..", MISSING, MISSING, "100%20%25"], id="text"),
        pytest.param(pa.array([1, None, -3]), ["1", MISSING, "-3"], id="whole numbers"),
        pytest.param(pa.array([True, False, None]), ["true", "false", MISSING], id="booleans"),
        pytest.param(pa.array(["x", None, "x"]).dictionary_encode(), ["x", MISSING, "x"], id="dictionary"),
    ],
)  # fmt: skip
def test_names_of_directories(column: pa.Array, names: list[str]) -> None:
    table = pa.table({"a=b": column, "n": pa.array(range(len(column)))})
    assert directories(table, ["a=b"]).to_pylist() == [f"a%3Db={name}" for name in names]


def test_a_value_too_long_for_a_name(tmp_path: Path) -> None:
    parts = partitions.Partitions(tmp_path / "parts", ["a"])
    parts.feed(block_of(pa.table({"a": ["é" * 60], "b": [1]})))
    with pytest.raises(OutputError, match="too long for a directory: a=%C3%A9"):
        parts.close()
