"""The archive: what is written is read again, and nothing else is."""

import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_repository import mlpkg
from model_repository.errors import InvalidPackage
from model_repository.manifest import manifest_bytes
from model_repository.mlpkg import Package, replacing, write_package
from tests.model_repository.hostile import CONTENTS, HOSTILE, HOSTILE_MANIFESTS, MANIFEST, Draft, archive_with, listed


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "m.mlpkg"
    write_package(path, MANIFEST, CONTENTS)
    return path


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


@pytest.mark.parametrize(("manifest", "message"), HOSTILE_MANIFESTS)
def test_hostile_manifests_are_refused(tmp_path: Path, manifest: bytes, message: str) -> None:
    path = tmp_path / "m.mlpkg"
    path.write_bytes(archive_with(manifest))
    with pytest.raises(InvalidPackage, match=message):
        read_all(path)


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
