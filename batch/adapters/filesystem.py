"""
Files and directories.

A file is written beside its final name and renamed when everything is on disk, so that under the final name there is
the old file or the whole new one, even if the machine stops.
"""

import errno
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, TypeVar

import anyio
import msgspec
from anyio import to_thread

from batch.adapters._names import WRITE_MODE, Selection, WriteMode
from batch.declared import key
from batch.errors import BatchError, IntakeError, JobError, OutputError
from batch.ports import NOTHING_LEFT, Intake, Leftovers, Output, SourceFile, Write
from batch.settings import Credentials

T = TypeVar("T")

_BLOCK_BYTES: Final = 1024 * 1024
_NOT_DATA: Final = ("/proc/", "/sys/", "/dev/")


class IntakeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where to read."""

    path: Annotated[str, key("A file, a directory (ending in `/`: all files below it) or a pattern.", "file")]
    async_: Annotated[bool, key("How the platform would take the file.", ignored=True)] = True
    multipart: Annotated[bool, key("How the platform would take the file.", ignored=True)] = False

    def __post_init__(self) -> None:
        _check(self.path)


class OutputSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where to write."""

    path: Annotated[str, key("A file, or a directory (ending in `/`): one file in it for each file that is read.")]
    write_mode: Annotated[WriteMode, WRITE_MODE] = "overwrite"

    def __post_init__(self) -> None:
        _check(self.path)


def _check(path: str) -> None:
    if not path or "\0" in path:
        raise ValueError("path: expected the path of a file, or of a directory with '/' at its end")


def place(settings: IntakeSettings | OutputSettings) -> tuple[str, Selection]:
    """Which store (there is one), and what in it."""
    return "filesystem", _selection(settings.path)


def _selection(path: str) -> Selection:
    """The real path, so that two names of one file are one; a pattern stays as it is below its directory."""
    absolute = os.path.abspath(path)  # noqa: PTH100 - Path has no way to keep what a pattern means
    named = Selection(absolute + "/" * (path.endswith("/") and absolute != "/"))
    if named.is_directory or (named.is_pattern and not os.path.lexists(absolute)):
        stem = os.path.realpath(named.stem)
        return Selection(os.path.join(stem, named.relative(named.text)))  # noqa: PTH118 - Path drops the '/'
    return Selection(os.path.realpath(absolute))


@asynccontextmanager
async def open_intake(settings: IntakeSettings, credentials: Credentials) -> AsyncIterator[Intake]:
    """The files at the path, found and seen to be readable."""
    yield await to_thread.run_sync(_Files.found, settings.path, credentials.root)


@asynccontextmanager
async def open_output(
    settings: OutputSettings, credentials: Credentials, leftovers: Leftovers = NOTHING_LEFT
) -> AsyncIterator[Output]:
    """Parts beside the final names, renamed on leaving, removed on leaving by an exception."""
    output = _Parts(settings.path, credentials.root, settings.write_mode, leftovers)
    await _off_the_loop(output.begin)
    try:
        yield output
        await _off_the_loop(output.commit)
    finally:
        await _off_the_loop(output.clean)


async def _off_the_loop(work: Callable[[], T]) -> T:
    """Let it end even if cancelled: a rename is done or it is not."""
    with anyio.CancelScope(shield=True):
        result = await to_thread.run_sync(work)
    return result  # noqa: RET504 - from within the block, mypy sees a way past it


