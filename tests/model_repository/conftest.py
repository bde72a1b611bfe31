"""What tests of repositories share: small packages that differ, and one process that tries them out."""

import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from model_repository import create_package
from model_repository.estimators import dump_estimator
from model_repository.manifest import manifest_from
from model_repository.mlpkg import write_package
from model_repository.validation import Validator


@pytest.fixture(scope="session")
def validator() -> Iterator[Validator]:
    """With the limits of a server."""
    validator = Validator()
    validator.start()
    yield validator
    validator.close()


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], bytes]:
    """The bytes of a package that predicts so many times ``x``."""
    made: dict[float, bytes] = {}

    def make(slope: float) -> bytes:
        if slope not in made:
            sample = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [slope, 2 * slope, 3 * slope]})
            path = tmp_path_factory.mktemp("line") / "m.mlpkg"
            create_package(path, LinearRegression().fit(sample[["x"]], sample["y"]), sample, target="y")
            made[slope] = path.read_bytes()
        return made[slope]

    return make


@pytest.fixture(scope="session")
def tree_with_children(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """
    A package without a plan whose tree, in a format that is trusted, has this child under its root on both sides.

    Its golden rows are those of the tree before.
    """

    def make(child: int) -> Path:
        directory = tmp_path_factory.mktemp("tree")
        sample = pd.DataFrame({"x": np.arange(20.0), "y": np.arange(20.0) ** 2})
        tree = DecisionTreeRegressor(max_depth=3).fit(sample[["x"]], sample["y"])
        create_package(directory / "good.mlpkg", tree, sample, target="y")
        state = tree.tree_.__getstate__()
        state["nodes"]["left_child"][0] = state["nodes"]["right_child"][0] = child
        tree.tree_.__setstate__(state)
        return rewritten(directory / "good.mlpkg", directory / "bad.mlpkg", {"estimator.skops": dump_estimator(tree, "skops")})  # fmt: skip

    return make


def rewritten(source: Path, path: Path, members: dict[str, bytes], **changes: Any) -> Path:
    """A copy without the plan, with other members and other fields of the manifest."""
    with zipfile.ZipFile(source) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if not name.startswith("plan")}
    manifest = manifest_from(contents.pop("manifest.json"))
    manifest = msgspec.structs.replace(manifest, **{"plan": None, "not_compiled": "left out", **changes})
    write_package(path, manifest, contents | members)
    return path


@pytest.fixture(scope="session")
def without_plan() -> Callable[..., Path]:
    """`rewritten`."""
    return rewritten


@pytest.fixture(scope="session")
def sent() -> Callable[..., AsyncIterator[bytes]]:
    """Bytes as they arrive: in pieces."""

    async def send(content: bytes, size: int = 1000) -> AsyncIterator[bytes]:
        for start in range(0, len(content), size):
            yield content[start : start + size]

    return send
