"""JSON lines in and out: one object per line, its numbers passed on as they were written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from batch.dialect import WIRE, Dialect
from batch.layout import Layout
from batch.records import Records

CONTENT_TYPE: Final = "application/json"

_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NULL: Final = msgspec.Raw(b"null")


class LineEnds:
    """Records that end with their line."""

    def end_of_last(self, data: bytes, stop: int) -> int:
        """Where the last whole line ends."""
        return data.rfind(b"\n", 0, stop) + 1

    def end_of_records(self, data: bytes, count: int) -> tuple[int, int]:
        """Where the *count*-th line that is not blank ends, and how many were found."""
        end = found = 0
        for line in data.split(b"\n"):
            if found == count:
                break
            end += len(line) + 1
            found += bool(line.strip())
        return min(end, len(data)), found


LINE_ENDS: Final = LineEnds()


@dataclass(frozen=True)
class JsonRecords:
    """Rows as raw JSON objects."""

    names: Sequence[str]
    """Of the file's first object."""
    lines: Sequence[bytes]
    output: Dialect
    text: bytes | None = None

    @classmethod
    def read(cls, names: Sequence[str], text: bytes, output: Dialect) -> tuple["JsonRecords", int]:
        """From whole lines; and how many they are."""
        lines = text.removesuffix(b"\n").split(b"\n")
        return cls(names, [line.strip() for line in lines if line.strip()], output, text), len(lines)

    def __len__(self) -> int:
        return len(self.lines)

    def part(self, start: int, stop: int) -> "JsonRecords":
        """Rows *start* to *stop*."""
        return JsonRecords(self.names, self.lines[start:stop], self.output)

    def take(self, rows: Sequence[int]) -> "JsonRecords":
        """These rows."""
        return JsonRecords(self.names, [self.lines[row] for row in rows], self.output)

    def followed_by(self, other: "JsonRecords") -> "JsonRecords":
        """These rows, then others."""
        return JsonRecords(self.names, [*self.lines, *other.lines], self.output)

    def texts(self, names: Sequence[str]) -> list[list[str]]:
        """Text as it is, numbers as they were written, null and absent as nothing."""
        return [[_text(row.get(name, _NULL)) for name in names] for row in self._rows()]

    def request(self) -> tuple[bytes, str]:
        """A JSON array; a line that is no object becomes one that no server takes, so that it hides no other."""
        objects = (line if members_of(line) is not None else b'"not a JSON object"' for line in self.lines)
        return b"[%b]" % b",".join(objects), CONTENT_TYPE

    def line_of(self, row: int) -> int | None:
        """Blank lines count."""
        if self.text is None:
            return None
        numbers = (number for number, line in enumerate(self.text.split(b"\n")) if line.strip())
        return next(number for place, number in enumerate(numbers) if place == row)

    def shown(self, row: int) -> dict[str, Any]:
        """The object itself; what is none, as text."""
        line = self.lines[row]
        if members_of(line) is None:
            return {"text": line.decode(errors="replace")}
        shown: dict[str, Any] = json.loads(line)
        return shown

    def kept_fields(self, names: Sequence[str], *, ragged: bool = False) -> list[bytes]:
        """Text as it is, numbers as they were written, null and absent as nothing."""
        separator, field = self.output.separator, self.output.field
        return [separator.join(field(_text(row.get(name, _NULL))) for name in names) for row in self._rows()]

    def kept_members(self, names: Sequence[str], keys: Sequence[bytes]) -> list[bytes]:
        """Values byte for byte; absent ones as null."""
        members = list(zip(names, keys, strict=True))
        return [b",".join(key + bytes(row.get(name, _NULL)) for name, key in members) for row in self._rows()]

    def kept_columns(self, names: Sequence[str]) -> Any:
        """Numbers as float64, booleans, anything else as text."""
        import pyarrow as pa  # only where Parquet is written

        rows = [[msgspec.json.decode(row.get(name, _NULL)) for name in names] for row in self._rows()]
        return pa.table({name: _column([row[place] for row in rows]) for place, name in enumerate(names)})

    def _rows(self) -> list[dict[str, msgspec.Raw]]:
        return [members_of(line) or {} for line in self.lines]


def members_of(line: bytes) -> dict[str, msgspec.Raw] | None:
    """The members of an object, values unread; None: it is none."""
    try:
        if not line.isascii():
            line.decode()  # values that are not read are not looked at
        return _MEMBERS.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def json_text(text: str) -> bytes:
    """A JSON string; bytes that were no UTF-8 become question marks."""
    return json.dumps(text, ensure_ascii=False).encode(errors="replace")


def _text(raw: msgspec.Raw) -> str:
    data = bytes(raw)
    if data == b"null":
        return ""
    return str(msgspec.json.decode(data, type=str)) if data[:1] == b'"' else data.decode()


def _column(values: list[Any]) -> Any:
    """Every block of a file must come to the same type, so whole numbers are floats too."""
    import pyarrow as pa

    given = [value for value in values if value is not None]
    if given and all(isinstance(value, bool) for value in given):
        return pa.array(values, pa.bool_())
    if given and all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(texts, pa.string())


@dataclass(frozen=True)
class JsonWriter:
    """Scored rows as JSON lines."""

    texts: frozenset[int]
    """Places of the answer's fields that are text; the others are numbers."""

    def opening(self, layout: Layout) -> bytes:
        """Nothing: every line is whole by itself."""
        return b""

    def rows(
        self,
        layout: Layout,
        records: Records,
        answers: Sequence[bytes | None],
        problems: Mapping[int, str],
        first_row: int,
    ) -> bytes:
        """One object per row; arguments as `CsvWriter.rows` has them."""
        keys = [f"{json.dumps(name, ensure_ascii=False)}:".encode() for name in layout.names]
        taken = iter(keys)
        columns: list[Sequence[bytes]] = []
        if layout.row_id:
            key = next(taken)
            columns.append([b"%b%d" % (key, first_row + row) for row in range(len(answers))])
        if layout.first:
            columns.append(records.kept_members(layout.first, [next(taken) for _ in layout.first]))
        if layout.predictions:
            of_answer = [next(taken) for _ in layout.predictions]
            columns.append([self._members(layout, of_answer, answer) for answer in answers])
        if layout.status:
            key = next(taken)
            columns.append([key + json_text(problems.get(row, "OK")) for row in range(len(answers))])
        if layout.kept:
            columns.append(records.kept_members(layout.kept, list(taken)))
        lines = (b"{%b}\n" % b",".join(parts) for parts in zip(*columns, strict=True))
        return b"".join(line for row, line in enumerate(lines) if layout.status or row not in problems)

    def _members(self, layout: Layout, keys: Sequence[bytes], answer: bytes | None) -> bytes:
        if answer is None:
            return b",".join(key + b"null" for key in keys)
        raw = WIRE.raw_cells(answer)
        places = zip(keys, layout.predictions, strict=True)
        return b",".join(key + self._value(place, raw[place]) for key, place in places)

    def _value(self, place: int, raw: bytes) -> bytes:
        if not raw:
            return b"null"
        return json_text(WIRE.cells(raw)[0]) if place in self.texts else raw
