"""Estimators as bytes: what is trusted comes back equal, everything else is refused by name."""

import functools
import io
import json
import operator
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pytest
import skops.io
import xgboost
from scipy import special
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PowerTransformer, StandardScaler
from sklearn.svm import SVC

from model_repository import estimators
from model_repository.errors import CannotPackage, InvalidPackage, PackageError, UntrustedPackage
from model_repository.estimators import PICKLE_REFUSED, dump_estimator, load_estimator, trusted_types

RNG = np.random.default_rng(3)
X = RNG.normal(size=(120, 4))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)


def fitted() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)


def respelled(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A skops file with another tree."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        schema = json.loads(old.read("schema.json"))
        change(schema)
        for name in old.namelist():
            new.writestr(name, json.dumps(schema) if name == "schema.json" else old.read(name))
    return out.getvalue()


def first_node(schema: Any, name: str) -> dict[str, Any]:
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("__class__") == name:
                return value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    raise LookupError(name)


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        SGDClassifier(loss="log_loss", random_state=0),
        RandomForestRegressor(n_estimators=5),
        GradientBoostingClassifier(n_estimators=5),
        HistGradientBoostingClassifier(max_iter=5),
        IsolationForest(n_estimators=5),
        CalibratedClassifierCV(LogisticRegression(), method="isotonic", cv=2),
        KNeighborsClassifier(),
        SVC(),
        MLPClassifier((4,), solver="lbfgs", max_iter=500, random_state=0),
        make_pipeline(FunctionTransformer(np.tanh), FunctionTransformer(special.expit), PowerTransformer(), LogisticRegression()),
        lightgbm.LGBMClassifier(n_estimators=5, verbose=-1),
        xgboost.XGBClassifier(n_estimators=5),
    ],
    ids=lambda estimator: type(estimator).__name__,
)  # fmt: skip
@pytest.mark.parametrize("serializer", ["skops", "joblib"])
def test_estimators_come_back_equal(estimator: Any, serializer: Any) -> None:
    estimator.fit(X, Y)
    copy = load_estimator(dump_estimator(estimator, serializer), serializer, pickle_allowed=True)
    assert type(copy) is type(estimator)
    np.testing.assert_array_equal(copy.predict(X), estimator.predict(X))


def test_equal_estimators_give_equal_bytes() -> None:
    first, second = dump_estimator(fitted(), "skops"), dump_estimator(fitted(), "skops")
    assert first == second
    assert len(first) < len(skops.io.dumps(fitted()))


def os_system(schema: dict[str, Any]) -> None:
    first_node(schema, "LogisticRegression").update(__module__="posix", __class__="system", __loader__="FunctionNode")


def type_named(name: str, loader: str = "TypeNode") -> Callable[[dict[str, Any]], None]:
    def change(schema: dict[str, Any]) -> None:
        module, _, qualname = name.rpartition(".")
        first_node(schema, "StandardScaler").update(__module__=module, __class__=qualname, __loader__=loader)

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(type_named("posix.system"), r"posix\.system \(TypeNode\)", id="posix.system"),
        pytest.param(type_named("posix.system", "FunctionNode"), r"posix\.system \(FunctionNode\)", id="posix.system called"),
        pytest.param(type_named("builtins.eval"), r"builtins\.eval", id="builtins.eval"),
        pytest.param(type_named("numpy.f2py.crackfortran.myeval", "FunctionNode"), r"numpy\.f2py", id="function of a trusted library"),
        pytest.param(type_named("sklearn_evil.x", "ObjectNode"), r"sklearn_evil\.x", id="trusted name as a prefix"),
        pytest.param(type_named("sklearn.preprocessing._data.StandardScalerX", "ObjectNode"), "StandardScalerX", id="longer name"),
        pytest.param(type_named("sklearn.preprocessing._data.StandardScaler", "ConstructorFromReduceNode"), "ConstructorFromReduceNode",
                     id="trusted type, called with arguments"),
        pytest.param(type_named("sklearn.preprocessing._data.StandardScaler", "MethodNode"), "MethodNode", id="method"),
        pytest.param(type_named("operator.methodcaller", "OperatorFuncNode"), "OperatorFuncNode", id="operator"),
        pytest.param(type_named("lightgbm.basic.Booster", "ListNode"), r"Booster \(ListNode\)", id="trusted type as a list"),
        pytest.param(lambda s: first_node(s, "StandardScaler").pop("__loader__"), "None", id="no loader"),
        pytest.param(os_system, r"posix\.system", id="the model itself"),
    ],
)  # fmt: skip
def test_unlisted_types_are_refused_by_name(change: Callable[[dict[str, Any]], None], named: str) -> None:
    with pytest.raises(UntrustedPackage, match=f"not trusted: .*{named}"):
        load_estimator(respelled(dump_estimator(fitted(), "skops"), change), "skops")


