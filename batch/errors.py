"""
What can go wrong in a batch job, under the product's one tree of errors.

ServingError
└── BatchError               the job ends with status 1 unless said otherwise
    ├── JobError             status 2: the definition or the arguments, all problems at once
    ├── AdapterUnavailable   status 2: the store's client is not installed, or does not exist yet
    ├── IntakeError          the input cannot be found or read, or is not what its format says
    ├── OutputError          the output cannot be written
    ├── ScoringServerError   the prediction server cannot be reached, or answers something else than predictions
    │   └── ModelChanged     it serves another model now than when the job began
    ├── RowRefused           a row that the model cannot take, where the job says to stop at one
    ├── TooManyErrors        more such rows than the job allows
    ├── StateMismatch        what an earlier run left belongs to another job, input or model
    ├── JobRunning           another process runs the same job
    ├── RowsUnaccounted      rows read are not rows scored plus failed plus skipped: a fault of ours
    └── JobAborted           stopped from outside; the same command continues
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from model_repository.errors import ServingError


class BatchError(ServingError):
    """Root of everything that a batch job raises on purpose; its text is for the person who started it."""

    exit_code: ClassVar[int] = 1


class JobError(BatchError):
    """The job definition or the arguments are wrong; one problem per line, each with the path of its key."""

    status_hint = 422
    exit_code = 2

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: Sequence[str] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class AdapterUnavailable(BatchError):
    """Nothing here can reach that kind of store; the message says what to install."""

    status_hint = 422
    exit_code = 2


class IntakeError(BatchError):
    """The input is missing, unreadable, changed while it was read, or malformed; the message names file and line."""


class OutputError(BatchError):
    """The output cannot be written, or exists and may not be replaced."""


class ScoringServerError(BatchError):
    """The prediction server failed for good: unreachable, refusing, or answering nonsense."""

    status_hint = 502


class ModelChanged(ScoringServerError):
    """The server's model is another one than that of the rows scored so far."""


class RowRefused(BatchError):
    """A row cannot be scored, and the job stops at such rows; the message names the row and what is wrong in it."""

    status_hint = 422


class TooManyErrors(BatchError):
    """More rows failed than the job allows."""

    status_hint = 422


class StateMismatch(BatchError):
    """The job cannot be continued, because something changed since; the message says what."""

    status_hint = 409


class JobRunning(BatchError):
    """Another process holds the job's state."""

    status_hint = 409


class RowsUnaccounted(BatchError):
    """The row account does not add up; nothing was published."""


class JobAborted(BatchError):
    """The job was stopped; its state stays, and the same command continues it."""
