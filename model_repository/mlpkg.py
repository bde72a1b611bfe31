"""
The archive of a package: a ZIP of a few flat members, written in one way and read with suspicion.

A ZIP says everything twice (before each member and in the directory at its end), and readers differ in whom they
believe. Here a file is a package only if both say the same and the members lie end to end from the first byte to the
directory, so there is nothing before, between or behind them: no overlap, no hidden member, no polyglot. Python's
`zipfile` checks little of that (up to 3.11.7 a file of 144 KB may yield 100 GB from overlapping members), therefore the
directory is parsed here. What is deliberately not read, because no package needs it: ZIP64, encryption, methods
other than stored and deflate, data descriptors, extra fields, comments, directories, links.
"""

import errno
import hashlib
import os
import re
import secrets
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple, Self

import msgspec

from model_repository.errors import InvalidPackage
from model_repository.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Manifest,
    Member,
    manifest_bytes,
    manifest_from,
)

KIBIBYTE: Final = 1024
MEBIBYTE: Final = 1024 * KIBIBYTE
GIBIBYTE: Final = 1024 * MEBIBYTE

MAX_PACKAGE_BYTES: Final = 3 * GIBIBYTE
MAX_MEMBERS: Final = 64
MAX_MEMBER_BYTES: Final = 2 * GIBIBYTE
MAX_TOTAL_BYTES: Final = 3 * GIBIBYTE
MAX_RATIO: Final = 100
"""Inflated bytes per stored byte, beyond the first `RATIO_FREE_BYTES` of a member."""
RATIO_FREE_BYTES: Final = 64 * KIBIBYTE

SIGNATURE_NAME: Final = "signature.json"
"""The one member that the manifest cannot list, because it signs the manifest."""
MAX_SIGNATURE_BYTES: Final = 4 * KIBIBYTE

MEMBER_NAME: Final = re.compile(rb"[a-z0-9][a-z0-9_.-]{0,63}")
"""Flat and lower case: nothing to escape with, nothing that is equal after case folding or Unicode normalisation."""

_STORED: Final = 0
_DEFLATED: Final = 8
_HARMLESS_FLAGS: Final = 0x0806
"""UTF-8 names (bit 11), and the deflate effort (bits 1 and 2)."""
_VERSION: Final = 20
"""Of the ZIP format: enough for deflate."""
_EPOCH: Final = (1 << 5) | 1
"""1 January 1980, the earliest day of a ZIP, for every member: equal contents give equal bytes."""
_MADE_BY: Final = (3 << 8) | _VERSION
_MODE: Final = (stat.S_IFREG | 0o644) << 16

_END: Final = struct.Struct("<4s4H2LH")
_END_MAGIC: Final = b"PK\x05\x06"
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_CENTRAL_MAGIC: Final = b"PK\x01\x02"
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_LOCAL_MAGIC: Final = b"PK\x03\x04"


ReadAt = Callable[[int, int], bytes]
"""Offset and size -> exactly that many bytes of the file."""

CheckSignature = Callable[[bytes, bytes | None], None]
"""Takes the bytes of the manifest and of the signature, if there is one; raises `UnsignedPackage`."""


class _Facts(NamedTuple):
    """What the directory and the member's own header must both say."""

    version_needed: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    stored_size: int
    size: int


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    facts: _Facts
    offset: int
    """Of the member's own header."""

    @property
    def data_offset(self) -> int:
        return self.offset + _LOCAL.size + len(self.name)

    @property
    def end(self) -> int:
        return self.data_offset + self.facts.stored_size


