"""
Tables of all keys of a job definition, as docs/batch/job-definition.md shows them.

``python -m batch.key_tables docs/batch/job-definition.md`` writes them anew.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from batch.adapters import TYPES, adapter_for
from batch.databases import DATABASES
from batch.declared import Key, camel_case, keys_of
from batch.job import (
    CsvSettings,
    ErrorSettings,
    ForecastPointOffset,
    ForecastPointPolicy,
    JdbcSettings,
    Job,
    Renaming,
    Store,
    TimeseriesSettings,
)
from batch.schedule import Schedule

OBJECTS: Final[Mapping[str, type[msgspec.Struct]]] = {
    "csv_settings": CsvSettings,
    "errors": ErrorSettings,
    "timeseries_settings": TimeseriesSettings,
    "timeseries_settings.forecast_point_policy": ForecastPointPolicy,
    "timeseries_settings.forecast_point_policy.configuration": ForecastPointOffset,
    "an element of column_names_remapping": Renaming,
    "jdbc_settings": JdbcSettings,
    "schedule": Schedule,
}
BEGINNING: Final = "## All keys\n\n"
ALIASES: Final = {"minio": "s3", "gcs": "gcp"}
"""Types that are another one under another name."""


def tables() -> Iterator[tuple[str, str]]:
    """Heading and Markdown table of every object that a definition can hold."""
    yield "The job", table_of(Job)
    yield "intake_settings and output_settings, all types", table_of(Store)
    for path, struct in OBJECTS.items():
        yield path, table_of(struct)
    for kind in (*TYPES, *DATABASES):
        if kind not in ALIASES:
            module = adapter_for(kind) if kind in TYPES else None
            intake, output = (module.IntakeSettings, module.OutputSettings) if module else DATABASES[kind]
            yield f"intake_settings, type {kind}", table_of(intake)
            yield f"output_settings, type {kind}", table_of(output)


def table_of(struct: type[msgspec.Struct]) -> str:
    """One row for each key, those that mean nothing here last."""
    rows = sorted(keys_of(struct), key=lambda row: row.ignored)
    lines = [_line(row) for row in rows if row.field != "settings"]
    return "\n".join(("| key | value | default | meaning |", "|---|---|---|---|", *lines)) + "\n"


def _line(row: Key) -> str:
    first, camel = row.names[0], camel_case(row.names[0])
    names = " or ".join(f"`{name}`" for name in row.names if name == first or name != camel)
    meaning = f"Accepted and ignored. {row.meaning}" if row.ignored else row.meaning
    secret = " Never printed." if row.secret and not row.ignored else ""
    allowed = row.allowed.replace("|", "\\|")
    return f"| {names} | {allowed} | {_default(row)} | {meaning}{secret} |"


def _default(row: Key) -> str:
    if row.required:
        return "required"
    value: Any = row.default
    if isinstance(value, msgspec.Struct) or value is None:
        return "none" if value is None else "see below"
    return f"`{json.dumps(value)}`"


def section() -> str:
    """All tables under their headings."""
    return "\n".join(f"### {heading}\n\n{table}" for heading, table in tables())


if __name__ == "__main__":  # the page's text ends where the tables begin
    page = Path(sys.argv[1])
    text = page.read_text(encoding="utf-8").partition(BEGINNING)[0]
    page.write_text(text + BEGINNING + section(), encoding="utf-8")
