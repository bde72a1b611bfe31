"""Where a Snowflake account is, as the URL for its JDBC driver says it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from batch.errors import JobError
from batch.logs import LOG

_EXPECTED: Final = (
    "jdbc_settings.url: expected jdbc:snowflake://<account>.snowflakecomputing.com/?warehouse=...&db=...&schema=..."
)
_NAMES: Final = {"db": "database", "database": "database", "warehouse": "warehouse", "schema": "schema", "role": "role"}
_KNOWN: Final = {*_NAMES, "account", "ssl", "user", "password"}


@dataclass(frozen=True)
class Address:
    """What a connection needs besides a user and a password."""

    host: str
    port: int
    account: str
    secure: bool
    session: Mapping[str, str]
    """``database``, ``schema``, ``warehouse``, ``role``: those that the URL names."""

    @classmethod
    def of(cls, url: str) -> "Address":
        """
        From a JDBC URL; its parameters may be written in any case.

        Raises:
            JobError: it is none for Snowflake, or holds a password, which belongs in the environment.
        """
        scheme, _, rest = url.partition("jdbc:snowflake:")
        try:
            parts = urlsplit(rest)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise JobError(_EXPECTED) from None
        if scheme or not host or parts.username is not None:
            raise JobError(_EXPECTED)
        given = {name.lower(): value for name, value in parse_qsl(parts.query, keep_blank_values=True)}
        if "password" in given or "user" in given:
            raise JobError("jdbc_settings.url: user and password belong in SNOWFLAKE_USERNAME and SNOWFLAKE_PASSWORD")
        if others := sorted(set(given) - _KNOWN):
            LOG.warning("jdbc_settings.url: means nothing here and is ignored: %s", ", ".join(others))
        secure = given.get("ssl", "on").lower() not in ("off", "false")
        return cls(
            host=host,
            port=port or (443 if secure else 80),
            account=given.get("account") or _account(host),
            secure=secure,
            session={_NAMES[name]: value for name, value in given.items() if name in _NAMES and value},
        )


def _account(host: str) -> str:
    """The host without the service's domain."""
    for domain in (".snowflakecomputing.com", ".snowflakecomputing.cn"):
        if host.endswith(domain):
            return host.removesuffix(domain)
    return host.partition(".")[0]
