"""
What lies in a repository: one directory per deployment, with one package and maybe a configuration in it.

    <root>/<id>/anything.mlpkg
    <root>/<id>/config.yml         or config.yaml; may be absent

A look reads no file. `Snapshot` is what it saw, and `is_current` says by three ``stat`` whether that still holds, so
that each request can afford to ask.
"""

import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model_repository.deployment_config import CONFIG_NAMES
from model_repository.errors import InvalidDeploymentId, ModelNotFound, ModelUnavailable

PACKAGE_SUFFIX: Final = ".mlpkg"
MOST_LOOKS: Final = 100
"""Tries to see a directory that is replaced all the time; each takes some milliseconds at most."""
KEEPS_CHANGING: Final = "its files keep changing"
SETTLED_AFTER_NS: Final = 2_000_000_000
"""File systems tell times in steps of up to two seconds: a directory that changed just now may change again unseen."""

_ID: Final = re.compile(r"(?!\.)(?!.*\.\.)[A-Za-z0-9_.-]{1,128}")

FileKey = tuple[int, int, int, int]
"""Device, inode, time of the last change in nanoseconds, size: equal as long as a file was not replaced or written."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a deployment's directory held at one moment."""

    id: str
    directory: str
    directory_key: FileKey
    package: str | None
    package_key: FileKey | None
    config: str | None
    config_key: FileKey | None
    problem: str | None
    """Why this cannot be served."""
    settled: bool
    """Whether a later change of the directory must show in its time."""

    @property
    def version(self) -> tuple[FileKey | None, FileKey | None]:
        """Equal for equal packages and configurations."""
        return self.package_key, self.config_key


def is_id(text: str) -> bool:
    """Whether a deployment may be called so: up to 128 of ``A-Za-z0-9_.-``, no leading dot, no two dots together."""
    return _ID.fullmatch(text) is not None


def checked_id(text: str) -> str:
    """
    The id itself.

    Raises:
        InvalidDeploymentId: no deployment can have it.
    """
    if not is_id(text):
        raise InvalidDeploymentId(
            f"deployment id {text[:128]!r}: expected 1 to 128 of A-Z, a-z, 0-9, '_', '.', '-', without a leading dot "
            "or two dots together"
        )
    return text


def deployment_ids(root: str | os.PathLike[str]) -> list[str]:
    """
    Names of the directories that may hold a deployment, sorted; whether they do is seen by looking.

    Raises:
        OSError: the repository cannot be listed.
    """
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if is_id(entry.name) and entry.is_dir())


def look(root: str, name: str) -> Snapshot:
    """
    What the directory of a deployment holds now.

    Raises:
        ModelNotFound: there is no such directory, or nothing of a deployment in it.
    """
    problem = KEEPS_CHANGING
    try:
        for _ in range(MOST_LOOKS):
            with opened(root, name) as descriptor:
                snapshot = snapshot_of(root, name, descriptor)
                if snapshot is not None:
                    return snapshot
    except ModelUnavailable as exc:
        problem = str(exc)
    directory = os.path.join(root, name)  # noqa: PTH118 - runs per request
    return Snapshot(name, directory, _key_at(directory), None, None, None, None, problem, settled=False)


