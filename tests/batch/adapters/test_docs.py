"""The pages about the stores: their jobs are jobs."""

import json
import re
from pathlib import Path

import pytest

from batch.adapters import adapter_for
from batch.declared import keys_of
from batch.definition import definition_from

PAGES = sorted((Path(__file__).parents[3] / "docs/batch").glob("*.md"))
DATABASE_PAGES = ["snowflake", "synapse"]
STORES = {"filesystem": "filesystem", "s3": "s3", "azure": "azure", "gcs": "gcp", "http": "http"}


def page_of(name: str) -> str:
    return next(page for page in PAGES if page.stem == name).read_text()


@pytest.mark.parametrize("name", STORES)
def test_jobs_on_the_page_are_jobs(name: str) -> None:
    blocks = re.findall(r"```json\n(.*?)```", page_of(name), re.DOTALL)

    jobs = [definition_from(json.loads(block)).job for block in blocks]

    assert jobs
    assert {job.intake_settings.type for job in jobs} <= {STORES[name], "minio"}


@pytest.mark.parametrize("name", STORES)
def test_every_key_is_on_the_page(name: str) -> None:
    adapter = adapter_for(STORES[name])
    keys = [*keys_of(adapter.IntakeSettings), *keys_of(adapter.OutputSettings)]

    missing = {row.names[0] for row in keys if not row.ignored and row.names[0] not in page_of(name)}

    assert not missing - {"region"}


@pytest.mark.parametrize("name", DATABASE_PAGES)
def test_jobs_of_databases(name: str) -> None:
    """Their keys stand in docs/batch/job-definition.md."""
    blocks = re.findall(r"```json\n(.*?)```", page_of(name), re.DOTALL)
    jobs = [definition_from(json.loads(block)).job for block in blocks]
    assert {job.output_settings.type for job in jobs} == {name}
