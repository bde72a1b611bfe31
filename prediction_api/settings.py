"""
Every variable that the server reads, in one place: name, type, default, bounds, unit, meaning.

A field of `Settings` is read from ``PREDICTION_API_`` plus its name in capitals, unless its row gives other names.
The command line wins over the environment, the environment over the config file, the file over the defaults. An empty
value counts as not given.
"""

import math
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from model_repository.errors import SettingsError

PREFIX: Final = "PREDICTION_API_"
CONFIG_PATH: Final = Path("/opt/ml/config")
FLAGS: Final = {"true": True, "yes": True, "y": True, "1": True, "false": False, "no": False, "n": False, "0": False}
PROTOCOLS: Final = ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
IGNORED: Final = (f"{PREFIX}RPC_DUAL_COMPUTE_ENABLED", "PYTHON3_SERVICES")
"""Old images knew two Pythons; their variables are accepted and mean nothing."""


def _row(meaning: str, *names: str, secret: bool = False) -> Meta:
    return Meta(description=meaning, extra={"names": names, "secret": secret})


def _count(meaning: str, most: int, unit: str = "", least: int = 1) -> Meta:
    return Meta(description=meaning, extra={"unit": unit, "least": least, "most": most})


def _seconds(meaning: str, least: float, most: float) -> Meta:
    return Meta(description=meaning, extra={"unit": "s", "least": least, "most": most})


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Read once at start; frozen, so that nobody can change the server's mind later. Its ``repr`` shows no secret."""

    # What is served, by whom
    workers: Annotated[int, _count("Worker processes, each with an event loop of its own.", 512)] = 1
    model_repository_path: Annotated[
        Path, _row("A package, a directory with one package in it, or a directory with one sub-directory per model.")
    ] = Path("/opt/ml/model/")
    preload_models_enabled: Annotated[
        bool | None, _row("Load every package at start. Not set: yes for a single model, no for many.")
    ] = None
    scoring_model_cache_maxsize: Annotated[int, _count("Models that a worker keeps loaded.", 10_000)] = 4
    deployed_model_resolver_cache_ttl_sec: Annotated[
        float, _seconds("How long a package and its configuration are taken as read.", 0, 1e9)
    ] = 60.0
    pickle_packages_enabled: Annotated[
        bool, _row("Load packages that hold a pickle. Whoever wrote such a package runs code in this server.")
    ] = False
    trusted_keys: Annotated[
        str | None,
        _row(
            "Public Ed25519 keys, as PEM text or the path of a PEM file. When given, only packages signed by one of "
            "them are served."
        ),
    ] = None
    config_path: Annotated[
        Path, _row("A file of KEY=VALUE lines, or a directory of such files. Read from the environment only.")
    ] = CONFIG_PATH

    # Uploads and deletions over HTTP, when there are many models
    model_management_enabled: Annotated[
        bool, _row("Take uploads and deletions; without it they are refused with 403.")
    ] = True
    management_token: Annotated[
        str | None, _row("What uploads and deletions must carry as `Authorization: Bearer`; else 401.", secret=True)
    ] = None
    upload_max_bytes: Annotated[
        int, _count("Largest package that can be uploaded; over it 413.", 3 * 1024**3, "bytes")
    ] = 1024**3
    max_deployments: Annotated[
        int, _count("Deployments that uploads can fill the repository with; over it 409.", 1_000_000)
    ] = 1000

    # Where it listens
    host: Annotated[str, _row("Address to listen on; 0.0.0.0, as the image sets it, is every IPv4 one.")] = "127.0.0.1"
    http_port: Annotated[int, _count("Port when TLS is off; 0 takes a free one and prints it.", 65_535, least=0)] = 8080
    https_port: Annotated[int, _count("Port when TLS is on; 0 takes a free one and prints it.", 65_535, least=0)] = 8443
    tls_enabled: Annotated[
        bool, _row("Speak HTTPS on its port, and HTTP nowhere. Other TLS settings count only when this is true.")
    ] = False
    tls_certificate: Annotated[
        str | None, _row("Certificate and its chain: PEM text, not a path. `\\n` may stand for a line end.")
    ] = None
    tls_certificate_key: Annotated[str | None, _row("Private key of the certificate: PEM text.", secret=True)] = None
    tls_certificate_key_password: Annotated[str | None, _row("Passphrase of the private key.", secret=True)] = None
    tls_protocols: Annotated[
        str, _row(f"Protocol versions, separated by spaces, of {', '.join(PROTOCOLS)}. The first two cannot be served.")
    ] = "TLSv1.2 TLSv1.3"
    tls_ciphers: Annotated[
        str | None,
        _row("Cipher suites, separated by colons. Not set: those of TLS 1.3 and ECDHE with AES-GCM or ChaCha20."),
    ] = None

    # What a request may cost
    max_body_bytes: Annotated[
        int, _count("Largest request body, on the wire and decompressed; over it 413.", 2**40, "bytes")
    ] = 50 * 1024 * 1024
    max_request_line: Annotated[int, _count("Longest request line; over it 414.", 65_536, "bytes", 64)] = 8192
    max_header_bytes: Annotated[int, _count("Header fields of a request; over it 431.", 2**20, "bytes", 256)] = 32_768
    max_headers: Annotated[int, _count("Number of header fields; over it 431.", 10_000)] = 100
    max_inflight: Annotated[
        int, _count("Predictions that a worker accepts at once; over it 503 with Retry-After.", 100_000)
    ] = 100
    header_timeout: Annotated[
        float, _seconds("Time for a TLS handshake, and for a header; over it 408.", 0.1, 3600)
    ] = 10.0
    body_timeout: Annotated[float, _seconds("Longest pause while a body arrives; over it 408.", 0.1, 3600)] = 10.0
    body_min_rate: Annotated[
        int, _count("Slowest arrival of a body, measured after the first body time-out.", 2**30, "bytes/s", 0)
    ] = 500
    write_timeout: Annotated[
        float, _seconds("Time in which a client must take some of its answer; else it is cut off.", 0.1, 3600)
    ] = 30.0
    keep_alive_timeout: Annotated[float, _seconds("Time that an idle connection stays open.", 0, 3600)] = 75.0
    request_timeout: Annotated[float, _seconds("Time for a prediction; over it 503.", 0.1, 86_400)] = 60.0

    # How it ends and mends
    shutdown_grace: Annotated[float, _seconds("Time that running requests get after SIGTERM.", 0, 3600)] = 30.0
    drain_delay: Annotated[
        float, _seconds("Time that the port stays open after SIGTERM at least, answering 503.", 0, 3600)
    ] = 0.0
    worker_stall_timeout: Annotated[
        float, _seconds("A worker that is silent and uses no processor for so long is replaced.", 1, 3600)
    ] = 10.0
    worker_busy_timeout: Annotated[
        float, _seconds("A worker that is silent but computing is replaced after so long.", 1, 86_400)
    ] = 60.0

    # What it tells
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _row("Least level that is logged.")] = "info"
    log_format: Annotated[Literal["text", "json"], _row("Lines for people, or one JSON object per line.")] = "text"
    access_log_enabled: Annotated[bool, _row("One line per request.")] = True

    # Monitoring
    monitoring_enabled: Annotated[bool, _row("Write monitoring data to the spooler. Not available yet.")] = False
    monitoring_settings: Annotated[
        str | None,
        _row(
            "Spooler settings: `key=value;key=value`.",
            f"{PREFIX}MONITORING_SETTINGS",
            f"PORTABLE_{PREFIX}MONITORING_SETTINGS",
            secret=True,
        ),
    ] = None
    monitoring_agent: Annotated[
        bool, _row("Run the monitoring agent beside the server. Not available yet.", "MONITORING_AGENT")
    ] = False
    monitoring_agent_datarobot_app_url: Annotated[
        str | None, _row("Where the agent reports.", "MONITORING_AGENT_DATAROBOT_APP_URL")
    ] = None
    monitoring_agent_datarobot_app_token: Annotated[
        str | None, _row("The agent's token.", "MONITORING_AGENT_DATAROBOT_APP_TOKEN", secret=True)
    ] = None
    mlops_deployment_id: Annotated[str | None, _row("Deployment id of a single model.", "MLOPS_DEPLOYMENT_ID")] = None
    mlops_model_id: Annotated[
        str | None, _row("Model id of a single model, instead of its package's.", "MLOPS_MODEL_ID")
    ] = None
    mlops_association_id_column: Annotated[
        str | None, _row("Column whose value names a prediction later.", "MLOPS_ASSOCIATION_ID_COLUMN")
    ] = None
    mlops_association_id_allow_missing_values: Annotated[
        bool,
        _row("Whether that column may be absent or empty.", "MLOPS_ASSOCIATION_ID_ALLOW_MISSING_VALUES"),
    ] = False

    @property
    def port(self) -> int:
        """The only port that is served."""
        return self.https_port if self.tls_enabled else self.http_port

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # msgspec has one of its own, which would print secrets
        return [(row.field, "***" if row.secret and value else value) for row, value in self._values()]

    def _values(self) -> Iterator[tuple["Row", Any]]:
        return ((row, getattr(self, row.field)) for row in rows())


