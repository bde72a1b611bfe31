"""What holds for every store: what is read, what is written, and what is left behind."""

import socket
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from batch.adapters import TYPES, adapter_for
from batch.errors import IntakeError, OutputError
from batch.ports import Intake
from tests.batch.adapters.conftest import LARGE, MIB, STORES, Case


async def everything(intake: Intake, index: int = 0, start: int = 0) -> bytes:
    return b"".join([block async for block in intake.read(intake.files[index], start)])


@pytest.mark.parametrize("data", [b"", b"a,b\n1,2\n", LARGE], ids=["empty", "small", "large"])
async def test_reads_a_whole_file(case: Case, data: bytes) -> None:
    case.put("in/x.csv", data)

    async with case.intake("in/x.csv") as intake:
        (file,) = intake.files
        assert (file.name, file.size) == ("x.csv", len(data))
        assert await everything(intake) == data


async def test_reads_from_any_place(case: Case) -> None:
    case.put("x.bin", LARGE)

    async with case.intake("x.bin") as intake:
        (file,) = intake.files
        assert await intake.read_range(file, 5 * MIB - 3, 7) == LARGE[5 * MIB - 3 :][:7]
        assert await intake.read_range(file, len(LARGE) - 8, 8) == LARGE[-8:]
        assert await intake.read_range(file, 0, 0) == b""
        assert await everything(intake, start=9 * MIB + 1) == LARGE[9 * MIB + 1 :]
        with pytest.raises(IntakeError, match="before it should"):
            await intake.read_range(file, len(LARGE) - 8, 9)


@pytest.mark.parametrize(
    ("place", "names"),
    [
        pytest.param("d/", ["a.csv", "b.csv.gz", "c/d.csv", "e.txt"], id="directory"),
        pytest.param("d/*.csv", ["a.csv"], id="pattern"),
        pytest.param("d/**/*.csv", ["a.csv", "c/d.csv"], id="pattern over levels"),
        pytest.param("d/[ab].csv*", ["a.csv", "b.csv.gz"], id="pattern with a set"),
    ],
)
async def test_reads_many_files_in_name_order(case: Case, place: str, names: list[str]) -> None:
    for name in ["e.txt", "c/d.csv", "b.csv.gz", "a.csv", ".a.csv.part"]:
        case.put(f"d/{name}", name.encode())
    case.put("dd.csv", b"beside")

    async with case.intake(place) as intake:
        assert [file.name for file in intake.files] == names
        assert [await everything(intake, index) for index in range(len(names))] == [name.encode() for name in names]


@pytest.mark.parametrize("case", [name for name in STORES if name != "nanio"], indirect=True)  # signs them otherwise
@pytest.mark.parametrize("name", ["naïve ü/日本.csv", "a?b#c%41 d&e+f.csv", "[x]*.csv"])
async def test_takes_names_as_they_are(case: Case, name: str) -> None:
    case.put(name, b"1")
    case.put("out/there", b"")

    async with case.intake(name) as intake:
        assert await everything(intake) == b"1"
    async with case.output(f"out/{name.replace('/', '-')}") as output, output.open_file(None) as write:
        await write(b"2")

    assert case.stored() == {name: b"1", "out/there": b"", f"out/{name.replace('/', '-')}": b"2"}


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 16 * MIB, len(LARGE)], ids=lambda size: f"{size} bytes")
async def test_output_appears_whole(case: Case, size: int) -> None:
    data = (LARGE * 2)[:size]

    async with case.output("y.csv") as output:
        assert not output.directory
        async with output.open_file(None) as write:
            for start in range(0, size, 3 * MIB + 7):
                await write(data[start : start + 3 * MIB + 7])
        assert case.stored() == {}

    assert case.stored() == {"y.csv": data}
    assert not case.unfinished()


async def test_output_of_many_files(case: Case) -> None:
    case.put("out/before.csv", b"stays")
    async with case.output("out/") as output:
        assert output.directory
        for name, data in [("part-00000.csv", b"1"), ("part-00001.csv", LARGE), ("deep/part.csv", b"")]:
            async with output.open_file(name) as write:
                await write(data)
        assert list(case.stored()) == ["out/before.csv"]

    assert case.stored() == {
        "out/before.csv": b"stays",
        "out/part-00000.csv": b"1",
        "out/part-00001.csv": LARGE,
        "out/deep/part.csv": b"",
    }
    assert not case.unfinished()


class Broken(Exception):
    """What goes wrong in a job."""


@pytest.mark.parametrize("place", ["out.csv", "out/"])
@pytest.mark.parametrize("write_mode", ["error", "overwrite"])
async def test_failed_output_leaves_nothing(case: Case, place: str, write_mode: str) -> None:
    name = "x.csv" if place == "out/" else None
    with pytest.raises(Broken):
        async with case.output(place, write_mode=write_mode) as output, output.open_file(name) as write:
            await write(LARGE)
            raise Broken

    assert case.stored() == {}
    assert not case.unfinished()


