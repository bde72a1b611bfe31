"""The pages about the stores: their jobs are jobs, and score a table where those stores stand."""

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from batch.adapters import adapter_for
from batch.declared import keys_of
from batch.definition import definition_from
from batch.runner import RunOptions, run_job
from batch.settings import Credentials
from tests.batch.jobs import HEADER, NO_WAIT, csv_text, people_rows
from tests.stores import S3, Azurite, Gcs, Web

ROOT = Path(__file__).parents[3]
PAGES = sorted((ROOT / "docs/batch").glob("*.md"))
TEXTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.json")]
DATABASE_PAGES = ["snowflake", "synapse"]
STORES = {"filesystem": "filesystem", "s3": "s3", "azure": "azure", "gcs": "gcp", "http": "http"}
LEGAL_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
COLUMNS = ["customer_id", "id", "country", "year"]
"""What the jobs of the pages pass on."""
TABLE = csv_text([[*row, row[0], row[0], "no", "2026"] for row in people_rows(20)], [*HEADER, *COLUMNS]).encode()


def page_of(name: str) -> str:
    return next(page for page in PAGES if page.stem == name).read_text()


def jobs_of(name: str) -> list[str]:
    return [block for block in re.findall(r"```json\n(.*?)```", page_of(name), re.DOTALL) if "intake" in block]


@pytest.mark.parametrize("name", STORES)
def test_jobs_on_the_page_are_jobs(name: str) -> None:
    jobs = [definition_from(json.loads(block)).job for block in jobs_of(name)]

    assert jobs
    assert {job.intake_settings.type for job in jobs} <= {STORES[name], "minio"}


def test_buckets_have_names_that_stores_take() -> None:
    address = re.compile(r"\b(?:s3:/|gs:/|https://\w+\.blob\.core\.windows\.net)/([^/\s]+)/")
    named = {bucket for text in TEXTS for bucket in address.findall(text.read_text())}
    assert len(named) > 3
    assert not {bucket for bucket in named if not LEGAL_BUCKET.fullmatch(bucket)}


@dataclass
class StandIn:
    """For the store that a page names."""

    put: Callable[[str, bytes], object]
    """Address in a job -> its content."""
    is_there: Callable[[str], object]
    """Whether anything is at that address, or below it."""
    credentials: Credentials = field(default_factory=Credentials)
    on_the_page: str = ""
    here: str = ""
    """What stands in a job for what is on the page."""
    keys: dict[str, str] = field(default_factory=dict)
    """Of both stores."""


def in_bucket(address: str) -> tuple[str, str]:
    bucket, _, key = address.partition("://")[2].partition("/")
    return bucket, key


def s3_stand_in(store: S3) -> StandIn:
    client = store.client()
    for bucket in {in_bucket(url)[0] for url in re.findall(r"s3://[^\"]+", "".join(jobs_of("s3")))}:
        client.create_bucket(Bucket=bucket)

    def put(address: str, data: bytes) -> None:
        bucket, key = in_bucket(address)
        client.put_object(Bucket=bucket, Key=key, Body=data)

    def is_there(address: str) -> object:
        bucket, key = in_bucket(address)
        return client.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents")

    return StandIn(put, is_there, store.credentials, keys={"endpoint_url": store.url, "region": "us-east-1"})


def filesystem_stand_in(directory: Path) -> StandIn:
    return StandIn(
        put=lambda path, data: Path(path).write_bytes(data),
        is_there=lambda path: Path(path).is_file() or any(Path(path).iterdir()),
        on_the_page="/data/",
        here=f"{directory}/",
    )


def azure_stand_in(azurite: Azurite) -> StandIn:
    for container in ("incoming", "scored"):
        azurite.ask("PUT", container, "restype=container")
    blob = {"x-ms-blob-type": "BlockBlob"}
    return StandIn(
        put=lambda url, data: azurite.ask("PUT", url.removeprefix(f"{azurite.url}/"), content=data, headers=blob),
        is_there=lambda url: azurite.ask("GET", url.removeprefix(f"{azurite.url}/")).content,
        credentials=Credentials(azure_connection_string=azurite.connection_string),
        on_the_page="https://myaccount.blob.core.windows.net",
        here=azurite.url,
    )


def gcs_stand_in(gcs: Gcs) -> StandIn:
    for bucket in ("incoming", "scored"):
        httpx.post(f"{gcs.url}/storage/v1/b", json={"name": bucket}).raise_for_status()
    return StandIn(
        put=lambda url, data: gcs.put(*in_bucket(url), data),
        is_there=lambda url: in_bucket(url)[1] in gcs.stored(in_bucket(url)[0]),
        credentials=Credentials(google_storage_keyfile_path=gcs.keyfile, storage_emulator_host=gcs.url),
    )


def http_stand_in(web: Web) -> StandIn:
    return StandIn(
        put=lambda url, data: web.files.update({url.removeprefix(f"{web.url}/"): data}),
        is_there=lambda url: web.files.get(url.removeprefix(f"{web.url}/")),
        credentials=Credentials(private_addresses_enabled=True),
        on_the_page="https://files.example.com",
        here=web.url,
    )


MADE: dict[str, tuple[str, Callable[[Any], StandIn]]] = {
    "index": ("tmp_path", filesystem_stand_in),
    "filesystem": ("tmp_path", filesystem_stand_in),
    "s3": ("nanio", s3_stand_in),
    "azure": ("azurite", azure_stand_in),
    "gcs": ("gcs", gcs_stand_in),
    "http": ("web", http_stand_in),
}


@pytest.mark.parametrize("name", MADE)
async def test_jobs_on_the_page_score_a_table(
    name: str, server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    fixture, make = MADE[name]
    store = make(request.getfixturevalue(fixture))
    for number, block in enumerate(jobs_of(name)):
        text = block.replace("http://127.0.0.1:8080", server)
        said = json.loads(text.replace(store.on_the_page, store.here) if store.here else text)
        for settings in (said["intake_settings"], said["output_settings"]):
            settings |= store.keys
        source, target = (
            settings.get("url") or settings["path"] for settings in (said["intake_settings"], said["output_settings"])
        )
        store.put(source.replace("*", "1"), gzip.compress(TABLE) if source.endswith(".gz") else TABLE)

        options = RunOptions(retry=NO_WAIT, state_dir=tmp_path / f"state-{number}")
        report = await run_job(definition_from(said).job, store.credentials, options=options)

        assert (report.rows_read, report.rows_scored) == (20, 20)
        assert store.is_there(target)


@pytest.mark.parametrize("name", STORES)
def test_every_key_is_on_the_page(name: str) -> None:
    adapter = adapter_for(STORES[name])
    keys = [*keys_of(adapter.IntakeSettings), *keys_of(adapter.OutputSettings)]

    missing = {row.names[0] for row in keys if not row.ignored and row.names[0] not in page_of(name)}

    assert not missing - {"region"}


@pytest.mark.parametrize("name", DATABASE_PAGES)
def test_jobs_of_databases(name: str) -> None:
    """Their keys stand in docs/batch/job-definition.md."""
    jobs = [definition_from(json.loads(block)).job for block in jobs_of(name)]
    assert {job.output_settings.type for job in jobs} == {name}
