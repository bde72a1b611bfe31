"""The door to many models: found by two names, loaded once, swapped whole, and always what lies on disk."""

import asyncio
import gc
import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from model_repository import repository
from model_repository.deployment_config import read_config
from model_repository.deployments import Loaded, Repository
from model_repository.errors import (
    InvalidDeploymentId,
    ModelNotFound,
    ModelUnavailable,
    PackageError,
    StoreError,
    StoreReadOnly,
)
from model_repository.mlpkg import Package, write_signed
from model_repository.signing import TrustedKeys, signature_bytes
from model_repository.tables import Rows
from model_repository.uploads import Store
from model_repository.validation import Validator


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    return root


def deploy(root: Path, name: str, content: bytes, config: str | None = None) -> Path:
    """As an operator does it: files, one after the other."""
    directory = root / name
    directory.mkdir(exist_ok=True)
    replace(directory / "m.mlpkg", content)
    if config is not None:
        replace(directory / "config.yml", config.encode())
    return directory


def replace(path: Path, content: bytes) -> None:
    """A new file under the old name: one that is written in place may keep its time and size."""
    new = path.with_name(".new")
    new.write_bytes(content)
    new.replace(path)


def opened(root: Path, **options: Any) -> Repository[Loaded]:
    return Repository(root, build=lambda loaded: loaded, **{"ttl": 0, **options})


def slope(loaded: Loaded) -> float:
    """What the model of `line` was made with."""
    return round(float(loaded.model.runtime.predict_rows(Rows([[1.0]]))[0, 0]), 9)


async def served(models: Repository[Loaded], name: str) -> tuple[float, bool]:
    found = await models.get(name)
    return slope(found.deployment), found.cache_hit


async def test_loaded_once_and_then_at_hand(root: Path, line) -> None:
    deploy(root, "fraud", line(2))
    models = opened(root)
    assert await served(models, "fraud") == (2, False)
    assert await served(models, "fraud") == (2, True)


async def test_found_by_the_id_of_its_configuration(root: Path, line) -> None:
    deploy(root, "fraud", line(2), "deployment_id: 5fc92906ad764dde6c3264fa\nmodel_id: other")
    models = opened(root)
    assert await served(models, "5fc92906ad764dde6c3264fa") == (2, False)
    assert await served(models, "fraud") == (2, True)
    assert (await models.get("fraud")).deployment.model_id == "other"


async def test_a_directory_comes_before_an_id_of_a_configuration(root: Path, line) -> None:
    deploy(root, "a", line(1), "deployment_id: b")
    models = opened(root)
    assert (await served(models, "b"))[0] == 1
    deploy(root, "b", line(2))
    assert (await served(models, "b"))[0] == 2


async def test_an_id_of_two_configurations_is_nobodys(root: Path, line) -> None:
    for name in ("a", "b"):
        deploy(root, name, line(1), "deployment_id: same")
    with pytest.raises(ModelUnavailable, match="'same' stands in the configurations of a and b"):
        await opened(root).get("same")


async def test_an_id_follows_its_configuration(root: Path, line) -> None:
    deploy(root, "a", line(1), "deployment_id: id")
    models = opened(root)
    assert (await served(models, "id"))[0] == 1
    (root / "a" / "config.yml").write_text("deployment_id: other-id")
    with pytest.raises(ModelNotFound):
        await models.get("id")


@pytest.mark.parametrize("name", ["nobody", "deployment.id"])
async def test_nobody_has_that_id(root: Path, line, name: str) -> None:
    deploy(root, "a", line(1))
    with pytest.raises(ModelNotFound, match=f"no deployment '{name}'"):
        await opened(root).get(name)


@pytest.mark.parametrize("name", ["..", "a/b", "a\\b", "a\0", "%2e%2e", "x" * 300, "", ".uploads"])
async def test_ids_that_cannot_be(root: Path, validator: Validator, sent, line, name: str) -> None:
    (root.parent / "canary").write_text("alive")
    models = opened(root, store=Store(root, validator))
    for attempt in (models.get(name), models.delete(name), models.put(name, sent(line(1)))):
        with pytest.raises(InvalidDeploymentId):
            await attempt
    assert sorted(path.name for path in root.parent.rglob("*")) == ["canary", "repository"]


