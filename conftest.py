"""What holds for every test."""

import os
import shutil

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's business; tests have a limit of their own.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``@pytest.mark.needs("psql")``: say what is missing; where everything must be there, fail for it."""
    missing = [command for mark in item.iter_markers("needs") for command in mark.args if not shutil.which(command)]
    if missing:
        reason = f"not installed here: {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; with CI=true nothing is skipped", pytrace=False)
        pytest.skip(reason)