def nested(schema: dict[str, Any]) -> None:
    node = schema
    for _ in range(100_000):
        node["content"] = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": []}
        node = node["content"]


def huge_array(data: bytes) -> bytes:
    """A skops file whose first array claims 10^12 elements."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "1.npy":
                header = io.BytesIO()
                np.lib.format.write_array_header_1_0(
                    header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
                )
                content = header.getvalue() + bytes(64)
            new.writestr(name, content)
    return out.getvalue()


def objects_in_npy(data: bytes) -> bytes:
    """A skops file with a pickle inside an array file."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "1.npy":
                array = io.BytesIO()
                np.save(array, np.array([functools.partial(os.mkdir, "/tmp/canary")], dtype=object), allow_pickle=True)
                content = array.getvalue()
            new.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda data: b"", "cannot be read", id="empty"),
        pytest.param(lambda data: data[:-30], "cannot be read", id="truncated"),
        pytest.param(lambda data: pickle.dumps({}), "cannot be read", id="a pickle called skops"),
        pytest.param(lambda data: respelled(data, lambda s: s.update(protocol=1)), "protocol 1", id="older protocol"),
        pytest.param(
            lambda data: respelled(data, lambda s: s.update(protocol=True)), "protocol True", id="boolean protocol"
        ),
        pytest.param(lambda data: respelled(data, lambda s: s.update(protocol=99)), "protocol 99", id="newer protocol"),
        pytest.param(lambda data: respelled(data, lambda s: s.pop("protocol")), "not a skops file", id="no protocol"),
        pytest.param(lambda data: respelled(data, lambda s: s.update(content=3)), "cannot be read", id="no node"),
        pytest.param(huge_array, "cannot be read", id="array of 10^12 elements"),
        pytest.param(objects_in_npy, "cannot be read", id="pickle in an array"),
    ],
)
def test_damaged_files_are_refused(spoil: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(InvalidPackage, match=message):
        load_estimator(spoil(dump_estimator(fitted(), "skops")), "skops")
    assert not Path("/tmp/canary").exists()


def test_a_deeply_nested_tree_is_refused() -> None:
    content = "[" * 100_000 + "]" * 100_000
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        new.writestr("schema.json", f'{{"protocol": 2, "content": {content}}}')
    with pytest.raises(InvalidPackage, match="RecursionError"):
        load_estimator(out.getvalue(), "skops")


def test_what_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dump_estimator(fitted(), "skops")
    monkeypatch.setattr(estimators, "MAX_SKOPS_BYTES", 1000)
    with pytest.raises(InvalidPackage, match="at most 1000"):
        load_estimator(data, "skops")
    monkeypatch.setattr(estimators, "MAX_SKOPS_FILES", 2)
    with pytest.raises(InvalidPackage, match="at most 2"):
        load_estimator(data, "skops")


def test_a_sparse_matrix_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["red blue", "green blue", "red red"] * 3
    data = dump_estimator(make_pipeline(TfidfVectorizer(), KNeighborsClassifier()).fit(texts, [0, 1, 0] * 3), "skops")
    assert load_estimator(data, "skops").predict(["green blue"]).tolist() == [1]
    inner: list[int] = []

    def counted(infos: list[zipfile.ZipInfo]) -> None:
        inner.append(len(infos))

    monkeypatch.setattr(estimators, "_check_unpacked_size", counted)
    load_estimator(data, "skops")
    assert len(inner) == 2


def test_a_vectorizer_that_opens_files_is_refused() -> None:
    texts = ["red blue", "green blue"]
    estimator = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [0, 1])
    assert load_estimator(dump_estimator(estimator, "skops"), "skops").predict(["green blue"]).tolist() == [1]
    estimator[0].input = "filename"
    with pytest.raises(CannotPackage, match="opens files"):
        dump_estimator(estimator, "skops")


