"""Cutting raw records says the same as the standard library's reader, whatever the bytes are."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.chunking import MAX_RECORD, MIB, Cutter, RecordTooLong
from batch.dialect import WIRE, Dialect

SEMICOLON = Dialect(";", "'")
messy = st.text(alphabet="ab\",;'\n\r é", max_size=60)
cells = st.text(alphabet="ab\",;'\n\r é0", max_size=8)
tables = st.lists(st.lists(cells, min_size=2, max_size=4), min_size=1, max_size=12)


def read(text: str, dialect: Dialect = WIRE) -> list[list[str]]:
    """The authority."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=dialect.delimiter, quotechar=dialect.quotechar)
    return [row for row in rows if row]


def written(rows: list[list[str]], dialect: Dialect, end: str) -> str:
    return "".join(dialect.line(row).decode() + end for row in rows)


@pytest.mark.parametrize("dialect", [WIRE, SEMICOLON], ids=["comma", "semicolon"])
@given(text=messy)
def test_any_text_has_the_records_of_the_authority(dialect: Dialect, text: str) -> None:
    if read(text + "\n\0\n", dialect)[-1:] != [["\0"]]:
        return  # a quote is never closed

    records = dialect.records(text.encode())

    assert [dialect.cells(record) for record in records] == read(text, dialect)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("dialect", [WIRE, SEMICOLON], ids=["comma", "semicolon"])
@given(rows=tables, size=st.integers(1, 40), block=st.integers(1, 50))
def test_chunks_hold_every_record_once(
    dialect: Dialect, end: str, rows: list[list[str]], size: int, block: int
) -> None:
    data = written(rows, dialect, end).encode()
    chunks = cut(data, block, dialect, size)

    assert b"".join(chunks).rstrip(b"\r\n") == data.rstrip(b"\r\n")
    assert [dialect.cells(r) for chunk in chunks for r in dialect.records(chunk)] == read(data.decode(), dialect)


@given(text=messy, size=st.integers(1, 40), block=st.integers(1, 50))
def test_chunks_of_any_text_are_cut_between_records(text: str, size: int, block: int) -> None:
    """Also with quotes where none should be, as long as the last one is closed."""
    rows = read(text)
    if read(text + "\n\0\n")[-1:] != [["\0"]]:
        return

    assert [WIRE.cells(r) for chunk in cut(text.encode(), block, WIRE, size) for r in WIRE.records(chunk)] == rows


@given(rows=tables, count=st.integers(1, 5), block=st.integers(1, 50))
def test_chunks_of_so_many_rows(rows: list[list[str]], count: int, block: int) -> None:
    chunks = cut(written(rows, WIRE, "\n").encode(), block, WIRE, 1, count)

    sizes = [len(WIRE.records(chunk)) for chunk in chunks]
    assert sizes[:-1] == [count] * (len(sizes) - 1)
    assert sum(sizes) == len(rows)


@given(rows=tables)
def test_raw_cells_are_the_bytes_of_the_record(rows: list[list[str]]) -> None:
    for record in WIRE.records(written(rows, WIRE, "\n").encode()):
        raw = WIRE.raw_cells(record)

        assert b",".join(raw) == record
        assert [WIRE.cells(cell)[0] if cell else "" for cell in raw] == WIRE.cells(record)


@given(rows=tables)
def test_another_dialect_says_the_same(rows: list[list[str]]) -> None:
    data = SEMICOLON.rewritten(written(rows, SEMICOLON, "\r\n").encode(), WIRE)

    assert read(data.decode()) == rows


@pytest.mark.parametrize(
    "record",
    [b'5" pipe,00012', b'"a"b,1e5', b' "a",2', b'a"b"c,3'],
    ids=["stray quote", "text after quote", "blank before quote", "quotes inside"],
)
def test_odd_quotes_keep_the_cells(record: bytes) -> None:
    raw = WIRE.raw_cells(record)

    assert WIRE.cells(b",".join(raw)) == WIRE.cells(record)
    assert WIRE.records(record + b"\n" + record + b"\n") == [record, record]


def test_nothing_is_quoted_without_a_quotechar() -> None:
    plain = Dialect("\t", "")

    assert plain.records(b'"a\tb\n"c\td\n') == [b'"a\tb', b'"c\td']
    assert plain.rewritten(b'"a\tb\n', WIRE) == b'"""a",b\n'


def cut(data: bytes, block: int, dialect: Dialect, size: int, count: int | None = None) -> list[bytes]:
    cutter, chunks = Cutter(dialect), []
    for start in range(0, len(data), block):
        cutter.feed(data[start : start + block])
        while (chunk := cutter.take(size, count)) is not None:
            chunks.append(chunk)
    cutter.end()
    while (chunk := cutter.take(size, count)) is not None:
        chunks.append(chunk)
    return chunks


@pytest.mark.parametrize("count", [None, 10], ids=["bytes", "rows"])
@pytest.mark.parametrize(
    "block", [bytes(MIB), b'"' + bytes(MIB), b"a\n"[:1] * MIB], ids=["sparse", "open quote", "text"]
)
def test_an_endless_record_is_refused(count: int | None, block: bytes) -> None:
    cutter = Cutter(WIRE)
    fed = 0
    with pytest.raises(RecordTooLong, match="longer than 17 MiB"):
        while True:
            cutter.feed(block)
            fed += len(block)
            assert cutter.take(MIB, count) is None
    assert fed <= 2 * MAX_RECORD


@pytest.mark.parametrize("count", [None, 1, 10], ids=["bytes", "a row", "rows"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""], ids=["LF", "CRLF", "CR", "no end"])
def test_a_quote_that_is_never_closed_is_refused_in_a_small_file_too(count: int | None, end: str) -> None:
    """Or all rows behind it would be one."""
    with pytest.raises(RecordTooLong, match="never closed"):
        cut(f'a,b\n1,2\n3,"4\n5,6\n7,8{end}'.encode(), 5, WIRE, 4, count)