async def test_an_empty_repository(root: Path) -> None:
    models = opened(root)
    assert await models.entries() == []
    with pytest.raises(ModelNotFound):
        await models.get("a")


async def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    models = opened(tmp_path / "absent")
    with pytest.raises(StoreError, match="cannot be listed: No such file"):
        await models.entries()
    with pytest.raises((ModelNotFound, StoreError)):
        await models.get("a")


# Changes on disk


async def test_a_package_that_was_replaced(root: Path, line) -> None:
    deploy(root, "m", line(1))
    models = opened(root)
    assert await served(models, "m") == (1, False)
    deploy(root, "m", line(2))
    assert await served(models, "m") == (2, False)
    assert await served(models, "m") == (2, True)


async def test_files_that_are_replaced_while_they_are_read(root: Path, line, monkeypatch) -> None:
    """Between the configuration and the package: both are read again."""

    def read_config_slowly(*arguments: Any) -> Any:
        found = read_config(*arguments)
        deploy(root, "m", line(2), "model_id: of-2")
        monkeypatch.setattr("model_repository.deployments.read_config", read_config)
        return found

    deploy(root, "m", line(1), "model_id: of-1")
    monkeypatch.setattr("model_repository.deployments.read_config", read_config_slowly)
    found = (await opened(root).get("m")).deployment
    assert (slope(found), found.model_id) == (2, "of-2")


async def test_a_configuration_that_was_edited_costs_no_load(root: Path, line, binary) -> None:
    deploy(root, "m", binary.path.read_bytes())
    models = opened(root)
    before = (await models.get("m")).deployment
    assert before.model.manifest.target.threshold == 0.5
    (root / "m" / "config.yml").write_text("prediction_threshold: 0.25")
    after = await models.get("m")
    assert after.deployment.model.manifest.target.threshold == 0.25
    assert after.deployment.model.runtime is before.model.runtime
    assert not after.cache_hit


async def test_a_threshold_means_nothing_for_a_number(root: Path, line, caplog: pytest.LogCaptureFixture) -> None:
    deploy(root, "m", line(1), "prediction_threshold: 0.25")
    with caplog.at_level(logging.WARNING):
        await opened(root).get("m")
    assert "prediction_threshold means nothing for a Regression model" in caplog.text


async def test_what_was_deleted_is_gone_and_what_comes_back_is_new(root: Path, line) -> None:
    directory = deploy(root, "m", line(1))
    models = opened(root)
    in_flight = (await models.get("m")).deployment
    (directory / "m.mlpkg").unlink()
    directory.rmdir()
    with pytest.raises(ModelNotFound):
        await models.get("m")
    assert slope(in_flight) == 1
    deploy(root, "m", line(2))
    assert await served(models, "m") == (2, False)


async def test_with_a_time_to_live_the_disk_is_asked_less_often(root: Path, line) -> None:
    deploy(root, "m", line(1))
    models = opened(root, ttl=1_000_000)
    assert await served(models, "m") == (1, False)
    deploy(root, "m", line(2))
    assert await served(models, "m") == (1, True)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda m: (m / "m.mlpkg").write_bytes(b"x" * 100), "not a package, or cut off", id="package damaged"),
        pytest.param(lambda m: (m / "n.mlpkg").touch(), "2 packages (m.mlpkg, n.mlpkg)", id="second package"),
        pytest.param(lambda m: (m / "config.yml").write_text("a: ["), "config.yml: line 1", id="configuration broken"),
        pytest.param(lambda m: (m / "config.yml").write_bytes(b"a" * 70_000), "more than 65536 bytes", id="configuration too large"),
        pytest.param(lambda m: (m / "config.yml").symlink_to("/etc/passwd"), "a symbolic link", id="configuration a link"),
        pytest.param(lambda m: m.rename(m.parent / ".m") and m.symlink_to(".m"), "its directory is a symbolic link", id="directory a link"),
    ],
)  # fmt: skip
async def test_a_broken_deployment_has_a_reason_and_the_others_serve(root: Path, line, spoil: Any, reason: str) -> None:
    deploy(root, "good", line(1))
    directory = deploy(root, "m", line(1))
    models = opened(root)
    assert (await served(models, "m"))[0] == 1
    spoil(directory)
    with pytest.raises(ModelUnavailable) as caught:
        await models.get("m")
    assert reason in str(caught.value)
    assert "'m'" in str(caught.value)
    good, bad = await models.entries()
    assert (good.state, bad.state) == ("available", "unavailable")
    assert bad.reason is not None
    assert reason in bad.reason
    assert await served(models, "good") == (1, False)