@pytest.mark.parametrize(
    ("function", "named"),
    [
        pytest.param(lambda x: x, "<lambda>", id="lambda"),
        pytest.param(os.system, r"posix\.system", id="os.system"),
        pytest.param(operator.itemgetter(0), "itemgetter", id="itemgetter"),
    ],
)
def test_own_code_cannot_be_packaged_and_the_error_says_what_to_do(function: Any, named: str) -> None:
    estimator = make_pipeline(FunctionTransformer(function), LogisticRegression())
    estimator[-1].fit(X, Y)
    with pytest.raises(CannotPackage, match=rf"{named}.*serializer='joblib'"):
        dump_estimator(estimator, "skops")


def test_what_can_be_neither_audited_nor_pickled() -> None:
    estimator = make_pipeline(FunctionTransformer(lambda x: x), LogisticRegression())
    with pytest.raises(CannotPackage, match="cannot be pickled"):
        dump_estimator(estimator, "joblib")


class Canary:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 5])
def test_a_pickle_is_not_even_looked_at(tmp_path: Path, protocol: int) -> None:
    buffer = io.BytesIO()
    joblib.dump(Canary(tmp_path / "canary"), buffer, protocol=protocol)
    with pytest.raises(UntrustedPackage) as caught:
        load_estimator(buffer.getvalue(), "joblib")
    assert str(caught.value) == PICKLE_REFUSED
    with pytest.raises(InvalidPackage):
        load_estimator(buffer.getvalue(), "skops", pickle_allowed=True)
    assert not (tmp_path / "canary").exists()


def test_pickle_refusal_says_exactly_what_would_allow_it() -> None:
    assert PICKLE_REFUSED == (
        "the package holds a pickle, which the server loads only when the operator mounted it and "
        "PREDICTION_API_PICKLE_PACKAGES_ENABLED is true"
    )


def test_a_damaged_pickle() -> None:
    with pytest.raises(InvalidPackage, match="cannot be read"):
        load_estimator(b"nothing", "joblib", pickle_allowed=True)


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dump_estimator(lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(X, Y), "skops")
    monkeypatch.setitem(__import__("sys").modules, "lightgbm.sklearn", None)
    with pytest.raises(PackageError, match=r"needs lightgbm\.sklearn, which is not installed"):
        load_estimator(data, "skops")


def test_the_list_is_sorted_and_names_no_way_out() -> None:
    lines = Path(estimators.__file__).with_name("trusted_types.txt").read_text().splitlines()
    entries = [line for line in lines if not line.startswith("#")]
    assert entries == sorted(set(entries))
    assert len(trusted_types()) == len(entries)
    roots = {name.split(".")[0] for _, name in trusted_types()}
    assert roots == {
        "builtins",
        "collections",
        "functools",
        "numpy",
        "scipy",
        "sklearn",
        "lightgbm",
        "xgboost",
        "model_repository",
    }
    loaders = {loader for loader, _ in trusted_types()}
    assert not loaders & {"MethodNode", "OperatorFuncNode", "ConstructorFromReduceNode", "CachedNode"}
    builtins = {name for loader, name in trusted_types() if name.startswith("builtins.")}
    assert not builtins & {"builtins.eval", "builtins.exec", "builtins.getattr", "builtins.open", "builtins.map"}
