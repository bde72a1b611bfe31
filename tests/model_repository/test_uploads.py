"""Changing a repository: whole or not at all, whatever is sent, whoever dies, whatever the disk says."""

import asyncio
import io
import json
import os
import pickle
import random
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.linear_model import LinearRegression

from model_repository import create_package
from model_repository.errors import (
    BodyTooLarge,
    InvalidConfig,
    InvalidPackage,
    ModelNotFound,
    PackageError,
    StoreBusy,
    StoreError,
    StoreReadOnly,
    TooManyDeployments,
    TrialFailed,
    UnsignedPackage,
    UntrustedPackage,
)
from model_repository.mlpkg import Package
from model_repository.signing import TrustedKeys
from model_repository.uploads import UPLOADS, Store
from model_repository.validation import Validator


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    return root


@pytest.fixture
def store(root: Path, validator: Validator) -> Store:
    return Store(root, validator)


async def put(store: Store, name: str, content: bytes, config: bytes | None = None) -> str:
    async with store.upload(name, on_commit=lambda: None) as upload:
        for start in range(0, len(content), 700):
            await upload.write(content[start : start + 700])
        return await upload.commit(config)


async def delete(store: Store, name: str) -> None:
    await store.delete(name, on_commit=lambda: None)


def held(root: Path) -> dict[str, bytes]:
    """Every file of the repository but the store's own."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): path.read_bytes() for path in files if path.relative_to(root).parts[0] != UPLOADS
    }


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def left_over(root: Path) -> list[str]:
    """What lies where uploads are received, beside the lock."""
    return sorted(path.name for path in (root / UPLOADS).iterdir() if path.name != "lock") if (root / UPLOADS).exists() else []  # fmt: skip


async def test_created_replaced_deleted(store: Store, root: Path, line) -> None:
    assert await put(store, "m", line(1)) == "created"
    assert held(root) == {"m/model.mlpkg": line(1)}
    assert await put(store, "m", line(2), b"deployment_id: d") == "replaced"
    assert held(root) == {"m/model.mlpkg": line(2), "m/config.yml": b"deployment_id: d"}
    await delete(store, "m")
    assert (held(root), left_over(root)) == ({}, [])
    with pytest.raises(ModelNotFound, match="no deployment 'm'"):
        await delete(store, "m")


async def test_without_a_configuration_the_old_one_stays(store: Store, root: Path, line) -> None:
    """It belongs to the deployment: a new model must not lose the name by which others address it."""
    (root / "m").mkdir()
    (root / "m" / "theirs.mlpkg").write_bytes(line(1))
    (root / "m" / "config.yaml").write_bytes(b"deployment_id: d # ours")
    assert await put(store, "m", line(2)) == "replaced"
    assert held(root) == {"m/model.mlpkg": line(2), "m/config.yml": b"deployment_id: d # ours"}


async def test_files_are_for_the_server_alone(store: Store, root: Path, line) -> None:
    await put(store, "m", line(1), b"{}")
    modes = {path.name: path.stat().st_mode & 0o777 for path in [root / UPLOADS, root / "m", *(root / "m").iterdir()]}
    assert modes == {UPLOADS: 0o700, "m": 0o700, "model.mlpkg": 0o600, "config.yml": 0o600}


async def test_the_change_is_told_when_it_is_there(store: Store, root: Path, line) -> None:
    seen: list[dict[str, bytes]] = []
    async with store.upload("m", on_commit=lambda: seen.append(held(root))) as upload:
        await upload.write(line(1))
        await upload.commit()
    assert seen == [{"m/model.mlpkg": line(1)}]
    await store.delete("m", on_commit=lambda: seen.append(held(root)))
    assert seen[1] == {}


# What is refused: the old package serves on, and nothing is left


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def tarred(good: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("m.mlpkg"), io.BytesIO(good))
    return out.getvalue()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda good: b"", id="nothing"),
        pytest.param(lambda good: random.Random(1).randbytes(5000), id="random bytes"),
        pytest.param(lambda good: good[:-1], id="one byte less"),
        pytest.param(lambda good: good[: len(good) // 2], id="half"),
        pytest.param(lambda good: good + b"\0", id="one byte more"),
        pytest.param(lambda good: b"#!/bin/sh\n" + good, id="a prefix"),
        pytest.param(lambda good: good + good, id="two packages"),
        pytest.param(lambda good: zlib.compress(good), id="compressed"),
        pytest.param(tarred, id="a tar"),
        pytest.param(lambda good: b"7z\xbc\xaf\x27\x1c" + good, id="7z magic"),
        pytest.param(lambda good: zipped(**{"m.mlpkg": good}), id="a package in a ZIP"),
        pytest.param(lambda good: zipped(**{"manifest.json": b"{" * 100_000}), id="a deep manifest"),
        pytest.param(lambda good: zipped(**{"../../canary": b"x", "manifest.json": b"{}"}), id="a name that climbs"),
        pytest.param(lambda good: pickle.dumps(Canary()), id="a pickle"),
    ],
)  # fmt: skip
async def test_what_is_no_package(store: Store, root: Path, line, spoil: Callable[[bytes], bytes]) -> None:
    await put(store, "m", line(1))
    with pytest.raises(InvalidPackage):
        await put(store, "m", spoil(line(2)))
    with pytest.raises(InvalidPackage):
        await put(store, "new", spoil(line(2)))
    assert (held(root), left_over(root)) == ({"m/model.mlpkg": line(1)}, [])
    assert not list(root.parent.rglob("canary*"))


async def test_no_flipped_byte_passes(store: Store, root: Path, line) -> None:
    good = line(1)
    for place in range(0, len(good), 64):
        bad = bytearray(good)
        bad[place] ^= 0x10
        if contents(bytes(bad)) == contents(good):  # a permission bit, or one behind the end of a deflate stream
            continue
        with pytest.raises(PackageError):
            await put(store, "m", bytes(bad))
    assert (held(root), left_over(root)) == ({}, [])


def contents(package: bytes) -> dict[str, bytes] | None:
    """What it holds; ``None`` if that cannot be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(package)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, OSError, RuntimeError, EOFError):
        return None


