"""Files: what is none, where they may be, and what a full disk or a killed run does."""

import os
import re
import resource
import signal
import socket
from pathlib import Path

import pytest

from batch.adapters import filesystem
from batch.errors import IntakeError, JobError, OutputError
from batch.settings import Credentials

ANYWHERE = Credentials()


def intake(path: object, credentials: Credentials = ANYWHERE):
    return filesystem.open_intake(filesystem.IntakeSettings(path=str(path)), credentials)


def output(path: object, credentials: Credentials = ANYWHERE, write_mode="error", **options):
    return filesystem.open_output(
        filesystem.OutputSettings(path=str(path), write_mode=write_mode), credentials, **options
    )


async def refused_intake(path: object, credentials: Credentials = ANYWHERE) -> str:
    with pytest.raises((IntakeError, JobError)) as refused:
        async with intake(path, credentials):
            pytest.fail("entered")  # pragma: no cover
    return str(refused.value)


async def refused_output(path: object, credentials: Credentials = ANYWHERE, **options) -> str:
    with pytest.raises((OutputError, JobError)) as refused:
        async with output(path, credentials, **options):
            pytest.fail("entered")  # pragma: no cover
    return str(refused.value)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, Path]:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    names = ["pipe", "directory", "link", "socket"]
    return {name: tmp_path / name for name in names} | {"device": Path("/dev/zero")}


@pytest.mark.parametrize("name", ["pipe", "directory", "link", "socket", "device"])
async def test_only_regular_files(odd: dict[str, Path], name: str) -> None:
    assert re.search("not a regular file|is a directory|belongs to the system", await refused_intake(odd[name]))
    message = await refused_output(odd[name], write_mode="overwrite")
    assert re.search("not a regular file|belongs to the system", message)


async def test_why_there_is_no_file(odd: dict[str, Path]) -> None:
    assert (await refused_intake(odd["pipe"] / "in.csv")).endswith("in.csv: not a directory")


async def test_what_the_system_shows_as_files_is_refused() -> None:
    assert "holds no data" in await refused_intake("/proc/self/environ")


@pytest.mark.parametrize("place", ["outside/in.csv", "inside/../outside/in.csv", "inside/link.csv", "inside/links/"])
async def test_nothing_outside_of_the_root(tmp_path: Path, place: str) -> None:
    for name in ("outside", "inside", "inside/links"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside/in.csv").write_text("secret")
    (tmp_path / "inside/link.csv").symlink_to(tmp_path / "outside/in.csv")
    (tmp_path / "inside/links/a.csv").symlink_to(tmp_path / "outside/in.csv")
    confined = Credentials(root=tmp_path / "inside")

    assert "lies outside of PREDICTION_API_BATCH_ROOT" in await refused_intake(f"{tmp_path}/{place}", confined)
    if not place.endswith("/"):
        message = await refused_output(f"{tmp_path}/{place}", confined, write_mode="overwrite")
        assert "lies outside of PREDICTION_API_BATCH_ROOT" in message


async def test_inside_the_root_all_is_well(tmp_path: Path) -> None:
    confined = Credentials(root=tmp_path)
    (tmp_path / "in.csv").write_text("1")

    async with (
        intake(tmp_path / "in.csv", confined) as opened,
        output(tmp_path / "out.csv", confined) as written,
        written.open_file(None) as write,
    ):
        async for block in opened.read(opened.files[0]):
            await write(block)

    assert (tmp_path / "out.csv").read_text() == "1"


@pytest.mark.parametrize("name", ["../x.csv", "/x.csv", "", "a/../../x.csv"])
async def test_names_stay_in_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="is no name for a file in it"):
        async with output(f"{tmp_path}/out/") as written, written.open_file(name):
            pytest.fail("entered")  # pragma: no cover
    assert not (tmp_path / "out").exists()


async def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")

    async with output(tmp_path / "link.csv", write_mode="overwrite") as written, written.open_file(None) as write:
        await write(b"new")

    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "new"


async def test_long_names(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)

    async with output(path) as written, written.open_file(None) as write:
        await write(b"1")

    assert path.read_bytes() == b"1"


async def test_the_directory_must_be_there_and_writable(tmp_path: Path) -> None:
    assert "no such file or directory" in await refused_output(tmp_path / "no/out.csv")
    assert "not a directory" in await refused_output(f"{__file__}/out.csv")


async def test_the_final_path_is_told(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")

    async with output(tmp_path / "link/out.csv") as written:
        assert written.local_path(None) == tmp_path / "there/out.csv"
    async with output(f"{tmp_path}/link/") as written:
        assert written.local_path("a/b.csv") == tmp_path / "there/a/b.csv"


class Noted:
    """What a journal keeps."""

    def __init__(self, *found: str) -> None:
        self.found = found
        self.noted: list[str] = []

    def note(self, token: str) -> None:
        self.noted.append(token)


async def test_the_part_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    noted = Noted()
    (tmp_path / ".mine.part").touch()
    killed = output(tmp_path / "out.csv", leftovers=noted)
    written = await killed.__aenter__()
    opened = written.open_file(None)
    await opened.__aenter__()
    assert len(names_in(tmp_path)) == 2

    elsewhere = tmp_path.parent / "other.part"
    elsewhere.touch()
    async with output(tmp_path / "out.csv", leftovers=Noted(*noted.noted, str(elsewhere))) as again:
        assert names_in(tmp_path) == [".mine.part"]
        async with again.open_file(None) as write:
            await write(b"1")

    assert elsewhere.exists()
    assert names_in(tmp_path) == [".mine.part", "out.csv"]
    for left in (opened, killed):
        await left.__aexit__(RuntimeError, RuntimeError(), None)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_odd_paths(path: str) -> None:
    with pytest.raises(ValueError, match="path: expected the path of a file"):
        filesystem.IntakeSettings(path=path)


async def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"x" * 3_000_000)
    async with intake(path) as opened:
        blocks = opened.read(opened.files[0])
        await anext(blocks)
        path.write_bytes(b"x")
        with pytest.raises(IntakeError, match=r"in\.csv: changed while it was read"):
            await anext(blocks)


async def test_a_file_that_grows_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"x" * 10)
    async with intake(path) as opened:
        blocks = opened.read(opened.files[0])
        assert await anext(blocks) == b"x" * 10
        with path.open("ab") as file:
            file.write(b"y")
        with pytest.raises(IntakeError, match="changed while it was read"):
            await anext(blocks)


async def test_a_file_that_vanishes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"x")
    async with intake(path) as opened:
        path.unlink()
        with pytest.raises(IntakeError, match=r"in\.csv: no such file"):
            await anext(opened.read(opened.files[0]))


async def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """The limit for the size of a file stands for a disk that is full: the kernel refuses the write."""
    before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"out\.csv: file too large"):
            async with output(tmp_path / "out.csv") as written, written.open_file(None) as write:
                await write(b"x" * 2_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)

    assert names_in(tmp_path) == []


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
async def test_a_file_that_is_open_and_loses_its_name_is_noticed(replaced: bool, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(bytes(3 * 2**20))
    async with intake(path) as opened:
        blocks = opened.read(opened.files[0])
        await anext(blocks)
        path.unlink()
        if replaced:
            path.write_bytes(bytes(3 * 2**20))
        with pytest.raises(IntakeError, match=r"changed while it was read|no such file"):
            _ = [block async for block in blocks]
