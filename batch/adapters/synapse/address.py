"""Where a SQL pool is, as the URL for Microsoft's JDBC driver says it."""

import re
from dataclasses import dataclass
from typing import Final

from batch.errors import JobError

_EXPECTED: Final = "jdbc_settings.url: expected jdbc:sqlserver://<host>:<port>;database=<name>"
_URL: Final = re.compile(
    r"jdbc:sqlserver://([A-Za-z0-9.-]+)(?::(\d{1,5}))?((?:;[^;={}]+=(?:\{(?:[^}]|\}\})*\}|[^;{}]*))*);?"
)
_PROPERTY: Final = re.compile(r";([^;={}]+)=(\{(?:[^}]|\}\})*\}|[^;{}]*)")
_FLAGS: Final = {"true": "yes", "yes": "yes", "false": "no", "no": "no", "strict": "strict"}


@dataclass(frozen=True)
class Address:
    """What a connection needs besides a user and a password."""

    host: str
    port: int
    database: str
    encrypt: str
    trusts_any: bool
    """Whether the server's certificate is not verified."""

    @classmethod
    def of(cls, url: str) -> "Address":
        """From a JDBC URL; raises `JobError` if it is none, or has a password in it."""
        found = _URL.fullmatch(url)
        if found is None:
            raise JobError(_EXPECTED)
        given = {name.strip().lower(): _unescaped(value) for name, value in _PROPERTY.findall(found[3])}
        if {"user", "username", "password"} & set(given):
            raise JobError("jdbc_settings.url: user and password belong in SYNAPSE_USERNAME and SYNAPSE_PASSWORD")
        database = given.get("database") or given.get("databasename")
        encrypt = _FLAGS.get(given.get("encrypt", "true").lower())
        if not database or encrypt is None:
            raise JobError(_EXPECTED)
        return cls(
            host=found[1],
            port=int(found[2] or given.get("port") or given.get("portnumber") or 1433),
            database=database,
            encrypt=encrypt,
            trusts_any=given.get("trustservercertificate", "false").lower() in ("true", "yes"),
        )

    def connection_string(self, user: str, password: str) -> str:
        """For ODBC; values cannot end their braces."""
        values = {
            "SERVER": f"{self.host},{self.port}",
            "DATABASE": self.database,
            "UID": user,
            "PWD": password,
            "Encrypt": self.encrypt,
            "TrustServerCertificate": "yes" if self.trusts_any else "no",
        }
        return ";".join(f"{name}={_escaped(value)}" for name, value in values.items())


def _unescaped(value: str) -> str:
    return value[1:-1].replace("}}", "}") if value.startswith("{") else value.strip()


def _escaped(value: str) -> str:
    plain = re.fullmatch(r"[\w.,-]+", value)
    return value if plain else "{" + value.replace("}", "}}") + "}"
