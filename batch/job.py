"""
The job definition: every key with its type, default, bounds and meaning, declared once.

`batch.definition` reads one from a file. The keys of a store are declared by its adapter, those of the databases in
`batch.databases`.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec

from batch.databases import DATABASES
from batch.declared import key, keys_of, refuse, shown_value
from batch.redaction import Redactor
from batch.schedule import Schedule

Format = Literal["csv", "jsonl", "parquet"]
"""How a table is written down."""
FORMATS_BY_SUFFIX: Final[Mapping[str, Format]] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""What a name says where the job does not; all else is CSV."""
_REDACT: Final = Redactor()
DATE: Final = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?(Z|[+-]\d\d:?\d\d)?")
DURATION: Final = re.compile(r"[+-]?P(?=.)(\d{1,6}W)?(\d{1,6}D)?(T(?=.)(\d{1,6}H)?(\d{1,6}M)?(\d{1,6}S)?)?")
"""Weeks to seconds; years and months have no length."""


class CsvSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``csv_settings``, for the intake and the output alike."""

    delimiter: Annotated[
        str, key("Separates the cells.", wanted='one character that is neither a quote nor a line end, or "tab"')
    ] = ","
    quotechar: Annotated[
        str, key("Encloses a cell that holds a delimiter or a line end.", wanted="one character, or none")
    ] = '"'
    encoding: Annotated[
        str, key("Any text encoding that Python knows.", wanted="the name of a text encoding, such as latin_1")
    ] = "utf-8"
    header: Annotated[
        bool, key("The first line of an input names its columns. `false`: they are the model's features in order.")
    ] = True
    output_header: Annotated[bool, key("The first line of an output names its columns.")] = True

    def __post_init__(self) -> None:
        refuse(*_csv_problems(self))

    @property
    def separator(self) -> str:
        """The delimiter as a character."""
        return "\t" if self.delimiter == "tab" else self.delimiter


def _csv_problems(settings: CsvSettings) -> Iterator[str]:
    separator, quote = settings.separator, settings.quotechar
    if len(separator) != 1 or separator in "\r\n":
        yield f'delimiter: expected one character or "tab", got {shown_value(settings.delimiter)}'
    if len(quote) > 1 or quote in ("\r", "\n"):
        yield f"quotechar: expected one character, or none, got {shown_value(quote)}"
    if separator == quote:
        yield "quotechar: is the delimiter too"
    if not _is_text_encoding(settings.encoding):
        yield f"encoding: no text encoding is called {shown_value(settings.encoding)}"


def _is_text_encoding(name: str) -> bool:
    try:
        return bool(codecs.lookup(name)._is_text_encoding)  # noqa: SLF001  the only place that knows
    except (LookupError, ValueError):
        return False


class ForecastPointOffset(msgspec.Struct, frozen=True, kw_only=True):
    """How far the forecast point is from the time of the run."""

    offset: Annotated[
        str, key("Added to the time of the run.", wanted="an ISO 8601 duration, such as P2DT5H3M or -P1D")
    ]

    def __post_init__(self) -> None:
        if not DURATION.fullmatch(self.offset):
            raise ValueError(f"offset: expected an ISO 8601 duration, such as -P1D, got {shown_value(self.offset)}")


class ForecastPointPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """``forecast_point_policy``: a forecast point that moves with the time of the run."""

    type: Annotated[Literal["jobRunTimeBased"], key("How it is found.")] = "jobRunTimeBased"
    configuration: Annotated[ForecastPointOffset, key("By how much it is moved.")]


class TimeseriesSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``timeseries_settings``; the server answers for what they mean."""

    type: Annotated[
        Literal["forecast", "historical"], key("Predict from one forecast point, or for a range of the past.")
    ] = "forecast"
    forecast_point: Annotated[
        str | None, key("Where the forecast begins; only with `forecast`.", wanted="an ISO 8601 date or time")
    ] = None
    forecast_point_policy: Annotated[
        ForecastPointPolicy | None, key("Moves the forecast point with the time of the run; only with `forecast`.")
    ] = None
    predictions_start_date: Annotated[
        str | None, key("First time to predict for; only with `historical`.", wanted="an ISO 8601 date or time")
    ] = None
    predictions_end_date: Annotated[
        str | None, key("Time before which it ends; only with `historical`.", wanted="an ISO 8601 date or time")
    ] = None
    relax_known_in_advance_features_check: Annotated[
        bool, key("Let features that should be known in advance be missing.")
    ] = False

    def __post_init__(self) -> None:
        refuse(*_timeseries_problems(self))


