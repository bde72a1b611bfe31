"""The table that says how many rows of a run its target has for good, written in the same transactions as they."""

from dataclasses import dataclass
from typing import Final

import jpype

from batch.jdbc.connections import Connection, Table

CHECKPOINTS: Final = "prediction_batch_runs"


class NotAllowed(Exception):
    """The user may not make the table; says how it would be made."""


@dataclass(frozen=True)
class Checkpoints:
    """That table beside some target. Blocking; its callers translate what Java raises."""

    connection: Connection
    table: Table

    @classmethod
    def beside(cls, connection: Connection, owner: Table) -> "Checkpoints":
        """
        The one that is there, else a new one.

        Raises:
            NotAllowed: there is none, and none can be made.
        """
        if (found := connection.find(owner.catalog, owner.schema, CHECKPOINTS)) is not None:
            return cls(connection, found)
        made = cls(connection, Table(connection, owner.catalog, owner.schema, CHECKPOINTS))
        bigint = connection.template.bigint
        sql = f"{made.table.qualified} ({made._run} VARCHAR(64) NOT NULL PRIMARY KEY, {made._n_rows} {bigint} NOT NULL)"
        try:
            connection.run(f"CREATE TABLE {sql}")
            connection.java.commit()
        except jpype.JException as exc:
            connection.java.rollback()
            if (found := connection.find(owner.catalog, owner.schema, CHECKPOINTS)) is not None:
                return cls(connection, found)  # another job was quicker
            raise NotAllowed(sql) from exc
        return made

    @property
    def _run(self) -> str:
        return self.connection.names.quoted("run")

    @property
    def _n_rows(self) -> str:
        return self.connection.names.quoted("n_rows")

    def rows_of(self, run: str) -> int:
        """How many rows of *run* were committed."""
        sql = f"SELECT {self._n_rows} FROM {self.table.qualified} WHERE {self._run} = ?"  # noqa: S608
        return self.connection.number(sql, run) or 0

    def keep(self, run: str, n_rows: int) -> None:
        """Say so; to be committed with the rows themselves."""
        java_long = jpype.java.lang.Long.valueOf(n_rows)
        new = f"UPDATE {self.table.qualified} SET {self._n_rows} = ? WHERE {self._run} = ?"  # noqa: S608
        if not self.connection.execute(new, java_long, run):
            first = f"INSERT INTO {self.table.qualified} ({self._run}, {self._n_rows}) VALUES (?, ?)"  # noqa: S608
            self.connection.execute(first, run, java_long)

    def forget(self, run: str) -> None:
        """The run is over."""
        self.connection.execute(f"DELETE FROM {self.table.qualified} WHERE {self._run} = ?", run)  # noqa: S608