class Canary:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch canary",)


async def test_a_pickle_is_never_read(store: Store, root: Path, tmp_path: Path, without_plan) -> None:
    """Not as a joblib member with a plan that could serve alone, and not under the name of another format."""
    sample = pd.DataFrame({"x": [1.0, 2.0], "y": [1.0, 2.0]})
    path = tmp_path / "m.mlpkg"
    create_package(path, LinearRegression().fit(sample[["x"]], sample["y"]), sample, target="y", serializer="joblib")
    canary = tmp_path / "canary"
    payload = b"cposix\nsystem\n(Vtouch %s\ntR." % str(canary).encode()
    with Package.open(path) as package:
        plan, estimator = package.manifest.plan, package.manifest.estimator
        members = {name: package.member(name) for name in ("plan.json", "plan.bin")}
    disguised = msgspec.structs.replace(estimator, serializer="skops")
    packages = [
        path,
        without_plan(path, tmp_path / "1", {"estimator.joblib": payload}),
        without_plan(path, tmp_path / "2", members | {"estimator.joblib": payload}, plan=plan),
        without_plan(path, tmp_path / "3", {"estimator.joblib": payload}, estimator=disguised),
    ]
    for bad in packages:
        with pytest.raises((UntrustedPackage, InvalidPackage)):
            await put(store, "m", bad.read_bytes())
    assert (held(root), canary.exists()) == ({}, False)


