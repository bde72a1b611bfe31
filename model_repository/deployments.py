"""
The one door to a repository of many models: what is there, what is loaded in this worker, what comes and goes.

    get     -> the deployment of an id, loaded if it is not; noticed when its files change
    entries -> all of them, without loading any
    upload, put, delete
                -> change the files, whole or not at all; every worker notices

An object of this class is made before the workers are forked and then used by each of them, on its event loop. They
share no model that was loaded after the fork, but one number: when the repository was last changed through this door.
"""

import asyncio
import logging
import mmap
import time
from collections.abc import AsyncIterable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Generic, TypeVar

import anyio
import anyio.to_thread
import msgspec

from model_repository.cache import ModelCache
from model_repository.deployment_config import NO_CONFIG, DeploymentConfig, read_config
from model_repository.discovery import (
    KEEPS_CHANGING,
    MOST_LOOKS,
    FileKey,
    Snapshot,
    checked_id,
    deployment_ids,
    is_current,
    is_in_place,
    key_of,
    look,
    opened,
    snapshot_of,
)
from model_repository.errors import ModelNotFound, ModelUnavailable, ServingError, StoreReadOnly
from model_repository.listing import Entry, Listing
from model_repository.mlpkg import CheckSignature, Package
from model_repository.repository import Model, model_from, verify_model
from model_repository.signing import TrustedKeys
from model_repository.uploads import Outcome, Store, Upload
from model_repository.watching import NoWatch, Watch, WatchedRuntime

READ_AHEAD_SECONDS: Final = 1.0
LEAST_SEARCH_SECONDS: Final = 1.0
"""How often names that nobody has may make us search the configurations of an unchanged root."""

logger = logging.getLogger(__name__)

D = TypeVar("D")


@dataclass(frozen=True)
class Loaded:
    """A deployment as it was found on disk."""

    id: str
    model: Model
    """With the rules of the configuration."""
    config: DeploymentConfig
    packaged: Model
    """As the package says."""
    package_key: FileKey
    seconds: float = 0.0
    """What loading took, without waiting for its turn; 0 if it was preloaded."""

    @property
    def model_id(self) -> str:
        """The configuration's, else the package's."""
        return self.config.model_id or self.packaged.manifest.model_id


@dataclass(frozen=True, slots=True)
class Found(Generic[D]):
    """What is deployed under an id."""

    deployment: D
    cache_hit: bool
    """Whether it was loaded already."""


@dataclass(slots=True)
class _Seen:
    snapshot: Snapshot
    at: float
    change: int