def _timeseries_problems(settings: TimeseriesSettings) -> Iterator[str]:
    dates = ("forecast_point", "predictions_start_date", "predictions_end_date")
    given = [name for name in (*dates, "forecast_point_policy") if getattr(settings, name) is not None]
    for name in given:
        wanted = "forecast" if name.startswith("forecast") else "historical"
        if settings.type != wanted:
            yield f'{name}: only with type "{wanted}"'
        if name in dates and not _is_date(getattr(settings, name)):
            yield f"{name}: expected an ISO 8601 date or time, got {shown_value(getattr(settings, name))}"
    if {"forecast_point", "forecast_point_policy"} <= set(given):
        yield "forecast_point: excludes forecast_point_policy, keep one of them"
    if ("predictions_start_date" in given) != ("predictions_end_date" in given):
        yield f"{given[0]}: predictions_start_date and predictions_end_date are given both or not at all"


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return DATE.fullmatch(text) is not None


class JdbcSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``jdbc_settings``: how the databases are reached."""

    url: Annotated[str, key("Connection string; passwords belong in the environment.", secret=True)]
    class_name: Annotated[str | None, key("Class of the driver.")] = None
    driver_path: Annotated[str | None, key("File of the driver, where batch runs.", resumable=True)] = None
    template_name: Annotated[
        str | None, key("Kind of database, for the types of columns that are created; else guessed from the URL.")
    ] = None

    def __post_init__(self) -> None:
        if not re.match("jdbc:[a-z0-9]+:", self.url):
            raise ValueError('url: expected text that begins with "jdbc:" and the name of a database')


class ErrorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``errors``: what happens to rows that cannot be scored."""

    mode: Annotated[Literal["abort", "skip"], key("Stop at them, or leave them out and go on.")] = "abort"
    max_errors: Annotated[
        int | None,
        key(
            "The job stops at one more. Not set: 0 with `abort`, no limit with `skip`.",
            least=0,
            most=2**53,
            resumable=True,
        ),
    ] = None
    path: Annotated[
        str | None, key("File for them: one JSON object per row, with its number, its cells and what is wrong.")
    ] = None


