"""
The stores that a job can read and write, by the word that it uses for them.

A module is imported when a job first names it, so that nobody pays for the clients of other stores, and a client that
is not installed says what to install.
"""

from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, cast

from batch.errors import AdapterUnavailable
from batch.ports import Adapter, DatabaseAdapter

_MODULES: Final = MappingProxyType(
    {
        "filesystem": "filesystem",
        "localFile": "filesystem",
        "s3": "s3",
        "minio": "s3",
        "azure": "azure",
        "gcp": "gcs",
        "gcs": "gcs",
        "http": "http",
    }
)
TYPES: Final = tuple(_MODULES)
"""What may stand as ``type`` in intake_settings and output_settings."""
_DATABASES: Final = ("jdbc", "snowflake", "synapse")
"""Of `batch.databases.DATABASES`, those that can be reached; the module is called so, too."""
_REACHABLE: Final = ", ".join((*TYPES, *_DATABASES))
_PLATFORM_ONLY: Final = frozenset(
    {"dataset", "dss", "dataStage", "bigquery", "databricks", "datasphere", "trino", "tableau"}
)


def adapter_for(type_: str) -> Adapter:
    """
    The adapter of that ``type``.

    Raises:
        AdapterUnavailable: nothing is called so, it exists on the platform only, or its client is not installed.
    """
    return cast(Adapter, _module(type_))


def database_for(type_: str) -> DatabaseAdapter:
    """
    The adapter of a database of that ``type``.

    Raises:
        AdapterUnavailable: it cannot be reached yet, or its client is not installed.
    """
    if type_ not in _DATABASES:
        raise AdapterUnavailable(f"{type_} is not available yet")
    return cast(DatabaseAdapter, _imported(type_, type_))


def is_same_place(intake_type: str, intake: Any, output_type: str, output: Any) -> bool:
    """Whether writing to *output* would change what *intake* reads, now or when the job is run again."""
    reads_from, selection = _module(intake_type).place(intake)
    writes_to, written = _module(output_type).place(output)
    return bool(reads_from == writes_to and selection.overlaps(written.text))


def _module(type_: str) -> Any:
    if type_ in _PLATFORM_ONLY:
        raise AdapterUnavailable(f"type '{type_}' needs the platform; here the types are {_REACHABLE}")
    name = _MODULES.get(type_)
    if name is None:
        raise AdapterUnavailable(f"there is no type '{type_}'; the types are {_REACHABLE}")
    return _imported(type_, name)


def _imported(type_: str, name: str) -> Any:
    try:
        return import_module(f"batch.adapters.{name}")
    except ModuleNotFoundError as exc:
        raise AdapterUnavailable(
            f"type '{type_}' needs {exc.name}, which is not installed: pip install 'portable-prediction-server[{name}]'"
        ) from exc
