"""CSV in and out: records travel as the bytes that they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batch.dialect import WIRE, Dialect
from batch.errors import OutputError
from batch.formats.jsonl import json_text
from batch.formulas import escaped
from batch.layout import Layout
from batch.records import Records

CONTENT_TYPE = "text/csv; charset=utf-8"


@dataclass(frozen=True)
class CsvHeader:
    """The columns of a file, however its header came to be."""

    dialect: Dialect
    names: tuple[str, ...]
    raw: bytes
    """As it stands in the file, without a line end."""

    @classmethod
    def read(cls, dialect: Dialect, record: bytes) -> "CsvHeader":
        """From a file's first record."""
        return cls(dialect, tuple(dialect.cells(record)), record)

    @classmethod
    def made(cls, dialect: Dialect, names: Sequence[str]) -> "CsvHeader":
        """For files that have none."""
        return cls(dialect, tuple(names), dialect.line(names))


@dataclass(frozen=True)
class CsvRecords:
    """Rows as raw records."""

    header: CsvHeader
    lines: Sequence[bytes]
    output: Dialect
    """The dialect that `kept_fields` writes."""
    text: bytes | None = None
    """The same rows with the line ends, blank lines and all that they came with."""

    @classmethod
    def read(cls, header: CsvHeader, text: bytes, output: Dialect) -> tuple["CsvRecords", int]:
        """From whole records; and how many lines they take."""
        lines, n_lines = header.dialect.records_and_lines(text)
        return cls(header, lines, output, text), n_lines

    @property
    def names(self) -> Sequence[str]:
        """The header."""
        return self.header.names

    def __len__(self) -> int:
        return len(self.lines)

    def part(self, start: int, stop: int) -> "CsvRecords":
        """Rows *start* to *stop*."""
        return CsvRecords(self.header, self.lines[start:stop], self.output)

    def take(self, rows: Sequence[int]) -> "CsvRecords":
        """These rows."""
        return CsvRecords(self.header, [self.lines[row] for row in rows], self.output)

    def followed_by(self, other: "CsvRecords") -> "CsvRecords":
        """These rows, then others."""
        return CsvRecords(self.header, [*self.lines, *other.lines], self.output)

    def texts(self, names: Sequence[str]) -> list[list[str]]:
        """The cells."""
        places = self._places(names)
        text = self.header.dialect.text
        return [[text(row[place]) for place in places] for row in self._raw_cells(places)]

    def request(self) -> tuple[bytes, str]:
        """In the dialect that every server reads."""
        rows = self.text if self.text is not None else b"".join(line + b"\n" for line in self.lines)
        body = b"\n".join((self.header.raw, rows))
        return self.header.dialect.rewritten(body, WIRE), CONTENT_TYPE

    def line_of(self, row: int) -> int | None:
        """Blank lines and line ends inside of quotes count."""
        if self.text is None:
            return None
        end, _ = self.header.dialect.end_of_records(self.text, row)
        rest = self.text[end:]
        return len(self.text[:end].splitlines()) + len(rest.splitlines()) - len(rest.lstrip(b"\r\n").splitlines())

    def shown(self, row: int) -> dict[str, Any]:
        """Cells as text; those that the header has no name for under their number."""
        cells = self.header.dialect.cells(self.lines[row])
        return dict(zip((*self.names, *map(str, range(len(self.names), len(cells)))), cells, strict=False))

    def kept_fields(self, names: Sequence[str], *, ragged: bool = False) -> list[bytes]:
        """Bit for bit as they were read, unless the output has another dialect."""
        same = self.header.dialect == self.output
        if same and not ragged and tuple(names) == self.header.names:
            return list(self.lines)
        places = self._places(names)
        separator = self.output.separator
        if not same:
            write = self.output.field
            return [separator.join(write(row[place]) for place in places) for row in self._cells(places)]
        return [separator.join([row[place] for place in places]) for row in self._raw_cells(places)]

    def kept_members(self, names: Sequence[str], keys: Sequence[bytes]) -> list[bytes]:
        """As strings: a CSV has no other type."""
        places = self._places(names)
        return [
            b",".join(key + json_text(row[place]) for key, place in zip(keys, places, strict=True))
            for row in self._cells(places)
        ]

    def kept_columns(self, names: Sequence[str]) -> Any:
        """As strings."""
        import pyarrow as pa  # only where Parquet is written

        places = self._places(names)
        rows = list(self._cells(places))
        columns = [pa.array([_whole_text(row[place]) for row in rows], pa.string()) for place in places]
        return pa.table(columns, names=list(names))

    def _places(self, names: Sequence[str]) -> list[int]:
        return [self.names.index(name) for name in names]

    def _raw_cells(self, places: Sequence[int]) -> list[list[bytes]]:
        """Cells up to the last wanted one; a record that is too short, which no server scores, is filled up."""
        last = max(places, default=-1) + 1
        dialect = self.header.dialect
        quote = dialect.quotechar.encode()
        if not quote or not any(quote in line for line in self.lines):
            rows = [line.split(dialect.separator, last) for line in self.lines]
        else:
            rows = [dialect.raw_cells(line) for line in self.lines]
        return [row if len(row) >= last else row + [b""] * (last - len(row)) for row in rows]

    def _cells(self, places: Sequence[int]) -> list[list[str]]:
        last = max(places, default=-1) + 1
        rows = [self.header.dialect.cells(line) for line in self.lines]
        return [row if len(row) >= last else row + [""] * (last - len(row)) for row in rows]


