"""
Rows into a table, all or none.

How far a run has come stands in a table beside the target, `checkpoints`, written in the same transactions: whatever a
killed run committed, its continuation passes over exactly that.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Final

import jpype
import numpy as np
import pyarrow as pa

from batch.databases import STATEMENT_TYPES, JdbcOutput
from batch.errors import JobError, OutputError, StateMismatch
from batch.jdbc import jvm, loading
from batch.jdbc.checkpoints import Checkpoints, NotAllowed
from batch.jdbc.columns import Typed, block_from, typed
from batch.jdbc.connections import Connection, Database, Table
from batch.jdbc.statements import copy_in, create_table, insert, update
from batch.ports import Leftovers

BATCH: Final = 1000
"""Rows in one round trip."""
_UNCERTAIN: Final = -2


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
    _checkpoints: Checkpoints | None = None
    _insert_sql: str = ""
    _update_sql: str = ""
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
                raise self._exists()
            return
        raise OutputError(f"{self.what}: cannot be the name of a table in this database")

    def _exists(self) -> OutputError:
        return OutputError(f"{self.what}: exists, and statement_type create_table makes a new one")

    def begin(self, run: str) -> None:
        """Find out what is there of this run."""
        self.run = run
        with self._told():
            if run:
                self._checkpoints = self._found_checkpoints()
                self.kept = self._rows_of(run)
            if self.kept and self.table is None:
                raise StateMismatch(f"{self.what}: is gone with {self.kept} rows of this job; --restart starts over")
            self._look_at_made()
            self.connection.java.commit()
        self._since = monotonic()

    def _token(self, run: str) -> str:
        return f"table:{run}:{self.settings.table}"

    def _look_at_made(self) -> None:
        """A table that an earlier run of the job made, and that is not continued, is made anew."""
        mine = [token for token in self.leftovers.found if token.startswith("table:")]
        self._made = self.table is not None and self._token(self.run) in mine
        if mine and not self._made:
            runs = {token.split(":")[1] for token in mine}
            if self._drop(sum(map(self._rows_of, runs))):
                for run in runs:
                    self._forget(run)
            elif self.kind == "create_table":
                raise self._exists()

    def _drop(self, n_rows: int) -> bool:
        """Drop the table, unless somebody else's rows came into it: it has other than *n_rows*."""
        if self.table is None:
            return True
        if self.connection.number(f"SELECT COUNT(*) FROM {self.table.qualified}") != n_rows:  # noqa: S608
            return False
        self.connection.run(f"DROP TABLE {self.table.qualified}")
        self.connection.java.commit()
        self.table = None
        return True

    def _found_checkpoints(self) -> Checkpoints | None:
        """None: the user may not make them, and can do without."""
        owner = self.table or self.connection.new(self.settings.catalog, self.settings.schema, self.settings.table)
        try:
            return Checkpoints.beside(self.connection, owner)
        except NotAllowed as exc:
            if self._commits_often:
                raise OutputError(
                    f"{self.what}: commits in between need the table {exc}, which the user may "
                    'not make: have it made, leave commit_interval out, or set "resume": false'
                ) from exc
            if f"commit:{self.run}" in self.leftovers.found:
                raise StateMismatch(
                    f"{self.what}: the run before was killed while it committed: look whether its rows are there; "
                    "if not, --restart writes them"
                ) from exc
            return None

    def _rows_of(self, run: str) -> int:
        return self._checkpoints.rows_of(run) if self._checkpoints else 0

    @property
    def _commits_often(self) -> bool:
        return self.settings.commit == "batch" or self.settings.commit_interval > 0

    def write(self, rows: pa.Table) -> None:
        """Append, in batches; raises `OutputError`."""
        start, self.passed = self.passed, self.passed + rows.num_rows
        new = rows.slice(max(0, self.kept - start))
        columns = {name: typed(new.column(name).combine_chunks()) for name in new.column_names}
        with self._told():
            self._ready(columns)
        if not new.num_rows:
            return
        self._write(columns, new.num_rows, max(start, self.kept))
        if self._commits_often and (
            self.settings.commit == "batch" or monotonic() - self._since >= self.settings.commit_interval
        ):
            self.commit()

    def _ready(self, columns: Mapping[str, Typed]) -> None:
        """The table is there and has all columns; what is said to it, with its own names for them."""
        if self._insert_sql or self._update_sql:
            return
        if self.table is None:
            self._create(columns)
        assert self.table is not None
        there = self.table.columns()
        lower = {name.lower(): name for name in there}
        actual = {name: name if name in there else lower.get(name.lower(), "") for name in columns}
        new, where = self.settings.update_columns, self.settings.where_columns
        if unknown := [name for name in (*where, *new) if name not in columns]:
            raise OutputError(f"where_columns, update_columns: not in the output: {', '.join(map(repr, unknown))}")
        used = (*where, *new) if self.kind == "update" else columns
        if missing := [name for name in used if not actual[name]]:
            raise OutputError(
                f"{self.what}: has no columns {', '.join(map(repr, missing))}; column_names_remapping renames "
                "columns of the output, or leaves them out"
            )
        names, table = self.connection.names, self.table.qualified
        if self.kind != "update":
            self._insert_sql = (copy_in if self._copies else insert)(names, table, [actual[name] for name in columns])
        if new:
            self._update_sql = update(names, table, [actual[name] for name in new], [actual[name] for name in where])

    def _create(self, columns: Mapping[str, Typed]) -> None:
        new = self.connection.new(self.settings.catalog, self.settings.schema, self.settings.table)
        with_types = [(name, each.sql_type(self.connection.template)) for name, each in columns.items()]
        self.leftovers.note(self._token(self.run))
        self.connection.run(create_table(self.connection.names, new.qualified, with_types))
        if self.kind != "create_table" or not self.connection.template.takes_back_tables:
            self.connection.java.commit()  # other jobs may want to write there as well
        self._made = True
        self.table = self.connection.find(self.settings.catalog, self.settings.schema, self.settings.table) or new

    def _write(self, columns: Mapping[str, Typed], n_rows: int, first: int) -> None:
        if self._copies:
            self._copy(columns, first)
            return
        with self._told():
            block = block_from(jvm.bridge(), list(columns.values()))
        step = {"update": self._update, "insert_update": self._update_or_insert}.get(self.kind, self._insert)
        for start in range(0, n_rows, BATCH):
            self._try(partial(step, block, columns), start, min(start + BATCH, n_rows), first, tuple(columns))

    def _try(
        self, write: Callable[[int, int], None], start: int, stop: int, first: int, columns: tuple[str, ...]
    ) -> None:
        """Some rows of a block; halves of them find the one that the database does not take."""
        before = self.connection.mark()
        try:
            write(start, stop)
        except jpype.JException as exc:
            if stop - start == 1 or not jvm.is_about_values(exc) or not self.connection.back_to(before):
                with self._told(_place(first, start, stop), columns):
                    raise
            middle = (start + stop) // 2
            self._try(write, start, middle, first, columns)
            self._try(write, middle, stop, first, columns)
        self.connection.unmark(before)

    @property
    def _copies(self) -> bool:
        plain = self.kind not in ("update", "insert_update")
        return plain and self.connection.template.copies and hasattr(self.connection.java, "getCopyAPI")

    def _copy(self, columns: Mapping[str, Typed], first: int) -> None:
        rows = pa.table([each.column for each in columns.values()], names=list(columns))
        try:
            loading.load(self.connection.java, self._insert_sql, rows)
        except jpype.JException as exc:
            assert self.table is not None
            row = loading.row_at(loading.line_of(exc, self.table.name), rows)
            place = _place(first, 0, rows.num_rows) if row is None else _place(first, row, row + 1)
            with self._told(place, tuple(columns)):
                raise

    def _insert(self, block: Any, columns: Mapping[str, Typed], start: int, stop: int) -> None:
        self._inserted(block, columns, range(start, stop))

    def _update(self, block: Any, columns: Mapping[str, Typed], start: int, stop: int) -> None:
        counts = self._updated(block, columns, range(start, stop))
        self.missed += counts.count(0)

    def _update_or_insert(self, block: Any, columns: Mapping[str, Typed], start: int, stop: int) -> None:
        """Update; insert what was not found, of rows with the same key the first; update with the others."""
        counts = self._updated(block, columns, range(start, stop))
        new = [row for row, count in enumerate(counts, start) if not count]
        found = [columns[name].column.take(pa.array(new, pa.int64())) for name in self.settings.where_columns]
        keys = zip(*(each.to_pylist() for each in found), strict=True)
        firsts: dict[tuple[Any, ...], int] = {}
        others = [row for row, key in zip(new, keys, strict=True) if firsts.setdefault(key, row) != row]
        if firsts:
            self._inserted(block, columns, list(firsts.values()))
        if others:
            self._updated(block, columns, others)

    def _inserted(self, block: Any, columns: Mapping[str, Typed], rows: Sequence[int]) -> None:
        with self.connection.java.prepareStatement(self._insert_sql) as statement:
            block.execute(statement, _ints(range(len(columns))), _ints(rows))

    def _updated(self, block: Any, columns: Mapping[str, Typed], rows: Sequence[int]) -> list[int]:
        """By row, how many rows of the table were changed."""
        names = list(columns)
        places = _ints([names.index(name) for name in (*self.settings.update_columns, *self.settings.where_columns)])
        with self.connection.java.prepareStatement(self._update_sql) as statement:
            counts: list[int] = np.asarray(block.execute(statement, places, _ints(rows))).tolist()
            if _UNCERTAIN in counts:  # the driver does not count in batches
                counts = [int(block.execute(statement, places, _ints([row]))[0]) for row in rows]
        if _UNCERTAIN in counts:
            raise OutputError(f"{self.what}: the driver does not tell how many rows an update changes")
        return counts

    def commit(self) -> None:
        """Make all rows so far stay, and with them how many they are; raises `OutputError`."""
        if self.passed < self.kept:
            raise StateMismatch(f"{self.what}: has {self.kept} rows of this job, which now comes to {self.passed}")
        with self._told(" while committing"):
            if self._checkpoints is not None and self.passed > self.kept:
                self._checkpoints.keep(self.run, self.passed)
            elif self.run and self._checkpoints is None:
                self.leftovers.note(f"commit:{self.run}")
            self.connection.java.commit()
        self.committed = self.passed
        self._since = monotonic()

    def forget(self) -> None:
        """The run is over and will not be continued: so is its checkpoint."""
        self._forget(self.run)

    def _forget(self, run: str) -> None:
        if self._checkpoints is not None:
            with suppress(jpype.JException):
                self._checkpoints.forget(run)
                self.connection.java.commit()

    def undo(self) -> None:
        """Leave the table as it was, but for what was committed on purpose."""
        with suppress(jpype.JException):
            self.connection.java.rollback()
            if self._made and not self.committed and not self.kept:
                self._drop(0)

    def close(self) -> None:
        """Let go of the connection."""
        self.connection.cancel_and_close()


def _ints(numbers: Sequence[int]) -> Any:
    return jpype.JArray(jpype.JInt)(numbers)


def _place(first: int, start: int, stop: int) -> str:
    """For messages: rows of a block whose first row is *first* of the job."""
    return f", row {first + stop}" if stop - start == 1 else f", rows {first + start + 1} to {first + stop}"