class Repository(Generic[D]):
    """Deployments of one directory; *D* is what `build` makes of a `Loaded`."""

    def __init__(
        self,
        root: Path,
        *,
        build: Callable[[Loaded], D],
        places: int = 4,
        ttl: float = 60.0,
        pickle_allowed: bool = False,
        trusted_keys: TrustedKeys | None = None,
        store: Store | None = None,
        patience: float = 60.0,
        watch: Watch | None = None,
    ) -> None:
        """
        Args:
            root: the directory.
            build: makes of a loaded deployment what `get` gives; called once per load, on the event loop.
            places: deployments that each worker keeps loaded.
            ttl: seconds for which what was seen on disk is taken as still there; 0 asks the disk at each request.
                Changes through this door are seen at once whatever it is.
            pickle_allowed: whether packages that were found on disk may hold a pickle; uploaded ones never may.
            trusted_keys: if given, packages that none of them signed are unavailable.
            store: takes uploads and deletes; without one there are none.
            patience: seconds that `get` waits for a load; it goes on without those who gave up.
            watch: knows which packages end processes, and is told what runs.
        """
        self._root = str(root)
        self._build = build
        self._places = places
        self._ttl = ttl
        self._pickle_allowed = pickle_allowed
        self._check_signature: CheckSignature | None = trusted_keys.check if trusted_keys is not None else None
        self._store = store
        self._patience = patience
        self._watch: Watch = watch if watch is not None else NoWatch()
        self._cache: ModelCache[_Deployed[D]] = ModelCache(places)
        self._seen: dict[str, _Seen] = {}
        self._preloaded: dict[str, tuple[Snapshot, Loaded]] = {}
        self._last_change = _LastChange()
        self._listing = Listing(self._root, self._check_signature)

    # Reading

    async def get(self, name: str) -> Found[D]:
        """
        The deployment of that id, or else the one whose configuration has it as ``deployment_id``.

        Raises:
            InvalidDeploymentId: no deployment can be called so.
            ModelNotFound: there is none.
            ModelUnavailable: there is one, but it cannot be served; the message says why.
        """
        try:
            return (await self._get(name))[0]
        except ModelNotFound:
            holder = await self._holder_of(name)
            if holder is None:
                raise
        found, config = await self._get(holder)
        if config.deployment_id != name:  # it was, when the configurations were searched
            raise ModelNotFound(f"no deployment {name!r}")
        return found

    async def entries(self) -> list[Entry]:
        """
        All deployments, by id; reads what changed since the last time and loads nothing.

        Raises:
            StoreError: the directory cannot be listed.
        """
        found = await anyio.to_thread.run_sync(self._listing.refresh, self._last_change.value)
        return [self._with_state(snapshot, entry) for snapshot, entry in found]

    # Changing

    @property
    def changeable(self) -> bool:
        """Whether uploads and deletes are taken at all."""
        return self._store is not None

    def upload(self, name: str) -> Upload:
        """
        An upload, which begins when it is entered as an asynchronous context manager.

            async with repository.upload("fraud") as upload:
                async for chunk in body:
                    await upload.write(chunk)
                outcome = await upload.commit(config)

        Raises:
            InvalidDeploymentId: no deployment can be called so.
            StoreReadOnly: there are no uploads here.
        """
        return self._changed_store().upload(checked_id(name), on_commit=self._last_change.note)

    async def put(self, name: str, chunks: AsyncIterable[bytes], config: bytes | None = None) -> Outcome:
        """
        Receive a package, try it out, and put it in place, in one step for every reader.

        Args:
            config: the ``config.yml`` to go with it; without one, the one that is there stays.

        Raises:
            PackageError: the package is refused; what was there serves on.
            InvalidConfig: so is the configuration.
            InvalidDeploymentId, BodyTooLarge, StoreError: nothing was changed.
        """
        async with self.upload(name) as upload:
            async for chunk in chunks:
                await upload.write(chunk)
            return await upload.commit(config)

    async def delete(self, name: str) -> None:
        """
        Take a deployment away, with everything in its directory; requests in flight finish.

        Raises:
            ModelNotFound: there is none.
            StoreReadOnly, StoreError: it stays.
        """
        await self._changed_store().delete(checked_id(name), on_commit=self._last_change.note)

    # Starting

    def read_ahead(self) -> None:
        """Read what `entries` will tell, for a second at most, before the workers are forked: they need not do it."""
        self._listing.read_ahead(READ_AHEAD_SECONDS)

    def preload(self) -> int:
        """
        Read as many deployments as there are places, before the workers are forked, so that they share the memory.

        One that cannot be read is named in the log, and is unavailable.

        Returns:
            How many were read.
        """
        ids = deployment_ids(self._root)
        if len(ids) > self._places:
            logger.warning("%d deployments, but places for %d: not all are loaded at start", len(ids), self._places)
        for name in ids[: self._places]:
            try:
                self._preloaded[name] = self._read(name, None)
            except ServingError as exc:
                logger.warning("%s", exc)
        return len(self._preloaded)

    def finish_preload(self) -> None:
        """In a worker: check and build what was preloaded. A deployment that fails is left to its first request."""
        for name, (snapshot, loaded) in self._preloaded.items():
            try:
                version, deployed = self._built((snapshot, _verified(loaded)))
            except ServingError as exc:
                logger.warning("%s", exc)
            else:
                self._cache.put(name, version, deployed)
        self._preloaded.clear()

    # How

    async def _get(self, name: str) -> tuple[Found[D], DeploymentConfig]:
        snapshot = self._current(name)
        if snapshot.problem is not None:
            raise ModelUnavailable(f"deployment {name!r}: {snapshot.problem}")
        if verdict := self._verdict(snapshot):
            raise ModelUnavailable(f"deployment {name!r}: {verdict}")
        held = self._cache.held(name, snapshot.version)
        if held is not None:
            return Found(held.deployment, cache_hit=True), held.loaded.config
        load = partial(self._load, name, self._cache.peek(name))
        try:
            async with asyncio.timeout(self._patience):
                new = await self._cache.load(name, snapshot.version, load, self._built)
        except TimeoutError:
            raise ModelUnavailable(f"deployment {name!r}: loading it took longer than {self._patience:g} s") from None
        return Found(new.deployment, cache_hit=False), new.loaded.config

    def _current(self, name: str) -> Snapshot:
        """What lies on disk, asked again only when it may have changed."""
        now, change = time.monotonic(), self._last_change.value
        seen = self._seen.get(name)
        if seen is not None and seen.change == change and now - seen.at < self._ttl:
            return seen.snapshot
        if seen is not None and is_current(seen.snapshot):
            seen.at, seen.change = now, change
            return seen.snapshot
        try:
            snapshot = look(self._root, checked_id(name))
        except ModelNotFound:
            self._seen.pop(name, None)
            self._cache.drop(name)
            raise
        self._seen[name] = _Seen(snapshot, now, change)
        return snapshot

    def _load(self, name: str, previous: "_Deployed[D] | None") -> tuple[Snapshot, Loaded]:
        """On a thread: what lies on disk, checked."""
        began = time.perf_counter()
        snapshot, loaded = self._read(name, previous.loaded if previous is not None else None)
        return snapshot, replace(_verified(loaded), seconds=time.perf_counter() - began)

    def _built(self, found: tuple[Snapshot, Loaded]) -> tuple[Hashable, "_Deployed[D]"]:
        """On the event loop: what is kept of a load."""
        snapshot, loaded = found
        self._seen[snapshot.id] = _Seen(snapshot, time.monotonic(), 0)  # changed before: look again
        return snapshot.version, _Deployed(loaded, self._build(loaded))

    def _read(self, name: str, previous: Loaded | None) -> tuple[Snapshot, Loaded]:
        """
        Package and configuration of one moment; the model of *previous* if its package is still the same file.

        Raises:
            ModelUnavailable: with what is wrong.
        """
        try:
            for _ in range(MOST_LOOKS):
                with opened(self._root, name) as directory:
                    snapshot = snapshot_of(self._root, name, directory)
                    if snapshot is None:
                        continue
                    if snapshot.problem is not None or snapshot.package is None:
                        raise ModelUnavailable(snapshot.problem)
                    with suppress(FileNotFoundError):
                        loaded = self._read_once(snapshot, directory, previous)
                        if loaded is not None:
                            return snapshot, loaded
        except ModelNotFound:
            raise
        except ServingError as exc:
            raise ModelUnavailable(f"deployment {name!r}: {exc}") from exc
        except OSError as exc:
            raise ModelUnavailable(f"deployment {name!r}: {exc.strerror}") from exc
        except MemoryError as exc:
            raise ModelUnavailable(f"deployment {name!r}: too large for this server's memory") from exc
        raise ModelUnavailable(f"deployment {name!r}: {KEEPS_CHANGING}")

    def _read_once(self, snapshot: Snapshot, directory: int, previous: Loaded | None) -> Loaded | None:
        """``None`` if the files are not those of the snapshot any more, or not all of one moment."""
        config, config_key = NO_CONFIG, None
        if snapshot.config is not None:
            config, status = read_config(snapshot.config, directory, snapshot.id)
            config_key = key_of(status)
        assert snapshot.package is not None
        with Package.open(snapshot.package, dir_fd=directory, check_signature=self._check_signature) as package:
            package_key = key_of(package.status())
            # An upload replaces the directory: if ours is still in place now, both files were read before.
            if (package_key, config_key) != snapshot.version or not is_in_place(self._root, snapshot.id, directory):
                return None
            if previous is not None and previous.package_key == package_key:
                packaged = previous.packaged
            else:
                packaged = self._watched(package, snapshot.id, package_key)
        return Loaded(snapshot.id, packaged, config, packaged, package_key)

    def _watched(self, package: Package, name: str, key: FileKey) -> Model:
        with self._watch.running(name, key):
            model = model_from(package, pickle_allowed=self._pickle_allowed)
        if model.path == "compiled":  # plain data, checked
            return model
        return replace(model, runtime=WatchedRuntime(model.runtime, self._watch, name, key))

    def _verdict(self, snapshot: Snapshot) -> str | None:
        return self._watch.verdict(snapshot.id, snapshot.package_key) if snapshot.package_key is not None else None

    async def _holder_of(self, deployment_id: str) -> str | None:
        """
        The deployment whose configuration has that id.

        Raises:
            ModelUnavailable: more than one has it.
        """
        change = self._last_change.value
        if self._listing.is_stale(change, max(self._ttl, LEAST_SEARCH_SECONDS)):
            await anyio.to_thread.run_sync(self._listing.refresh, change)
        holders = self._listing.holders(deployment_id)
        if len(holders) > 1:
            raise ModelUnavailable(
                f"deployment id {deployment_id!r} stands in the configurations of {' and '.join(holders)}; address "
                "them by their directories' names"
            )
        return holders[0] if holders else None

    def _with_state(self, snapshot: Snapshot, entry: Entry) -> Entry:
        if entry.state == "unavailable":
            return entry
        if reason := self._verdict(snapshot) or self._cache.failure(snapshot.id, snapshot.version):
            return replace(entry, state="unavailable", reason=reason)
        if self._cache.holds(snapshot.id, snapshot.version):
            return replace(entry, state="loaded")
        return entry

    def _changed_store(self) -> Store:
        if self._store is None:
            raise StoreReadOnly("this server takes no uploads and deletes")
        return self._store