async def test_a_failed_load_is_not_repeated_for_each_request(
    root: Path, line, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(root, "m", line(1)[:-1])
    models = opened(root)
    opens = []
    real = Package.open

    def counting(*arguments: Any, **options: Any) -> Package:
        opens.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(Package, "open", counting)
    for _ in range(5):
        with pytest.raises(ModelUnavailable, match="not a package"):
            await models.get("m")
    assert len(opens) == 1
    deploy(root, "m", line(1))
    assert await served(models, "m") == (1, False), "another file is tried at once"


async def test_pickles_of_the_operator(root: Path, people, tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    from model_repository import create_package

    model = LinearRegression().fit(people[["age"]], people["spent"])
    create_package(tmp_path / "m.mlpkg", model, people[["age", "spent"]], target="spent", serializer="joblib")
    deploy(root, "m", (tmp_path / "m.mlpkg").read_bytes())
    with pytest.raises(ModelUnavailable, match="holds a pickle"):
        await opened(root).get("m")
    assert (await opened(root, pickle_allowed=True).get("m")).deployment.id == "m"


async def test_trusted_keys_hold_for_what_lies_on_disk(root: Path, line, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "m").write_bytes(line(1))
    with Package.open(tmp_path / "m") as package:
        write_signed(tmp_path / "signed", package, signature_bytes(package.manifest_content, key))
    deploy(root, "signed", (tmp_path / "signed").read_bytes())
    deploy(root, "unsigned", line(1))
    models = opened(root, trusted_keys=TrustedKeys([key.public_key().public_bytes_raw()]))
    assert (await served(models, "signed"))[0] == 1
    with pytest.raises(ModelUnavailable, match="is not signed"):
        await models.get("unsigned")
    assert [(entry.state, entry.name) for entry in await models.entries()] == [("loaded", "m"), ("unavailable", None)]


# The list


async def test_the_list(root: Path, line, binary) -> None:
    deploy(root, "a", line(1), "deployment_id: d")
    deploy(root, "b", binary.path.read_bytes(), "model_id: mine")
    (root / "c").mkdir()
    (root / "d").mkdir()
    (root / "d" / "config.yml").touch()
    models = opened(root)
    await models.get("a")
    a, b, d = await models.entries()
    assert (a.id, a.state, a.deployment_id, a.target, a.target_type, a.size) == ("a", "loaded", "d", "y", "Regression", len(line(1)))  # fmt: skip
    assert (b.id, b.state, b.model_id, b.name, b.reason) == ("b", "available", "mine", "binary", None)
    assert (d.id, d.state, d.reason, d.size) == ("d", "unavailable", "no .mlpkg file in its directory, expected one", None)  # fmt: skip
    (root / "a" / "config.yml").write_text("deployment_id: e")
    (root / "b" / "m.mlpkg").rename(root / "c" / "m.mlpkg")
    assert [(entry.id, entry.deployment_id, entry.state) for entry in await models.entries()][:3] == [
        ("a", "e", "available"),
        ("b", None, "unavailable"),
        ("c", None, "available"),
    ]


def overwrite(path: Path, content: bytes) -> None:
    """Other content that only reading it can tell: same place, size and time."""
    written = path.stat()
    assert len(content) == written.st_size
    path.write_bytes(content)
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))


@pytest.mark.parametrize("is_ahead", [True, False], ids=["ahead", "at the first list"])
async def test_a_list_reads_each_package_once(root: Path, line, is_ahead: bool) -> None:
    """However young its directory is."""
    package = deploy(root, "a", line(1)) / "m.mlpkg"
    models = opened(root)
    if is_ahead:
        models.read_ahead()
    else:
        await models.entries()
    overwrite(package, bytes(len(line(1))))
    assert [entry.state for entry in await models.entries()] == ["available"]
    os.utime(package)
    assert [entry.state for entry in await models.entries()] == ["unavailable"]


