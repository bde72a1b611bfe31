"""Packages that are made to do harm, sent over HTTP: what is answered, and that nothing is kept, run or told."""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from model_repository.deployments import Repository
from model_repository.mlpkg import SIGNATURE_NAME, Package, write_signed
from model_repository.signing import TrustedKeys, signature_bytes
from model_repository.uploads import Store
from prediction_api.many import Deployer, create_app_of_many
from prediction_api.settings import Settings
from tests.model_repository.hostile import (
    HOSTILE,
    HOSTILE_MANIFESTS,
    Draft,
    archive_with,
    rewritten,
    tree_with_child,
)
from tests.prediction_api.versions import BODY, JSON, PACKAGE, Version

KEY, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def server(root: Path, make_client, validator) -> Callable[..., httpx.AsyncClient]:
    """A client of an app over an empty repository that takes uploads."""

    def make(keys: TrustedKeys | None = None) -> httpx.AsyncClient:
        root.mkdir()
        settings = Settings(model_repository_path=root, host="0.0.0.0")
        store = Store(root, validator, trusted_keys=keys)
        repository = Repository(root, build=Deployer(settings), store=store, trusted_keys=keys)
        return make_client(create_app_of_many(repository, settings))

    return make


def files(root: Path) -> list[str]:
    """Everything but the lock of the store."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != "lock")


async def upload(client: httpx.AsyncClient, package: bytes) -> httpx.Response:
    return await client.post("/deployments/fraud", content=package, headers=PACKAGE)


def hostile_packages() -> Iterator[tuple[str, bytes, str]]:
    """Name, bytes, what must be said of them."""
    for case in HOSTILE:
        draft = Draft()
        case.values[0](draft)
        yield case.id, draft.bytes(), case.values[1]
    for case in HOSTILE_MANIFESTS:
        yield case.id, archive_with(case.values[0]), case.values[1]


async def test_hostile_packages_are_refused(server, root):
    """Whatever is wrong with an archive or its manifest is said, and nothing is kept of it."""
    client = server()
    for name, package, message in hostile_packages():
        answer = await upload(client, package)
        assert answer.status_code == 422, name
        assert re.search(message, answer.json()["message"]), (name, answer.text)
        assert str(root) not in answer.text
        assert files(root) == [], name
    assert (await client.get("/deployments")).json()["data"] == []


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def naming(estimator: bytes, name: str, loader: str) -> bytes:
    """A skops file whose outermost object is of another type."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(estimator)) as old, zipfile.ZipFile(out, "w") as new:
        module, _, last = name.rpartition(".")
        kind = {"__module__": module, "__class__": last, "__loader__": loader}
        for member in old.namelist():
            content = old.read(member)
            new.writestr(member, json.dumps(json.loads(content) | kind) if member == "schema.json" else content)
    return out.getvalue()


def nested() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        new.writestr("schema.json", '{"protocol": 2, "content": ' + "[" * 100_000 + "]" * 100_000 + "}")
    return out.getvalue()


def hostile_models(version: Version, place: Path) -> Iterator[tuple[str, Path, str]]:
    """Name, package, what must be said of it."""
    with Package.open(version.path) as package:
        good, manifest = package.member("estimator.skops"), package.manifest
    bomb = pickle.dumps(Canary(place / "canary"), protocol=0)
    joblib = manifest.estimator.__class__(member="estimator.joblib", serializer="joblib")
    models: list[tuple[str, dict[str, bytes], dict[str, Any], str]] = [
        ("a pickle", {"estimator.joblib": bomb}, {"estimator": joblib}, "the package holds a pickle"),
        ("a pickle called skops", {"estimator.skops": bomb}, {}, "cannot be read"),
        ("posix.system", {"estimator.skops": naming(good, "posix.system", "FunctionNode")}, {}, r"not trusted: .*posix\.system"),
        ("builtins.eval", {"estimator.skops": naming(good, "builtins.eval", "TypeNode")}, {}, r"not trusted: .*builtins\.eval"),
        ("only the beginning of a trusted name", {"estimator.skops": naming(good, "sklearn_evil.x", "ObjectNode")}, {}, r"sklearn_evil\.x"),
        ("a method", {"estimator.skops": naming(good, "operator.methodcaller", "OperatorFuncNode")}, {}, "OperatorFuncNode"),
        ("nested without end", {"estimator.skops": nested()}, {}, "RecursionError"),
    ]  # fmt: skip
    for number, (name, members, changes, message) in enumerate(models):
        yield name, rewritten(version.path, place / f"{number}.mlpkg", members, **changes), message
    yield (
        "a tree that crashes",
        tree_with_child(place, 999_999_999),
        r"crashed the process that did it \(SIG(SEGV|BUS)\)",
    )