@dataclass(frozen=True)
class CsvWriter:
    """Scored rows as CSV in the job's dialect and encoding."""

    dialect: Dialect
    encoding: str = "utf-8"
    header: bool = True
    escapes_formulas: bool = False
    """In what comes from the input: passed columns, and the names of columns."""

    def opening(self, layout: Layout) -> bytes:
        """What stands before the first row; the mark of the encoding too."""
        names = self._safe([self.dialect.line(layout.names)])
        line = names[0] + b"\n" if self.header else b""
        return self._mark() + self._encoded(line)

    def rows(
        self,
        layout: Layout,
        records: Records,
        answers: Sequence[bytes | None],
        problems: Mapping[int, str],
        first_row: int,
    ) -> bytes:
        """
        The lines of these rows.

        Args:
            answers: by row, the server's fields in its dialect; None: the row failed.
            problems: what was wrong with those that failed.
            first_row: the number of the first of these rows in the whole job.
        """
        if not answers:
            return b""
        columns: list[Sequence[bytes]] = []
        ragged = layout.status and bool(problems)  # a row of another width has failed
        if layout.row_id:
            columns.append([b"%d" % row for row in range(first_row, first_row + len(answers))])
        if layout.first:
            columns.append(self._safe(records.kept_fields(layout.first, ragged=ragged)))
        if layout.predictions:
            columns.append(self._predictions(layout, answers))
        if layout.status:
            field = self.dialect.field
            columns.append([field(problems[row]) if row in problems else b"OK" for row in range(len(answers))])
        if layout.kept:
            columns.append(self._safe(records.kept_fields(layout.kept, ragged=ragged)))
        if problems and not layout.status:
            scored = [row for row in range(len(answers)) if row not in problems]
            columns = [[column[row] for row in scored] for column in columns]
        return self._encoded(_side_by_side(columns, self.dialect.separator))

    def _safe(self, lines: list[bytes]) -> list[bytes]:
        return [escaped(line, self.dialect) for line in lines] if self.escapes_formulas else lines

    def _predictions(self, layout: Layout, answers: Sequence[bytes | None]) -> Sequence[bytes]:
        separator = self.dialect.separator
        if layout.all_predictions and self.dialect == WIRE and None not in answers:
            return answers  # type: ignore[return-value]  # none of them is None
        blank = separator * (len(layout.predictions) - 1)
        fields = self.dialect.field
        lines: list[bytes] = []
        for answer in answers:
            if answer is None:
                lines.append(blank)
                continue
            raw = WIRE.raw_cells(answer)
            if self.dialect != WIRE:
                raw = [fields(WIRE.cells(cell)[0]) if cell else cell for cell in raw]
            lines.append(separator.join([raw[place] for place in layout.predictions]))
        return lines

    def _encoded(self, data: bytes) -> bytes:
        if self.encoding == "utf-8":
            return data
        try:
            return data.decode(errors="surrogateescape").encode(self.encoding)[len(self._mark()) :]
        except UnicodeEncodeError as exc:
            text = exc.object[exc.start : exc.end][:20]
            raise OutputError(f"csv_settings.encoding: {self.encoding} cannot write {text!r}") from exc

    def _mark(self) -> bytes:
        return b"" if self.encoding == "utf-8" else "".encode(self.encoding)


def _whole_text(cell: str) -> str:
    """Bytes that are no UTF-8, which no server scores, as question marks: Parquet has no place for them."""
    return cell if cell.isascii() else cell.encode(errors="replace").decode()


def _side_by_side(columns: Sequence[Sequence[bytes]], separator: bytes) -> bytes:
    """Lines of the columns' texts: laid out by slice assignment, which is several times faster than joining rows."""
    n_rows, width = len(columns[0]) if columns else 0, 2 * len(columns)
    pieces = [separator] * (n_rows * width)
    for place, column in enumerate(columns):
        pieces[2 * place :: width] = column
    pieces[width - 1 :: width] = [b"\n"] * n_rows
    return b"".join(pieces)