@pytest.mark.parametrize(
    "name", ["posix.system", "builtins.eval", "sklearn_evil.x.Tree", "numpy.f2py.crackfortran.myeval"]
)
async def test_types_that_are_not_trusted(
    store: Store, root: Path, line, without_plan, tmp_path: Path, name: str
) -> None:
    (tmp_path / "good").write_bytes(line(1))
    with Package.open(tmp_path / "good") as package:
        archive = zipfile.ZipFile(io.BytesIO(package.member("estimator.skops")))
    schema = json.loads(archive.read("schema.json"))
    schema["__module__"], _, schema["__class__"] = name.rpartition(".")
    spoilt = zipped(**{n: archive.read(n) for n in archive.namelist()} | {"schema.json": json.dumps(schema).encode()})
    bad = without_plan(tmp_path / "good", tmp_path / "bad", {"estimator.skops": spoilt})
    with pytest.raises(UntrustedPackage, match=re.escape(name)):
        await put(store, "m", bad.read_bytes())
    assert held(root) == {}


async def test_a_package_that_kills_who_tries_it(store: Store, root: Path, line, tree_with_children) -> None:
    await put(store, "m", line(1))
    with pytest.raises(TrialFailed, match="crashed the process that did it"):
        await put(store, "m", tree_with_children(999_999_999).read_bytes())
    assert (held(root), left_over(root)) == ({"m/model.mlpkg": line(1)}, [])


async def test_an_unsigned_package_where_keys_are_trusted(root: Path, validator: Validator, line) -> None:
    key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(UnsignedPackage):
        await put(Store(root, validator, trusted_keys=TrustedKeys([key])), "m", line(1))
    assert held(root) == {}


async def test_a_bad_configuration_refuses_both(store: Store, root: Path, line) -> None:
    await put(store, "m", line(1))
    with pytest.raises(InvalidConfig, match="prediction_threshold"):
        await put(store, "m", line(2), b"prediction_threshold: 7")
    assert held(root) == {"m/model.mlpkg": line(1)}


async def test_a_package_that_is_too_large(root: Path, validator: Validator, line) -> None:
    """Refused as soon as it is, and not written any further."""
    store = Store(root, validator, max_bytes=3_000_000)
    written = 0
    with pytest.raises(BodyTooLarge, match="more than 3000000 bytes"):
        async with store.upload("m", on_commit=lambda: None) as upload:
            for _ in range(100):
                await upload.write(bytes(100_000))
                written += 1
    assert (written, held(root), left_over(root)) == (30, {}, [])


@pytest.mark.parametrize("length", [0, 1, 100, 1000, 5_000_000])
async def test_an_upload_that_ends_early_leaves_nothing(store: Store, root: Path, line, length: int) -> None:
    await put(store, "m", line(1))

    class Gone(Exception):
        pass

    with pytest.raises(Gone):
        async with store.upload("m", on_commit=lambda: None) as upload:
            await upload.write(bytes(length))
            raise Gone
    assert (held(root), left_over(root)) == ({"m/model.mlpkg": line(1)}, [])


async def test_a_cancelled_upload_leaves_nothing_or_all(store: Store, root: Path, line) -> None:
    """Wherever it is cancelled: the thread that works for it is waited for before the file goes."""
    for turns in range(0, 60, 3):
        task = asyncio.create_task(put(store, "m", line(2) * 1))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert held(root) in ({}, {"m/model.mlpkg": line(2)})
    assert await put(store, "m", line(1)) in ("created", "replaced"), "no upload counts as running any more"
    for _ in range(4):
        async with store.upload("m", on_commit=lambda: None):
            pass
    assert left_over(root) == []


async def test_so_many_uploads_at_once(root: Path, validator: Validator, line) -> None:
    store = Store(root, validator, at_once=2)
    async with store.upload("a", on_commit=lambda: None), store.upload("b", on_commit=lambda: None):
        with pytest.raises(StoreBusy, match="2 uploads are running"):
            await put(store, "c", line(1))
    assert await put(store, "c", line(1)) == "created"


