"""
What the keys of a job forbid each other: a table of rules, each with the keys that it is about.

A rule is not asked where one of its keys is wrong by itself, so that no problem is told twice.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from batch.adapters import TYPES, is_same_place
from batch.databases import DATABASES
from batch.job import Job, Store
from batch.schedule import wrong_times
from batch.template_variables import unknown_variables

Problems = Iterator[tuple[str, str]]
"""Path of a key, and what is wrong with it."""

DEPLOYMENT_ID: Final = re.compile(r"(?!\.+\Z)[A-Za-z0-9_.-]{1,128}")


def broken_rules(job: Job, wrong: Iterable[str]) -> Problems:
    """Problems that no single key has; *wrong* are the fields that have problems of their own."""
    for fields, rule in RULES:
        if not set(fields) & set(wrong):
            yield from rule(job)


def _endpoint(job: Job) -> Problems:
    if job.prediction_endpoint is not None:
        problem = endpoint_problem(job.prediction_endpoint)
        if problem:
            yield "prediction_endpoint", f"{problem}, expected <http or https>://<host>:<port>"


def endpoint_problem(text: str) -> str | None:
    """What keeps *text* from being the address of a server."""
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError as exc:
        return str(exc).lower()
    if url.scheme not in ("http", "https"):
        return "not an http or https URL"
    if not host or any(character.isspace() or not character.isprintable() for character in text):
        return "no host"
    return "has a query or a fragment" if url.query or url.fragment else None


def _deployment(job: Job) -> Problems:
    if job.deployment_id is not None and not DEPLOYMENT_ID.fullmatch(job.deployment_id):
        yield "deployment_id", "expected 1 to 128 of A-Z a-z 0-9 . _ -"


def _passthrough(job: Job) -> Problems:
    if job.passthrough_columns and job.passthrough_columns_set:
        yield "passthrough_columns", "excludes passthrough_columns_set, keep one of them"


def _id_column(job: Job) -> Problems:
    if job.id_column and job.passthrough_columns_set:
        yield "id_column", 'excludes passthrough_columns_set "all", keep one of them'
    if job.id_column is not None and not job.id_column.strip():
        yield "id_column", "expected a column name, got a blank one"


def _lists(job: Job) -> Problems:
    for name in ("passthrough_columns", "include_probabilities_classes", "explanation_class_names"):
        counts = Counter(getattr(job, name))
        if any(not item.strip() for item in counts):
            yield name, "a name in it is blank"
        yield from ((name, f"{item!r} stands in it twice") for item, count in counts.items() if count > 1)


def _batch_size(job: Job) -> Problems:
    if job.mini_batch_size is not None and job.chunk_size != "auto":
        yield "mini_batch_size", "excludes chunk_size, keep one of them"


def _explained_classes(job: Job) -> Problems:
    if job.explanation_class_names and job.explanation_num_top_classes is not None:
        yield "explanation_class_names", "excludes explanation_num_top_classes, keep one of them"


def _remapping(job: Job) -> Problems:
    targets = Counter(name for name in job.column_names_remapping.values() if name is not None)
    if any(not name.strip() for name in targets):
        yield "column_names_remapping", "a new name is blank; null leaves a column out"
    for name, count in targets.items():
        if count > 1:
            yield "column_names_remapping", f"{count} columns would be called {name!r}"


def _errors(job: Job) -> Problems:
    if job.errors is None:
        return
    if job.errors.path is not None and not job.errors.path.strip():
        yield "errors.path", "expected the path of a file"
    for name, store in _stores(job):
        if job.errors.path and is_file_of(store, Path(job.errors.path)):
            yield "errors.path", f"is the file of {name}"
    if job.errors.mode == "abort" and not job.abort_on_error:
        yield "errors.mode", 'abort_on_error false contradicts "abort", drop one of them or say "skip"'


def is_file_of(store: Store, path: Path) -> bool:
    """Whether *path* is the one file that a store reads or writes."""
    place = getattr(store.settings, "path", None)
    return place is not None and Path(place).resolve() == path.resolve()


def _same_place(job: Job) -> Problems:
    intake, output = job.intake_settings, job.output_settings
    if {intake.type, output.type} <= set(TYPES) and is_same_place(
        intake.type, intake.settings, output.type, output.settings
    ):
        yield "output_settings", "would overwrite what intake_settings reads"


def _partitioned(job: Job) -> Problems:
    if job.intake_settings.partition_columns:
        yield "intake_settings.partition_columns", "only in output_settings"
    output = job.output_settings
    if output.partition_columns and output.format != "parquet":
        yield "output_settings.partition_columns", 'only with format "parquet"'
    elif output.format == "parquet" and output.is_directory != bool(output.partition_columns):
        wanted = (
            'required with format "parquet" in a directory'
            if output.is_directory
            else "only in a directory: end its path with '/'"
        )
        yield "output_settings.partition_columns", wanted
    if len(set(output.partition_columns)) < len(output.partition_columns):
        yield "output_settings.partition_columns", "a column stands in it twice"


def _zipped(job: Job) -> Problems:
    for name, store in _stores(job):
        if store.format == "parquet" and store.file_name.endswith(".gz"):
            yield f"{name}.format", "a Parquet file is compressed inside, there is none within .gz"


def _formulas(job: Job) -> Problems:
    if job.csv_formula_escape and job.output_settings.format != "csv":
        yield "csv_formula_escape", 'only where output_settings.format is "csv"'


def _states(job: Job) -> Problems:
    places = {f"{name}.path": getattr(store.settings, "path", None) for name, store in _stores(job)}
    for name, place in {**places, "errors.path": job.errors and job.errors.path}.items():
        if place and is_in_a_state(Path(place)):
            yield name, "lies in the state of an unfinished job"


def is_in_a_state(path: Path) -> bool:
    """Whether *path* leads to what a job keeps while it is unfinished."""
    parts = (*path.parts, *path.resolve().parts)
    return any(part.startswith(".") and part.endswith((".resume", ".prediction-api-batch")) for part in parts)


def _stores(job: Job) -> tuple[tuple[str, Store], tuple[str, Store]]:
    return ("intake_settings", job.intake_settings), ("output_settings", job.output_settings)


def _jdbc(job: Job) -> Problems:
    types = [store.type for store in (job.intake_settings, job.output_settings) if store.type in DATABASES]
    if types and job.jdbc_settings is None:
        yield "jdbc_settings", f"required with type {types[0]!r}"
    if "jdbc" in types and job.jdbc_settings is not None:
        for name in ("class_name", "driver_path"):
            if getattr(job.jdbc_settings, name) is None:
                yield f"jdbc_settings.{name}", "required with type 'jdbc'"


def _variables(job: Job) -> Problems:
    yield from unknown_variables(job)


def _schedule(job: Job) -> Problems:
    if job.enabled and job.schedule is None:
        yield "schedule", "required where enabled is true"
    if job.schedule is not None:
        for field, item in wrong_times(job.schedule):
            found = "an empty list" if item is None else repr(item)
            yield f"schedule.{field}", f"{found} is not a time of it"


RULES: Final[tuple[tuple[tuple[str, ...], Callable[[Job], Problems]], ...]] = (
    (("prediction_endpoint",), _endpoint),
    (("deployment_id",), _deployment),
    (("passthrough_columns", "passthrough_columns_set"), _passthrough),
    (("id_column", "passthrough_columns_set"), _id_column),
    (("passthrough_columns", "include_probabilities_classes", "explanation_class_names"), _lists),
    (("chunk_size", "mini_batch_size"), _batch_size),
    (("explanation_class_names", "explanation_num_top_classes"), _explained_classes),
    (("column_names_remapping",), _remapping),
    (("errors", "abort_on_error", "intake_settings", "output_settings"), _errors),
    (("intake_settings", "output_settings"), _same_place),
    (("intake_settings", "output_settings"), _partitioned),
    (("intake_settings", "output_settings"), _zipped),
    (("intake_settings", "output_settings", "errors"), _states),
    (("output_settings", "csv_formula_escape"), _formulas),
    (("intake_settings", "output_settings", "jdbc_settings"), _jdbc),
    (("enabled", "schedule"), _schedule),
    (("intake_settings", "output_settings"), _variables),
)
"""Fields -> what is asked of them together."""
