"""
A job definition from a file: either a `Job`, or every problem of it at once, each with the path of its key.

Nothing is read or written here besides the definition itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from batch.adapters import TYPES, adapter_for
from batch.databases import DATABASES
from batch.declared import (
    Findings,
    below,
    camel_case,
    keys_of,
    shown_value,
    spelling_of,
    struct_from,
    suggestion,
    values_from,
)
from batch.errors import AdapterUnavailable, JobError
from batch.job import FORMATS_BY_SUFFIX, Format, Job, Renaming, Store
from batch.job_file import object_from, read_text
from batch.rules import broken_rules

STORES: Final = {"intake_settings": "IntakeSettings", "output_settings": "OutputSettings"}
"""Keys of a job, and what an adapter calls the declaration of their own keys."""
PLATFORM_IDS: Final = ("credential_id", "cloud_storage_credential_id", "data_store_id")
"""On the platform these lead to credentials; here the environment has them."""
_SHARED: Final = ("type", "format", "partition_columns")
"""Keys that every store has, databases the first alone."""
TYPE_ALIASES: Final = {"local_file": "localFile", "data_stage": "dataStage"}


@dataclass(frozen=True)
class Definition:
    """A job, and what its file said besides."""

    job: Job
    warnings: tuple[str, ...]
    secrets: tuple[str, ...]
    """Values in it that must not be printed."""


def read_definition(path: Path, *, served: bool) -> Definition:
    """
    The job that the file at *path* defines.

    Args:
        path: of a JSON file.
        served: whether a server is started for the job, so that it need not name one.

    Raises:
        JobError: with one line for each problem, the file's name before each.
    """
    text = read_text(path)
    try:
        return definition_from(object_from(text), served=served)
    except JobError as exc:
        raise JobError([f"{path}: {problem}" for problem in exc.problems]) from exc


def definition_from(raw: Mapping[str, Any], *, served: bool = False) -> Definition:
    """As `read_definition`, of a parsed file."""
    findings = Findings()
    stores: dict[str, Any] = {name: _store_from(name, raw, findings) for name in STORES}
    raw = {**raw, **_remapping_from(raw, findings)}
    values = values_from(Job, raw, "", findings, others=_spellings(*STORES))
    job = Job(**stores, **values)  # where there are problems it is only good for finding more of them
    wrong = {row.field for row in keys_of(Job) if findings.wrong.intersection(row.names)}
    for path, text in broken_rules(job, wrong):
        findings.problem(path, text)
    if job.prediction_endpoint is None and "prediction_endpoint" not in wrong and not served:
        findings.problem("prediction_endpoint", "required, unless --serve starts a server for the job")
    if findings.problems:
        raise JobError(findings.problems)
    return Definition(job, tuple(findings.warnings), tuple(findings.secrets))


def _spellings(*fields: str) -> set[str]:
    return {name for row in keys_of(Job) if row.field in fields for name in row.names}


def _store_from(field: str, raw: Mapping[str, Any], findings: Findings) -> Store | None:
    path = spelling_of(sorted(_spellings(field), reverse=True), raw, "", findings) or field
    settings = raw.get(path, {"type": "localFile"})
    if not isinstance(settings, dict):
        findings.problem(path, f"expected an object, got {shown_value(settings)}")
        return None
    kind = settings.get("type")
    if not isinstance(kind, str):
        findings.problem(below(path, "type"), f"required, expected one of {', '.join((*TYPES, *DATABASES))}")
        return None
    kind = TYPE_ALIASES.get(kind, kind)
    declaration = _declaration(kind, field, path, findings)
    if declaration is None:
        return None
    return _filled(kind, declaration, settings, path, findings)


def _declaration(kind: str, field: str, path: str, findings: Findings) -> type[msgspec.Struct] | None:
    if kind in DATABASES:
        return DATABASES[kind][list(STORES).index(field)]
    try:
        declaration: type[msgspec.Struct] = getattr(adapter_for(kind), STORES[field])
    except AdapterUnavailable as exc:
        findings.problem(below(path, "type"), f"{exc}{suggestion(kind, (*TYPES, *DATABASES))}")
        return None
    return declaration


def _filled(
    kind: str, declaration: type[msgspec.Struct], raw: Mapping[str, Any], path: str, findings: Findings
) -> Store | None:
    rows = [row for row in keys_of(Store) if row.field in _SHARED and (kind not in DATABASES or row.field == "type")]
    names = [name for row in rows for name in row.names]
    ours = {name: raw[name] for name in names if name in raw}
    values = values_from(Store, ours, path, findings, others=("settings", "type"))
    ids = {spelling for name in PLATFORM_IDS for spelling in (name, camel_case(name))}
    settings = struct_from(declaration, raw, path, findings, others={*names, *ids})
    if settings is None:
        return None
    store = Store(type=kind, settings=settings, **values)
    if "format" not in values:
        store = msgspec.structs.replace(store, format=_format_by_suffix(store.file_name))
    return msgspec.structs.replace(store, format="parquet") if store.is_staged else store


def _format_by_suffix(name: str) -> Format:
    return FORMATS_BY_SUFFIX.get(PurePosixPath(name.removesuffix(".gz")).suffix.lower(), "csv")


def _remapping_from(raw: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """``column_names_remapping`` as one object, old -> new or None, whichever way it was written."""
    given = sorted(_spellings("column_names_remapping").intersection(raw))
    if len(given) != 1:
        return {}
    name, value = given[0], raw[given[0]]
    if isinstance(value, list):
        pairs = [pair for place, item in enumerate(value) if (pair := _pair(item, f"{name}[{place}]", findings))]
        value = dict(pairs)
        if len(value) < len(pairs):
            findings.problem(name, "a column is renamed twice")
    if isinstance(value, dict):
        value = {old: None if new is False else new for old, new in value.items()}
    return {name: value}


def _pair(item: Any, path: str, findings: Findings) -> tuple[str, Any] | None:
    if not isinstance(item, dict):
        findings.problem(path, f"expected an object, got {shown_value(item)}")
        return None
    if item.get("outputName") is False or item.get("output_name") is False:
        item = {key: None if value is False else value for key, value in item.items()}
    renaming = struct_from(Renaming, item, path, findings)
    return None if renaming is None else (renaming.input_name, renaming.output_name)