async def test_so_many_deployments(root: Path, validator: Validator, line) -> None:
    store = Store(root, validator, max_deployments=2)
    await put(store, "a", line(1))
    await put(store, "b", line(1))
    with pytest.raises(TooManyDeployments, match="has 2 deployments"):
        await put(store, "c", line(1))
    assert await put(store, "a", line(2)) == "replaced"
    await delete(store, "b")
    assert await put(store, "c", line(1)) == "created"


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("../outside"), lambda path: path.write_text("x")], ids=["a link", "a file"])  # fmt: skip
async def test_what_is_not_a_directory_is_not_touched(store: Store, root: Path, line, make: Any) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "canary").write_text("alive")
    make(root / "m")
    for attempt in (put(store, "m", line(1)), delete(store, "m")):
        with pytest.raises((StoreReadOnly, ModelNotFound)):
            await attempt
    assert names_in(outside) == {"canary"}
    assert names_in(root) >= {"m"}


async def test_a_link_in_place_of_the_uploads(store: Store, root: Path, line) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / UPLOADS).symlink_to(outside)
    with pytest.raises(StoreError, match=r"\.uploads in the repository is not a directory"):
        await put(store, "m", line(1))
    store.sweep()
    assert list(outside.iterdir()) == []


# Many at once


async def test_two_uploads_of_one_id(store: Store, root: Path, line) -> None:
    """Of many that are sent at once, one wins, with its configuration."""
    slopes = [1.0, 2.0, 3.0, 4.0]
    for _ in range(5):
        outcomes = await asyncio.gather(*(put(store, "m", line(s), b"deployment_id: d%d" % s) for s in slopes))
        files = held(root)
        pairs = {(line(s), b"deployment_id: d%d" % s) for s in slopes}
        assert (files["m/model.mlpkg"], files["m/config.yml"]) in pairs
        assert outcomes.count("created") <= 1
    assert left_over(root) == []


WRITER = """
import os, sys
from pathlib import Path
from model_repository.uploads import Store
root, name, package, config, times = sys.argv[1:]
store = Store(Path(root), None)
content = Path(package).read_bytes()
for _ in range(int(times)):
    part, descriptor = store.new_part()
    os.write(descriptor, content)
    os.fsync(descriptor)
    store.commit(name, part, config.encode() if config else None, lambda: None)
    os.close(descriptor)
"""
"""What an upload does once its package was tried out, without the seconds before."""


def writer(root: Path, package: Path, config: str, times: int = 1) -> list[str]:
    return [sys.executable, "-c", WRITER, str(root), "m", str(package), config, str(times)]


