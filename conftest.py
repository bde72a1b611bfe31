"""What holds for every test."""

import os
import shutil

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``@pytest.mark.needs("psql")``: say what is missing; where everything must be there, fail for it."""
    missing = [command for mark in item.iter_markers("needs") for command in mark.args if not shutil.which(command)]
    if missing:
        reason = f"not installed here: {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; with CI=true nothing is skipped", pytrace=False)
        pytest.skip(reason)