@dataclass(frozen=True)
class Row:
    """One setting as it was declared."""

    field: str
    names: tuple[str, ...]
    """The variable, and other spellings of it."""
    kind: Any
    default: Any
    meaning: str
    unit: str
    secret: bool
    least: float
    most: float

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        if self.kind is bool:
            return "true, yes, y, 1, false, no, n or 0"
        if typing.get_origin(self.kind) is Literal:
            return " or ".join(typing.get_args(self.kind))
        if self.kind in (int, float):
            noun = "a whole number" if self.kind is int else "a number"
            return f"{noun} from {self.least:.15g} to {self.most:.15g}"
        return "a path" if self.kind is Path else "text"

    def value_from(self, text: str) -> Any:
        """
        The value that *text* stands for.

        Raises:
            ValueError: it stands for none.
        """
        if self.kind is bool:
            return _looked_up(FLAGS, text.lower())
        if typing.get_origin(self.kind) is Literal:
            return _looked_up({word: word for word in typing.get_args(self.kind)}, text.lower())
        if self.kind in (int, float):
            return self._number_from(text)
        if "\0" in text:
            raise ValueError(text)
        return self.kind(text)

    def _number_from(self, text: str) -> float:
        if not text.isascii() or "_" in text:
            raise ValueError(text)
        number: float = self.kind(text)
        if not self.least <= number <= self.most:  # also refuses NaN
            raise ValueError(text)
        return number


