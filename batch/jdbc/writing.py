"""
Rows into a table, all or none.

How far a run has come stands in a table of its own, `CHECKPOINTS`, beside the target and written in the same
transactions: whatever a killed run committed, its continuation passes over exactly that.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import jpype
import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from batch.databases import STATEMENT_TYPES, JdbcOutput
from batch.errors import JobError, OutputError, StateMismatch
from batch.jdbc import jvm
from batch.jdbc.columns import Typed, block_from, typed
from batch.jdbc.connections import Connection, Database, Table
from batch.jdbc.statements import copy_in, create_table, insert, update
from batch.ports import Leftovers

CHECKPOINTS: Final = "prediction_batch_runs"
BATCH: Final = 1000
"""Rows in one round trip."""
_UNCERTAIN: Final = -2
_FAILED: Final = -3


@dataclass
class Writing:
    """The table of a job. Blocking."""

    database: Database
    settings: JdbcOutput
    leftovers: Leftovers
    connection: Connection = field(init=False)
    table: Table | None = field(init=False, default=None)
    run: str = ""
    passed: int = 0
    """Rows that came so far."""
    kept: int = 0
    """Rows that an earlier run of this job committed."""
    committed: int = 0
    missed: int = 0
    """Rows that an update did not find."""
    _made: bool = False
    _checkpoint: str | None = None
    _actual: Mapping[str, str] | None = None
    _since: float = field(default_factory=monotonic)

    def __post_init__(self) -> None:
        counts = self.kind in ("update", "insert_update")
        self.connection = self.database.connect(OutputError, self.database.template.for_updates if counts else {})
        try:
            with self._told():
                self.connection.java.setAutoCommit(False)
                self.table = self.connection.find(self.settings.catalog, self.settings.schema, self.settings.table)
                self.connection.java.commit()
            self._check_there()
        except BaseException:
            self.connection.cancel_and_close()
            raise

    @property
    def kind(self) -> str:
        """The statement type in its first spelling."""
        return STATEMENT_TYPES.get(self.settings.statement_type, self.settings.statement_type)

    @property
    def what(self) -> str:
        """For messages."""
        return f"table {self.settings.table!r}"

    def _told(self, where: str = "", columns: tuple[str, ...] = ()) -> Any:
        return jvm.translated(OutputError, self.what + where, self.database.settings.url, columns)

    def _check_there(self) -> None:
        creates = self.kind == "create_table" or self.settings.create_table_if_not_exists
        if self.table is None and not creates:
            hint = "; schema and catalog are keys of their own" if "." in self.settings.table else ""
            raise OutputError(
                f'{self.what}: there is no such table; "create_table_if_not_exists": true would make it{hint}'
            )
        with suppress(JobError):
            self.connection.names.quoted(self.settings.table)
            ours = any(token.startswith("table:") for token in self.leftovers.found)
            if self.table is not None and self.kind == "create_table" and not ours:
                raise OutputError(f"{self.what}: exists, and statement_type create_table makes a new one")
            return
        raise OutputError(f"{self.what}: cannot be the name of a table in this database")

    def begin(self, run: str) -> None:
        """Find out what is there of this run."""
        self.run = run
        with self._told():
            self._drop_unfinished()
            if run:
                self._checkpoint = self._checkpoints()
            if self._checkpoint:
                self.kept = self._kept()
                self.connection.java.commit()
        self._since = monotonic()

    def _token(self, run: str) -> str:
        return f"table:{run}:{self.settings.table}"

    def _drop_unfinished(self) -> None:
        """A table that an earlier run of the job made, and that is not continued, is made anew."""
        mine = [token for token in self.leftovers.found if token.startswith("table:")]
        if self.table is None or not mine or self._token(self.run) in mine:
            self._made = self.table is not None and self._token(self.run) in mine
            return
        self._drop()

    def _drop(self) -> None:
        if self.table is not None:
            self.connection.run(f"DROP TABLE {self.table.qualified}")
            self.connection.java.commit()
            self.table = None

    def _checkpoints(self) -> str | None:
        """The table of checkpoints, made if need be; None: the user may not make one, and can do without."""
        owner = self.table or self.connection.new(self.settings.catalog, self.settings.schema, CHECKPOINTS)
        found = self.connection.find(owner.catalog, owner.schema, CHECKPOINTS)
        if found is not None:
            return found.qualified
        new = Table(self.connection, owner.catalog, owner.schema, CHECKPOINTS)
        names, bigint = self.connection.names, self.connection.template.bigint
        columns = f"{names.quoted('run')} VARCHAR(64) NOT NULL PRIMARY KEY, {names.quoted('n_rows')} {bigint} NOT NULL"
        try:
            self.connection.run(f"CREATE TABLE {new.qualified} ({columns})")
            self.connection.java.commit()
        except jpype.JException as exc:
            self.connection.java.rollback()
            if found := self.connection.find(owner.catalog, owner.schema, CHECKPOINTS):
                return found.qualified  # another job was quicker
            if self._commits_often:
                raise OutputError(
                    f"{self.what}: commits in between need the table {new.qualified} ({columns}), which the user may "
                    'not make: have it made, leave commit_interval out, or set "resume": false'
                ) from exc
            if f"commit:{self.run}" in self.leftovers.found:
                raise StateMismatch(
                    f"{self.what}: the run before was killed while it committed: look whether its rows are there; "
                    "if not, --restart writes them"
                ) from exc
            return None
        return new.qualified

    def _kept(self) -> int:
        names = self.connection.names
        sql = f"SELECT {names.quoted('n_rows')} FROM {self._checkpoint} WHERE {names.quoted('run')} = ?"  # noqa: S608
        with self.connection.java.prepareStatement(sql) as statement:
            statement.setString(1, self.run)
            with statement.executeQuery() as rows:
                return int(rows.getLong(1)) if rows.next() else 0

    @property
    def _commits_often(self) -> bool:
        return self.settings.commit == "batch" or self.settings.commit_interval > 0

    def write(self, rows: pa.Table) -> None:
        """Append, in batches; raises `OutputError`."""
        start, self.passed = self.passed, self.passed + rows.num_rows
        if self.passed <= self.kept:
            return
        if start < self.kept:
            rows = rows.slice(self.kept - start)
            start = self.kept
        columns = {name: typed(rows.column(name).combine_chunks()) for name in rows.column_names}
        with self._told():
            self._ready(columns)
        self._write(columns, rows.num_rows, start)
        if self._commits_often and (
            self.settings.commit == "batch" or monotonic() - self._since >= self.settings.commit_interval
        ):
            self.commit()

    def _ready(self, columns: Mapping[str, Typed]) -> None:
        """The table is there and has all columns; its own names for them."""
        if self._actual is not None:
            return
        if self.table is None:
            self._create(columns)
        assert self.table is not None
        there = self.table.columns()
        lower = {name.lower(): name for name in there}
        actual = {name: name if name in there else lower.get(name.lower(), "") for name in columns}
        used = list(columns) if self.kind != "update" else [*self.settings.where_columns, *self.settings.update_columns]
        unknown = [
            name for name in (*self.settings.where_columns, *self.settings.update_columns) if name not in columns
        ]
        if unknown:
            raise OutputError(f"where_columns, update_columns: not in the output: {', '.join(map(repr, unknown))}")
        if missing := [name for name in used if not actual[name]]:
            raise OutputError(
                f"{self.what}: has no columns {', '.join(map(repr, missing))}; column_names_remapping renames "
                "columns of the output, or leaves them out"
            )
        self._actual = actual

    def _create(self, columns: Mapping[str, Typed]) -> None:
        new = self.connection.new(self.settings.catalog, self.settings.schema, self.settings.table)
        with_types = [(name, each.sql_type(self.connection.template)) for name, each in columns.items()]
        self.leftovers.note(self._token(self.run))
        self.connection.run(create_table(self.connection.names, new.qualified, with_types))
        self.connection.java.commit()
        self._made = True
        self.table = self.connection.find(self.settings.catalog, self.settings.schema, self.settings.table) or new

    def _write(self, columns: Mapping[str, Typed], n_rows: int, first: int) -> None:
        if self.kind not in ("update", "insert_update") and self.connection.template.copies and self._has_copy():
            with self._told(f", rows {first + 1} to {first + n_rows}", tuple(columns)):
                self._copy(columns)
            return
        with self._told():
            block = block_from(jvm.bridge(), list(columns.values()))
        step = {"update": self._update, "insert_update": self._update_or_insert}.get(self.kind, self._insert)
        for start in range(0, n_rows, BATCH):
            stop = min(start + BATCH, n_rows)
            place = f", rows {first + start + 1} to {first + stop}"
            try:
                step(block, columns, start, stop)
            except jpype.java.sql.BatchUpdateException as exc:
                row = _failed(exc, stop - start)
                place = place if row is None else f", row {first + start + row + 1}"
                with self._told(place, tuple(columns)):
                    raise
            except jpype.JException:
                with self._told(place, tuple(columns)):
                    raise

    def _has_copy(self) -> bool:
        return hasattr(self.connection.java, "getCopyAPI")

    def _copy(self, columns: Mapping[str, Typed]) -> None:
        assert self.table is not None
        assert self._actual is not None
        sink = pa.BufferOutputStream()
        plain = pa.table([each.column for each in columns.values()], names=list(columns))
        arrow_csv.write_csv(plain, sink, arrow_csv.WriteOptions(include_header=False))
        data = np.frombuffer(sink.getvalue(), np.int8)
        names = [self._actual[name] for name in columns]
        operation = self.connection.java.getCopyAPI().copyIn(
            copy_in(self.connection.names, self.table.qualified, names)
        )
        try:
            operation.writeToCopy(jpype.JArray(jpype.JByte)(data), 0, len(data))
            operation.endCopy()
        finally:
            if operation.isActive():
                operation.cancelCopy()

    def _insert(self, block: Any, columns: Mapping[str, Typed], start: int, stop: int) -> None:
        with self._prepared_insert(columns) as statement:
            block.execute(statement, jpype.JArray(jpype.JInt)(range(len(columns))), start, stop)

    def _update(self, block: Any, columns: Mapping[str, Typed], start: int, stop: int) -> None:
        counts = self._updated(block, columns, np.arange(start, stop))
        self.missed += int((counts == 0).sum())

    def _update_or_insert(self, block: Any, columns: Mapping[str, Typed], start: int, stop: int) -> None:
        """Update; insert what was not found, of rows with the same key the first; update with the others."""
        rows = np.arange(start, stop)
        new = rows[self._updated(block, columns, rows) == 0]
        if not len(new):
            return
        keys = pa.table({str(place): columns[name].column for place, name in enumerate(self.settings.where_columns)})
        seen: set[tuple[Any, ...]] = set()
        firsts: list[int] = []
        others: list[int] = []
        for row, key in zip(
            new.tolist(), zip(*(c.to_pylist() for c in keys.take(pa.array(new)).columns), strict=True), strict=True
        ):
            (others if key in seen else firsts).append(row)
            seen.add(key)
        with self._prepared_insert(columns) as statement:
            block.execute(
                statement,
                jpype.JArray(jpype.JInt)(range(len(columns))),
                jpype.JArray(jpype.JInt)(firsts),
            )
        if others:
            self._updated(block, columns, np.array(others))

    def _updated(self, block: Any, columns: Mapping[str, Typed], rows: Any) -> Any:
        """By row, how many rows of the table were changed."""
        assert self.table is not None
        assert self._actual is not None
        new, where = self.settings.update_columns, self.settings.where_columns
        names = list(columns)
        sql = update(
            self.connection.names,
            self.table.qualified,
            [self._actual[name] for name in new],
            [self._actual[name] for name in where],
        )
        places = jpype.JArray(jpype.JInt)([names.index(name) for name in (*new, *where)])
        with self.connection.java.prepareStatement(sql) as statement:
            counts = np.asarray(block.execute(statement, places, jpype.JArray(jpype.JInt)(rows.tolist()))).copy()
            if (counts == _UNCERTAIN).any():  # the driver does not count in batches
                one = [np.asarray(block.execute(statement, places, jpype.JArray(jpype.JInt)([r])))[0] for r in rows]
                counts = np.array(one)
        if (counts == _UNCERTAIN).any():
            raise OutputError(f"{self.what}: the driver does not tell how many rows an update changes")
        return counts

    def _prepared_insert(self, columns: Mapping[str, Typed]) -> Any:
        assert self.table is not None
        assert self._actual is not None
        names = [self._actual[name] for name in columns]
        return self.connection.java.prepareStatement(insert(self.connection.names, self.table.qualified, names))

    def commit(self) -> None:
        """Make all rows so far stay, and with them how many they are; raises `OutputError`."""
        if self.passed < self.kept:
            raise StateMismatch(f"{self.what}: has {self.kept} rows of this job, which now comes to {self.passed}")
        with self._told(" while committing"):
            if self._checkpoint and self.passed > self.kept:
                names = self.connection.names
                run, n_rows = names.quoted("run"), names.quoted("n_rows")
                sql = f"UPDATE {self._checkpoint} SET {n_rows} = ? WHERE {run} = ?"  # noqa: S608
                java_long = jpype.java.lang.Long.valueOf(self.passed)
                if not self.connection.execute(sql, java_long, self.run):
                    sql = f"INSERT INTO {self._checkpoint} ({run}, {n_rows}) VALUES (?, ?)"  # noqa: S608
                    self.connection.execute(sql, self.run, java_long)
            elif self.run and not self._checkpoint:
                self.leftovers.note(f"commit:{self.run}")
            self.connection.java.commit()
        self.committed = self.passed
        self._since = monotonic()

    def forget(self) -> None:
        """The run is over and will not be continued: so is its checkpoint."""
        if self._checkpoint:
            with suppress(jpype.JException):
                run = self.connection.names.quoted("run")
                self.connection.execute(f"DELETE FROM {self._checkpoint} WHERE {run} = ?", self.run)  # noqa: S608
                self.connection.java.commit()

    def undo(self) -> None:
        """Leave the table as it was, but for what was committed on purpose."""
        with suppress(jpype.JException):
            self.connection.java.rollback()
            if self._made and not self.committed and not self.kept:
                self._drop()

    def close(self) -> None:
        """Let go of the connection."""
        self.connection.cancel_and_close()


def _failed(exc: Any, n_rows: int) -> int | None:
    """Which row of a batch could not be written, if the driver tells."""
    counts: Sequence[int] = [int(count) for count in exc.getUpdateCounts()]
    if len(counts) < n_rows:
        return len(counts) if all(count != _FAILED for count in counts) else counts.index(_FAILED)
    failed = [row for row, count in enumerate(counts) if count == _FAILED]
    return failed[0] if failed and len(failed) < n_rows else None