@contextmanager
def _translated(error: type[BatchError], path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise error(f"{path}: {(exc.strerror or str(exc)).lower()}") from exc


def _confine(error: type[BatchError], path: str, root: Path | None) -> None:
    """Refuse what lies outside of the operator's directory, wherever its links lead."""
    real = Path(os.path.realpath(path))
    if root is not None and not real.is_relative_to(os.path.realpath(root)):
        raise JobError(f"{path}: lies outside of PREDICTION_API_BATCH_ROOT, {root}")
    if f"{real}/".startswith(_NOT_DATA):
        raise error(f"{path}: {real} belongs to the system and holds no data")


@dataclass(frozen=True)
class _Files:
    """What `open_intake` gives."""

    files: Sequence[SourceFile]
    stem: str

    @classmethod
    def found(cls, path: str, root: Path | None) -> "_Files":
        """Look now; all must be regular files that may be read."""
        selection = _selection(path)
        with _translated(IntakeError, path):
            names = [name for name in _names(selection, path) if selection.includes(name)]
            if not names:
                raise IntakeError(f"{path}: no such file" if not selection.is_directory else f"{path}: holds no files")
            files = []
            for name in sorted(names):
                _confine(IntakeError, name, root)
                source = _open_regular(name)
                status = os.fstat(source)
                os.close(source)
                files.append(SourceFile(selection.relative(name), status.st_size, _version(status)))
        return cls(files, selection.stem)

    async def read(self, file: SourceFile, start: int = 0) -> AsyncIterator[bytes]:
        """Blocks of a megabyte."""
        source = await to_thread.run_sync(self._open, file)
        try:
            while start < (file.size or 0):
                yield (block := await to_thread.run_sync(self._read, file, source, start, _BLOCK_BYTES))
                start += len(block)
            self._check_unchanged(file, source)
        finally:
            os.close(source)

    async def read_range(self, file: SourceFile, start: int, length: int) -> bytes:
        """Exactly these bytes."""
        return await to_thread.run_sync(self._range, file, start, length)

    def _range(self, file: SourceFile, start: int, length: int) -> bytes:
        source = self._open(file)
        try:
            data = b""
            while len(data) < length:
                data += self._read(file, source, start + len(data), length - len(data))
            return data
        finally:
            os.close(source)

    def _open(self, file: SourceFile) -> int:
        with _translated(IntakeError, self.stem + file.name):
            source = _open_regular(self.stem + file.name)
        try:
            self._check_unchanged(file, source)
        except IntakeError:
            os.close(source)
            raise
        return source

    def _read(self, file: SourceFile, source: int, start: int, length: int) -> bytes:
        """Some bytes, never beyond the size that the file had when it was found."""
        length = max(0, min(length, (file.size or 0) - start))
        with _translated(IntakeError, self.stem + file.name):
            block = os.pread(source, length, start)
        if not block:
            self._check_unchanged(file, source)
            raise IntakeError(f"{self.stem}{file.name}: ends at byte {start}, before it should")
        return block

    def _check_unchanged(self, file: SourceFile, source: int) -> None:
        """Also that the name still means it: a file that is open can be removed or replaced."""
        status = os.fstat(source)
        with _translated(IntakeError, self.stem + file.name):
            named = os.stat(self.stem + file.name)  # noqa: PTH116
        if _version(status) != file.version or not os.path.samestat(status, named):
            raise IntakeError(f"{self.stem}{file.name}: changed while it was read")


def _names(selection: Selection, path: str) -> Iterator[str]:
    """Candidates, as full paths."""
    if not selection.is_directory and os.path.lexists(selection.text):
        if Path(selection.text).is_dir():
            raise IntakeError(f"{path}: is a directory; with '/' at its end, all files in it are read")
        yield selection.text
    elif not (selection.is_directory or selection.is_pattern):
        os.lstat(selection.text)
    else:
        os.stat(selection.stem)  # noqa: PTH116 - walk is silent about a directory that is not there
        for directory, subdirectories, names in os.walk(selection.stem, onerror=_raise):
            subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
            yield from (os.path.join(directory, name) for name in names)  # noqa: PTH118 - thousands of them


def _raise(exc: OSError) -> None:
    raise exc


def _open_regular(path: str) -> int:
    # stat first: opening a device or a pipe may already do something
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
        raise IntakeError(f"{path}: is not a regular file")
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


@dataclass
class _Parts:
    """What `open_output` gives: parts, and what they will be called."""

    path: str
    root: Path | None
    write_mode: WriteMode
    leftovers: Leftovers
    parts: dict[str, Path] = field(default_factory=dict)
    """Final path -> part."""
    made: bool = False
    """Whether the directory is ours."""

    @property
    def directory(self) -> bool:
        """Whether many files are taken."""
        return self.path.endswith("/")

    @property
    def _home(self) -> Path:
        """Where the parts are: on the same file system as the final names, or a rename would be a copy."""
        return Path(self._final(None)) if self.directory else Path(self._final(None)).parent

    def _final(self, name: str | None) -> str:
        """Links are followed, or renaming would put a file in the place of the link."""
        if name is None:
            return os.path.realpath(self.path)
        path = Path(os.path.realpath(self.path), name)
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise OutputError(f"{self.path}: {name!r} is no name for a file in it")
        return os.path.realpath(path)

    def begin(self) -> None:
        """Remove what a killed run left, and see that the place takes a file."""
        _confine(OutputError, self._final(None), self.root)
        with _translated(OutputError, self.path):
            for token in map(Path, self.leftovers.found):
                if token.parent == self._home and token.suffix == ".part":
                    token.unlink(missing_ok=True)
            if self.directory:
                self.made = not self._home.exists()
                self._home.mkdir(exist_ok=True)
            else:
                self._check_free(self._final(None))
            _check_writable(self._home)

    def local_path(self, name: str | None) -> Path:
        """The final path."""
        final = self._final(name)
        _confine(OutputError, final, self.root)
        self._check_free(final)
        return Path(final)

    @asynccontextmanager
    async def open_file(self, name: str | None) -> AsyncIterator[Write]:
        """Bytes to the part of that file."""
        final = str(self.local_path(name))
        if final in self.parts:
            raise OutputError(f"{final}: is written twice")
        target = await _off_the_loop(lambda: self._open_part(final))
        try:
            yield lambda data: self._write(target, data)
            with _translated(OutputError, final):
                await _off_the_loop(lambda: os.fsync(target))
        finally:
            os.close(target)

    async def _write(self, target: int, data: bytes) -> None:
        with _translated(OutputError, self.path):
            await to_thread.run_sync(_write_all, target, data)

    def _open_part(self, final: str) -> int:
        with _translated(OutputError, final):
            self.parts[final] = self._new_part(Path(final).name)
            return os.open(self.parts[final], os.O_WRONLY | os.O_CLOEXEC)

    def _new_part(self, name: str) -> Path:
        # long names leave room for what is added, in bytes
        part = self._home / f".{os.fsdecode(os.fsencode(name)[:200])}.{secrets.token_hex(4)}.part"
        self.leftovers.note(str(part))
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        return part

    def _check_free(self, final: str) -> None:
        with _translated(OutputError, final), suppress(FileNotFoundError):
            status = os.stat(final)  # noqa: PTH116
            if not stat.S_ISREG(status.st_mode):
                hint = "; with '/' at its end, files are written into it" if stat.S_ISDIR(status.st_mode) else ""
                raise OutputError(f"{final}: is not a regular file{hint}")
            if self.write_mode == "error":
                raise OutputError(f'{final}: exists; "write_mode": "overwrite" would replace it')

    def commit(self) -> None:
        """Give the parts their names, one after the other."""
        for final, part in list(self.parts.items()):
            self._check_free(final)
            with _translated(OutputError, final):
                Path(final).parent.mkdir(parents=True, exist_ok=True)
                part.rename(final)
                del self.parts[final]
                _sync_directory(Path(final).parent)

    def clean(self) -> None:
        """Remove the parts that got no name."""
        for part in self.parts.values():
            part.unlink(missing_ok=True)
        if self.made:
            with suppress(OSError):  # not empty: it holds what was committed
                self._home.rmdir()


def _check_writable(directory: Path) -> None:
    """Open a file that has no name, so that nothing is left of it whatever happens; where there are such files."""
    try:
        os.close(os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from exc


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
