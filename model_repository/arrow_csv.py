"""
The fast CSV reader: pyarrow, block by block, straight into columns.

It may only ever agree with the strict reader in `csv_codec` or doubt: whatever pyarrow refuses, and whatever it would
take with a wider meaning (NaN and infinities by any spelling, a quote that is never closed), raises `Doubt`, and the
strict reader decides. So this module words no errors.

Importing it imports pyarrow.
"""

import codecs
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.csv

from model_repository.cells import NULL_TOKENS, flag_from, text_converter, text_from
from model_repository.charsets import ByteStream
from model_repository.tables import CodeArray, Feature, FloatArray, Schema, Strings, Table

END_MARK: Final = "\0"
"""A record after the last one: it arrives as such unless a quote is still open. NUL is refused elsewhere."""
SLICE_CELLS: Final = 8192
_TEXT: Final = pa.string()
_CODED_TEXT: Final = pa.dictionary(pa.int32(), pa.string())


class Doubt(Exception):
    """The strict reader has to look at this body."""


class TextColumn(Sequence[str]):
    """Cells as the client wrote them, held as one buffer and not as Python strings; a slice of it is a list."""

    __slots__ = ("_array",)

    def __init__(self, array: Any) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), SLICE_CELLS):
            yield from self[start : start + SLICE_CELLS]

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> Any:
        found = self._array[place]
        return found.to_pylist() if isinstance(place, slice) else found.as_py()


def arrow_tables(
    records: memoryview, header: Sequence[str], schema: Schema, kept: Sequence[str], block_bytes: int
) -> Iterator[Table]:
    """
    The columns of *schema*, and those *kept*, of one block of records after the other.

    Args:
        records: UTF-8, without the header.
        header: the names of all columns.

    Raises:
        Doubt: also after some blocks; those were right.
    """
    if bytes(records[:3]) == codecs.BOM_UTF8:  # pyarrow takes it for the beginning of a file, and drops it
        raise Doubt
    types = {feature.name: pa.float64() if feature.type == "numeric" else _CODED_TEXT for feature in schema.features}
    blocks = _blocks(records, header, types, block_bytes, sorted(NULL_TOKENS))
    if not kept:
        for block in blocks:
            yield _table(block, schema, {})
        return
    # Kept cells stay what the client wrote, so they are read once more as nothing but text, in step: the same block
    # size and the same bytes make the same blocks.
    texts = _blocks(records, header, dict.fromkeys(kept, _TEXT), block_bytes, [])
    for block in blocks:
        text = next(texts, None)
        if text is None or text.num_rows != block.num_rows:
            raise Doubt
        yield _table(block, schema, {name: TextColumn(text.column(name)) for name in kept})


def _blocks(
    records: memoryview, header: Sequence[str], types: dict[str, Any], block_bytes: int, null_tokens: list[str]
) -> Iterator[Any]:
    ends: list[str] = []

    def is_end(row: Any) -> Literal["skip", "error"]:
        ends.append(row.text)
        return "skip" if row.text in (END_MARK, f"{END_MARK},{END_MARK}") else "error"

    # One field too few for any table but that of one column, where it is one too many.
    tail = f"\n{END_MARK}\n" if len(header) > 1 else f"\n{END_MARK},{END_MARK}\n"
    n_rows = 0
    try:
        reader = pyarrow.csv.open_csv(
            pa.PythonFile(ByteStream(records, tail.encode()), "r"),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=block_bytes, column_names=header),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=is_end),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=null_tokens,
                strings_can_be_null=bool(null_tokens),
                quoted_strings_can_be_null=bool(null_tokens),
            ),
        )
        for block in reader:
            n_rows += block.num_rows
            if block.num_rows:
                yield block
    except pa.ArrowException as exc:
        raise Doubt from exc
    if not ends or not n_rows:
        raise Doubt


def _table(block: Any, schema: Schema, kept: dict[str, Sequence[Any]]) -> Table:
    numeric: dict[str, FloatArray] = {}
    strings: dict[str, Strings] = {}
    for feature in schema.features:
        column = block.column(feature.name)
        if feature.type == "numeric":
            numeric[feature.name] = _numbers(column)
        elif feature.type == "boolean":
            numeric[feature.name] = _flags(column)
        else:
            strings[feature.name] = Strings(_codes(column), _values(column, feature))
    return Table(block.num_rows, numeric, strings, kept)


def _numbers(column: Any) -> FloatArray:
    numbers: FloatArray = column.to_numpy(zero_copy_only=False)
    if np.count_nonzero(np.isfinite(numbers)) + column.null_count != len(numbers):
        raise Doubt
    return numbers


def _flags(column: Any) -> FloatArray:
    try:
        flags = [flag_from(text) for text in column.dictionary.to_pylist()]
    except ValueError as exc:
        raise Doubt from exc
    return np.array([*flags, None], dtype=np.float64)[_codes(column)]  # code -1 is the last: missing


def _values(column: Any, feature: Feature) -> list[str]:
    texts: list[str] = column.dictionary.to_pylist()
    read = text_converter(feature)
    if read is text_from:
        return texts
    values = [value for value in map(read, texts) if value is not None]
    if len(set(values)) != len(texts):  # 2 and 2.0
        raise Doubt
    return values


def _codes(column: Any) -> CodeArray:
    codes: CodeArray = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes
