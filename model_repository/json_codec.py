"""
JSON in: an array of flat objects, one per row, in UTF-8.

msgspec decodes what is typed as the schema says, and skips other keys. What it refuses is read again by orjson, which
either words the error or finds a lenient case (``"5"`` for a number, ``5`` for a text) that `cells` allows.

A large array is cut into pieces before a comma between ``}`` and ``{``, without parsing it first. Such a place may lie
within a string or a nested array, but then the piece before it, closed by a bracket, is not JSON, since that string or
object never ends. So a piece that parses was cut right, and one that does not is cut again further on.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import msgspec
import orjson
from msgspec import UNSET, UnsetType
from msgspec.structs import astuple

from model_repository.cells import MAX_COLUMNS, json_converter, text_converter, text_from
from model_repository.charsets import Body, utf8_of
from model_repository.errors import MalformedBody, MissingColumns, UnknownPassthroughColumns, UnscorableValue
from model_repository.predictions import Keep
from model_repository.tables import Feature, Rows, Schema, Table

PIECE_BYTES: Final = 512 * 1024
"""The GIL is held while a piece is decoded: about 2 ms."""
FREE_CELLS: Final = 1_000_000
"""So many kept values may be absent; beyond, there must be a byte of the body for each."""

MOST_CONTAINERS: Final = 200_000
MOST_VALUES: Final = 2_000_000
"""In a piece that has to be built whole; usual pieces have fewer by their size alone."""

KEPT_DECODERS: Final = 64
"""Making one takes a tenth of loading a small model; versions of a model, and models of one table, share it."""

_OPENING: Final = re.compile(rb"[ \t\r\n]*\[")
_CUT: Final = re.compile(rb"\}[ \t\r\n]*(,)(?=[ \t\r\n]*\{)")
_TOO_LARGE: Final = re.compile(r"Number out of range - at `\$\[(\d+)\]\.(.*)`", re.DOTALL)
_FLAG: Final[Any] = bool | float | None
_CATEGORY: Final[Any] = bool | int | float | str | None
_MIXED: Final = (_FLAG, _CATEGORY)
_EXPECTED: Final = "expected an array of objects: [{...}, ...]"

Record = dict[str, Any]
Values = list[Sequence[Any]]
"""Cells row by row, UNSET where an object lacks the key."""


def read_json_rows(body: Body, schema: Schema, keep: Keep = ()) -> Rows:
    """
    A small table, row by row.

    Raises:
        MalformedBody: not JSON, or not an array of objects.
        MissingColumns: features of *schema* that no object has.
        UnknownPassthroughColumns: columns of *keep* that no object has.
        UnscorableValue: a value is not of its feature's type.
    """
    return JsonReader(schema).rows(body, keep)


def read_json_tables(body: Body, schema: Schema, keep: Keep = ()) -> Iterator[Table]:
    """
    A large table, block by block, with the same meaning and the same errors.

    An error may come after some blocks, so nothing should be answered before the last one was read. With *keep*
    ``"all"`` a block has the columns that appear in it: `kept.KeptColumns` puts them together.
    """
    return JsonReader(schema).tables(body, keep)


class JsonReader:
    """Reads tables of one schema."""

    def __init__(self, schema: Schema, piece_bytes: int = PIECE_BYTES) -> None:
        self._schema = schema
        self._decoder = _decoder(*((feature.name, _type(feature)) for feature in schema.features))
        self._converters = [(feature.name, json_converter(feature)) for feature in schema.features]
        # What is decoded with more than one type, because each is usual, is brought to one form afterwards.
        self._mixed = [
            (place, json_converter(feature))
            for place, feature in enumerate(schema.features)
            if _type(feature) in _MIXED
        ]
        self._piece_bytes = piece_bytes

    def rows(self, body: Body, keep: Keep = ()) -> Rows:
        """See `read_json_rows`."""
        data = utf8_of(body)
        _opened(data)
        reading = _Reading(self._schema, keep, len(data))
        try:
            rows = self._rows(data, reading)
        except orjson.JSONDecodeError as exc:
            raise _malformed(data, 0, exc) from exc
        reading.finish()
        return rows

    def tables(self, body: Body, keep: Keep = ()) -> Iterator[Table]:
        """See `read_json_tables`."""
        data = utf8_of(body)
        start, size = _opened(data), self._piece_bytes
        reading = _Reading(self._schema, keep, len(data))
        while True:
            cut = _CUT.search(data, start + size)
            piece = b"[%b]" % bytes(data[start : cut.start(1)]) if cut else b"[%b" % bytes(data[start:])
            try:
                rows = self._rows(piece, reading)
            except orjson.JSONDecodeError as exc:
                if cut is None:
                    raise _malformed(data, start - 1, exc) from exc
                size *= 2
                continue
            yield Table.from_rows(rows, self._schema)
            if cut is None:
                break
            start, size = cut.end(1), self._piece_bytes
        reading.finish()

    def _rows(self, piece: Any, reading: "_Reading") -> Rows:
        """
        The rows of one array.

        Raises:
            orjson.JSONDecodeError: this is not JSON, or not all of it.
        """
        records: list[Record] | None = None
        try:
            values = self._typed(piece)
        except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
            _refuse_too_large(exc, reading.n_rows)
            records = _records(piece, reading.n_rows)
            values = self._lenient(records, reading.n_rows)
        if not values:
            raise MalformedBody(f"{_EXPECTED}, got an empty one")
        rows = Rows(reading.present(values))
        if reading.keep:
            rows.kept = reading.kept(records or _records(piece, reading.n_rows))
        reading.n_rows += rows.n_rows
        return rows

    def _typed(self, piece: Any) -> Values:
        if self._decoder is None:
            raise ValueError
        values: Values = list(map(astuple, self._decoder.decode(piece)))
        return [self._unmixed(row) for row in values] if self._mixed else values

    def _unmixed(self, row: Sequence[Any]) -> list[Any]:
        cells = list(row)
        for place, convert in self._mixed:
            if cells[place] is not UNSET:
                cells[place] = convert(cells[place])
        return cells

    def _lenient(self, records: list[Record], first_row: int) -> Values:
        values: Values = []
        for row, record in enumerate(records, first_row):
            cells = []
            for name, convert in self._converters:
                try:
                    value = record.get(name, UNSET)
                    cells.append(value if value is UNSET else convert(value))
                except ValueError as exc:
                    raise UnscorableValue(name, row, str(exc)) from None
            values.append(cells)
        return values


class _Reading:
    """What is known of one body so far: how many rows, which features and kept columns were seen."""

    def __init__(self, schema: Schema, keep: Keep, n_bytes: int) -> None:
        self.keep = keep
        self.n_rows = 0
        self._n_bytes = n_bytes
        self._features = schema.names
        self._unseen = set(range(len(schema.features)))
        self._kept_names: set[str] = set()

    def present(self, values: Values) -> Values:
        """*values* with ``None`` for absent."""
        if not any(UNSET in row for row in values):
            self._unseen.clear()
            return values
        self._unseen = {place for place in self._unseen if all(row[place] is UNSET for row in values)}
        return [[None if cell is UNSET else cell for cell in row] for row in values]

    def kept(self, records: list[Record]) -> dict[str, Sequence[Any]]:
        """The columns to pass through, as given."""
        if self.keep == "all":
            names = list(dict.fromkeys(chain.from_iterable(records)))
            self._kept_names.update(names)
        else:
            names = list(self.keep)
            self._kept_names.update(name for name in names if any(name in record for record in records))
        if len(self._kept_names) > MAX_COLUMNS:
            raise MalformedBody(f"more than {MAX_COLUMNS} columns")
        # Every row answers every column: without this, one long object among millions of {} would ask for gigabytes.
        if (self.n_rows + len(records)) * len(self._kept_names) > max(self._n_bytes, FREE_CELLS):
            raise MalformedBody("most objects lack most of the columns to pass through")
        return {name: [record.get(name) for record in records] for name in names}

    def finish(self) -> None:
        """
        Raises:
            MissingColumns, UnknownPassthroughColumns: no object had them.
        """
        if self._unseen:
            raise MissingColumns([self._features[place] for place in sorted(self._unseen)])
        if self.keep != "all" and (unknown := [name for name in self.keep if name not in self._kept_names]):
            raise UnknownPassthroughColumns(unknown)


@lru_cache(maxsize=KEPT_DECODERS)
def _decoder(*columns: tuple[str, Any]) -> "msgspec.json.Decoder[list[Any]] | None":
    """For columns of these names and types."""
    fields = [(f"f{n}", type_ | UnsetType, UNSET) for n, (_, type_) in enumerate(columns)]
    renamed = {f"f{n}": name for n, (name, _) in enumerate(columns)}
    try:
        row = msgspec.defstruct("Row", fields, rename=renamed, gc=False)
    except ValueError:  # a name with a quote, a backslash or a control character; such tables are read the lenient way
        return None
    return msgspec.json.Decoder(list[row])  # type: ignore[valid-type]


def _type(feature: Feature) -> Any:
    if feature.type == "numeric":
        return float | None
    if feature.type == "boolean":
        return _FLAG
    return str | None if text_converter(feature) is text_from else _CATEGORY


def _opened(data: memoryview) -> int:
    """Where the array's content begins."""
    opening = _OPENING.match(data)
    if opening is None:
        raise MalformedBody(_EXPECTED)
    return opening.end()