def pair(directory: Path) -> tuple[bytes, bytes]:
    """Package and configuration of one moment, by the directory that was opened."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = []
        for name in ("model.mlpkg", "config.yml"):
            with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=descriptor), "rb") as file:
                found.append(file.read())
        if directory.stat().st_ino != os.fstat(descriptor).st_ino:
            raise FileNotFoundError
        return found[0], found[1]
    finally:
        os.close(descriptor)


def test_two_processes_write_one_id(root: Path, tmp_path: Path, line) -> None:
    """A reader sees one or the other, never nothing and never a mixture."""
    for slope in (1, 2):
        (tmp_path / f"{slope}").write_bytes(line(slope))
    subprocess.run(writer(root, tmp_path / "1", "deployment_id: d1"), check=True)
    commands = [writer(root, tmp_path / f"{slope}", f"deployment_id: d{slope}", 60) for slope in (1, 2)]
    writers = [subprocess.Popen(command) for command in commands]
    expected = {(line(slope), b"deployment_id: d%d" % slope) for slope in (1, 2)}
    seen = set()
    while any(process.poll() is None for process in writers):
        try:
            seen.add(pair(root / "m"))
        except FileNotFoundError:  # it was replaced between two steps of ours
            assert (root / "m").is_dir()
    assert [process.returncode for process in writers] == [0, 0]
    assert seen <= expected
    assert left_over(root) == []


def test_a_change_waits_for_that_of_another_process(root: Path, tmp_path: Path, line) -> None:
    (tmp_path / "1").write_bytes(line(1))
    store = Store(root, None)  # type: ignore[arg-type]
    part, descriptor = store.new_part()
    with store._locked():
        other = subprocess.Popen(writer(root, tmp_path / "1", ""))
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(2)
        assert not (root / "m").exists()
    assert other.wait(20) == 0
    assert (root / "m" / "model.mlpkg").read_bytes() == line(1)
    part.unlink()
    os.close(descriptor)


# Death


CHANGING = ("mkdir", "mkdirat", "rename", "renameat", "renameat2", "fsync", "unlink", "unlinkat", "rmdir")


@pytest.mark.needs("strace")
@pytest.mark.parametrize("call", CHANGING)
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_killed_at_every_step(root: Path, tmp_path: Path, line, exchange: bool, call: str) -> None:
    """kill -9 at each system call that changes the disk: there is the old or the new, whole, and a sweep clears up."""
    (tmp_path / "old").write_bytes(line(1))
    (tmp_path / "new").write_bytes(line(2))
    old = {"m/model.mlpkg": line(1), "m/config.yml": b"deployment_id: old"}
    new = {"m/model.mlpkg": line(2), "m/config.yml": b"deployment_id: new"}
    refuse = [] if exchange else ["-e", "inject=renameat2:error=EINVAL"]
    if call == "renameat2" and not exchange:
        return  # never gets so far
    seen = []
    for step in range(1, 20):
        subprocess.run(writer(root, tmp_path / "old", "deployment_id: old"), check=True)
        assert held(root) == old
        killer = ["strace", "-o", os.devnull, *refuse, "-e", f"inject={call}:signal=SIGKILL:when={step}"]
        done = subprocess.run([*killer, *writer(root, tmp_path / "new", "deployment_id: new")], check=False)
        Store(root, None).sweep()  # type: ignore[arg-type]
        assert left_over(root) == []
        found = held(root)
        assert found in (old, new)
        seen.append(found == new)
        if done.returncode == 0:
            break
    assert seen[-1], "the last run was killed nowhere"
    assert seen == sorted(seen), "once there, it stays"


@pytest.mark.needs("strace")
def test_killed_in_a_delete(root: Path, tmp_path: Path, line) -> None:
    (tmp_path / "m").write_bytes(line(1))
    script = """
import sys
from pathlib import Path
from model_repository.uploads import Store
Store(Path(sys.argv[1]), None)._delete("m", lambda: None)
"""
    for call, expected in (("rename", True), ("fsync", False), ("unlinkat", False), ("unlink", False)):
        subprocess.run(writer(root, tmp_path / "m", ""), check=True)
        killer = ["strace", "-o", os.devnull, "-e", f"inject={call}:signal=SIGKILL:when=1"]
        subprocess.run([*killer, sys.executable, "-c", script, str(root)], check=False)
        Store(root, None).sweep()  # type: ignore[arg-type]
        assert (bool(held(root)), left_over(root)) == (expected, [])


def test_a_sweep_spares_running_uploads(root: Path) -> None:
    store = Store(root, None)  # type: ignore[arg-type]
    part, descriptor = store.new_part()
    (root / UPLOADS / "dead.part").write_bytes(b"x")
    (root / UPLOADS / "dead").mkdir()
    (root / UPLOADS / "linked").symlink_to(root)
    store.sweep()
    assert left_over(root) == [part.name]
    os.close(descriptor)
    store.sweep()
    assert left_over(root) == []
    assert root.is_dir()


def test_a_sweep_of_nothing(tmp_path: Path) -> None:
    Store(tmp_path / "absent", None).sweep()  # type: ignore[arg-type]


# The disk


ON_A_FAILING_DISK = """
import asyncio, sys
from pathlib import Path
from model_repository.errors import StoreError
from model_repository.uploads import Store

class Anything:
    def check(self, package, keys):
        pass

store = Store(Path(sys.argv[1]), Anything())
packages = [Path(name).read_bytes() for name in sys.argv[2:]]

