"""Connections to one database, and the tables that it has."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import jpype

from batch.errors import BatchError, JobError
from batch.jdbc import jvm
from batch.jdbc.statements import Names
from batch.jdbc.templates import Template, template_for
from batch.jdbc.url import parameters_of, url_problems, without
from batch.job import JdbcSettings
from batch.settings import Credentials

_OWN: Final = ("user", "password")
NOTHING: Final[Mapping[str, str]] = {}


@dataclass
class Database:
    """What is needed to connect, found to be right before anything is."""

    settings: JdbcSettings
    credentials: Credentials
    template: Template
    jars: tuple[str, ...]
    url: str
    """Without user and password."""
    secrets: Mapping[str, str] = field(repr=False)

    @classmethod
    def found(cls, settings: JdbcSettings, credentials: Credentials) -> "Database":
        """
        From a job's ``jdbc_settings``; Java runs when this returns.

        Raises:
            JobError: the URL has parameters that are not allowed, or there is no such template.
            AdapterUnavailable: no driver, or no Java.
        """
        allowed = [name.strip() for name in (credentials.jdbc_parameters or "").split(",")]
        if problems := list(url_problems(settings.url, allowed)):
            raise JobError([f"jdbc_settings.url: {problem}" for problem in problems])
        template = template_for(settings.template_name, settings.url)
        if settings.driver_path is None or settings.class_name is None:
            raise JobError("jdbc_settings: class_name and driver_path are required")
        jars = jvm.jars_in(Path(settings.driver_path), credentials.drivers)
        jvm.start(credentials)
        url, secrets = without(settings.url, _OWN)
        given = {"user": credentials.jdbc_username, "password": credentials.jdbc_password}
        return cls(
            settings, credentials, template, jars, url, {**secrets, **{k: v for k, v in given.items() if v is not None}}
        )

    def connect(self, error: type[BatchError], wanted: Mapping[str, str] = NOTHING) -> "Connection":
        """
        A new connection; raises *error* or `AdapterUnavailable`.

        Args:
            wanted: properties for the driver besides the template's, where the URL does not say otherwise.
        """
        said = {name.lower() for name in parameters_of(self.url)}
        all_wanted = {**self.template.properties, **wanted}
        properties = {name: value for name, value in all_wanted.items() if name.lower() not in said}
        with jvm.translated(error, "jdbc_settings.url", self.settings.url):
            made = jvm.connect(self.url, self.settings.class_name or "", self.jars, {**properties, **self.secrets})
        return Connection(self, made)


@dataclass
class Connection:
    """One connection; to be used by one thread at a time."""

    database: Database
    java: Any

    @cached_property
    def about(self) -> Any:
        """Its ``DatabaseMetaData``."""
        return self.java.getMetaData()

    @cached_property
    def names(self) -> Names:
        """How it writes names."""
        return Names(str(self.about.getIdentifierQuoteString() or ""), int(self.about.getMaxTableNameLength()))

    @property
    def template(self) -> Template:
        """What is special about it."""
        return self.database.template

    def execute(self, sql: str, *values: Any) -> int:
        """A statement; how many rows it changed."""
        with self.java.prepareStatement(sql) as statement:
            for place, value in enumerate(values, 1):
                statement.setObject(place, value)
            return 0 if statement.execute() else int(statement.getUpdateCount())

    def number(self, sql: str, *values: Any) -> int | None:
        """The one number that a query finds; None: it finds no row."""
        with self.java.prepareStatement(sql) as statement:
            for place, value in enumerate(values, 1):
                statement.setObject(place, value)
            with statement.executeQuery() as rows:
                return int(rows.getLong(1)) if rows.next() else None

    def run(self, sql: str) -> None:
        """A statement without parameters or counts."""
        with self.java.createStatement() as statement:
            statement.execute(sql)

    def mark(self) -> Any:
        """A place in the transaction to go `back_to`; None: the database knows no such."""
        return self.java.setSavepoint() if self._marks else None

    def back_to(self, mark: Any) -> bool:
        """Undo what was done since; False: that cannot be."""
        with suppress(jpype.JException):
            if mark is not None:
                self.java.rollback(mark)
                return True
        return False

    def unmark(self, mark: Any) -> None:
        """Nobody goes back there; some databases forget by themselves, and say that they cannot."""
        with suppress(jpype.JException):
            if mark is not None:
                self.java.releaseSavepoint(mark)

    @cached_property
    def _marks(self) -> bool:
        return bool(self.about.supportsSavepoints())

    def find(self, catalog: str | None, schema: str | None, table: str) -> "Table | None":
        """A table by its name: exactly so, else in the case in which the database has it."""
        if not self.about.supportsSchemasInTableDefinitions() and schema is not None:
            catalog, schema = catalog or schema, None  # some say schema for what others call a catalog
        here = (schema, catalog) if schema or catalog else (self._current("getSchema"), self._current("getCatalog"))
        for name in dict.fromkeys((table, table.upper(), table.lower())):
            for owner in dict.fromkeys((here[0], *((here[0].upper(), here[0].lower()) if here[0] else ()))):
                with self.about.getTables(
                    here[1], self._pattern(owner), self._pattern(name), jpype.JObject(None, "java.lang.String[]")
                ) as rows:
                    if rows.next():
                        return Table(self, _text(rows.getString(1)), _text(rows.getString(2)), str(rows.getString(3)))
        return None

    def new(self, catalog: str | None, schema: str | None, table: str) -> "Table":
        """A table that is still to be made, named as asked for."""
        if not self.about.supportsSchemasInTableDefinitions() and schema is not None:
            catalog, schema = catalog or schema, None
        return Table(self, catalog, schema, table)

    def _current(self, getter: str) -> str | None:
        with suppress(jpype.JException):
            return _text(getattr(self.java, getter)())
        return None

    def _pattern(self, name: str | None) -> str | None:
        escape = str(self.about.getSearchStringEscape() or "")
        if name is None or not escape:
            return name
        for special in dict.fromkeys((escape, "_", "%")):
            name = name.replace(special, escape + special)
        return name

    def cancel_and_close(self, cancel: Callable[[], None] | None = None) -> None:
        """Give up whatever it does; never raises."""
        for leave in (*([cancel] if cancel is not None else []), self.java.rollback, self.java.close):
            with suppress(jpype.JException):
                leave()


@dataclass(frozen=True)
class Table:
    """A table of a database."""

    connection: Connection
    catalog: str | None
    schema: str | None
    name: str

    @property
    def qualified(self) -> str:
        """Quoted, fit for a statement."""
        about = self.connection.about
        schema = self.schema if about.supportsSchemasInTableDefinitions() else None
        catalog = None if schema else self.catalog
        return self.beside(self.name, schema, catalog)

    def beside(self, name: str, schema: str | None = None, catalog: str | None = None) -> str:
        """Quoted, with the owner before it."""
        return self.connection.names.qualified((catalog, schema, name))

    def columns(self) -> list[str]:
        """Names of its columns."""
        sql = f"SELECT * FROM {self.qualified} WHERE 1 = 0"  # noqa: S608
        with self.connection.java.prepareStatement(sql) as statement, statement.executeQuery() as rows:
            return [str(name) for name, _ in jvm.bridge().namesOf(rows.getMetaData())]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
