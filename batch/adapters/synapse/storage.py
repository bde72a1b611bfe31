"""The Blob storage behind an external data source."""

from dataclasses import dataclass

from batch.adapters._staging import Depot
from batch.adapters.synapse import statements
from batch.adapters.synapse.session import Session
from batch.databases import SynapseIntake, SynapseOutput
from batch.errors import BatchError
from batch.settings import Credentials


@dataclass(frozen=True)
class Storage:
    """An external data source from both sides."""

    name: str
    depot: Depot


async def storage_of(
    session: Session, settings: SynapseIntake | SynapseOutput, credentials: Credentials, error: type[BatchError]
) -> Storage | None:
    """
    The external data source that *settings* name; None: they name none.

    Raises:
        BatchError: an *error*: there is none of that name, or it is no Blob storage.
    """
    source = settings.external_data_source
    if source is None:
        return None
    rows = await session.run(statements.location_of(source))
    if not rows:
        raise error(f"external_data_source: there is no external data source {source}")
    address = statements.blob_address(str(rows[0][0]))
    if address is None:
        raise error(f"external_data_source: {source} is not in Azure Blob storage")
    return Storage(source, Depot("azure", address, credentials))


def access(credentials: Credentials) -> tuple[str, str] | None:
    """Identity and secret by which the database reaches the storage; None: AZURE_CONNECTION_STRING has neither."""
    text = (credentials.azure_connection_string or "").strip().strip("'\"")
    given = {name.strip().lower(): value for name, _, value in (part.partition("=") for part in text.split(";"))}
    if key := given.get("accountkey"):
        return "Storage Account Key", key
    signature = given.get("sharedaccesssignature")
    return ("Shared Access Signature", signature.removeprefix("?")) if signature else None
