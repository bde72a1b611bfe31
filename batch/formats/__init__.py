"""How tables are written down: csv, jsonl, parquet."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from batch.dialect import Dialect
from batch.formats.csv import CsvWriter
from batch.formats.jsonl import JsonWriter
from batch.formats.streams import AsItIs, Finish, Zipped, is_gzip
from batch.job import CsvSettings, Format
from batch.layout import Layout, text_columns
from batch.records import Records


class Writer(Protocol):
    """Scored rows to bytes, chunk by chunk; the bytes of two chunks may simply follow each other."""

    def opening(self, layout: Layout) -> bytes:
        """What stands before the first row."""
        ...

    def rows(
        self,
        layout: Layout,
        records: Records,
        answers: Sequence[bytes | None],
        problems: Mapping[int, str],
        first_row: int,
    ) -> bytes:
        """
        Some rows.

        Args:
            answers: by row, the server's fields in its dialect; None: the row failed.
            problems: what was wrong with those that failed; they are left out unless the layout has a status column.
            first_row: the number of the first of these rows in the whole job.
        """
        ...


def writer_for(
    format_: Format,
    dialect: Dialect,
    settings: CsvSettings,
    answer: Sequence[str],
    *,
    numeric_labels: bool,
    escapes_formulas: bool = False,
) -> Writer:
    """The writer of a format, for a server that answers with the columns *answer*."""
    if format_ == "csv":
        return CsvWriter(dialect, settings.encoding, settings.output_header, escapes_formulas)
    texts = text_columns(answer, numeric_labels=numeric_labels)
    if format_ == "jsonl":
        return JsonWriter(texts)
    from batch.formats.parquet import ParquetWriter  # not before: pyarrow takes its time

    return ParquetWriter(texts)


def finish_for(format_: Format, name: str) -> Finish:
    """What makes the stored file of a writer's bytes."""
    if format_ == "parquet":
        from batch.formats.parquet import ParquetFile

        return ParquetFile()
    return Zipped() if is_gzip(name) else AsItIs()
