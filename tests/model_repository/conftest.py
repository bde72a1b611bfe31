"""What tests of repositories share: small packages that differ, and one process that tries them out."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from model_repository import create_package
from model_repository.validation import Validator
from tests.model_repository.hostile import rewritten, tree_with_child


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
    """`tree_with_child` in a directory of its own."""

    def make(child: int) -> Path:
        return tree_with_child(tmp_path_factory.mktemp("tree"), child)

    return make


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
