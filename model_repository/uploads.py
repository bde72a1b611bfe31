"""
Changing a repository: a deployment comes, is replaced and goes in one step, for every reader and across a crash.

What is received lies under ``.uploads`` in the repository, so in the same file system, and is no deployment there.
An upload is one locked file until it is committed:

    received, synced, tried out in another process
      then, under the lock of the store (milliseconds):
    a directory of its own for package and configuration, both synced
    exchanged with the deployment's directory, or renamed to it if there is none; the parent synced

A process that dies leaves its file or directory under ``.uploads``, without a lock: the next `sweep` removes it. Locks
are `flock`, which die with their process.
"""

import errno
import fcntl
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import CDLL, get_errno
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import anyio
import anyio.to_thread

from model_repository.deployment_config import CONFIG_NAMES, config_bytes, config_from
from model_repository.discovery import deployment_ids, look
from model_repository.errors import (
    BodyTooLarge,
    ModelNotFound,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreReadOnly,
    TooManyDeployments,
)
from model_repository.signing import TrustedKeys
from model_repository.validation import Validator

Outcome = Literal["created", "replaced"]

UPLOADS: Final = ".uploads"
PACKAGE_NAME: Final = "model.mlpkg"
BUFFER_BYTES: Final = 1024 * 1024
DEFAULT_MAX_BYTES: Final = 1024**3
DEFAULT_MAX_DEPLOYMENTS: Final = 1000
DEFAULT_AT_ONCE: Final = 4