class Package:
    """
    An open package: its manifest, and its members on demand, each checked against the manifest before it is handed out.

    Close it, or use it as a context manager; the file is not held in memory.
    """

    def __init__(
        self, path: Path, descriptor: int, size: int, *, check_signature: CheckSignature | None = None
    ) -> None:
        """As `open`, of a file that is open; *descriptor* belongs to the package from then on."""
        self.path = path
        self.size = size
        self._descriptor = descriptor
        self._entries = {entry.name: entry for entry in _entries(self._read_at, size)}
        if MANIFEST_NAME not in self._entries:
            raise InvalidPackage(f"no {MANIFEST_NAME} in the archive")
        self.manifest_content = self._content(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        if check_signature is not None:  # before anything that the package says is believed
            check_signature(self.manifest_content, self._signature())
        self.manifest: Manifest = manifest_from(self.manifest_content)
        self._listed = self._matched_members()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        dir_fd: int | None = None,
        check_signature: CheckSignature | None = None,
    ) -> Self:
        """
        Open a package and check its structure and manifest; members are checked when they are read.

        Args:
            dir_fd: of the directory that *path* starts from, as in `os.open`.
            check_signature: called before the manifest is read; see `model_repository.signing`.

        Raises:
            InvalidPackage: not a regular file, not a package, damaged, or dangerous.
            UnsignedPackage: *check_signature* says so.
            OSError: the file cannot be opened.
        """
        path = Path(path)
        descriptor, size = _opened(path, dir_fd)
        try:
            return cls(path, descriptor, size, check_signature=check_signature)
        except BaseException:
            os.close(descriptor)
            raise

    def member(self, name: str) -> bytes:
        """
        The content of a member, its size and SHA-256 verified.

        Raises:
            InvalidPackage: no such member, or its content is not what the manifest says.
        """
        listed = self._listed.get(name)
        if listed is None:
            raise InvalidPackage(f"no member {name!r} in the package")
        content = self._content(name)
        digest = hashlib.sha256(content).hexdigest()
        if digest != listed.sha256:
            raise InvalidPackage(f"member {name!r}: its SHA-256 is {digest}, the manifest says {listed.sha256}")
        return content

    def verify_members(self) -> None:
        """
        Read every member once.

        Raises:
            InvalidPackage: naming the first that is damaged.
        """
        for name in self._listed:
            self.member(name)

    def status(self) -> os.stat_result:
        """Of the file that is open, whatever its name stands for by now."""
        return os.fstat(self._descriptor)

    def close(self) -> None:
        """Let go of the file; members cannot be read any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _matched_members(self) -> dict[str, Member]:
        """The manifest's members, which must be exactly those of the archive."""
        listed = {member.name: member for member in self.manifest.members}
        if len(listed) != len(self.manifest.members):
            raise InvalidPackage(f"{MANIFEST_NAME}: a member is listed twice")
        held = set(self._entries) - {MANIFEST_NAME, SIGNATURE_NAME}
        if missing := sorted(listed.keys() - held):
            raise InvalidPackage(f"member {missing[0][:80]!r} is listed in the manifest but not in the archive")
        if unlisted := sorted(held - listed.keys()):
            raise InvalidPackage(f"member {unlisted[0]!r} is in the archive but not listed in the manifest")
        for name, member in listed.items():
            size = self._entries[name].facts.size
            if size != member.size:
                raise InvalidPackage(f"member {name!r}: {size} bytes, the manifest says {member.size}")
        return listed

    def _signature(self) -> bytes | None:
        return self._content(SIGNATURE_NAME, MAX_SIGNATURE_BYTES) if SIGNATURE_NAME in self._entries else None

    def _content(self, name: str, most: int = MAX_MEMBER_BYTES) -> bytes:
        entry = self._entries[name]
        facts = entry.facts
        if facts.size > most:
            raise InvalidPackage(f"{name}: larger than {most} bytes")
        stored = self._read_at(entry.data_offset, facts.stored_size)
        content = stored if facts.method == _STORED else _inflated(name, stored, facts.size)
        if zlib.crc32(content) != facts.crc:
            raise InvalidPackage(f"member {name!r}: damaged, its CRC is wrong")
        return content

    def _read_at(self, offset: int, size: int) -> bytes:
        parts = []
        while size:
            part = os.pread(self._descriptor, size, offset)  # Linux hands out at most 2 GiB at once
            if not part:
                raise InvalidPackage("the file became shorter while it was read")
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)


