"""
Times of the run in a database's ``query`` and ``table``: ``{{ last_scheduled_run_time }}`` and the like.

They are filled for a run by hand, too; what only a schedule or an earlier run can tell is refused where there is none.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from batch.declared import suggestion
from batch.errors import JobError
from batch.job import Job, Store
from batch.schedule import Schedule, due_after, due_before

_VARIABLE: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_FIELDS: Final = ("query", "table")
_NEEDS: Final[Mapping[str, str]] = {
    "last_completed_run_time": "needs a run that was completed before, and a single run knows of none",
    "last_scheduled_run_time": "needs a schedule that was due before; give the job a schedule",
    "next_scheduled_run_time": "needs a schedule that is due again; give the job a schedule",
}
NAMES: Final = ("current_run_time", "current_run_timestamp", *_NEEDS)


@dataclass(frozen=True)
class RunTimes:
    """When a run began, and when others do; in UTC."""

    current: datetime
    last_completed: datetime | None = None
    last_scheduled: datetime | None = None
    next_scheduled: datetime | None = None

    @classmethod
    def now(cls, schedule: Schedule | None = None) -> "RunTimes":
        """Of a run that somebody starts now; of its *schedule* the times around it."""
        now = datetime.now(UTC)
        if schedule is None:
            return cls(now)
        return cls(now, last_scheduled=due_before(schedule, now), next_scheduled=due_after(schedule, now))

    def as_json(self) -> dict[str, str | None]:
        """For `from_json`."""
        return {name: _shown(time) for name, time in vars(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, str | None]) -> "RunTimes":
        """What `as_json` gave."""
        times = {name: datetime.fromisoformat(text) if text else None for name, text in values.items()}
        return cls(**times)  # type: ignore[arg-type]  # the current one is never None

    @property
    def values(self) -> Mapping[str, str | None]:
        """By variable, what it stands for; None: nobody knows."""
        return {
            "current_run_time": _shown(self.current),
            "current_run_timestamp": str(int(self.current.timestamp())),
            "last_completed_run_time": _shown(self.last_completed),
            "last_scheduled_run_time": _shown(self.last_scheduled),
            "next_scheduled_run_time": _shown(self.next_scheduled),
        }


def _shown(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def variables_in(job: Job) -> Iterator[tuple[str, str]]:
    """Path of a key, and a variable that its text names."""
    for name, store in _stores(job):
        for field in _FIELDS:
            for found in _VARIABLE.finditer(getattr(store.settings, field, None) or ""):
                yield f"{name}.{field}", found[1]


def unknown_variables(job: Job) -> Iterator[tuple[str, str]]:
    """Path of a key, and what is wrong with a variable in it."""
    for path, name in variables_in(job):
        if name not in NAMES:
            yield path, f"there is no variable {{{{ {name} }}}}{suggestion(name, NAMES)}"


def missing_times(job: Job, times: RunTimes) -> Iterator[str]:
    """One line for each variable in *job* whose value nobody knows."""
    values = times.values
    for path, name in variables_in(job):
        if values[name] is None:
            yield f"{path}: {{{{ {name} }}}} {_NEEDS[name]}"


def filled(job: Job, times: RunTimes) -> Job:
    """
    *job* with the values of its variables.

    Raises:
        JobError: nobody knows the value of one; all of them at once.
    """
    if missing := list(missing_times(job, times)):
        raise JobError(missing)
    values = times.values
    return msgspec.structs.replace(job, **{name: _filled_store(store, values) for name, store in _stores(job)})


def _stores(job: Job) -> Iterator[tuple[str, Store]]:
    yield "intake_settings", job.intake_settings
    yield "output_settings", job.output_settings


def _filled_store(store: Store, values: Mapping[str, str | None]) -> Store:
    texts = {field: getattr(store.settings, field, None) for field in _FIELDS}
    new = {field: _VARIABLE.sub(lambda found: values[found[1]] or "", text) for field, text in texts.items() if text}
    return msgspec.structs.replace(store, settings=msgspec.structs.replace(store.settings, **new)) if new else store