_LOCK: Final = "lock"
_OLD: Final = ".old"
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_NO_EXCHANGE: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""What file systems say that cannot exchange two names, such as NFS."""

_libc: Final = CDLL(None, use_errno=True)
T = TypeVar("T")
Call = Callable[[], None]


class Store:
    """The writing side of one repository in one process; other processes may have their own."""

    def __init__(
        self,
        root: Path,
        validator: Validator,
        *,
        trusted_keys: TrustedKeys | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_deployments: int = DEFAULT_MAX_DEPLOYMENTS,
        at_once: int = DEFAULT_AT_ONCE,
    ) -> None:
        """
        Args:
            max_bytes: largest package.
            max_deployments: with so many directories, only replacing is possible.
            at_once: uploads that this process takes at a time.
        """
        self.root = root
        self.validator = validator
        self.trusted_keys = trusted_keys
        self.max_bytes = max_bytes
        self._max_deployments = max_deployments
        self._at_once = at_once
        self._running = 0
        self._parts = root / UPLOADS

    def upload(self, name: str, on_commit: Call) -> "Upload":
        """An upload that is to be begun; *on_commit* is called in the moment in which it is there for everybody."""
        return Upload(self, name, on_commit)

    def begin(self) -> None:
        """
        One upload more is running.

        Raises:
            StoreBusy: as many as this process takes are running.
        """
        if self._running >= self._at_once:
            raise StoreBusy(f"{self._running} uploads are running, and no more are taken at once; try again")
        self._running += 1

    def end(self) -> None:
        """One upload less is running."""
        self._running -= 1

    async def delete(self, name: str, on_commit: Call) -> None:
        """
        Take a deployment's directory away in one step.

        Raises:
            ModelNotFound: there is none.
            StoreReadOnly, StoreError: it stays.
        """
        await anyio.to_thread.run_sync(self._delete, name, on_commit)

    def sweep(self) -> None:
        """Remove what processes left that died; what belongs to running uploads is locked and stays."""
        with suppress(OSError):  # a store that cannot be written has nothing to sweep
            for path in list(self._parts.iterdir()):
                with suppress(OSError):
                    self._sweep(path)

    def commit(self, name: str, part: Path, config: bytes | None, on_commit: Call) -> Outcome:
        """
        Put a received package in place.

        Args:
            config: replaces the deployment's; without one, it keeps what it has.
        """
        staged = part.with_suffix("")
        with _translated(name), self._locked():
            target = self.root / name
            exists = _holds_directory(target)
            if not exists and len(deployment_ids(self.root)) >= self._max_deployments:
                raise TooManyDeployments(
                    f"the repository has {self._max_deployments} deployments, and may have no more"
                )
            staged.mkdir(mode=0o700)
            try:
                part.rename(staged / PACKAGE_NAME)
                _write_config(staged, config if config is not None else _old_config(target))
                _sync(staged)
                if exists:
                    _exchange(staged, target)
                else:
                    staged.rename(target)
                on_commit()
                _sync(self.root)
            finally:
                _remove(staged)
        return "replaced" if exists else "created"

    def _delete(self, name: str, on_commit: Call) -> None:
        target = self.root / name
        with _translated(name):
            look(str(self.root), name)
            self._make_parts()
            with self._locked():
                if not _holds_directory(target):  # somebody was faster
                    raise ModelNotFound(f"no deployment {name!r}")
                gone = self._parts / secrets.token_hex(8)
                target.rename(gone)
                on_commit()
                _sync(self.root)
            _remove(gone)

    def new_part(self) -> tuple[Path, int]:
        """
        A new file, locked, and its descriptor.

        Raises:
            StoreReadOnly, StoreFull, StoreError: nothing can be written.
        """
        with _translated("the upload"):
            self._make_parts()
            while True:
                part = self._parts / f"{secrets.token_hex(8)}.part"
                descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_nlink:
                    return part, descriptor
                os.close(descriptor)  # swept between the two steps

    def _make_parts(self) -> None:
        """
        Raises:
            StoreError: the place for uploads is not a directory of ours.
        """
        with suppress(FileExistsError):
            self._parts.mkdir(mode=0o700)
        if self._parts.is_symlink() or not self._parts.is_dir():
            raise StoreError(f"{UPLOADS} in the repository is not a directory")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all processes that change this repository."""
        descriptor = os.open(self._parts / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sweep(self, path: Path) -> None:
        if path.is_symlink():
            path.unlink()
        elif not path.is_dir():
            if path.name != _LOCK:
                self._sweep_part(path)
        else:
            with self._locked():  # whoever works with it holds the lock
                target = self.root / path.stem
                if path.suffix == _OLD and not os.path.lexists(target):  # see `_exchange`
                    path.rename(target)
                else:
                    _remove(path)

    def _sweep_part(self, part: Path) -> None:
        descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
        except BlockingIOError:
            return  # somebody is uploading
        finally:
            os.close(descriptor)


class Upload:
    """One package on its way into the store. Leaving the context without `commit` leaves nothing behind."""

    def __init__(self, store: Store, name: str, on_commit: Call) -> None:
        self._store = store
        self._name = name
        self._on_commit = on_commit
        self._part = Path()
        self._descriptor = -1
        self._size = 0
        self._buffer = bytearray()
        self._lock = threading.Lock()
        """Held by whatever thread works on the file: a caller that is cancelled does not wait for its thread."""

    async def write(self, chunk: bytes) -> None:
        """
        Take more of the package.

        Raises:
            BodyTooLarge: more than the store takes.
            StoreFull, StoreError: it cannot be written.
        """
        self._size += len(chunk)
        if self._size > self._store.max_bytes:
            raise BodyTooLarge(f"the package has more than {self._store.max_bytes} bytes")
        self._buffer += chunk
        if len(self._buffer) >= BUFFER_BYTES:
            await self._run(self._flush)

    async def commit(self, config: bytes | None = None) -> Outcome:
        """
        Try the package out and put it in place.

        Args:
            config: the ``config.yml`` to go with it; without one, the one that is there stays.

        Raises:
            PackageError: it is refused; what was there serves on.
            InvalidConfig: so is the configuration.
            TooManyDeployments, StoreBusy, StoreFull, StoreReadOnly, StoreError: nothing was changed.
        """
        return await self._run(partial(self._commit, config))

    async def __aenter__(self) -> Self:
        """
        Begin.

        Raises:
            StoreReadOnly, StoreFull, StoreError: nothing can be written.
            StoreBusy: as many uploads as this process takes are running.
        """
        self._store.begin()
        try:
            await self._run(self._open)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        try:
            with anyio.CancelScope(shield=True):
                await self._run(self._discard)
        finally:
            self._store.end()

    async def _run(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(self._alone, work)

    def _alone(self, work: Callable[[], T]) -> T:
        with self._lock:
            return work()

    def _open(self) -> None:
        self._part, self._descriptor = self._store.new_part()

    def _flush(self) -> None:
        with _translated("the upload"):
            view = memoryview(self._buffer)
            written = 0
            while written < len(view):
                written += os.write(self._descriptor, view[written:])
            view.release()
            self._buffer.clear()

    def _commit(self, config: bytes | None) -> Outcome:
        if config is not None:
            config_from(config)
        self._flush()
        with _translated("the upload"):
            os.fsync(self._descriptor)
            # An opening of its own: if we are killed, our lock must go, although the other process still reads.
            descriptor = os.open(self._part, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._store.validator.check(descriptor, self._store.trusted_keys)
        finally:
            os.close(descriptor)
        return self._store.commit(self._name, self._part, config, self._on_commit)

    def _discard(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """
    Raises:
        StoreFull, StoreReadOnly, StoreError: instead of an `OSError`.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"{what}: no space left in the repository") from exc
        if exc.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreReadOnly(f"{what}: the repository cannot be changed: {exc.strerror}") from exc
        if exc.errno in (errno.EBUSY, errno.EXDEV):
            raise StoreReadOnly(f"{what}: its directory is a mount of its own and cannot be replaced") from exc
        raise StoreError(f"{what}: the repository failed: {exc.strerror}") from exc


def _holds_directory(target: Path) -> bool:
    """
    Whether there is a deployment's directory; ``False`` if there is nothing.

    Raises:
        StoreReadOnly: there is something else, which is not ours to change.
    """
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(mode):
        raise StoreReadOnly(
            f"{target.name}: {'a symbolic link' if stat.S_ISLNK(mode) else 'a file'} in the repository, not a directory"
        )
    return True


def _old_config(target: Path) -> bytes | None:
    """
    The configuration that a deployment has, as it is, right or wrong.

    Raises:
        InvalidConfig: it is not a regular file.
    """
    with suppress(FileNotFoundError):
        descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for name in CONFIG_NAMES:
                with suppress(FileNotFoundError):
                    return config_bytes(name, descriptor)[0]
        finally:
            os.close(descriptor)
    return None


def _write_config(directory: Path, config: bytes | None) -> None:
    if config is None:
        return
    descriptor = os.open(directory / CONFIG_NAMES[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123
        file.write(config)
        file.flush()
        os.fsync(descriptor)


def _exchange(staged: Path, target: Path) -> None:
    """
    Each gets what the other had, in one step; where the file system cannot do that, in two.

    Raises:
        OSError: nothing was changed.
    """
    arguments: tuple[Any, ...] = (_AT_FDCWD, os.fsencode(staged), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE)
    if _libc.renameat2(*arguments) == 0:
        return
    code = get_errno()
    if code not in _NO_EXCHANGE:
        raise OSError(code, os.strerror(code), str(target))
    old = staged.with_name(target.name + _OLD)  # tells a sweep after a crash what it is
    target.rename(old)
    try:
        staged.rename(target)
    except OSError:
        old.rename(target)
        raise
    old.rename(staged)


def _remove(path: Path) -> None:
    """A directory with what is in it, as far as possible; links are not followed."""
    shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