class Renaming(msgspec.Struct, frozen=True, kw_only=True):
    """An element of ``column_names_remapping`` written as a list."""

    input_name: Annotated[str, key("Name of a column as it would be.")]
    output_name: Annotated[str | None, key("New name; null or false leaves the column out.")] = None


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """``intake_settings`` or ``output_settings``: which adapter, which format, and the adapter's own settings."""

    type: Annotated[str, key("Which kind of store; its own keys are below.", wanted="the name of an adapter")]
    format: Annotated[Format, key("How the table is written down. Not set: as the name's suffix says, else CSV.")] = (
        "csv"
    )
    partition_columns: Annotated[
        tuple[str, ...],
        key(
            "Columns whose values name the directories of a Parquet output, and which its files leave out.",
            wanted="a list of column names",
        ),
    ] = ()
    settings: msgspec.Struct
    """An ``IntakeSettings`` or ``OutputSettings`` of the adapter."""

    @property
    def place(self) -> str:
        """Where it is, as its settings say it; nothing for a database."""
        return str(getattr(self.settings, "path", None) or getattr(self.settings, "url", ""))

    @property
    def file_name(self) -> str:
        """The place without the query of a web address; elsewhere `?` is of the name, or stands for a character."""
        return self.place.partition("?")[0] if self.type == "http" else self.place

    @property
    def table(self) -> str:
        """The table of a database; nothing elsewhere."""
        return getattr(self.settings, "table", None) or ""

    @property
    def is_database(self) -> bool:
        """Whether it has rows rather than files."""
        return self.type in DATABASES

    @property
    def is_staged(self) -> bool:
        """Whether the rows of a database take their way through files in a cloud."""
        return any(getattr(self.settings, name, None) for name in ("external_stage", "external_data_source"))

    @property
    def is_directory(self) -> bool:
        """Whether it has many files."""
        return self.place.endswith("/")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is scored, by whom, and where the result goes."""

    # Who scores
    prediction_endpoint: Annotated[
        str | None,
        key(
            "The prediction server. May be absent with `--serve`, which wins over it.",
            resumable=True,
            wanted="an http or https URL, such as http://127.0.0.1:8080",
        ),
    ] = None
    deployment_id: Annotated[
        str | None,
        key(
            "Directory of the model where the server has many; one with a single model does not mind it.",
            wanted="1 to 128 of A-Z a-z 0-9 . _ -",
        ),
    ] = None

    # What is read and written
    intake_settings: Annotated[Store, key("Where the table is read.")]
    output_settings: Annotated[Store, key("Where the scored table is written.")]
    jdbc_settings: Annotated[JdbcSettings | None, key("Needed by `jdbc`, `snowflake` and `synapse`.")] = None
    csv_settings: Annotated[CsvSettings, key("How CSV files are read and written.")] = CsvSettings()
    timeseries_settings: Annotated[TimeseriesSettings | None, key("For models of time series.")] = None

    # How it runs
    num_concurrent: Annotated[int, key("Requests in flight at once.", least=1, most=256, resumable=True)] = 4
    chunk_size: Annotated[
        int | Literal["auto", "fixed", "dynamic"],
        key(
            "Bytes per request. `auto` and `dynamic` follow the server's speed, `fixed` is 1 MiB; never above the "
            "server's limit.",
            least=1,
            most=2**40,
            resumable=True,
        ),
    ] = "auto"
    mini_batch_size: Annotated[
        int | None, key("Rows per request, instead of `chunk_size`.", least=1, most=10_000_000, resumable=True)
    ] = None
    resume: Annotated[
        bool, key("Continue what an earlier run of the same job left. `false`: always start over.", resumable=True)
    ] = True

    # What stands in the output
    passthrough_columns: Annotated[
        tuple[str, ...], key("Columns of the input that are copied, in this order.", wanted="a list of column names")
    ] = ()
    passthrough_columns_set: Annotated[Literal["all"] | None, key("Copy every column of the input.")] = None
    id_column: Annotated[str | None, key("A column that is copied and placed first.", wanted="a column name")] = None
    include_row_id: Annotated[bool, key("A column `row_id`: the number of the input row, from 0, over all files.")] = (
        False
    )
    include_probabilities: Annotated[bool, key("A column for the probability of each class.")] = True
    include_probabilities_classes: Annotated[
        tuple[str, ...], key("Only those of these classes.", wanted="a list of class labels")
    ] = ()
    include_prediction_status: Annotated[
        bool, key("A column `prediction_status`: OK, or why the row has no prediction. Keeps rows that failed.")
    ] = False
    prediction_threshold: Annotated[
        float | None, key("Probability above which the positive class is predicted.", least=0, most=1)
    ] = None
    column_names_remapping: Annotated[
        dict[str, str | None],
        key(
            "New names of output columns, by the old ones; null or false leaves a column out.",
            wanted='an object of old and new names, or a list of {"input_name", "output_name"}',
        ),
    ] = {}

    csv_formula_escape: Annotated[
        bool,
        key("Put a `'` before passed text that a spreadsheet would take for a formula; numbers stay as they are."),
    ] = False

    # What is asked of the model besides
    max_explanations: Annotated[int | Literal["all"], key("Explanations per row; 0 is none.", least=0, most=100)] = 0
    max_ngram_explanations: Annotated[
        int | Literal["all"] | None, key("Explanations per text.", "maxNGramExplanations", least=0, most=10_000)
    ] = None
    explanation_algorithm: Annotated[Literal["xemp", "shap"] | None, key("How rows are explained.")] = None
    explanation_class_names: Annotated[
        tuple[str, ...], key("Classes that are explained.", wanted="a list of class labels")
    ] = ()
    explanation_num_top_classes: Annotated[
        int | None, key("So many most probable classes are explained.", least=1, most=10_000)
    ] = None
    threshold_high: Annotated[float | None, key("Explain rows whose prediction is above.")] = None
    threshold_low: Annotated[float | None, key("Explain rows whose prediction is below.")] = None
    prediction_warning_enabled: Annotated[bool, key("A column that marks outliers; regression only.")] = False

    # Rows that fail
    errors: Annotated[ErrorSettings | None, key("What happens to rows that cannot be scored.")] = None
    abort_on_error: Annotated[
        bool, key("Without `errors`: whether rows that fail end the job. `false`: score all that can be.")
    ] = True
    disable_row_level_error_handling: Annotated[
        bool, key("Do not look for the bad row of a chunk that was refused: all its rows failed.")
    ] = False

    # The definition itself
    name: Annotated[str | None, key("Name of the job, for messages and the report.", resumable=True)] = None
    enabled: Annotated[bool, key("Belongs to a schedule; no meaning for a single run.", resumable=True)] = False
    schedule: Annotated[Schedule | None, key("When the job is due; the command runs it once, now.", resumable=True)] = (
        None
    )
    skip_drift_tracking: Annotated[bool, key("Do not report the rows to the monitoring.", resumable=True)] = False

    # Accepted from definitions that were made for a platform
    model_id: Annotated[str | None, key("The server knows its model.", ignored=True)] = None
    model_package_id: Annotated[str | None, key("The server knows its model.", ignored=True)] = None
    pinned_model_id: Annotated[str | None, key("The server knows its model.", ignored=True)] = None
    explanations_mode: Annotated[str | None, key("Not needed.", ignored=True)] = None
    prediction_instance: Annotated[
        dict[str, Any] | None, key("`prediction_endpoint` rules.", ignored=True, secret=True)
    ] = None
    secondary_datasets_config_id: Annotated[str | None, key("Needs the platform.", ignored=True)] = None
    monitoring_batch_prefix: Annotated[str | None, key("Needs the platform.", ignored=True)] = None
    batch_job_type: Annotated[str | None, key("Only predictions are made.", ignored=True)] = None

    @property
    def kept(self) -> tuple[str, ...] | Literal["all"]:
        """Columns to copy: the id column first, then those to pass through, each once; or all of them."""
        if self.passthrough_columns_set:
            return "all"
        named = (self.id_column, *self.passthrough_columns) if self.id_column else self.passthrough_columns
        return tuple(dict.fromkeys(named))


def options_of(job: Job) -> dict[str, Any]:
    """
    What a continued run must agree with, by path of the key, as JSON values.

    Speed, names and the server's address may change: they do not show in the output. Secrets stand for themselves as
    a digest.
    """
    return dict(_options(job, ""))


def _options(struct: msgspec.Struct, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(struct, Store):
        yield from ((f"{path}{name}", getattr(struct, name)) for name in ("type", "format"))
        yield f"{path}partition_columns", list(struct.partition_columns)
        yield from _options(struct.settings, path)
        return
    for row in keys_of(type(struct)):
        value = getattr(struct, row.field)
        if isinstance(value, msgspec.Struct) and not row.resumable:
            yield from _options(value, f"{path}{row.names[0]}.")
        elif not row.resumable and not row.ignored:
            plain = msgspec.json.decode(msgspec.json.encode(value))
            if row.secret and plain is not None:
                plain = _digest(plain)
            yield f"{path}{row.names[0]}", _REDACT(plain) if isinstance(plain, str) else plain


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(options: Mapping[str, Any]) -> str:
    """One name, fit for a file, for all that `options_of` a job says."""
    return _digest(dict(options))
