"""What lies in a repository: what is a deployment, what cannot be one, and whether it changed."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_repository.discovery import (
    Snapshot,
    checked_id,
    deployment_ids,
    is_current,
    is_id,
    is_in_place,
    look,
    misplaced_packages,
    opened,
)
from model_repository.errors import InvalidDeploymentId, ModelNotFound, ModelUnavailable

LONG_AGO = 1_000_000_000


def settle(directory: Path) -> None:
    """As if nothing had happened there for years."""
    os.utime(directory, (LONG_AGO, LONG_AGO))


@pytest.fixture
def fraud(tmp_path: Path) -> Path:
    """A deployment with package and configuration that is as old as the hills."""
    directory = tmp_path / "fraud"
    directory.mkdir()
    (directory / "x.mlpkg").write_bytes(b"package")
    (directory / "config.yml").write_bytes(b"{}")
    settle(directory)
    return directory


@pytest.mark.parametrize("text", ["a", "A-1_b.c", "5fc92906ad764dde6c3264fa", "x" * 128, "a.", "-rf", "con", "x.mlpkg"])
def test_ids(text: str) -> None:
    assert checked_id(text) == text


@pytest.mark.parametrize("text", ["", ".", "..", ".a", "a..b", "a/b", "a\\b", "a b", "a\n", "\n", "a\0", "é", "．．", "x" * 129, "%2e", "~root", "*", "a;b", "‮a", "a\x1b"])  # fmt: skip
def test_no_ids(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidDeploymentId):
        checked_id(text)


@given(st.text(max_size=140))
def test_an_id_never_leads_out_of_a_directory(text: str) -> None:
    if is_id(text):
        assert Path("/root", text).resolve().parent == Path("/root").resolve()


def test_ids_of_a_repository(tmp_path: Path, fraud: Path) -> None:
    for name in ("b", ".uploads", "lost+found", "..data"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "linked").symlink_to(fraud)
    assert deployment_ids(tmp_path) == ["b", "fraud", "linked"]


def test_a_look(tmp_path: Path, fraud: Path) -> None:
    snapshot = look(str(tmp_path), "fraud")
    assert (snapshot.package, snapshot.config, snapshot.problem, snapshot.settled) == ("x.mlpkg", "config.yml", None, True)  # fmt: skip
    assert is_current(snapshot)
    assert look(str(tmp_path), "fraud") == snapshot


def in_directory(*names: str) -> Any:
    def make(directory: Path) -> None:
        directory.mkdir()
        for name in names:
            (directory / name).touch()

    return make


def with_link(name: str) -> Any:
    def make(directory: Path) -> None:
        directory.mkdir()
        (directory / "x.mlpkg").touch()
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to("/etc/passwd")

    return make


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        pytest.param(in_directory("a.mlpkg", "b.mlpkg"), "2 packages (a.mlpkg, b.mlpkg) in its directory", id="two packages"),
        pytest.param(in_directory("config.yml"), "no .mlpkg file in its directory", id="no package"),
        pytest.param(in_directory("a.mlpkg", "config.yml", "config.yaml"), "config.yaml and config.yml", id="two configurations"),
        pytest.param(with_link("x.mlpkg"), "x.mlpkg: a symbolic link", id="the package a link"),
        pytest.param(with_link("config.yml"), "config.yml: a symbolic link", id="the configuration a link"),
        pytest.param(lambda path: path.symlink_to("/etc"), "its directory is a symbolic link", id="the directory a link"),
        pytest.param(lambda path: path.symlink_to("nowhere"), "its directory is a symbolic link", id="a dangling link"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_has_a_reason(tmp_path: Path, make: Any, problem: str) -> None:
    make(tmp_path / "m")
    snapshot = look(str(tmp_path), "m")
    assert snapshot.problem is not None
    assert problem in snapshot.problem


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda _: None, id="nothing"),
        pytest.param(in_directory(), id="an empty directory"),
        pytest.param(in_directory("readme.txt", "._x.mlpkg", ".x.mlpkg.0123.part"), id="other files"),
        pytest.param(lambda path: path.touch(), id="a file"),
        pytest.param(lambda path: (path / "x.mlpkg").mkdir(parents=True), id="a directory called like a package"),
    ],
)
def test_what_is_no_deployment(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "m")
    with pytest.raises(ModelNotFound, match="no deployment 'm'"):
        look(str(tmp_path), "m")


def replaced(directory: Path) -> None:
    new = directory.with_name(".new")
    new.mkdir()
    (new / "x.mlpkg").write_bytes(b"package")
    directory.rename(directory.with_name(".old"))
    new.rename(directory)


def with_bytes(name: str, content: bytes) -> Any:
    def change(directory: Path) -> None:
        (directory / name).write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("change", "same_version"),
    [
        pytest.param(with_bytes("x.mlpkg", b"another"), False, id="the package written"),
        pytest.param(with_bytes("config.yml", b"# new"), False, id="the configuration written"),
        pytest.param(lambda path: (path / "config.yml").unlink(), False, id="the configuration deleted"),
        pytest.param(lambda path: (path / "x.mlpkg").unlink(), False, id="the package deleted"),
        pytest.param(with_bytes("y.mlpkg", b""), True, id="a second package"),
        pytest.param(replaced, False, id="the directory replaced"),
    ],
)
def test_changes_are_noticed(tmp_path: Path, fraud: Path, change: Any, same_version: bool) -> None:
    before = look(str(tmp_path), "fraud")
    change(fraud)
    assert not is_current(before)
    assert (look(str(tmp_path), "fraud").version == before.version) is same_version


def test_a_deployment_that_went_away_is_not_current(tmp_path: Path, fraud: Path) -> None:
    before = look(str(tmp_path), "fraud")
    fraud.rename(tmp_path / "other")
    assert not is_current(before)


def test_a_directory_that_changed_just_now_is_looked_at_again(tmp_path: Path, fraud: Path) -> None:
    """Its time may be the same after the next change."""
    os.utime(fraud)
    snapshot = look(str(tmp_path), "fraud")
    assert not snapshot.settled
    assert not is_current(snapshot)


def test_an_open_directory_knows_that_it_was_replaced(tmp_path: Path, fraud: Path) -> None:
    with opened(str(tmp_path), "fraud") as descriptor:
        assert is_in_place(str(tmp_path), "fraud", descriptor)
        replaced(fraud)
        assert not is_in_place(str(tmp_path), "fraud", descriptor)


def test_a_linked_directory_is_not_opened(tmp_path: Path, fraud: Path) -> None:
    (tmp_path / "linked").symlink_to(fraud)
    with pytest.raises(ModelUnavailable, match="symbolic link"), opened(str(tmp_path), "linked"):
        pass
    assert isinstance(look(str(tmp_path), "linked"), Snapshot)


def test_packages_in_the_root_of_a_repository_of_many(tmp_path: Path, fraud: Path) -> None:
    for name in ("b.mlpkg", "a.mlpkg", ".c.mlpkg"):
        (tmp_path / name).touch()
    assert misplaced_packages(tmp_path) == ["a.mlpkg", "b.mlpkg"]