async def main():
    for turn in range(8):
        try:
            async with store.upload("m", lambda: None) as upload:
                await upload.write(packages[turn % 2])
                await upload.commit(b"deployment_id: d%d" % (turn % 2))
            print("done")
        except StoreError as error:
            print(error.status_hint, error)
        directory = store.root / "m"
        left = [path for path in (store.root / ".uploads").iterdir() if path.name != "lock"]
        pair = [(directory / name).read_bytes() for name in ("model.mlpkg", "config.yml")] if directory.exists() else None
        assert not left, left
        assert pair in (None, *([packages[n], b"deployment_id: d%d" % n] for n in (0, 1))), pair

asyncio.run(main())
"""


@pytest.mark.needs("strace")
@pytest.mark.parametrize("call", ["fsync", "rename", "renameat2", "mkdir"])
def test_an_error_of_the_disk(root: Path, tmp_path: Path, line, call: str) -> None:
    """At every second of these calls: it is said, and the old package or the new one is there whole, and nothing else."""
    for slope in (1, 2):
        (tmp_path / f"{slope}").write_bytes(line(slope))
    failing = ["strace", "-f", "-o", os.devnull, "-e", f"inject={call}:error=EIO:when=2+2", sys.executable, "-c"]
    command = [*failing, ON_A_FAILING_DISK, str(root), str(tmp_path / "1"), str(tmp_path / "2")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) >= {"500 m: the repository failed: Input/output error"}, done.stdout


ON_A_DISK = """
import asyncio, sys
from pathlib import Path
from model_repository.errors import StoreError
from model_repository.uploads import Store
root, package = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
store = Store(root, None)

async def main():
    for work in (put, remove):
        try:
            await work()
        except StoreError as error:
            print(type(error).__name__, error.status_hint, error)
        print(sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()))

async def put():
    async with store.upload("m", lambda: None) as upload:
        for _ in range(100):
            await upload.write(bytes(100_000))

async def remove():
    await store.delete("m", lambda: None)

asyncio.run(main())
"""


def on_a_disk(root: Path, package: Path, mount: str) -> list[str]:
    """What happens on a file system of its own, which is mounted for one process only."""
    command = f'set -e; {mount.format(root=root)}; exec "$0" -c "$1" {root} {package}'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command, sys.executable, ON_A_DISK],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare failed" in done.stderr:
        pytest.skip("namespaces are not permitted here")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.needs("unshare", "mount")
def test_a_full_disk(root: Path, tmp_path: Path, line) -> None:
    (tmp_path / "m.mlpkg").write_bytes(line(1))
    mount = f"mount -t tmpfs -o size=1m none {{root}}; mkdir {{root}}/m; cp {tmp_path}/m.mlpkg {{root}}/m/"
    assert on_a_disk(root, tmp_path / "m.mlpkg", mount) == [
        "StoreFull 507 the upload: no space left in the repository",
        "['m/m.mlpkg']",
        "['.uploads/lock']",
    ]


@pytest.mark.needs("unshare", "mount")
def test_a_read_only_mount(root: Path, tmp_path: Path, line) -> None:
    (tmp_path / "m.mlpkg").write_bytes(line(1))
    mount = f"mount -t tmpfs none {{root}}; mkdir {{root}}/m; cp {tmp_path}/m.mlpkg {{root}}/m/; mount -o remount,ro {{root}}"
    assert on_a_disk(root, tmp_path / "m.mlpkg", mount) == [
        "StoreReadOnly 409 the upload: the repository cannot be changed: Read-only file system",
        "['m/m.mlpkg']",
        "StoreReadOnly 409 m: the repository cannot be changed: Read-only file system",
        "['m/m.mlpkg']",
    ]


@pytest.mark.needs("unshare", "mount")
def test_a_deployment_that_is_a_mount(root: Path, tmp_path: Path, line) -> None:
    (tmp_path / "m.mlpkg").write_bytes(line(1))
    mount = f"mkdir {{root}}/m; mount -t tmpfs none {{root}}/m; cp {tmp_path}/m.mlpkg {{root}}/m/"
    assert on_a_disk(root, tmp_path / "m.mlpkg", mount)[1:] == [
        "StoreReadOnly 409 m: its directory is a mount of its own and cannot be replaced",
        "['.uploads/lock', 'm/m.mlpkg']",
    ]
