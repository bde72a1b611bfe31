"""Every store behind its adapter, with a way to look into it from outside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from batch.adapters import adapter_for
from batch.settings import Credentials
from tests.stores import S3, Azurite, Gcs, fresh_name, keyfile_for

MIB = 1024 * 1024
LARGE = bytes(range(251)) * (12 * MIB // 251)
"""Several parts, of which no two are the same."""


@dataclass
class Case:
    """One store behind its adapter, and a way to look into it from outside."""

    type: str
    credentials: Credentials
    address: Callable[[str], str]
    """Name in the store -> what stands in a job."""
    put: Callable[[str, bytes], None]
    stored: Callable[[], dict[str, bytes]]
    unfinished: Callable[[], Sequence[str]]
    """Uploads and temporary files."""
    elsewhere: str
    """An address in a bucket that does not exist."""
    wrong: Credentials | None = None
    """Credentials that the store refuses."""
    options: dict[str, Any] = field(default_factory=dict)

    def settings(self, kind: str, name: str, **options: Any) -> Any:
        adapter = adapter_for(self.type)
        struct = adapter.IntakeSettings if kind == "intake" else adapter.OutputSettings
        at = "path" if self.type == "filesystem" else "url"
        address = name if name == self.elsewhere else self.address(name)
        known = struct.__struct_fields__
        given = {key: value for key, value in self.options.items() if key in known}
        return struct(**{at: address, **given, **options})

    def intake(self, name: str, *, credentials: Credentials | None = None, **options: Any) -> Any:
        settings = self.settings("intake", name, **options)
        return adapter_for(self.type).open_intake(settings, credentials or self.credentials)

    def output(
        self, name: str, *, credentials: Credentials | None = None, leftovers: Any = None, **options: Any
    ) -> Any:
        settings = self.settings("output", name, **options)
        more = {} if leftovers is None else {"leftovers": leftovers}
        return adapter_for(self.type).open_output(settings, credentials or self.credentials, **more)


@pytest.fixture
def filesystem_case(tmp_path: Path) -> Case:
    home = tmp_path / "store"
    home.mkdir()

    def put(name: str, data: bytes) -> None:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(data)

    def files(*, hidden: bool) -> dict[str, bytes]:
        found = (path for path in home.rglob("*") if path.is_file() and path.name.startswith(".") == hidden)
        return {str(path.relative_to(home)): path.read_bytes() for path in found}

    return Case(
        type="filesystem",
        credentials=Credentials(),
        address=lambda name: f"{home}/{name}",
        put=put,
        stored=lambda: files(hidden=False),
        unfinished=lambda: list(files(hidden=True)),
        elsewhere=f"{tmp_path}/nowhere/in.csv",
    )


def s3_case(store: S3) -> Case:
    bucket = fresh_name()
    client = store.client()
    client.create_bucket(Bucket=bucket)

    def stored() -> dict[str, bytes]:
        rows = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {row["Key"]: client.get_object(Bucket=bucket, Key=row["Key"])["Body"].read() for row in rows}

    return Case(
        type="s3",
        credentials=store.credentials,
        address=lambda name: f"s3://{bucket}/{name}",
        put=lambda name, data: client.put_object(Bucket=bucket, Key=name, Body=data),
        stored=stored,
        unfinished=lambda: [row["Key"] for row in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])],
        elsewhere=f"s3://{fresh_name()}/in.csv",
        wrong=Credentials(aws_access_key_id=store.key_id, aws_secret_access_key="wrong" * 8),
        options={"endpoint_url": store.url, "region": "us-east-1"},
    )


@pytest.fixture
def moto_case(moto: S3) -> Case:
    moto.record.clear()
    return s3_case(moto)


@pytest.fixture
def nanio_case(nanio: S3) -> Case:
    nanio.record.clear()
    return s3_case(nanio)


@pytest.fixture
def azure_case(azurite: Azurite) -> Case:
    container = fresh_name()
    azurite.ask("PUT", container, "restype=container")

    def put(name: str, data: bytes) -> None:
        azurite.ask("PUT", f"{container}/{quote(name)}", "", content=data, headers={"x-ms-blob-type": "BlockBlob"})

    def stored() -> dict[str, bytes]:
        names = azurite.names(container)
        return {name: azurite.ask("GET", f"{container}/{quote(name)}").content for name in names}

    return Case(
        type="azure",
        credentials=Credentials(azure_connection_string=azurite.connection_string),
        address=lambda name: f"{azurite.url}/{container}/{quote(name, safe='/*')}",
        put=put,
        stored=stored,
        unfinished=list,
        elsewhere=f"{azurite.url}/{fresh_name()}/in.csv",
        wrong=Credentials(
            azure_connection_string=f"AccountName=devstoreaccount1;AccountKey=d3Jvbmc=;BlobEndpoint={azurite.url}"
        ),
    )


@pytest.fixture
def gcs_case(gcs: Gcs, tmp_path: Path) -> Case:
    bucket = fresh_name()
    httpx.post(f"{gcs.url}/storage/v1/b", json={"name": bucket}).raise_for_status()
    other_key = other_keyfile(gcs, tmp_path / "other.json")
    return Case(
        type="gcp",
        credentials=Credentials(google_storage_keyfile_path=gcs.keyfile, storage_emulator_host=gcs.url),
        address=lambda name: f"gs://{bucket}/{name}",
        put=lambda name, data: gcs.put(bucket, name, data),
        stored=lambda: gcs.stored(bucket),
        unfinished=list,
        elsewhere=f"gs://{fresh_name()}/in.csv",
        wrong=Credentials(google_storage_keyfile_path=other_key, storage_emulator_host=gcs.url),
    )


def other_keyfile(gcs: Gcs, path: Path) -> Path:
    """A well-formed key that the token endpoint does not know."""
    return keyfile_for(rsa.generate_private_key(public_exponent=65537, key_size=2048), gcs.token_url, path)


STORES = ["filesystem", "moto", "nanio", "azure", "gcs"]


@pytest.fixture(params=STORES)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(f"{request.param}_case")
    return found