def _looked_up(words: Mapping[str, Any], word: str) -> Any:
    if word not in words:
        raise ValueError(word)
    return words[word]


@cache
def rows() -> tuple[Row, ...]:
    """All settings, in the order of their declaration."""
    hints = typing.get_type_hints(Settings, include_extras=True)
    return tuple(_row_of(field, hints[field.name]) for field in msgspec.structs.fields(Settings))


def _row_of(field: msgspec.structs.FieldInfo, hint: Any) -> Row:
    kind, meta = typing.get_args(hint)
    if isinstance(kind, UnionType):
        kind = next(member for member in typing.get_args(kind) if member is not type(None))
    extra = meta.extra
    return Row(
        field=field.name,
        names=extra.get("names") or (PREFIX + field.name.upper(),),
        kind=kind,
        default=field.default,
        meaning=meta.description,
        unit=extra.get("unit", ""),
        secret=extra.get("secret", False),
        least=extra.get("least", -math.inf),
        most=extra.get("most", math.inf),
    )


def settings_from(
    environ: Mapping[str, str], config: Mapping[str, str], flags: Mapping[str, str] | None = None
) -> Settings:
    """
    The settings that the three sources say together.

    Args:
        environ: all variables; only known names are looked at.
        config: what stands in the config file.
        flags: what the command line says, under the variables' names.

    Raises:
        SettingsError: with one line for each problem.
    """
    sources = (("command line", flags or {}), ("environment", environ), ("config file", config))
    values: dict[str, Any] = {}
    problems = []
    for row in rows():
        found = _found(row, sources)
        if found is None:
            continue
        name, text, source = found
        try:
            values[row.field] = row.value_from(text)
        except ValueError:
            shown = "" if row.secret else f"={_shortened(text)}"
            problems.append(f"{name}{shown} ({source}): expected {row.allowed}")
    problems.extend(_disagreements(values))
    if problems:
        raise SettingsError("\n".join(problems))
    return Settings(**values)


def _found(row: Row, sources: tuple[tuple[str, Mapping[str, str]], ...]) -> tuple[str, str, str] | None:
    """Name, text and source of the first value that is not empty."""
    for source, mapping in sources:
        for name in row.names:
            text = mapping.get(name, "").strip()
            if text:
                return name, text, source
    return None


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _disagreements(values: Mapping[str, Any]) -> Iterator[str]:
    """Problems that no single value has."""
    pairs = values.get("monitoring_settings") or ""
    if any("=" not in pair for pair in pairs.split(";") if pair.strip()):
        yield f"{PREFIX}MONITORING_SETTINGS: expected key=value;key=value"
    unknown = [word for word in values.get("tls_protocols", "").split() if word not in PROTOCOLS]
    if unknown and values.get("tls_enabled"):
        yield f"{PREFIX}TLS_PROTOCOLS={_shortened(' '.join(unknown))}: expected some of {' '.join(PROTOCOLS)}"


def warnings_about(settings: Settings, environ: Mapping[str, str], config: Mapping[str, str]) -> list[str]:
    """What the operator should know before the server starts, one line each."""
    known = {name for row in rows() for name in row.names} | set(IGNORED)
    found = [f"{name} (environment) is not a setting" for name in sorted(environ) if _is_stray(name, known)]
    found += [f"{_shortened(name)} (config file) is not a setting" for name in sorted(config) if name not in known]
    if settings.monitoring_enabled or settings.monitoring_agent:
        found.append("monitoring is switched on, but not available yet: nothing is reported")
    return found


def _is_stray(name: str, known: set[str]) -> bool:
    return name.startswith((PREFIX, f"PORTABLE_{PREFIX}")) and name not in known


def settings_table() -> str:
    """All settings as a Markdown table, as docs/settings.md shows them."""
    lines = ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
    for row in rows():
        names = " or ".join(f"`{name}`" for name in row.names)
        unit = f" {row.unit}" if row.unit else ""
        secret = " Never printed." if row.secret else ""
        lines.append(f"| {names} | {_documented(row)} | {row.allowed}{unit} | {row.meaning}{secret} |")
    lines += [f"| `{name}` | none | text | Accepted and ignored. |" for name in IGNORED]
    return "\n".join(lines) + "\n"


def _documented(row: Row) -> str:
    if row.default is None:
        return "none"
    if row.kind is bool:
        return f"`{str(row.default).lower()}`"
    return f"`{row.default:.15g}`" if row.kind in (int, float) else f"`{row.default}`"


if __name__ == "__main__":
    sys.stdout.write(settings_table())
