"""
What a job leaves on disk until it is done: its journal, the spools of its output, and a lock.

A killed run is continued from the last entry whose bytes are all there. Entries written after a sync are known to be
good; those since then are good if their bytes have the right check sum, because a machine that stops may keep the
journal and lose the spool.

The lock is the kernel's and ends with the process, so nothing stale can stand in the way.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from batch.errors import JobRunning, OutputError, StateMismatch
from batch.journal import Done, Mark, entries_of, line_of
from batch.spool import Spool, crc_between

JOURNAL: Final = "journal"
ERRORS: Final = "errors.jsonl"
HINT: Final = "put it back, or start over with --restart"


@dataclass
class State:
    """The state directory of one job, locked."""

    directory: Path
    lock: int
    journal: int
    leftovers: "NotedLeftovers"
    run: str = ""
    """Names the run that began it, for stores that keep how much they have of it."""
    done: dict[int, Done] = field(default_factory=dict)
    """By product, the last good entry."""
    published: set[int] = field(default_factory=set)
    """Products that stand under their final names."""
    last: Done | None = None
    worth_keeping: bool = False
    """Whether there is something to be continued; else the state goes when it is closed."""

    def spool_path(self, product: int) -> Path:
        """Where the bytes of a product are collected."""
        return self.directory / f"spool-{product:05d}"

    def note(self, entry: Mapping[str, Any], *, sync: bool = False) -> None:
        """Append to the journal."""
        self.worth_keeping = self.worth_keeping or "done" in entry
        try:
            _write_all(self.journal, line_of(entry))
            if sync:
                os.fsync(self.journal)
        except OSError as exc:
            raise OutputError(f"{self.directory / JOURNAL}: {(exc.strerror or str(exc)).lower()}") from exc

    def close(self) -> None:
        """Let others have it, or nobody: it is removed while it is still locked."""
        if not self.worth_keeping:
            shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self.journal)
        os.close(self.lock)


@dataclass
class NotedLeftovers:
    """Tokens of things left open in a store; see `batch.ports.Leftovers`."""

    found: Sequence[str]
    state: State | None = None

    def note(self, token: str) -> None:
        """On disk when this returns."""
        if self.state is not None:
            self.state.note({"leftover": token}, sync=True)


def is_unfinished(directory: Path) -> bool:
    """Whether an earlier run left something there."""
    return (directory / JOURNAL).exists()


def open_state(directory: Path, identity: Mapping[str, Any], *, restart: bool = False) -> State:
    """
    The state of the job with that identity: a new one, or what an earlier run left.

    Args:
        identity: what must not have changed: option, input or model -> value, as JSON.
        restart: forget what is there.

    Raises:
        JobRunning: another process has it.
        StateMismatch: an earlier run had another identity; says in what.
        OutputError: the directory cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = _locked(directory)
    except OSError as exc:
        raise OutputError(f"{directory}: {(exc.strerror or str(exc)).lower()}") from exc
    try:
        return _opened(directory, identity, lock, restart=restart)
    except OSError as exc:
        os.close(lock)
        raise OutputError(f"{directory}: {(exc.strerror or str(exc)).lower()}") from exc
    except BaseException:
        os.close(lock)
        raise


def identity_left(directory: Path) -> Mapping[str, Any]:
    """The identity of the job that can be continued there; nothing if there is none."""
    try:
        entries, _ = entries_of((directory / JOURNAL).read_bytes())
    except OSError:
        return {}
    identity: Mapping[str, Any] = entries[0].get("identity", {}) if any("done" in entry for entry in entries) else {}
    return identity


def _opened(directory: Path, identity: Mapping[str, Any], lock: int, *, restart: bool) -> State:
    path = directory / JOURNAL
    entries, taken = entries_of(path.read_bytes()) if path.exists() else ([], 0)
    leftovers = NotedLeftovers([entry["leftover"] for entry in entries if "leftover" in entry])
    if restart or not any("done" in entry for entry in entries):  # of a run that did nothing, nothing is missed
        for old in directory.glob("spool-*"):
            old.unlink()
        kept: list[dict[str, Any]] = [{"leftover": token} for token in leftovers.found]
        entries, taken = [{"identity": dict(identity), "run": secrets.token_hex(16)}, *kept], 0
        path.unlink(missing_ok=True)
    elif differences := _differences(entries[0].get("identity", {}), identity):
        raise StateMismatch(f"the unfinished job in {directory} cannot be continued: {'; '.join(differences)}; {HINT}")
    journal = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.ftruncate(journal, taken)
    state = State(directory, lock, journal, leftovers, entries[0].get("run", ""))
    leftovers.state = state
    if not taken:
        for entry in entries:
            state.note(entry)
        os.fsync(journal)
    _replay(state, entries)
    state.worth_keeping = state.last is not None
    return state


def _replay(state: State, entries: Sequence[Mapping[str, Any]]) -> None:
    """Find the last entries whose bytes are there; what follows them is scored again."""
    done = [Done.read_from(entry) for entry in entries if "done" in entry]
    publishing = {entry["publishing"] for entry in entries if "publishing" in entry}
    state.published = {product for product in publishing if not state.spool_path(product).exists()}
    trusted = max((place for place, entry in enumerate(done) if entry.synced), default=-1)
    for place, entry in enumerate(done):
        if place > trusted and not _all_there(state, entry):
            break
        state.done[entry.product] = state.last = entry


def _all_there(state: State, entry: Done) -> bool:
    """Whether the bytes since the entry before are what they were."""
    before = state.done.get(entry.product)
    errors = state.last.errors if state.last else Mark()
    spooled = entry.product in state.published or _holds(
        state.spool_path(entry.product), before.spool if before else Mark(), entry.spool
    )
    return spooled and _holds(state.directory / ERRORS, errors, entry.errors)


def _holds(path: Path, before: Mark, mark: Mark) -> bool:
    if mark.length == before.length:
        return True
    return path.exists() and crc_between(path, before.length, mark.length) == mark.crc


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name} was {_shown(before.get(name))} and is {_shown(now.get(name))}" for name in sorted(names)]


def _shown(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _locked(directory: Path) -> int:
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise JobRunning(f"{directory}: another process runs this job") from None
    return lock


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def open_errors(state: State) -> Spool:
    """The reports of bad rows, cut back to what is done."""
    return Spool(state.directory / ERRORS, state.last.errors.length if state.last else 0)
