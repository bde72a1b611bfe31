"""PostgreSQL's COPY: rows as one text, and which of them it stopped at."""

import re
from contextlib import suppress
from typing import Any

import jpype
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv


def load(java: Any, sql: str, rows: pa.Table) -> None:
    """Run `statements.copy_in`; raises what the driver raises."""
    sink = pa.BufferOutputStream()
    arrow_csv.write_csv(rows, sink, arrow_csv.WriteOptions(include_header=False))
    data = np.frombuffer(sink.getvalue(), np.int8)
    operation = java.getCopyAPI().copyIn(sql)
    try:
        operation.writeToCopy(jpype.JArray(jpype.JByte)(data), 0, len(data))
        operation.endCopy()
    finally:
        with suppress(jpype.JException):
            if operation.isActive():
                operation.cancelCopy()


def line_of(exc: Any, table: str) -> int | None:
    """The line that the server was at, in whatever language it says so."""
    said = exc.getServerErrorMessage() if hasattr(exc, "getServerErrorMessage") else None
    where = str(said.getWhere() or "") if said is not None else ""
    found = re.search(rf"COPY {re.escape(table)}\D+(\d+)", where)
    return int(found[1]) if found else None


def row_at(line: int | None, rows: pa.Table) -> int | None:
    """
    The row whose text has that line, the first one being 1.

    The server counts line feeds inside of quotes, too, but carriage returns in the first row: it has seen no end of
    a line then, by which it knows the one from the other.
    """
    texts = [column for column in rows.columns if pa.types.is_string(column.type)]
    lines = np.ones(rows.num_rows, np.int64)
    for column in texts:
        lines += _count(column, "\n")
        lines[:1] += _count(column[:1], "\r") - _count(column[:1], "\n")
    row = int(np.searchsorted(np.cumsum(lines), line)) if line else rows.num_rows
    return row if row < rows.num_rows else None


def _count(column: pa.ChunkedArray, what: str) -> Any:
    return np.asarray(pc.count_substring(column, what).fill_null(0))