def _records(piece: Any, first_row: int) -> list[Record]:
    _refuse_bomb(piece)
    records: list[Record] = orjson.loads(piece)
    for row, record in enumerate(records, first_row):
        if not isinstance(record, dict):
            raise MalformedBody(f"{_EXPECTED}, row {row} is not an object")
    return records


def _refuse_bomb(piece: Any) -> None:
    """Small in bytes and huge in memory: a list costs 30 times its two brackets, and decoding them holds the GIL."""
    content = bytes(piece)
    if content.count(b"[") + content.count(b"{") > MOST_CONTAINERS or content.count(b",") > MOST_VALUES:
        raise MalformedBody(f"{_EXPECTED}; found one value that nests more than {MOST_CONTAINERS} others")


def _refuse_too_large(refusal: Exception, first_row: int) -> None:
    """Name the place of a number beyond float, which orjson would only call malformed."""
    found = _TOO_LARGE.fullmatch(str(refusal))
    if found:
        raise UnscorableValue(found[2], first_row + int(found[1]), "the number is too large")


def _malformed(data: memoryview, start: int, exc: orjson.JSONDecodeError) -> MalformedBody:
    place = len(str(data[:start], "utf-8")) + exc.pos
    return MalformedBody(f"not valid JSON: {exc.msg} at character {place}")