async def test_what_there_is_no_time_to_read_ahead_is_read_for_the_list(root: Path, line, monkeypatch) -> None:
    package = deploy(root, "a", bytes(len(line(1)))) / "m.mlpkg"
    models = opened(root)
    monkeypatch.setattr("model_repository.deployments.READ_AHEAD_SECONDS", -1.0)
    models.read_ahead()
    overwrite(package, line(1))
    assert [entry.state for entry in await models.entries()] == ["available"]


# Places


async def test_so_many_stay_loaded(root: Path, line) -> None:
    """All answer right, whatever the churn; what is dropped is freed."""
    for number in range(6):
        deploy(root, f"m{number}", line(number))
    models = opened(root, places=2)
    alive = []
    for _ in range(2):
        for number in range(6):
            found = await models.get(f"m{number}")
            assert slope(found.deployment) == number
            assert not found.cache_hit
            alive.append(weakref.ref(found.deployment))
    del found
    gc.collect()
    assert sum(reference() is not None for reference in alive) == 2
    assert [entry.state for entry in await models.entries()] == ["available"] * 4 + ["loaded"] * 2


async def test_many_requests_load_a_model_once(root: Path, line) -> None:
    deploy(root, "m", line(1))
    built = []

    def build(loaded: Loaded) -> Loaded:
        built.append(loaded)
        return loaded

    models = Repository(root, build=build, ttl=0)
    found = await asyncio.gather(*(models.get("m") for _ in range(50)))
    assert len(built) == 1
    assert {id(each.deployment) for each in found} == {id(built[0])}
    assert not any(each.cache_hit for each in found)


# Before the workers are forked


async def test_preloaded(root: Path, line, binary, without_plan, tmp_path: Path, caplog) -> None:
    """With a plan or without one: read by the parent, checked by the worker, a hit at the first request."""
    deploy(root, "a", line(1))
    deploy(root, "b", without_plan(binary.path, tmp_path / "m.mlpkg", {}).read_bytes(), "prediction_threshold: 0.1")
    deploy(root, "c", line(1)[:-1])
    deploy(root, "d", line(4))
    models = opened(root, places=3)
    with caplog.at_level(logging.WARNING):
        models.preload()
    assert "4 deployments, but places for 3" in caplog.text
    assert "deployment 'c': not a package, or cut off" in caplog.text
    models.finish_preload()
    assert await served(models, "a") == (1, True)
    b = await models.get("b")
    assert b.cache_hit
    assert b.deployment.model.verified
    assert b.deployment.model.manifest.target.threshold == 0.1
    assert await served(models, "d") == (4, False)


async def test_a_preloaded_deployment_that_changed_before_its_first_request(root: Path, line) -> None:
    deploy(root, "a", line(1))
    models = opened(root)
    models.preload()
    deploy(root, "a", line(2))
    models.finish_preload()
    assert await served(models, "a") == (2, False)


def test_preloading_costs_no_estimator_run_before_the_fork(root: Path, binary, without_plan, tmp_path: Path) -> None:
    deploy(root, "b", without_plan(binary.path, tmp_path / "m.mlpkg", {}).read_bytes())
    models = opened(root)
    models.preload()
    ((_, loaded),) = models._preloaded.values()
    assert not loaded.packaged.verified
    assert repository.verify_model(loaded.packaged).verified


# Uploads and deletes


@pytest.fixture
def changeable(root: Path, validator: Validator) -> Callable[..., Repository[Loaded]]:
    def make(**options: Any) -> Repository[Loaded]:
        return opened(root, store=Store(root, validator), **options)

    return make


async def test_uploaded_replaced_deleted(changeable, sent, line) -> None:
    models = changeable(ttl=1_000_000)
    assert await models.put("m", sent(line(1)), b"deployment_id: d") == "created"
    assert await served(models, "d") == (1, False)
    assert await models.put("m", sent(line(2))) == "replaced"
    assert await served(models, "m") == (2, False)
    assert (await served(models, "d"))[0] == 2
    await models.delete("m")
    for name in ("m", "d"):
        with pytest.raises(ModelNotFound):
            await models.get(name)