def write_package(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Manifest:
    """
    Write the archive; equal arguments give equal bytes.

    Args:
        path: must not exist; to replace a package, write beside it (`replacing`).
        manifest: its ``members`` are ignored and filled in.
        contents: name -> content of every member but the manifest.

    Returns:
        The manifest as written.
    """
    members = [
        Member(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    ]
    manifest = msgspec.structs.replace(manifest, members=members)
    _write_archive(path, {MANIFEST_NAME: manifest_bytes(manifest), **contents})
    return manifest


def write_signed(path: Path, package: Package, signature: bytes) -> None:
    """Write a copy of *package* that bears *signature* and no other; its manifest stays as it is, to the byte."""
    members = {member.name: package.member(member.name) for member in package.manifest.members}
    _write_archive(path, {MANIFEST_NAME: package.manifest_content, **members, SIGNATURE_NAME: signature})


def _write_archive(path: Path, contents: Mapping[str, bytes]) -> None:
    with path.open("xb") as file:
        directory = [_write_member(file, name, content) for name, content in contents.items()]
        start = file.tell()
        file.writelines(directory)
        count, size = len(directory), file.tell() - start
        file.write(_END.pack(_END_MAGIC, 0, 0, count, count, size, start, 0))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    A temporary name beside *path*, which becomes *path* when the block ends and disappears when it fails.

    The file and the rename are on disk before this returns: after a crash there is the old file or the whole new one.
    """
    if not path.parent.is_dir():  # said here, or the error would name the temporary file
        raise FileNotFoundError(errno.ENOENT, "no such directory", str(path.parent))
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        yield part
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _write_member(file: BinaryIO, name: str, content: bytes) -> bytes:
    """Append a member; return its entry for the directory."""
    offset = file.tell()
    method, stored = _stored(name, content)
    facts = _Facts(_VERSION, 0, method, 0, _EPOCH, zlib.crc32(content), len(stored), len(content))
    raw = name.encode("ascii")
    file.write(_LOCAL.pack(_LOCAL_MAGIC, *facts, len(raw), 0) + raw)
    file.write(stored)
    return _CENTRAL.pack(_CENTRAL_MAGIC, _MADE_BY, *facts, len(raw), 0, 0, 0, 0, _MODE, offset) + raw


def _stored(name: str, content: bytes) -> tuple[int, bytes]:
    """Text is deflated; arrays stay as they are, to be read at the speed of the disk."""
    if name.endswith((".json", ".skops", ".joblib")):
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        stored = deflate.compress(content) + deflate.flush()
        if not _is_bomb(len(stored), len(content)):  # never so tightly that no reader takes it
            return _DEFLATED, stored
    return _STORED, content


def _is_bomb(stored_size: int, size: int) -> bool:
    return size > RATIO_FREE_BYTES + MAX_RATIO * stored_size


def _opened(path: Path, dir_fd: int | None) -> tuple[int, int]:
    """Descriptor and size of a regular file; the last part of the path may not be a link."""
    try:
        # O_NONBLOCK: opening a FIFO would wait for a writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=dir_fd)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise InvalidPackage(f"{path.name}: a symbolic link, not a file") from exc
        raise
    status = os.fstat(descriptor)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "not a regular file"
    elif status.st_size > MAX_PACKAGE_BYTES:
        problem = f"{status.st_size} bytes, at most {MAX_PACKAGE_BYTES} are read"
    if problem:
        os.close(descriptor)
        raise InvalidPackage(f"{path.name}: {problem}")
    return descriptor, status.st_size


def _entries(read_at: ReadAt, size: int) -> list[_Entry]:
    """The directory, after every check that needs no content."""
    count, directory_size, directory_offset = _end_record(read_at, size)
    entries = _directory(read_at(directory_offset, directory_size), count)
    if len({entry.name for entry in entries}) != len(entries):
        raise InvalidPackage("a member stands twice in the archive")
    total = sum(entry.facts.size for entry in entries)
    if total > MAX_TOTAL_BYTES:
        raise InvalidPackage(f"the members are {total} bytes together, at most {MAX_TOTAL_BYTES} are read")
    due = 0
    for entry in sorted(entries, key=lambda entry: entry.offset):
        if entry.offset != due:
            raise InvalidPackage(f"member {entry.name!r}: begins at byte {entry.offset}, expected at {due}")
        _check_local_header(read_at, entry, directory_offset)
        due = entry.end
    if due != directory_offset:
        raise InvalidPackage(f"the members end at byte {due}, but the directory begins at {directory_offset}")
    return entries


def _end_record(read_at: ReadAt, size: int) -> tuple[int, int, int]:
    """Count, size and offset of the directory, from the last bytes of the file."""
    if size < _END.size:
        raise InvalidPackage(f"{size} bytes are too few for a package")
    place = size - _END.size
    magic, disk, first_disk, here, count, directory_size, offset, comment = _END.unpack(read_at(place, _END.size))
    if magic != _END_MAGIC or comment:
        raise InvalidPackage("not a package, or cut off: it does not end with the end record of a ZIP")
    if disk or first_disk or here != count:
        raise InvalidPackage("archives of several parts are not read")
    if not 0 < count <= MAX_MEMBERS:
        raise InvalidPackage(f"{count} members, expected 1 to {MAX_MEMBERS}")
    if directory_size > MAX_MEMBERS * (_CENTRAL.size + 64):
        raise InvalidPackage(f"a directory of {directory_size} bytes is too large")
    if offset + directory_size != place:
        raise InvalidPackage("the directory does not end where the end record begins")
    return count, directory_size, offset


def _directory(raw: bytes, count: int) -> list[_Entry]:
    entries = []
    place = 0
    for _ in range(count):
        if len(raw) - place < _CENTRAL.size:
            raise InvalidPackage("the directory is cut off")
        fields = _CENTRAL.unpack_from(raw, place)
        if fields[0] != _CENTRAL_MAGIC:
            raise InvalidPackage("the directory is damaged")
        facts = _Facts(*fields[2:10])
        name_size, extra_size, comment_size, disk, _, attributes, offset = fields[10:]
        place += _CENTRAL.size
        name = _member_name(raw[place : place + name_size])
        place += name_size
        if extra_size or comment_size or disk:
            raise InvalidPackage(f"member {name!r}: extra fields, comments and parts are not read")
        _check_facts(name, facts)
        _check_mode(name, attributes >> 16)
        entries.append(_Entry(name, facts, offset))
    if place != len(raw):
        raise InvalidPackage("the directory is longer than its members")
    return entries


def _member_name(raw: bytes) -> str:
    if not MEMBER_NAME.fullmatch(raw):
        shown = raw[:80].decode("utf-8", "backslashreplace")
        raise InvalidPackage(f"member name {shown!r}: expected up to 64 of a-z, 0-9, '_', '.', '-'")
    return raw.decode("ascii")


def _check_facts(name: str, facts: _Facts) -> None:
    if facts.flags & 1:
        raise InvalidPackage(f"member {name!r}: encrypted")
    if facts.flags & ~_HARMLESS_FLAGS:
        raise InvalidPackage(f"member {name!r}: flags {facts.flags:#06x} are not read")
    if facts.method not in (_STORED, _DEFLATED):
        raise InvalidPackage(f"member {name!r}: compression method {facts.method}, expected stored or deflate")
    if facts.size > MAX_MEMBER_BYTES:
        raise InvalidPackage(f"member {name!r}: {facts.size} bytes, at most {MAX_MEMBER_BYTES} are read")
    if facts.method == _STORED and facts.size != facts.stored_size:
        raise InvalidPackage(f"member {name!r}: stored, but with two sizes")
    if _is_bomb(facts.stored_size, facts.size):
        raise InvalidPackage(
            f"member {name!r}: {facts.stored_size} bytes would become {facts.size}, more than {MAX_RATIO} times as many"
        )


def _check_mode(name: str, mode: int) -> None:
    """Links, devices and set-uid bits have no business here, even though nothing is ever extracted."""
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG) or mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        raise InvalidPackage(f"member {name!r}: not a plain file (mode {mode:#o})")


def _check_local_header(read_at: ReadAt, entry: _Entry, limit: int) -> None:
    """The member's own header must say what the directory says, and the member must end before the directory."""
    if entry.end > limit:
        raise InvalidPackage(f"member {entry.name!r}: reaches beyond the directory")
    raw = read_at(entry.offset, entry.data_offset - entry.offset)
    magic, *facts, name_size, extra_size = _LOCAL.unpack_from(raw)
    name = raw[_LOCAL.size :]
    same = tuple(facts) == entry.facts and name_size == len(name) and name == entry.name.encode() and not extra_size
    if magic != _LOCAL_MAGIC or not same:
        raise InvalidPackage(f"member {entry.name!r}: its header and the directory disagree")


def _inflated(name: str, stored: bytes, size: int) -> bytes:
    inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        content = inflate.decompress(stored, size + 1)
    except zlib.error as exc:
        raise InvalidPackage(f"member {name!r}: damaged, it cannot be inflated") from exc
    if len(content) != size or not inflate.eof or inflate.unused_data:
        raise InvalidPackage(f"member {name!r}: does not inflate to the {size} bytes that were announced")
    return content


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