@contextmanager
def opened(root: str, name: str) -> Iterator[int]:
    """
    The directory of a deployment as a descriptor, which names the same directory whatever is renamed meanwhile.

    Raises:
        ModelNotFound: there is no such directory.
        ModelUnavailable: it is a symbolic link, or cannot be opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(os.path.join(root, name), flags)  # noqa: PTH118
    except OSError as exc:
        raise _translated(exc, root, name) from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def snapshot_of(root: str, name: str, descriptor: int) -> Snapshot | None:
    """
    What the open directory of a deployment holds; ``None`` if it was replaced before all was seen.

    Raises:
        ModelNotFound: nothing of a deployment.
    """
    directory = os.fstat(descriptor)
    settled = time.time_ns() - directory.st_mtime_ns > SETTLED_AFTER_NS
    packages: dict[str, os.stat_result] = {}
    configs: dict[str, os.stat_result] = {}
    with os.scandir(descriptor) as entries:
        for entry in entries:
            kind = configs if entry.name in CONFIG_NAMES else packages
            if (kind is configs or _is_package_name(entry.name)) and not entry.is_dir(follow_symlinks=False):
                try:
                    kind[entry.name] = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # deleted while we looked: then the next look sees it
                    settled = False
    if not is_in_place(root, name, descriptor):  # what was replaced is being emptied
        return None
    if not packages and not configs:
        raise _no_model(name)
    package, config = min(packages, default=None), min(configs, default=None)
    return Snapshot(
        id=name,
        directory=os.path.join(root, name),  # noqa: PTH118
        directory_key=key_of(directory),
        package=package,
        package_key=key_of(packages[package]) if package else None,
        config=config,
        config_key=key_of(configs[config]) if config else None,
        problem=_problem(packages, configs),
        settled=settled,
    )


def is_current(snapshot: Snapshot) -> bool:
    """Whether a look would see the same."""
    if not snapshot.settled or _key_at(snapshot.directory) != snapshot.directory_key:
        return False
    return all(
        file is None or _key_at(f"{snapshot.directory}/{file}") == key
        for file, key in ((snapshot.package, snapshot.package_key), (snapshot.config, snapshot.config_key))
    )


def is_in_place(root: str, name: str, descriptor: int) -> bool:
    """Whether the open directory is still the deployment's, and not replaced as a whole."""
    ours = os.fstat(descriptor)
    return _key_at(os.path.join(root, name))[:2] == (ours.st_dev, ours.st_ino)  # noqa: PTH118


def key_of(status: os.stat_result) -> FileKey:
    """What tells a file from every other and from what it was before."""
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def misplaced_packages(root: Path) -> list[str]:
    """Packages that lie in the root of a repository of many, where nobody will serve them."""
    return sorted(entry.name for entry in root.iterdir() if _is_package_name(entry.name) and not entry.is_dir())


def _is_package_name(name: str) -> bool:
    return name.endswith(PACKAGE_SUFFIX) and not name.startswith(".")


def _key_at(path: str) -> FileKey:
    """The key of what a name stands for, links not followed; a key of nothing where there is nothing."""
    try:
        return key_of(os.lstat(path))
    except OSError:
        return (0, 0, 0, 0)


def _problem(packages: dict[str, os.stat_result], configs: dict[str, os.stat_result]) -> str | None:
    if len(packages) != 1:
        found = f"{len(packages)} packages ({', '.join(sorted(packages)[:3])})" if packages else "no .mlpkg file"
        return f"{found} in its directory, expected one"
    if len(configs) > 1:
        return f"{' and '.join(sorted(configs))} in its directory, expected one of them"
    for file, status in (packages | configs).items():
        if not stat.S_ISREG(status.st_mode):
            return f"{file}: {'a symbolic link' if stat.S_ISLNK(status.st_mode) else 'not a regular file'}"
    return None


def _translated(exc: OSError, root: str, name: str) -> ModelNotFound | ModelUnavailable:
    """What a directory that cannot be opened means."""
    if exc.errno in (errno.ENOENT, errno.ENAMETOOLONG):
        return _no_model(name)
    if exc.errno in (errno.ELOOP, errno.ENOTDIR):
        if stat.S_ISLNK(_mode_at(os.path.join(root, name))):  # noqa: PTH118
            return ModelUnavailable("its directory is a symbolic link")
        return _no_model(name)
    return ModelUnavailable(f"its directory cannot be read: {exc.strerror}")


def _mode_at(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def _no_model(name: str) -> ModelNotFound:
    return ModelNotFound(f"no deployment {name!r}")