async def test_a_refused_upload_leaves_the_old_one_serving(changeable, sent, line) -> None:
    models = changeable()
    await models.put("m", sent(line(1)))
    await models.get("m")
    with pytest.raises(PackageError):
        await models.put("m", sent(line(2)[:-1]))
    assert await served(models, "m") == (1, True)


async def test_without_a_store_nothing_changes(root: Path, sent, line) -> None:
    models = opened(root)
    assert not models.changeable
    for attempt in (models.put("m", sent(line(1))), models.delete("m")):
        with pytest.raises(StoreReadOnly, match="takes no uploads"):
            await attempt


async def test_a_swap_under_load(changeable, sent, line) -> None:
    """Every answer is one version's, the version and its configuration belong together, and nobody fails."""
    models = changeable()
    config = b"model_id: of-%d"
    await models.put("m", sent(line(1)), config % 1)
    done = asyncio.Event()
    seen: list[tuple[float, str]] = []

    async def ask() -> None:
        while not done.is_set():
            found = (await models.get("m")).deployment
            seen.append((slope(found), found.model_id))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(ask())
        for number in range(2, 12):
            await models.put("m", sent(line(number)), config % number)
            assert (await served(models, "m"))[0] == number, "who was told that it is there finds it there"
        done.set()
    assert {(answer, model) for answer, model in seen} <= {(number, f"of-{number}") for number in range(1, 12)}
    answers = [answer for answer, _ in seen]
    assert answers == sorted(answers)


async def test_readers_of_a_repository_that_is_written_all_the_time(root: Path, line, tmp_path: Path) -> None:
    """Two processes replace one deployment hundreds of times: it is never absent, never mixed, in the list and by both names."""
    (tmp_path / "1").write_bytes(line(1))
    (tmp_path / "2").write_bytes(line(2))
    script = """
import os, sys
from pathlib import Path
from model_repository.uploads import Store
root, package = Path(sys.argv[1]), Path(sys.argv[2])
store = Store(root, None)
for _ in range(int(sys.argv[3])):
    part, descriptor = store.new_part()
    os.write(descriptor, package.read_bytes())
    config = f"deployment_id: same{chr(10)}model_id: of-{package.name}".encode()
    store.commit("m", part, config, lambda: None)
    os.close(descriptor)
"""
    command = [sys.executable, "-c", script, str(root)]
    await asyncio.to_thread(subprocess.run, [*command, str(tmp_path / "1"), "1"], check=True)
    models = opened(root)
    writers = [await asyncio.create_subprocess_exec(*command, str(tmp_path / name), "150") for name in ("1", "2")]
    seen = set()
    while any(writer.returncode is None for writer in writers):
        for name in ("m", "same"):
            found = (await models.get(name)).deployment
            seen.add((f"of-{slope(found):g}", found.model_id))
        (entry,) = await models.entries()
        assert (entry.reason, entry.deployment_id) == (None, "same")
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {("of-1", "of-1"), ("of-2", "of-2")}