async def test_hostile_models_are_refused(server, root, versions, tmp_path):
    """The model that was there serves on, and no code of a package has run."""
    client = server()
    assert (await upload(client, versions[0].package)).status_code == 201
    for name, package, message in hostile_models(versions[1], tmp_path):
        answer = await upload(client, package.read_bytes())
        assert answer.status_code == 422, name
        assert re.search(message, answer.json()["message"]), (name, answer.text)
        assert files(root) == ["fraud/model.mlpkg"], name
    predicted = await client.post("/deployments/fraud/predictions", content=BODY, headers=JSON)
    assert predicted.content == versions[0].answers[0.5]
    assert not (tmp_path / "canary").exists()


async def test_a_mounted_pickle_is_not_read_either(server, root, versions, tmp_path):
    """Unless the operator allows it, whatever is asked."""
    client = server()
    _, package, message = next(hostile_models(versions[0], tmp_path))
    (root / "fraud").mkdir()
    (root / "fraud" / "model.mlpkg").write_bytes(package.read_bytes())
    predicted = await client.post("/deployments/fraud/predictions", content=BODY, headers=JSON)
    for answer in (predicted, await client.get("/deployments/fraud/info")):
        assert answer.status_code == 503
        assert message in answer.json()["message"]
    assert (await client.get("/deployments")).status_code == 200
    assert not (tmp_path / "canary").exists()


def signed(source: Path, path: Path, key: Ed25519PrivateKey) -> Path:
    with Package.open(source) as package:
        write_signed(path, package, signature_bytes(package.manifest_content, key))
    return path


def swapped(package: Path, path: Path, **members: bytes) -> Path:
    """A copy with other content in these members, whatever the manifest says."""
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), members.get(name, old.read(name)))
    return path


async def test_only_signed_packages_are_taken(server, root, versions, tmp_path):
    """As they were signed, by a key that is trusted; an unsigned manifest is not even read."""
    client = server(TrustedKeys([KEY.public_key().public_bytes_raw()]))
    good = signed(versions[0].path, tmp_path / "good", KEY)
    other = signed(versions[1].path, tmp_path / "other", KEY)
    with zipfile.ZipFile(other) as archive:
        signature, arrays = archive.read(SIGNATURE_NAME), archive.read("plan.bin")
    refused = [
        (versions[0].path, "is not signed"),
        (signed(versions[0].path, tmp_path / "1", STRANGER), "is not trusted"),
        (swapped(good, tmp_path / "2", **{SIGNATURE_NAME: signature}), "was changed after it was signed"),
        (swapped(good, tmp_path / "3", **{"plan.bin": arrays}), r"'plan\.bin'"),
        (swapped(versions[0].path, tmp_path / "4", **{"manifest.json": b"{"}), "is not signed"),
    ]
    for package, message in refused:
        answer = await upload(client, package.read_bytes())
        assert answer.status_code == 422, message
        assert re.search(message, answer.json()["message"]), answer.text
        assert files(root) == []
    assert (await upload(client, good.read_bytes())).status_code == 201
