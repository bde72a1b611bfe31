"""
Which parameters a JDBC URL may have.

A URL comes with the job, a driver is code: several drivers load classes, run scripts, read or write files if a
parameter says so. What is not known to be harmless is refused; the operator may allow more.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final
from urllib.parse import unquote

_EVERYWHERE: Final = frozenset(["user", "password", "ssl"])
_TIMES: Final = frozenset(["connecttimeout", "sockettimeout", "logintimeout", "tcpkeepalive", "applicationname"])
_MARIADB: Final = _TIMES | frozenset(
    [
        "allowpublickeyretrieval",
        "cacheprepstmts",
        "characterencoding",
        "connectioncollation",
        "createdatabaseifnotexist",
        "defaultfetchsize",
        "maxallowedpacket",
        "prepstmtcachesize",
        "prepstmtcachesqllimit",
        "requiressl",
        "rewritebatchedstatements",
        "serversslcert",
        "servertimezone",
        "sslmode",
        "timezone",
        "tinyint1isbit",
        "trustservercertificate",
        "usebulkstmts",
        "usecompression",
        "usecursorfetch",
        "useserverprepstmts",
        "usessl",
        "useunicode",
        "verifyservercertificate",
        "yearisdatetype",
        "zerodatetimebehavior",
    ]
)
ALLOWED: Final[Mapping[str, frozenset[str]]] = {
    "postgresql": _TIMES
    | frozenset(
        [
            "adaptivefetch",
            "autosave",
            "binarytransfer",
            "channelbinding",
            "cleanupsavepoints",
            "currentschema",
            "defaultrowfetchsize",
            "gssencmode",
            "hostrecheckseconds",
            "loadbalancehosts",
            "maxresultbuffer",
            "preparedstatementcachequeries",
            "preparethreshold",
            "readonly",
            "readonlymode",
            "rewritebatchedinserts",
            "sslcert",
            "sslkey",
            "sslmode",
            "sslnegotiation",
            "sslrootcert",
            "stringtype",
            "targetservertype",
        ]
    ),
    "mariadb": _MARIADB,
    "mysql": _MARIADB,
    "h2": frozenset(
        [
            "access_mode_data",
            "cache_size",
            "case_insensitive_identifiers",
            "database_to_lower",
            "database_to_upper",
            "db_close_delay",
            "db_close_on_exit",
            "ifexists",
            "lazy_query_execution",
            "lock_timeout",
            "max_memory_rows",
            "mode",
            "non_keywords",
            "schema",
            "write_delay",
        ]
    ),
    "hsqldb": frozenset(
        [
            "close_result",
            "create",
            "default_schema",
            "get_column_name",
            "hsqldb.cache_rows",
            "hsqldb.default_table_type",
            "hsqldb.lock_file",
            "hsqldb.result_max_memory_rows",
            "hsqldb.tx",
            "hsqldb.tx_level",
            "hsqldb.write_delay",
            "hsqldb.write_delay_millis",
            "ifexists",
            "memory_lobs",
            "readonly",
            "shutdown",
            "sql.syntax_mys",
            "sql.syntax_ora",
            "sql.syntax_pgs",
        ]
    ),
    "derby": frozenset(["collation", "create", "territory"]),
    "sqlserver": _TIMES
    | frozenset(
        [
            "applicationintent",
            "authentication",
            "database",
            "databasename",
            "encrypt",
            "hostnameincertificate",
            "instancename",
            "multisubnetfailover",
            "packetsize",
            "port",
            "portnumber",
            "querytimeout",
            "responsebuffering",
            "selectmethod",
            "sendstringparametersasunicode",
            "servername",
            "trustservercertificate",
            "usebulkcopyforbatchinsert",
            "workstationid",
        ]
    ),
    "oracle": frozenset(["defaultrowprefetch", "oracle.jdbc.readtimeout", "oracle.net.connect_timeout"]),
    "snowflake": frozenset(
        [
            "account",
            "application",
            "client_session_keep_alive",
            "database",
            "db",
            "jdbc_query_result_format",
            "networktimeout",
            "querytimeout",
            "role",
            "schema",
            "timezone",
            "warehouse",
        ]
    )
    | _TIMES,
}
_OTHERS: Final = _TIMES | frozenset(["currentschema", "database", "databasename", "encrypt", "schema"])
_SCHEME: Final = re.compile(r"jdbc:([a-z0-9]+):")
_LOOKUPS: Final = re.compile(r"(?i)\b(?:ldaps?|rmi|iiop|jndi|dns)://|@(?:ldaps?|jndi):|[:@]jndi:")


def scheme_of(url: str) -> str:
    """Which kind of database, as the URL says."""
    found = _SCHEME.match(url)
    return found[1] if found else ""


def parameters_of(url: str) -> dict[str, str]:
    """All parameters by name; names and values as they stand in *url*."""
    _, _, rest = re.sub("[?;]", "?", url, count=1).partition("?")
    pieces = (piece.partition("=") for piece in re.split("[&;]", rest) if piece.strip())
    return {name.strip(): value for name, _, value in pieces}


def without(url: str, names: Collection[str]) -> tuple[str, dict[str, str]]:
    """*url* without the parameters *names*, and their values; to be given where they are not logged."""
    taken = {name.lower(): value for name, value in parameters_of(url).items() if name.lower() in names}
    if not taken:
        return url, {}
    pattern = rf"(?i)(?<=[?;&])\s*(?:{'|'.join(map(re.escape, taken))})\s*=[^&;]*[&;]?"
    return re.sub(pattern, "", url).rstrip("?&;"), taken


def url_problems(url: str, also_allowed: Collection[str] = ()) -> Iterator[str]:
    """What keeps *url* from being used; never a part of it but the names of parameters."""
    scheme = scheme_of(url)
    allowed = _EVERYWHERE | ALLOWED.get(scheme, _OTHERS) | {name.lower() for name in also_allowed}
    if not url.isprintable() or "\\" in url:
        yield "has a character that no URL has"
    if _LOOKUPS.search(url):
        yield "asks a naming service where the database is, which may answer with code"
    if scheme in ("mysql", "mariadb") and "(" in url:
        yield "its hosts have parameters of their own; write them behind the '?'"
    for name in parameters_of(url):
        if unquote(name).lower() not in allowed:
            yield (
                f"parameter {name[:60]!r} is not known to be harmless; the operator may allow more by "
                "PREDICTION_API_BATCH_JDBC_PARAMETERS"
            )