def test_every_worker_notices_at_once(root: Path, line, tmp_path: Path) -> None:
    """Whatever the time to live: a change through one process is seen by the next request in every other."""
    (tmp_path / "1").write_bytes(line(1))
    (tmp_path / "2").write_bytes(line(2))
    script = """
import asyncio, os, sys
from pathlib import Path
from model_repository.deployments import Repository
from model_repository.tables import Rows
from model_repository.uploads import Store
from model_repository.validation import Validator
root, first, second = map(Path, sys.argv[1:])
models = Repository(root, build=lambda loaded: loaded, ttl=1e9, store=Store(root, Validator()))
to_child, from_child = os.pipe(), os.pipe()

async def chunks(path):
    yield path.read_bytes()

async def answer():
    found = await models.get("m")
    return int(found.deployment.model.runtime.predict_rows(Rows([[1.0]]))[0, 0].round()), found.cache_hit

async def child():
    await models.put("m", chunks(first))
    print("child", await answer(), await answer(), flush=True)
    os.write(from_child[1], b"x")
    os.read(to_child[0], 1)
    print("child", await answer(), await answer(), flush=True)

async def parent():
    await models.put("m", chunks(second))
    print("parent", await answer(), flush=True)

pid = os.fork()
if pid == 0:
    asyncio.run(child())
    os._exit(0)
os.read(from_child[0], 1)
asyncio.run(parent())
os.write(to_child[1], b"x")
assert os.waitpid(pid, 0)[1] == 0
models._store.validator.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, root, tmp_path / "1", tmp_path / "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "child (1, False) (1, True)",
        "parent (2, False)",
        "child (2, False) (2, True)",
    ]


class ChangingRepository(RuleBasedStateMachine):
    """Operator, clients and two workers against a dictionary: id -> (slope, deployment id)."""

    root: Path
    make_line: Callable[[float], bytes]
    NAMES = st.sampled_from(["a", "b", "c"])
    SLOPES = st.sampled_from([1.0, 2.0, 3.0])

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        self.expected: dict[str, tuple[float | None, str | None]] = {}
        self.loop = asyncio.new_event_loop()
        self.workers = [opened(self.root, places=2), opened(self.root, places=1)]
        self.store = Store(self.root, None)  # type: ignore[arg-type]

    @rule(name=NAMES, slope=SLOPES, config=st.sampled_from([None, "x", "y"]))
    def upload(self, name: str, slope: float, config: str | None) -> None:
        """What is left of an upload once the package was tried out."""
        part, descriptor = self.store.new_part()
        os.write(descriptor, type(self).make_line(slope))
        self.store.commit(name, part, f"deployment_id: {config}".encode() if config else None, lambda: None)
        os.close(descriptor)
        self.expected[name] = (slope, config or self.expected.get(name, (None, None))[1])

    @rule(name=NAMES, slope=SLOPES)
    def copy(self, name: str, slope: float) -> None:
        """An operator's own hands."""
        if name in self.expected:
            replace(self.root / name / "model.mlpkg", type(self).make_line(slope))
            self.expected[name] = (slope, self.expected[name][1])

    @rule(name=NAMES)
    def damage(self, name: str) -> None:
        if name in self.expected:
            replace(self.root / name / "model.mlpkg", b"x")
            self.expected[name] = (None, self.expected[name][1])

    @rule(name=NAMES, config=st.sampled_from(["x", "y", "z"]))
    def edit(self, name: str, config: str) -> None:
        if name in self.expected:
            replace(self.root / name / "config.yml", f"deployment_id: {config}".encode())
            self.expected[name] = (self.expected[name][0], config)

    @precondition(lambda self: self.expected)
    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        try:
            self.store._delete(name, lambda: None)
        except ModelNotFound:
            assert name not in self.expected
        else:
            del self.expected[name]

    @rule(name=NAMES, worker=st.integers(0, 1))
    def predict(self, name: str, worker: int) -> None:
        assert self.answer(name, worker) == self.expected_answer(name)

    @rule(name=st.sampled_from(["x", "y", "z"]), worker=st.integers(0, 1))
    def predict_by_deployment_id(self, name: str, worker: int) -> None:
        # A second is how long the search of configurations may be behind what an operator's editor did.
        self.workers[worker]._listing.refresh()
        holders = [key for key, (_, config) in self.expected.items() if config == name]
        expected = self.expected_answer(holders[0]) if len(holders) == 1 else 503 if holders else 404
        assert self.answer(name, worker) == expected

    @rule(worker=st.integers(0, 1))
    def listed(self, worker: int) -> None:
        entries = self.loop.run_until_complete(self.workers[worker].entries())
        found = {entry.id: (entry.state != "unavailable", entry.deployment_id) for entry in entries}
        assert found == {name: (slope is not None, config) for name, (slope, config) in self.expected.items()}

    def expected_answer(self, name: str) -> float:
        slope = self.expected.get(name, (404, None))[0]
        return 503 if slope is None else slope

    def answer(self, name: str, worker: int) -> float:
        try:
            return slope(self.loop.run_until_complete(self.workers[worker].get(name)).deployment)
        except (ModelNotFound, ModelUnavailable) as exc:
            return exc.status_hint

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            self.directory.cleanup()


def test_any_history_is_answered_as_it_stands(line: Callable[[float], bytes]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    ChangingRepository.make_line = staticmethod(line)
    run_state_machine_as_test(ChangingRepository, settings=settings(max_examples=40, stateful_step_count=30))
