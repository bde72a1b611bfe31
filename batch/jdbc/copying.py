"""
Rows of a query by PostgreSQL's COPY, which sends them while they are read; a cursor waits for each block of them.

Columns whose binary form `Bridge.java` does not know come as text, by a cast of the database. What cannot be copied at
all is left to a cursor, which also has the better words for what is wrong with a query.
"""

from collections.abc import Sequence
from typing import Any, Final

import jpype

from batch.jdbc import jvm
from batch.jdbc.columns import TEXT, Column, columns_of
from batch.jdbc.connections import Connection
from batch.jdbc.statements import copy_out

_KNOWN: Final = frozenset(
    ["bool", "int2", "int4", "int8", "smallserial", "serial", "bigserial", "float4", "float8", "numeric", "date"]
) | {"timestamp", "timestamptz", "text", "varchar", "bpchar", "name", "json"}
_CAST_OTHERWISE: Final = frozenset(["cidr", "inet"])
"""Their casts to text write another text than the database shows."""
_FOR_JDBC: Final = frozenset("?{")
"""Marks of parameters and of escapes that only a driver understands."""
_CANCELLED: Final = "57014"


def end_copy(connection: Connection) -> None:
    """Stop it, read to its end or not, and with it the connection: the driver would wait for the end to roll back."""
    connection.java.cancelQuery()
    connection.java.close()


def copy_of(connection: Connection, sql: str) -> tuple[Sequence[Column], Any] | None:
    """The columns of a query, and its rows as a stream for ``Bridge.CopyReader``; None: not by this way."""
    java = connection.java
    if _FOR_JDBC & {*sql}:
        return None
    try:
        connection.run("SET TRANSACTION READ ONLY")  # a copy that begins the transaction makes it one that may write
        with java.prepareStatement(sql) as statement:
            # So the text is one whole query: nothing in it ends the parenthesis of COPY.
            about = statement.getMetaData()
            if about is None:
                return None
            columns = columns_of(jvm.bridge(), about)
        unknown = [column for column in columns if column.database_type not in _KNOWN]
        if any(column.kind != TEXT or column.database_type in _CAST_OTHERWISE for column in unknown):
            return None
        stream = jpype.JClass("org.postgresql.copy.PGCopyInputStream", loader=java.getClass().getClassLoader())
        return columns, stream(java, copy_out(sql, [column in unknown for column in columns]))
    except jpype.JException as exc:
        if getattr(exc, "getSQLState", str)() == _CANCELLED:
            raise
        java.rollback()
        return None
