"""
A port for whoever keeps the book of packages that end the processes that run them.

A compiled plan cannot crash a process, and uploads are tried out in a process of their own. What an operator put on
disk is neither: the original estimator runs native code, or a pickle's, in the process that serves.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from model_repository.discovery import FileKey
from model_repository.errors import ModelUnavailable
from model_repository.predictions import Runtime
from model_repository.tables import FloatArray, Rows, Table


class Watch(Protocol):
    """Packages are told apart by their deployment and file, so that a replaced one begins anew."""

    def running(self, name: str, package: FileKey) -> AbstractContextManager[None]:
        """A context in which the package may end this process; any thread may enter."""
        ...

    def verdict(self, name: str, package: FileKey) -> str | None:
        """Why the package must not run any more, if so; asked at each request."""
        ...


class NoWatch:
    """For processes that nobody replaces."""

    def running(self, _name: str, _package: FileKey) -> AbstractContextManager[None]:
        """Nothing is noted."""
        return nullcontext()

    def verdict(self, _name: str, _package: FileKey) -> str | None:
        """Never."""
        return None


@dataclass(frozen=True, slots=True)
class WatchedRuntime:
    """A runtime that says whenever it runs, and does not once it must not: requests may have waited for their turn."""

    runtime: Runtime
    watch: Watch
    name: str
    package: FileKey

    def predict(self, table: Table) -> FloatArray:
        """As the runtime's; `ModelUnavailable` if it must not run."""
        with self.watch.running(self.name, self.package):
            self._check()
            return self.runtime.predict(table)

    def predict_rows(self, rows: Rows) -> FloatArray:
        """The same for a few rows."""
        with self.watch.running(self.name, self.package):
            self._check()
            return self.runtime.predict_rows(rows)

    def _check(self) -> None:
        if verdict := self.watch.verdict(self.name, self.package):
            raise ModelUnavailable(f"deployment {self.name!r}: {verdict}")
