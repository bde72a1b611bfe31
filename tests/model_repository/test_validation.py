"""Trying packages out: what is good passes, what is not is refused by what happened, and nobody else dies of it."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor

from model_repository import create_package
from model_repository.errors import InvalidPackage, PackageMismatch, TrialFailed, UnsignedPackage, UntrustedPackage
from model_repository.manifest import GoldenRows
from model_repository.mlpkg import Package, write_signed
from model_repository.signing import TrustedKeys, signature_bytes
from model_repository.validation import Limits, Validator


def check(validator: Validator, path: Path, trusted_keys: TrustedKeys | None = None) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        validator.check(descriptor, trusted_keys)
    finally:
        os.close(descriptor)


@contextmanager
def limited(**limits: float) -> Iterator[Validator]:
    validator = Validator(msgspec.structs.replace(Limits(), **limits))
    try:
        yield validator
    finally:
        validator.close()


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass", "anomaly"])
def test_good_packages_pass(validator: Validator, kind: str, request: pytest.FixtureRequest) -> None:
    check(validator, request.getfixturevalue(kind).path)


def test_a_package_without_a_plan_passes(validator: Validator, binary, without_plan, tmp_path: Path) -> None:
    check(validator, without_plan(binary.path, tmp_path / "m.mlpkg", {}))


def test_a_wild_child_index_crashes_somebody_else(validator: Validator, tree_with_children, binary) -> None:
    """The format is trusted, each type is on the list, and yet a prediction reads far beyond the tree."""
    with pytest.raises(TrialFailed, match=r"crashed the process that did it \(SIG(SEGV|BUS)\)"):
        check(validator, tree_with_children(999_999_999))
    check(validator, binary.path)


def test_a_tree_without_end(tree_with_children, binary) -> None:
    """A child that is its own parent: no prediction ever ends."""
    endless = tree_with_children(0)
    with limited(processor_seconds=1) as validator:
        with pytest.raises(TrialFailed, match="took more than 1 s of processor time"):
            check(validator, endless)
        check(validator, binary.path)
    with limited(seconds=0.5) as validator, pytest.raises(TrialFailed, match=r"took more than 0\.5 s$"):
        check(validator, endless)


def test_a_model_that_needs_too_much_memory(tmp_path: Path) -> None:
    sample = pd.DataFrame({f"x{place}": np.random.default_rng(0).normal(size=20_000) for place in range(200)})
    sample["y"] = sample["x0"]
    model = KNeighborsRegressor(algorithm="brute").fit(sample.drop(columns="y"), sample["y"])
    create_package(tmp_path / "m.mlpkg", model, sample, target="y", reference=False)
    refused = pytest.raises(TrialFailed, match=r"needs more than 0\.00391 GiB of memory")
    with limited(memory_bytes=4 * 1024**2, memory_per_byte=0) as validator, refused:
        check(validator, tmp_path / "m.mlpkg")


def test_limits_grow_with_the_package() -> None:
    limits = Limits(memory_bytes=1000, memory_per_byte=4, processor_seconds=20, seconds=60, seconds_per_gibibyte=60)
    grown = limits.for_package(1024**3 // 2)
    assert (grown.memory_bytes, grown.processor_seconds, grown.seconds) == (1000 + 2 * 1024**3, 50, 90)


def test_golden_rows_must_replay(validator: Validator, binary, without_plan, tmp_path: Path) -> None:
    with Package.open(binary.path) as package:
        golden = msgspec.json.decode(package.member("golden.json"), type=GoldenRows)
    shifted = msgspec.structs.replace(golden, values=[[value + 1e-6 for value in row] for row in golden.values])
    path = without_plan(binary.path, tmp_path / "m.mlpkg", {"golden.json": msgspec.json.encode(shifted)})
    with pytest.raises(PackageMismatch, match="the estimator differs by 1e-06"):
        check(validator, path)


def test_the_plan_must_say_the_same_as_well(validator: Validator, binary, tmp_path: Path, without_plan) -> None:
    """On disk, the estimator would serve for such a plan; a stranger's package has no such excuse."""
    with Package.open(binary.path) as package:
        plan = msgspec.json.decode(package.member("plan.json"))
        arrays, manifest = package.member("plan.bin"), package.manifest
    plan["order"] = plan["order"][::-1]
    members = {"plan.json": msgspec.json.encode(plan), "plan.bin": arrays}
    path = without_plan(binary.path, tmp_path / "m.mlpkg", members, plan=manifest.plan, not_compiled=None)
    with pytest.raises(PackageMismatch, match="the compiled plan differs by"):
        check(validator, path)


def test_an_estimator_that_never_serves_is_tried_as_well(validator, binary, regression, tmp_path, without_plan) -> None:
    """A plan may replay while the estimator beside it is another one."""
    with Package.open(binary.path) as package, Package.open(regression.path) as other:
        members = {name: package.member(name) for name in ("plan.json", "plan.bin")}
        members["estimator.skops"] = other.member("estimator.skops")
        manifest = package.manifest
    path = without_plan(binary.path, tmp_path / "m.mlpkg", members, plan=manifest.plan, not_compiled=None)
    with pytest.raises(PackageMismatch, match="the estimator "):
        check(validator, path)


def test_an_unused_member_is_read_as_well(validator: Validator, binary, without_plan, tmp_path: Path) -> None:
    path = without_plan(binary.path, tmp_path / "m.mlpkg", {"notes.bin": b"0123456789"})
    path.write_bytes(path.read_bytes().replace(b"0123456789", b"0123456780"))
    with pytest.raises(InvalidPackage, match=r"'notes\.bin': damaged"):
        check(validator, path)


