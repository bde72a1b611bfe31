"""Azure's connection strings, signatures and addresses."""

import socket

import pytest

from batch.adapters import azure
from batch.errors import IntakeError, OutputError
from batch.settings import Credentials, credentials_from
from tests.batch.adapters.conftest import Case
from tests.stores import AZURITE_ACCOUNT, AZURITE_KEY, Azurite, fresh_name


async def copied(case: Case, credentials: Credentials) -> bytes | None:
    case.put("in.csv", b"a\n1\n")
    async with (
        case.intake("in.csv", credentials=credentials) as intake,
        case.output("out.csv", credentials=credentials) as output,
        output.open_file(None) as write,
    ):
        async for block in intake.read(intake.files[0]):
            await write(block)
    return case.stored().get("out.csv")


@pytest.mark.parametrize(
    "written",
    ["{}", "'{}'", '"{}"', "{};", "BlobEndpoint={url} ; AccountName={name};AccountKey={key}"],
    ids=["plain", "single quotes", "double quotes", "semicolon", "other order"],
)
async def test_account_key(azure_case: Case, azurite: Azurite, written: str) -> None:
    text = written.format(azurite.connection_string, url=azurite.url, name=AZURITE_ACCOUNT, key=AZURITE_KEY)

    assert await copied(azure_case, credentials_from({"AZURE_CONNECTION_STRING": text})) == b"a\n1\n"


@pytest.mark.parametrize(
    "written",
    [
        "BlobEndpoint={url};SharedAccessSignature={sas}",
        "BlobEndpoint={url};AccountName=devstoreaccount1;SharedAccessSignature=?{sas}",
    ],
    ids=["as given", "with its question mark"],
)
async def test_shared_access_signature(azure_case: Case, azurite: Azurite, written: str) -> None:
    text = written.format(url=azurite.url, sas=azurite.signature())

    assert await copied(azure_case, Credentials(azure_connection_string=text)) == b"a\n1\n"


async def test_a_signature_without_a_permission_is_refused_before_anything_is_sent(
    azure_case: Case, azurite: Azurite
) -> None:
    signature = azurite.signature("rl")
    text = f"BlobEndpoint={azurite.url};SharedAccessSignature={signature}"

    with pytest.raises(OutputError, match="access is denied") as refused:
        async with azure_case.output("out.csv", credentials=Credentials(azure_connection_string=text)):
            pytest.fail("entered")  # pragma: no cover

    assert "sig=" not in str(refused.value)


async def test_container_by_name(azure_case: Case, azurite: Azurite) -> None:
    azure_case.put("in.csv", b"1")
    container = azure_case.address("").split("/")[-2]
    settings = azure.IntakeSettings(url=f"{azurite.url}/in.csv", container_name=container)

    async with azure.open_intake(settings, azure_case.credentials) as intake:
        assert [file.name for file in intake.files] == ["in.csv"]


@pytest.mark.parametrize("given", [None, "BlobEndpoint={url}"], ids=["nothing", "an endpoint"])
async def test_public_container(azurite: Azurite, given: str | None) -> None:
    container = fresh_name()
    azurite.ask("PUT", container, "restype=container", headers={"x-ms-blob-public-access": "container"})
    azurite.ask("PUT", f"{container}/in.csv", content=b"1", headers={"x-ms-blob-type": "BlockBlob"})
    # the emulator has the account in the path, where a public URL has it in the host
    settings = azure.IntakeSettings(
        url=f"{azurite.url}/{container}/in.csv" if given else f"{azurite.url.partition(AZURITE_ACCOUNT)[0]}in.csv",
        anonymous=True,
        container_name=None if given else f"{AZURITE_ACCOUNT}/{container}",
    )
    credentials = Credentials(azure_connection_string=given and given.format(url=azurite.url))

    async with azure.open_intake(settings, credentials) as intake:
        assert b"".join([block async for block in intake.read(intake.files[0])]) == b"1"


@pytest.mark.parametrize(
    ("url", "address", "message"),
    [
        ("http://a.example/c/b", "8.8.8.8", "is at the public address 8.8.8.8, expected https"),
        ("https://a.example/c/b", "169.254.77.77", "is the link-local address 169.254.77.77"),
        ("http://a.example/c/b", "::ffff:169.254.77.77", "is the link-local address ::ffff:169.254.77.77"),
    ],
)
async def test_places_that_no_job_may_choose(url: str, address: str, message: str, monkeypatch) -> None:
    """Without a connection string, which names the account, only the job says where to ask."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(None, None, 0, "", (address, 0))])

    with pytest.raises(IntakeError, match=f"^url: a.example {message}$"):
        async with azure.open_intake(azure.IntakeSettings(url=url, anonymous=True), Credentials()):
            pytest.fail("entered")  # pragma: no cover


@pytest.mark.parametrize("text", ["nonsense", "AccountName=x", "AccountKey=eA==", "SharedAccessSignature=sig"])
async def test_odd_connection_strings(text: str) -> None:
    settings = azure.IntakeSettings(url="https://x.blob.core.windows.net/c/b.csv")

    with pytest.raises(IntakeError, match="AZURE_CONNECTION_STRING: expected AccountName or BlobEndpoint, and") as odd:
        async with azure.open_intake(settings, Credentials(azure_connection_string=text)):
            pytest.fail("entered")  # pragma: no cover

    assert text not in str(odd.value)


async def test_a_key_that_is_none_is_not_shown() -> None:
    settings = azure.IntakeSettings(url="https://x.blob.core.windows.net/c/b.csv")
    secret = "not base64 !"

    with pytest.raises(IntakeError, match="AZURE_CONNECTION_STRING cannot be used") as odd:
        async with azure.open_intake(
            settings, Credentials(azure_connection_string=f"AccountName=x;AccountKey={secret}")
        ):
            pytest.fail("entered")  # pragma: no cover

    assert secret not in str(odd.value)
    assert odd.value.__cause__ is None


async def test_no_credentials() -> None:
    settings = azure.OutputSettings(url="https://x.blob.core.windows.net/c/b.csv")

    with pytest.raises(OutputError, match="no credentials; set AZURE_CONNECTION_STRING"):
        async with azure.open_output(settings, Credentials()):
            pytest.fail("entered")  # pragma: no cover


async def test_another_account_is_refused() -> None:
    settings = azure.IntakeSettings(url="https://other.blob.core.windows.net/c/b.csv")
    credentials = Credentials(azure_connection_string="AccountName=mine;AccountKey=eA==")

    with pytest.raises(IntakeError, match=r"is for https://mine\.blob\.core\.windows\.net$"):
        async with azure.open_intake(settings, credentials):
            pytest.fail("entered")  # pragma: no cover


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://x.blob.core.windows.net", "expected https://account"),
        ("ftp://x/c/b", "expected https://account"),
        ("https://x.blob.core.windows.net/c/../b", "expected https://account"),
        ("https://x.blob.core.windows.net/c//b", "expected https://account"),
        ("https://x.blob.core.windows.net/c/b?sv=1&sig=S", "a signature belongs into AZURE_CONNECTION_STRING"),
    ],
)
def test_odd_urls(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        azure.IntakeSettings(url=url)
