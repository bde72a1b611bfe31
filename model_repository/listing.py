"""
What there is in a repository, by manifests and configurations alone: no model is loaded, no member inflated.

What was read is kept until the files change, so that a list of a thousand deployments costs a few ``stat`` each.
"""

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from model_repository.deployment_config import NO_CONFIG, read_config
from model_repository.discovery import (
    KEEPS_CHANGING,
    MOST_LOOKS,
    Snapshot,
    deployment_ids,
    is_current,
    key_of,
    look,
    opened,
)
from model_repository.errors import ModelNotFound, ServingError, StoreError
from model_repository.mlpkg import CheckSignature, Package

State = Literal["available", "loaded", "unavailable"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One deployment in the list."""

    id: str
    state: State
    """``loaded``: in the worker that answers."""
    reason: str | None = None
    """Why it is unavailable."""
    model_id: str | None = None
    """The configuration's, else the package's."""
    deployment_id: str | None = None
    """The configuration's."""
    name: str | None = None
    """Of the model, as the package says."""
    target: str | None = None
    target_type: str | None = None
    size: int | None = None
    """Of the package, in bytes."""


class Listing:
    """Entries of one repository; any thread may ask."""

    def __init__(self, root: str, check_signature: CheckSignature | None) -> None:
        self._root = root
        self._check_signature = check_signature
        self._lock = threading.Lock()
        self._found: dict[str, tuple[Snapshot, Entry]] = {}
        self._ids: dict[str, tuple[str, ...]] = {}
        self._refreshed: tuple[float, int, int] = (float("-inf"), 0, 0)

    def read_ahead(self, most_seconds: float) -> None:
        """Begin with what the first `refresh` would read, as far as that time goes; processes forked later share it."""
        deadline = time.monotonic() + most_seconds
        with self._lock, suppress(OSError):  # `refresh` says what is wrong
            for name in deployment_ids(self._root):
                if time.monotonic() > deadline:
                    return
                if (found := self._looked_up(name, None)) is not None:
                    self._found[name] = found

    def refresh(self, change: int = 0) -> list[tuple[Snapshot, Entry]]:
        """
        All deployments as they are now, by id.

        Args:
            change: the last change that the caller knows of; `is_stale` compares it.

        Raises:
            StoreError: the directory cannot be listed.
        """
        with self._lock:
            refreshed = (time.monotonic(), change, self._root_time())
            try:
                names = deployment_ids(self._root)
            except OSError as exc:
                raise StoreError(f"the repository cannot be listed: {exc.strerror}") from exc
            found = {}
            for name in names:
                old = self._found.get(name)
                new = old if old is not None and is_current(old[0]) else self._looked_up(name, old)
                if new is not None:
                    found[name] = new
            ids: dict[str, tuple[str, ...]] = {}
            for name, (_, entry) in found.items():
                if entry.deployment_id is not None:
                    ids[entry.deployment_id] = (*ids.get(entry.deployment_id, ()), name)
            self._found, self._ids, self._refreshed = found, ids, refreshed
            return list(found.values())

    def holders(self, deployment_id: str) -> tuple[str, ...]:
        """Names of the deployments whose configuration had that id at the last `refresh`."""
        return self._ids.get(deployment_id, ())

    def is_stale(self, change: int, most_seconds: float) -> bool:
        """Whether the last `refresh` was before *change*, before the root's last change, or longer ago than that."""
        at, seen_change, root_time = self._refreshed
        return change != seen_change or time.monotonic() - at > most_seconds or root_time != self._root_time()

    def _root_time(self) -> int:
        try:
            return os.stat(self._root).st_mtime_ns  # noqa: PTH116 - runs per request
        except OSError:
            return 0

    def _looked_up(self, name: str, old: tuple[Snapshot, Entry] | None) -> tuple[Snapshot, Entry] | None:
        try:
            for _ in range(MOST_LOOKS):
                snapshot = look(self._root, name)
                if old is not None and replace(snapshot, settled=old[0].settled) == old[0]:
                    return snapshot, old[1]
                with suppress(FileNotFoundError):  # replaced while we read
                    return snapshot, self._entry(snapshot)
        except ModelNotFound:
            return None
        return snapshot, Entry(name, "unavailable", reason=KEEPS_CHANGING)

    def _entry(self, snapshot: Snapshot) -> Entry:
        """
        Raises:
            ModelNotFound: it went away meanwhile.
            FileNotFoundError: its directory is not the one of the snapshot any more.
        """
        entry = Entry(snapshot.id, "available", size=snapshot.package_key[3] if snapshot.package_key else None)
        if snapshot.problem is not None or snapshot.package is None:
            return replace(entry, state="unavailable", reason=snapshot.problem)
        config = NO_CONFIG
        try:
            with opened(self._root, snapshot.id) as directory:
                if key_of(os.fstat(directory))[:2] != snapshot.directory_key[:2]:
                    raise FileNotFoundError
                if snapshot.config is not None:
                    config, _ = read_config(snapshot.config, directory, snapshot.id)
                    entry = replace(entry, deployment_id=config.deployment_id)
                with Package.open(snapshot.package, dir_fd=directory, check_signature=self._check_signature) as package:
                    manifest = package.manifest
        except (FileNotFoundError, ModelNotFound):
            raise
        except ServingError as exc:
            return replace(entry, state="unavailable", reason=str(exc))
        except OSError as exc:
            return replace(entry, state="unavailable", reason=f"{snapshot.package}: {exc.strerror}")
        return replace(
            entry,
            model_id=config.model_id or manifest.model_id,
            name=manifest.name,
            target=manifest.target.name,
            target_type=manifest.target.type,
        )