def test_pickles_never_pass(validator: Validator, tmp_path: Path) -> None:
    sample = pd.DataFrame({"x": [1.0, 2.0], "y": [1.0, 2.0]})
    path = tmp_path / "m.mlpkg"
    create_package(path, LinearRegression().fit(sample[["x"]], sample["y"]), sample, target="y", serializer="joblib")
    with pytest.raises(UntrustedPackage, match="holds a pickle"):
        check(validator, path)


def test_trusted_keys(validator: Validator, binary, tmp_path: Path) -> None:
    key, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    trusted = TrustedKeys([key.public_key().public_bytes_raw()])
    with pytest.raises(UnsignedPackage, match="is not signed"):
        check(validator, binary.path, trusted)
    with Package.open(binary.path) as package:
        for name, signer in (("good", key), ("bad", stranger)):
            write_signed(tmp_path / name, package, signature_bytes(package.manifest_content, signer))
    check(validator, tmp_path / "good", trusted)
    with pytest.raises(UnsignedPackage, match="is not trusted"):
        check(validator, tmp_path / "bad", trusted)


def test_many_ask_at_once(validator: Validator, binary, tree_with_children) -> None:
    bad = tree_with_children(999_999_999)

    def ask(place: int) -> bool:
        try:
            check(validator, bad if place % 3 == 0 else binary.path)
        except TrialFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(12))) == [place % 3 != 0 for place in range(12)]


def test_a_helper_that_was_killed_is_replaced(binary) -> None:
    with limited() as validator:
        check(validator, binary.path)
        first = helper_of(validator)
        os.kill(first, signal.SIGKILL)
        check(validator, binary.path)
        assert helper_of(validator) != first


def test_a_helper_killed_over_a_package_is_asked_again(tree_with_children, binary) -> None:
    """The question that it took with it is asked once more; those that wait are not lost."""
    endless = tree_with_children(0)
    with limited(processor_seconds=2) as validator, ThreadPoolExecutor(2) as pool:
        check(validator, binary.path)
        first = pool.submit(check, validator, endless)
        wait_for_child_of(helper_of(validator))
        second = pool.submit(check, validator, binary.path)
        os.kill(helper_of(validator), signal.SIGKILL)
        with pytest.raises(TrialFailed, match="more than 2 s of processor time"):
            first.result(30)
        second.result(30)


def helper_of(validator: Validator) -> int:
    assert validator._helper is not None
    return validator._helper.pid


def wait_for_child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    while not (found := children.read_text().split()):
        pass
    return int(found[0])


def test_a_helper_is_shared_after_a_fork(binary) -> None:
    """Two processes, one helper: a fork that keeps the descriptors asks the same one."""
    script = """
import os, sys
from model_repository.validation import Validator
def check():
    descriptor = os.open(sys.argv[1], os.O_RDONLY)
    validator.check(descriptor)
    os.close(descriptor)
validator = Validator()
child = os.fork()
if child == 0:
    check()
    os._exit(0)
print("checked in a child:", os.waitpid(child, 0)[1] == 0)
check()
print("helpers of the parent:", len(open(f"/proc/self/task/{os.getpid()}/children").read().split()))
"""
    done = subprocess.run([sys.executable, "-c", script, str(binary.path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "checked in a child: True\nhelpers of the parent: 0\n"), done.stderr


def test_the_helper_ends_with_the_last_who_could_ask(binary, tmp_path: Path) -> None:
    """Even when they were killed: it is not told to end, it has nobody left to hear."""
    script = """
import os, sys
from model_repository.validation import Validator
validator = Validator()
descriptor = os.open(sys.argv[1], os.O_RDONLY)
validator.check(descriptor)
print(validator._helper.pid, flush=True)
sys.stdin.read()
"""
    server = subprocess.Popen(
        [sys.executable, "-c", script, str(binary.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin is not None
    assert server.stdout is not None
    helper = int(server.stdout.readline())
    watched = os.pidfd_open(helper)
    server.kill()
    server.communicate()
    assert select.select([watched], [], [], 10)[0], "the helper is still there"
    os.close(watched)


def test_what_the_helper_knows(binary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the server's environment, and none of its files."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with limited() as validator:
        check(validator, binary.path)
        process = Path(f"/proc/{helper_of(validator)}")
        assert b"secret" not in (process / "environ").read_bytes()
        files = [path.readlink().as_posix() for path in (process / "fd").iterdir() if int(path.name) > 2]
        others = [file for file in files if not file.startswith(("socket:", "pipe:", "/memfd:validator"))]
        assert others in ([], [str(binary.path)]), "its question may still be open"


@pytest.mark.needs("unshare")
def test_what_a_trial_may_do(tmp_path: Path) -> None:
    """Seen from inside a process that gave up what a trial gives up."""
    network_goes = subprocess.run(["unshare", "--user", "--net", "true"], check=False).returncode == 0
    script = """
import errno, resource, socket
from model_repository.validation import Limits, _confine
with socket.create_server(("127.0.0.1", 0)) as outside:
    _confine(Limits())
    print("network:", errno.errorcode.get(socket.socket().connect_ex(outside.getsockname())))
print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CPU))
try:
    open("canary", "wb", buffering=0).write(b"x")
except OSError as error:
    print("file:", error.strerror)
try:
    bytearray(3 * 1024**3)
except MemoryError:
    print("memory")
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    network = "network: ENETUNREACH" if network_goes else "network: None"
    assert done.stdout.splitlines() == [network, "(64, 64) (20, 21)", "file: File too large", "memory"], done.stderr
