"""What containers are given: packages and tables that a user with another number can read."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.batch.test_writeback import platform  # noqa: F401
from tests.image.containers import Container, serving


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, binary: Any, regression: Any) -> Path:
    """``one`` holds one package in its root, ``many`` two deployments, ``people`` and ``spending``."""
    root = tmp_path_factory.mktemp("models")
    for place, packaged in (("one", binary), ("many/people", binary), ("many/spending", regression)):
        (root / place).mkdir(parents=True)
        shutil.copy(packaged.path, root / place / "model.mlpkg")
    open_to_all(root)
    return root


@pytest.fixture(scope="session")
def table(people: Any) -> bytes:
    """The inputs of the packages as CSV."""
    csv: str = people.drop(columns=["bought", "tier", "spent", "loyal"]).to_csv(index=False)
    return csv.encode()


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Container]:
    """One model."""
    with serving("-v", f"{models / 'one'}:/opt/ml/model:ro") as container:
        yield container


@pytest.fixture(scope="module")
def many(models: Path) -> Iterator[Container]:
    """Two deployments."""
    with serving("-v", f"{models / 'many'}:/opt/ml/model:ro") as container:
        yield container


def open_to_all(root: Path) -> None:
    """Let the image's user in, and let it write directories."""
    for path in (root, *root.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)