async def test_cancelled_output_leaves_nothing(case: Case) -> None:
    with anyio.CancelScope() as scope:
        async with case.output("out.csv") as output, output.open_file(None) as write:
            await write(LARGE)
            scope.cancel()
            await anyio.lowlevel.checkpoint()

    assert case.stored() == {}
    assert not case.unfinished()


async def test_existing_output_is_refused(case: Case) -> None:
    case.put("out.csv", b"old")

    with pytest.raises(OutputError, match=r'out\.csv: exists; "write_mode": "overwrite" would replace it'):
        async with case.output("out.csv", write_mode="error"):
            pytest.fail("entered")  # pragma: no cover
    with pytest.raises(OutputError, match="exists"):
        async with case.output("", write_mode="error") as output, output.open_file("out.csv"):
            pytest.fail("entered")  # pragma: no cover

    assert case.stored() == {"out.csv": b"old"}


async def test_output_that_came_meanwhile_is_refused(case: Case) -> None:
    with pytest.raises(OutputError, match=r"out\.csv"):
        async with case.output("out.csv", write_mode="error") as output, output.open_file(None) as write:
            await write(b"new")
            case.put("out.csv", b"old")

    assert case.stored() == {"out.csv": b"old"}
    assert not case.unfinished()


@pytest.mark.parametrize("size", [3, 12 * MIB], ids=["small", "large"])
async def test_overwriting(case: Case, size: int) -> None:
    case.put("out.csv", b"old")

    async with case.output("out.csv", write_mode="overwrite") as output, output.open_file(None) as write:
        await write(LARGE[:size])
        assert case.stored() == {"out.csv": b"old"}

    assert case.stored() == {"out.csv": LARGE[:size]}


async def test_missing_input(case: Case) -> None:
    case.put("d/x.csv", b"1")
    for place, message in [("no.csv", "no such"), ("no/", "no such|holds no"), ("d/*.txt", "no such"), ("d", "'/'")]:
        with pytest.raises(IntakeError, match=message):
            async with case.intake(place):
                pytest.fail("entered")  # pragma: no cover


async def test_missing_bucket(case: Case) -> None:
    with pytest.raises(IntakeError, match="no such"):
        async with case.intake(case.elsewhere):
            pytest.fail("entered")  # pragma: no cover
    with pytest.raises(OutputError, match="no such"):
        async with case.output(case.elsewhere):
            pytest.fail("entered")  # pragma: no cover


@pytest.mark.parametrize("case", STORES[1:], indirect=True)
async def test_wrong_credentials(case: Case) -> None:
    assert case.wrong is not None
    case.put("x.csv", b"1")

    with pytest.raises(IntakeError) as reading:
        async with case.intake("x.csv", credentials=case.wrong):
            pytest.fail("entered")  # pragma: no cover
    with pytest.raises(OutputError) as writing:
        async with case.output("y.csv", credentials=case.wrong):
            pytest.fail("entered")  # pragma: no cover

    for message in (str(reading.value), str(writing.value)):
        assert any(word in message for word in ("denied", "does not belong", "refused"))
        assert not any(secret in message for secret in case.wrong.secrets)


async def test_input_that_changes_is_noticed(case: Case) -> None:
    case.put("x.csv", LARGE)
    options: dict[str, Any] = {} if case.type == "filesystem" else {"part_size": MIB}
    async with case.intake("x.csv", **options) as intake:
        blocks = intake.read(intake.files[0])
        await anext(blocks)
        case.put("x.csv", LARGE[::-1])
        if case.type == "gcp":
            return  # its emulator keeps no generations
        with pytest.raises(IntakeError, match="changed"):
            async for _ in blocks:
                pass


async def test_version_tells_content(case: Case) -> None:
    versions = []
    for data in (b"1", b"22"):
        case.put("x.csv", data)
        async with case.intake("x.csv") as intake:
            versions.append(intake.files[0].version)

    assert versions[0] != versions[1]


@pytest.mark.parametrize("case", STORES[1:], indirect=True)
async def test_proxies_of_the_environment_are_not_used(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.put("x.csv", b"1")
    with socket.create_server(("127.0.0.1", 0)) as hostile, monkeypatch.context() as environment:
        hostile.setblocking(False)
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            environment.setenv(name, f"http://127.0.0.1:{hostile.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            environment.delenv(name, raising=False)
        async with case.intake("x.csv") as intake, case.output("y.csv") as output, output.open_file(None) as write:
            await write(await everything(intake))
        with pytest.raises(BlockingIOError):  # nobody came
            hostile.accept()

    assert case.stored() == {"x.csv": b"1", "y.csv": b"1"}


@pytest.mark.parametrize("type_", TYPES)
def test_every_type_is_an_adapter(type_: str) -> None:
    adapter = adapter_for(type_)

    assert issubclass(adapter.IntakeSettings, msgspec.Struct)
    assert issubclass(adapter.OutputSettings, msgspec.Struct)
