"""Columns of Java as columns of Arrow, and back: whole arrays at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jpype
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.errors import IntakeError
from batch.jdbc.templates import Kind, Template

BOOL, INT, LONG, FLOAT, DOUBLE, DATE, TIME, INSTANT, DECIMAL, TEXT = range(10)
"""As `Bridge.java` numbers them."""
_ARROW: Final[Mapping[int, pa.DataType]] = {
    BOOL: pa.bool_(),
    INT: pa.int32(),
    LONG: pa.int64(),
    FLOAT: pa.float32(),
    DOUBLE: pa.float64(),
    DATE: pa.date32(),
    TIME: pa.timestamp("us"),
    INSTANT: pa.timestamp("us", "UTC"),
    DECIMAL: pa.string(),
    TEXT: pa.string(),
}
_KINDS: Final[Mapping[int, int]] = {  # java.sql.Types
    **dict.fromkeys((-7, 16), BOOL),
    **dict.fromkeys((-6, 5, 4), INT),
    -5: LONG,
    7: FLOAT,
    **dict.fromkeys((6, 8), DOUBLE),
    91: DATE,
    93: TIME,
    2014: INSTANT,
    **dict.fromkeys((2, 3), DECIMAL),
}
_BINARY: Final = frozenset((-2, -3, -4, 2004))
_MOST_DIGITS: Final = 76
_TIME_OF_DAY: Final = 92
NAMES: Final[Mapping[int, Kind]] = {
    BOOL: "boolean",
    INT: "integer",
    LONG: "bigint",
    FLOAT: "float",
    DOUBLE: "double",
    DATE: "date",
    TIME: "timestamp",
    INSTANT: "instant",
    TEXT: "text",
}


@dataclass(frozen=True)
class Column:
    """A column of a result."""

    name: str
    kind: int
    type: pa.DataType
    database_type: str
    """As the database calls it."""
    decimals: int | None = None
    """Of a time of day: some drivers write more than the column has."""


def columns_of(bridge: Any, about: Any) -> list[Column]:
    """
    The columns that a ``ResultSetMetaData`` is about.

    Raises:
        IntakeError: one of them is binary.
    """
    names = [(str(name), str(type_name)) for name, type_name in bridge.namesOf(about)]
    types = [tuple(int(item) for item in row) for row in bridge.typesOf(about)]
    if binary := [
        name
        for (name, type_name), (code, *_) in zip(names, types, strict=True)
        if code in _BINARY and type_name.upper() != "UUID"
    ]:
        raise IntakeError(f"columns of binary data cannot be scored: {', '.join(map(repr, binary))}; leave them out")
    return [_column(name, type_name, *row) for (name, type_name), row in zip(names, types, strict=True)]


def _column(name: str, type_name: str, code: int, precision: int, scale: int, signed: int) -> Column:
    kind = _KINDS.get(code, TEXT)
    if code == -7 and precision not in (0, 1):
        kind = TEXT  # a string of bits
    if kind == TIME and ("with time zone" in type_name.lower() or type_name.lower() in ("timestamptz", "timestamp_tz")):
        kind = INSTANT
    if not signed and kind == INT:
        kind = LONG
    elif not signed and kind == LONG:
        kind, precision, scale = DECIMAL, 20, 0
    if kind == DECIMAL and 0 < precision <= _MOST_DIGITS and 0 <= scale <= precision:
        exact = pa.decimal128 if precision <= 38 else pa.decimal256
        return Column(name, kind, exact(precision, scale), type_name)
    return Column(name, kind, _ARROW[kind], type_name, scale if code == _TIME_OF_DAY and scale >= 0 else None)


def batch_from(reader: Any, columns: Sequence[Column], n_rows: int) -> pa.RecordBatch:
    """
    The block that a ``Bridge.Reader`` holds.

    Raises:
        IntakeError: a number has more digits than its column's type, or a text is not UTF-8.
    """
    arrays = [_array(reader, place, column, n_rows) for place, column in enumerate(columns)]
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])


def _array(reader: Any, place: int, column: Column, n_rows: int) -> pa.Array:
    valid = np.asarray(reader.valid[place])[:n_rows]
    bits = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    data = np.asarray(reader.data[place])
    if column.kind in (DECIMAL, TEXT):
        offsets = np.asarray(reader.offsets[place])[: n_rows + 1]
        used = data[: offsets[-1]].copy()
        texts = pa.Array.from_buffers(pa.string(), n_rows, [bits, pa.py_buffer(offsets), pa.py_buffer(used)])
        try:
            texts.validate(full=True)
            if column.decimals is not None:
                texts = pc.replace_substring_regex(texts, rf"\.(\d{{{column.decimals}}})0+$", r".\1")
                texts = pc.replace_substring_regex(texts, r"\.$", "")
            return texts if column.type == pa.string() else pc.cast(texts, column.type)
        except pa.ArrowException as exc:
            raise IntakeError(f"column {column.name!r}: a value is no {column.type}") from exc
    if column.kind == BOOL:
        data = np.packbits(data[:n_rows].view(np.uint8), bitorder="little")
    return pa.Array.from_buffers(_ARROW[column.kind], n_rows, [bits, pa.py_buffer(data[:n_rows].copy())])


@dataclass(frozen=True)
class Typed:
    """A column that is to be written."""

    kind: int
    column: pa.Array
    digits: tuple[int, int] = (0, 0)
    """Precision and scale of a decimal."""

    def sql_type(self, template: Template) -> str:
        """Type of a column of a new table."""
        return template.decimal_of(*self.digits) if self.kind == DECIMAL else template.type_of(NAMES[self.kind])


def typed(column: pa.Array) -> Typed:
    """A column with the kind that the bridge writes it as."""
    kind = column.type
    if pa.types.is_decimal(kind):
        return Typed(DECIMAL, column, (kind.precision, kind.scale))
    for fits, number in _FITTING:
        if fits(kind):
            return Typed(number, column.cast(_ARROW[number]))
    if pa.types.is_uint64(kind):
        return Typed(DECIMAL, column.cast(pa.decimal128(20, 0)), (20, 0))
    return Typed(TEXT, column.cast(pa.string()))


_FITTING: Final[Sequence[tuple[Callable[[pa.DataType], bool], int]]] = (
    (pa.types.is_boolean, BOOL),
    (lambda kind: pa.types.is_integer(kind) and kind.bit_width <= 32 and not pa.types.is_uint32(kind), INT),
    (lambda kind: pa.types.is_integer(kind) and not pa.types.is_uint64(kind), LONG),
    (lambda kind: pa.types.is_floating(kind) and kind.bit_width <= 32, FLOAT),
    (pa.types.is_floating, DOUBLE),
    (pa.types.is_date, DATE),
    (lambda kind: pa.types.is_timestamp(kind) and kind.tz is not None, INSTANT),
    (pa.types.is_timestamp, TIME),
)


def block_from(bridge: Any, columns: Sequence[Typed]) -> Any:
    """A ``Bridge.Block`` of some columns of one length."""
    parts = [_to_java(each) for each in columns]
    data, valid, offsets = zip(*parts, strict=True)
    return bridge.Block(
        jpype.JArray(jpype.JInt)([each.kind for each in columns]),
        jpype.JArray(jpype.java.lang.Object)(data),
        jpype.JArray(jpype.JByte, 2)(valid),
        jpype.JArray(jpype.JInt, 2)(offsets),
    )


def _to_java(each: Typed) -> tuple[Any, Any, Any]:
    column, n_rows = each.column, len(each.column)
    bytes_of = jpype.JArray(jpype.JByte)
    valid = bytes_of(np.asarray(column.is_valid()).astype(np.int8)) if column.null_count else None
    if each.kind in (DECIMAL, TEXT):
        texts = column.cast(pa.string())
        _, where, data = texts.buffers()
        offsets = np.frombuffer(where, np.int32)[texts.offset : texts.offset + n_rows + 1]
        raw = np.frombuffer(data, np.int8) if data is not None else np.zeros(0, np.int8)
        return (
            bytes_of(raw[offsets[0] : offsets[-1]]),
            valid,
            jpype.JArray(jpype.JInt)((offsets - offsets[0]).astype(np.int32)),
        )
    if each.kind == BOOL:
        return bytes_of(np.asarray(column.fill_null(False)).astype(np.int8)), valid, None
    array, java = _NUMBERS[each.kind]
    values = np.frombuffer(column.buffers()[1], array)[column.offset : column.offset + n_rows]
    return jpype.JArray(java)(values), valid, None


_NUMBERS: Final[Mapping[int, tuple[Any, Any]]] = {
    INT: (np.int32, jpype.JInt),
    DATE: (np.int32, jpype.JInt),
    LONG: (np.int64, jpype.JLong),
    TIME: (np.int64, jpype.JLong),
    INSTANT: (np.int64, jpype.JLong),
    FLOAT: (np.float32, jpype.JFloat),
    DOUBLE: (np.float64, jpype.JDouble),
}
