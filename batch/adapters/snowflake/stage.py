"""The external stage of a job: where it is in the cloud, and what reaches it there."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from batch.adapters._staging import Depot, percent_encoded
from batch.adapters.snowflake.session import Session
from batch.adapters.snowflake.statements import StagePath
from batch.databases import SnowflakeIntake, SnowflakeOutput
from batch.errors import BatchError
from batch.settings import Credentials

_KINDS: Final = {"s3": "s3", "s3gov": "s3", "s3china": "s3", "azure": "azure", "gcs": "gcp"}
"""Scheme of a stage's URL -> ``cloud_storage_type``."""


@dataclass(frozen=True)
class Stage:
    """A stage from both sides."""

    path: StagePath
    """As Snowflake calls it."""
    depot: Depot
    """As its store does."""


async def stage_of(
    session: Session, settings: SnowflakeIntake | SnowflakeOutput, credentials: Credentials, error: type[BatchError]
) -> Stage | None:
    """
    The stage that *settings* name, as the account describes it; None: they name none.

    Raises:
        BatchError: an *error*: there is no such stage, it is internal, or in another cloud than they say.
    """
    if settings.external_stage is None:
        return None
    name = settings.external_stage
    path = StagePath.of(name, "external_stage")
    rows = await session.find(f"DESCRIBE STAGE {path.stage}")
    if rows is None:
        raise error(f"external_stage: there is no stage {name}, or the role may not use it")
    url = next((str(row[3]) for row in rows if str(row[1]).upper() == "URL"), "").strip('[]"')
    scheme, _, place = url.partition("://")
    kind = _KINDS.get(scheme.lower())
    if kind is None:
        raise error(f"external_stage: {name} is not in S3, Azure or Google's store")
    if kind != settings.cloud_storage_type:
        raise error(f"external_stage: {name} is in {kind}, but cloud_storage_type is {settings.cloud_storage_type}")
    return Stage(path, Depot(kind, f"{_address(kind, place)}/{path.directory}", credentials))


def _address(kind: str, place: str) -> str:
    place = place.strip("/")
    if kind == "azure":
        parts = urlsplit(f"https://{place}")
        return f"https://{parts.netloc}{percent_encoded(parts.path)}"
    return f"{'s3' if kind == 's3' else 'gs'}://{place}"
