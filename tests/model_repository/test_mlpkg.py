"""The archive: what is written is read again, and nothing else is."""

import hashlib
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_repository import mlpkg
from model_repository.errors import InvalidPackage
from model_repository.manifest import EstimatorMember, Manifest, Member, manifest_bytes
from model_repository.mlpkg import Package, replacing, write_package
from model_repository.predictions import Target
from model_repository.tables import Feature

CONTENTS = {
    "golden.json": b'{"golden": "rows"}' * 20,
    "estimator.skops": b"estimator" * 50,
    "plan.bin": bytes(range(256)),
}
MANIFEST = Manifest(
    format_version=1,
    model_id="0123456789abcdef01234567",
    name="m",
    created="2026-01-01T00:00:00Z",
    target=Target(name="y", type="Regression"),
    features=[Feature(name="x", type="numeric", dtype="float64")],
    versions={"python": "3.11"},
    members=[],
    golden="golden.json",
    estimator=EstimatorMember(member="estimator.skops", serializer="skops"),
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "m.mlpkg"
    write_package(path, MANIFEST, CONTENTS)
    return path


def listed(contents: dict[str, bytes]) -> Manifest:
    members = [
        Member(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in contents.items()
    ]
    return msgspec.structs.replace(MANIFEST, members=members)


def read_all(path: Path) -> dict[str, bytes]:
    with Package.open(path) as package:
        return {member.name: package.member(member.name) for member in package.manifest.members}


def test_what_is_written_is_read(package: Path) -> None:
    assert read_all(package) == CONTENTS
    with Package.open(package) as opened:
        assert opened.manifest == listed(CONTENTS)
        assert opened.size == package.stat().st_size
        opened.verify_members()
        with pytest.raises(InvalidPackage, match=r"no member 'x\.json'"):
            opened.member("x.json")


def test_an_ordinary_zip_program_reads_it(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()[1:]} == CONTENTS
        methods = {info.filename: info.compress_type for info in archive.infolist()}
    assert methods["golden.json"] == zipfile.ZIP_DEFLATED
    assert methods["plan.bin"] == zipfile.ZIP_STORED


def test_a_package_made_by_an_ordinary_zip_program_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.mlpkg"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**CONTENTS, "manifest.json": manifest_bytes(listed(CONTENTS))}.items():
            archive.writestr(name, data)
    assert read_all(path) == CONTENTS


def test_equal_contents_give_equal_bytes(package: Path, tmp_path: Path) -> None:
    write_package(tmp_path / "again.mlpkg", MANIFEST, CONTENTS)
    assert (tmp_path / "again.mlpkg").read_bytes() == package.read_bytes()


def test_what_deflates_too_well_is_stored_so_that_it_can_be_read(tmp_path: Path) -> None:
    contents = {**CONTENTS, "plan.json": b" " * 3_000_000}
    write_package(tmp_path / "m.mlpkg", MANIFEST, contents)
    assert read_all(tmp_path / "m.mlpkg") == contents


def test_every_truncation_is_refused(package: Path) -> None:
    whole = package.read_bytes()
    for size in range(0, len(whole), 7):
        package.write_bytes(whole[:size])
        with pytest.raises(InvalidPackage):
            read_all(package)


def test_a_flipped_byte_is_refused_or_changes_nothing(package: Path) -> None:
    """Some bytes of a ZIP mean nothing to us (who made it, the last bits of a deflated stream); all others are checked."""
    whole = package.read_bytes()
    harmless = 0
    for place in range(len(whole)):
        package.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        try:
            assert read_all(package) == CONTENTS
        except InvalidPackage:
            continue
        harmless += 1
    assert harmless < 0.05 * len(whole)


# Hostile archives. `Draft` writes a ZIP by hand, so that each case can lie in one place.


class Draft:
    """A ZIP whose every field can be set; made valid first, then spoiled."""

    def __init__(self, contents: dict[str, bytes] | None = None) -> None:
        contents = CONTENTS if contents is None else contents
        everything = {"manifest.json": manifest_bytes(listed(contents)), **contents}
        self.members = [self.member(name.encode(), data) for name, data in everything.items()]
        self.before = b""
        self.after = b""
        self.gap = b""
        self.count: int | None = None
        self.entry_mark = b"PK\1\2"
        self.parts = (0, 0, 0)
        """Numbers of this part and of the directory's, and how many members are in another one."""

    @staticmethod
    def member(name: bytes, data: bytes) -> dict[str, Any]:
        same = {"needed": 20, "flags": 0, "method": 0, "time": 0, "date": 33, "crc": zlib.crc32(data)}
        same |= {"stored": len(data), "size": len(data)}
        return {
            "name": name, "local_name": name, "data": data, "central": dict(same), "local": dict(same),
            "extra": b"", "local_extra": b"", "comment": b"", "mode": 0o100644, "offset": None,
        }  # fmt: skip

    def named(self, name: str) -> dict[str, Any]:
        return next(member for member in self.members if member["name"] == name.encode())

    def bytes(self) -> bytes:
        out = bytearray(self.before)
        directory = bytearray()
        for member in self.members:
            local, central = member["local"], member["central"]
            offset = len(out) if member["offset"] is None else member["offset"]
            if member["data"] is not None:
                out += struct.pack(
                    "<4s5H3L2H", b"PK\3\4", *local.values(), len(member["local_name"]), len(member["local_extra"])
                )
                out += member["local_name"] + member["local_extra"] + member["data"]
            directory += struct.pack(
                "<4s6H3L5H2L", self.entry_mark, 0x314, *central.values(), len(member["name"]), len(member["extra"]),
                len(member["comment"]), 0, 0, member["mode"] << 16, offset,
            )  # fmt: skip
            directory += member["name"] + member["extra"] + member["comment"]
        out += self.gap
        count = len(self.members) if self.count is None else self.count
        disk, first_disk, elsewhere = self.parts
        counts = disk, first_disk, (count - elsewhere) & 0xFFFF, count & 0xFFFF
        end = struct.pack("<4s4H2LH", b"PK\5\6", *counts, len(directory), len(out), 0)
        return bytes(out + directory + end + self.after)


def both(draft: Draft, name: str, **fields: int) -> None:
    for place in ("central", "local"):
        draft.named(name)[place].update(fields)


def central(draft: Draft, name: str, **fields: int) -> None:
    draft.named(name)["central"].update(fields)


def renamed(name: bytes) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        draft.named("plan.bin").update(name=name, local_name=name)

    return spoil


def overlapping(draft: Draft) -> None:
    """Two entries of the directory that share one member's bytes."""
    draft.members.append({**draft.named("plan.bin"), "name": b"twin.bin", "local_name": b"twin.bin"})
    draft.members[-1]["data"] = None
    draft.members[-1]["offset"] = 40


def quoted_overlap(draft: Draft) -> None:
    """One large member whose data contains the next one: the trick behind bombs of small files."""
    inner = draft.named("plan.bin")
    both(draft, "estimator.skops", stored=600, size=600)
    assert inner["data"]


def bomb(draft: Draft) -> None:
    data = zlib.compressobj(9, zlib.DEFLATED, -15)
    stored = data.compress(bytes(50_000_000)) + data.flush()
    draft.named("plan.bin")["data"] = stored
    both(draft, "plan.bin", method=8, stored=len(stored), size=50_000_000, crc=zlib.crc32(bytes(50_000_000)))


def lying_bomb(draft: Draft) -> None:
    data = zlib.compressobj(9, zlib.DEFLATED, -15)
    stored = data.compress(bytes(50_000_000)) + data.flush()
    draft.named("plan.bin")["data"] = stored
    both(draft, "plan.bin", method=8, stored=len(stored), size=256)


def set_fields(**fields: object) -> Callable[[Draft], None]:
    return lambda draft: draft.named("plan.bin").update(fields)


def many(count: int) -> Callable[[Draft], None]:
    return lambda draft: draft.members.extend(Draft.member(b"m%d" % number, b"") for number in range(count))


def attribute(name: str, value: object) -> Callable[[Draft], None]:
    return lambda draft: setattr(draft, name, value)


HOSTILE = [
    pytest.param(attribute("before", b"#!/bin/sh\n"), "begins at byte|does not end where", id="something before the archive"),
    pytest.param(attribute("before", bytes(1_000_000)), "begins at byte|does not end", id="a megabyte before the archive"),
    pytest.param(attribute("after", b"\0"), "does not end with the end record", id="one byte behind the archive"),
    pytest.param(lambda d: setattr(d, "after", d.bytes()), "does not end where", id="an archive behind the archive"),
    pytest.param(lambda d: setattr(d, "after", d.bytes()[-22:]), "does not end where", id="two end records"),
    pytest.param(attribute("gap", b"hidden"), "but the directory begins", id="bytes between members and directory"),
    pytest.param(overlapping, "begins at byte", id="overlapping members"),
    pytest.param(quoted_overlap, "begins at byte|disagree", id="a member inside another"),
    pytest.param(lambda d: d.members.append(d.named("plan.bin")), "stands twice", id="duplicate member"),
    pytest.param(lambda d: d.members.append(d.members[0]), "stands twice", id="two manifests"),
    pytest.param(lambda d: central(d, "plan.bin", stored=0xFFFFFFFF, size=0xFFFFFFFF), r"'plan\.bin': 4294967295 bytes, at most", id="zip64 sizes"),
    pytest.param(lambda d: both(d, "plan.bin", stored=0x7FFFFFF0, size=0x7FFFFFF0), "beyond the directory", id="a size beyond the file"),
    pytest.param(set_fields(extra=struct.pack("<2H2Q", 1, 16, 2**63, 2**63)), "extra fields", id="zip64 extra field"),
    pytest.param(set_fields(local_extra=b"\1\0\0\0"), "disagree", id="extra field in the member's header only"),
    pytest.param(set_fields(comment=b"hello"), "comments", id="comment of a member"),
    pytest.param(set_fields(local_name=b"plan.bim"), "disagree", id="two names"),
    pytest.param(lambda d: central(d, "plan.bin", size=255, stored=255), "disagree|begins", id="two sizes"),
    pytest.param(lambda d: central(d, "plan.bin", method=8), "disagree", id="two methods"),
    pytest.param(lambda d: central(d, "plan.bin", crc=1), "disagree", id="two checksums"),
    pytest.param(lambda d: both(d, "plan.bin", crc=1), "CRC", id="wrong checksum"),
    pytest.param(lambda d: both(d, "plan.bin", flags=1), "encrypted", id="encrypted"),
    pytest.param(lambda d: both(d, "plan.bin", flags=8), "flags", id="data descriptor"),
    pytest.param(lambda d: both(d, "plan.bin", method=12), "method 12", id="bzip2"),
    pytest.param(lambda d: both(d, "plan.bin", method=14), "method 14", id="lzma"),
    pytest.param(lambda d: both(d, "plan.bin", method=93), "method 93", id="zstandard"),
    pytest.param(lambda d: both(d, "plan.bin", method=99), "method 99", id="AES"),
    pytest.param(lambda d: both(d, "plan.bin", method=8), "inflate", id="not deflated at all"),
    pytest.param(bomb, "more than 100 times", id="announced bomb"),
    pytest.param(lying_bomb, "does not inflate to", id="bomb that lies about its size"),
    pytest.param(many(61), "65 members", id="too many members"),
    pytest.param(many(60_000), "members", id="sixty thousand members"),
    pytest.param(attribute("entry_mark", b"PK\1\3"), "damaged", id="no directory"),
    pytest.param(attribute("parts", (1, 0, 0)), "several parts", id="second part of an archive"),
    pytest.param(attribute("parts", (0, 1, 0)), "several parts", id="directory in another part"),
    pytest.param(attribute("parts", (0, 0, 1)), "several parts", id="a member in another part"),
    pytest.param(lambda d: both(d, "plan.bin", size=300), "with two sizes", id="stored with two sizes"),
    pytest.param(renamed(b"x" * 65_000), "directory of 65", id="name of 65,000 bytes"),
    pytest.param(attribute("count", 3), "longer than", id="fewer members counted"),
    pytest.param(attribute("count", 5), "cut off", id="more members counted"),
    pytest.param(attribute("count", 0), "0 members", id="no members counted"),
    pytest.param(set_fields(mode=0o120777), "not a plain file", id="symbolic link"),
    pytest.param(set_fields(mode=0o040755), "not a plain file", id="directory"),
    pytest.param(set_fields(mode=0o010644), "not a plain file", id="FIFO"),
    pytest.param(set_fields(mode=0o020644), "not a plain file", id="device"),
    pytest.param(set_fields(mode=0o104755), "not a plain file", id="set-uid"),
    *(
        pytest.param(renamed(name), "member name", id=f"name {name[:20]!r}")
        for name in (b"../x", b"/abs", b"C:\\x", b"a\\..\\b", b"a//b", b"./a", b"x\0.bin", b"", b"x" * 65,
                     b".hidden", b"-rf", b"PLAN.BIN", "é.bin".encode(), "e\u0301.bin".encode(), b"sub/plan.bin", b"\xff", b"a\n")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), HOSTILE)
def test_hostile_archives_are_refused(tmp_path: Path, spoil: Callable[[Draft], None], message: str) -> None:
    draft = Draft()
    spoil(draft)
    path = tmp_path / "m.mlpkg"
    path.write_bytes(draft.bytes())
    with pytest.raises(InvalidPackage, match=message):
        read_all(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.mlpkg"]


def test_the_draft_is_a_package_before_it_is_spoiled(tmp_path: Path) -> None:
    path = tmp_path / "m.mlpkg"
    path.write_bytes(Draft().bytes())
    assert read_all(path) == CONTENTS


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        pytest.param(listed({**CONTENTS, "more.bin": b""}), "'more.bin' is listed in the manifest but not", id="missing"),
        pytest.param(listed({k: v for k, v in CONTENTS.items() if k != "plan.bin"}), "'plan.bin' is in the archive but not", id="unlisted"),
        pytest.param(listed({**CONTENTS, "plan.bin": b"other" * 51 + b"!"}), "SHA-256", id="other content of equal size"),
        pytest.param(listed({**CONTENTS, "plan.bin": b"short"}), "the manifest says 5", id="other size"),
        pytest.param(msgspec.structs.replace(listed(CONTENTS), members=[*listed(CONTENTS).members] * 2), "listed twice", id="listed twice"),
        pytest.param(listed({**CONTENTS, "manifest.json": b""}), "'manifest.json' is listed", id="lists itself"),
    ],
)  # fmt: skip
def test_members_are_exactly_those_of_the_manifest(tmp_path: Path, manifest: Manifest, message: str) -> None:
    draft = Draft()
    draft.members[0] = Draft.member(b"manifest.json", manifest_bytes(manifest))
    path = tmp_path / "m.mlpkg"
    path.write_bytes(draft.bytes())
    with pytest.raises(InvalidPackage, match=message):
        read_all(path)


def test_no_manifest(tmp_path: Path) -> None:
    draft = Draft()
    del draft.members[0]
    path = tmp_path / "m.mlpkg"
    path.write_bytes(draft.bytes())
    with pytest.raises(InvalidPackage, match=r"no manifest\.json"):
        Package.open(path)


def test_a_large_manifest_is_not_even_inflated(tmp_path: Path) -> None:
    draft = Draft()
    draft.members[0] = Draft.member(b"manifest.json", b" " * (4 * 1024 * 1024 + 1))
    path = tmp_path / "m.mlpkg"
    path.write_bytes(draft.bytes())
    with pytest.raises(InvalidPackage, match="larger than 4194304"):
        Package.open(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(random.Random(1).randbytes(5000), id="random"),
        pytest.param(b"\x1f\x8b" + bytes(100), id="gzip"),
        pytest.param(b"7z\xbc\xaf\x27\x1c" + bytes(100), id="7z"),
        pytest.param(bytes(257) + b"ustar\x0000" + bytes(500), id="tar"),
        pytest.param(b"PK\5\6" + bytes(18), id="empty zip"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.mlpkg").write_bytes(content)
    with pytest.raises(InvalidPackage):
        Package.open(tmp_path / "m.mlpkg")


def test_total_size_is_bounded(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlpkg, "MAX_TOTAL_BYTES", 500)
    with pytest.raises(InvalidPackage, match="together, at most 500"):
        Package.open(package)


def test_the_file_size_is_bounded(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlpkg, "MAX_PACKAGE_BYTES", 500)
    with pytest.raises(InvalidPackage, match="at most 500"):
        Package.open(package)


def test_only_regular_files_are_opened(package: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.mlpkg"
    link.symlink_to(package)
    fifo = tmp_path / "fifo.mlpkg"
    os.mkfifo(fifo)
    for path, message in ((link, "symbolic link"), (fifo, "not a regular file"), (tmp_path, "not a regular file")):
        with pytest.raises(InvalidPackage, match=message):
            Package.open(path)
    with pytest.raises(FileNotFoundError):
        Package.open(tmp_path / "absent.mlpkg")


def test_a_refused_file_is_closed(package: Path) -> None:
    package.write_bytes(b"no package")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(InvalidPackage):
            Package.open(package)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_that_shrinks_while_it_is_read(package: Path) -> None:
    with Package.open(package) as opened:
        os.truncate(package, 100)
        with pytest.raises(InvalidPackage, match="became shorter"):
            opened.member("plan.bin")


def test_replacing_shows_the_whole_file_or_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "m.mlpkg"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as part:
        part.write_text("half")
        assert path.read_text() == "old"
        _ = 1 / 0
    assert path.read_text() == "old"
    with replacing(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.mlpkg"]


def test_replacing_names_the_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"), replacing(tmp_path / "absent" / "m.mlpkg"):
        raise AssertionError


@given(st.dictionaries(st.from_regex(r"\A[a-z0-9][a-z0-9_.-]{0,20}\Z"), st.binary(max_size=300), max_size=20))
@settings(max_examples=40)
def test_any_members_survive(tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes]) -> None:
    contents = {name: data for name, data in contents.items() if name != "manifest.json"} | CONTENTS
    path = tmp_path_factory.mktemp("any") / "m.mlpkg"
    write_package(path, MANIFEST, contents)
    assert read_all(path) == contents