@dataclass(frozen=True, slots=True)
class _Deployed(Generic[D]):
    """What the cache holds."""

    loaded: Loaded
    deployment: D


class _LastChange:
    """
    When the repository was last changed by any worker: eight bytes that all of them share after the fork.

    The value says nothing but "other than before". It is a time and not a count, so that two who write at once leave a
    value that nobody has seen.
    """

    def __init__(self) -> None:
        self._cell = memoryview(mmap.mmap(-1, 8)).cast("q")

    @property
    def value(self) -> int:
        return self._cell[0]

    def note(self) -> None:
        self._cell[0] = time.monotonic_ns()


def _verified(loaded: Loaded) -> Loaded:
    """
    With its golden rows replayed and the rules of its configuration applied.

    Raises:
        ModelUnavailable: it does not predict what it was packaged with.
    """
    try:
        packaged = verify_model(loaded.packaged)
    except ServingError as exc:
        raise ModelUnavailable(f"deployment {loaded.id!r}: {exc}") from exc
    return replace(loaded, packaged=packaged, model=_with_rules(packaged, loaded))


def _with_rules(packaged: Model, loaded: Loaded) -> Model:
    threshold = loaded.config.prediction_threshold
    if threshold is None:
        return packaged
    if packaged.manifest.target.type != "Binary":
        logger.warning("deployment %s: prediction_threshold means nothing for a %s model; ignored", loaded.id,
                       packaged.manifest.target.type)  # fmt: skip
        return packaged
    target = msgspec.structs.replace(packaged.manifest.target, threshold=threshold)
    return replace(packaged, manifest=msgspec.structs.replace(packaged.manifest, target=target))
