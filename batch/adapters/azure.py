"""
Azure Blob Storage.

A result is a list of blocks that is committed at the end; until then there is nothing under its name. Blocks that were
never committed cannot be seen, and the service drops them within a week.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
import obstore
from anyio.abc import TaskGroup
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PermissionDeniedError, PreconditionError
from obstore.store import AzureStore

from batch.adapters import _objects
from batch.adapters._names import LOCATION, WRITE_MODE, Selection, WriteMode
from batch.adapters._objects import Stored
from batch.addresses import problem_of_store
from batch.declared import key
from batch.errors import BatchError, IntakeError, OutputError
from batch.ports import NOTHING_LEFT, Intake, Leftovers, Output
from batch.settings import Credentials

_MEBIBYTE: Final = 1024 * 1024
_BLOCK_BYTES: Final = 8 * _MEBIBYTE
"""Of which there may be 50,000: 390 GiB in all."""
_BLOCKS_AT_ONCE: Final = 4
_REFUSED: Final = "access is denied: wrong credentials, or no permission"
_IN_WORDS: Final = {
    "ContainerNotFound": "there is no such container",
    "BlobNotFound": "no such blob",
    "AuthorizationFailure": _REFUSED,
    "AuthenticationFailed": _REFUSED,
    "ConditionNotMet": "changed while it was read",
    "AuthorizationPermissionMismatch": "access is denied: no permission",
    "NoAuthenticationInformation": "access is denied: no credentials, and the container is not public",
}
_BY_KIND: Final[tuple[tuple[type[Exception], str], ...]] = (
    (FileNotFoundError, "no such container or blob"),
    (PermissionDeniedError, _REFUSED),
    (AlreadyExistsError, "exists; it came while the job ran"),
    (PreconditionError, "changed while it was read"),
)


class _Location(msgspec.Struct, frozen=True, kw_only=True):
    url: Annotated[str, key(LOCATION, wanted="https://account.blob.core.windows.net/container/blob")]
    container_name: Annotated[str | None, key("The container, where the URL's path does not begin with it.")] = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        names = unquote(parts.path)[1:].removesuffix("/").split("/")
        if parts.query or parts.fragment:
            raise ValueError(
                "url: expected neither '?' nor '#'; a signature belongs into AZURE_CONNECTION_STRING, "
                "and in a blob's name they are written %3F and %23"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname or {"", ".", ".."} & set(names):
            raise ValueError("url: expected https://account.blob.core.windows.net/container/blob")


class IntakeSettings(_Location, frozen=True, kw_only=True):
    """What to read."""

    part_size: Annotated[int, key("Bytes per read; some are under way at once.", least=1024, most=512 * _MEBIBYTE)] = (
        8 * _MEBIBYTE
    )
    anonymous: Annotated[bool, key("Read a public container, without credentials.")] = False


class OutputSettings(_Location, frozen=True, kw_only=True):
    """What to write."""

    write_mode: Annotated[WriteMode, WRITE_MODE] = "overwrite"


def place(settings: IntakeSettings | OutputSettings) -> tuple[str, Selection]:
    """Which store, and what in it."""
    parts = urlsplit(settings.url)
    container = f"/{settings.container_name}" if settings.container_name else ""
    return f"azure {parts.netloc.lower()}", Selection(container + unquote(parts.path))


@asynccontextmanager
async def open_intake(settings: IntakeSettings, credentials: Credentials) -> AsyncIterator[Intake]:
    """The blobs at the URL."""
    if settings.anonymous and credentials.azure_connection_string is None:  # then the job alone says where they are
        problem = None if credentials.private_addresses_enabled else await problem_of_store(settings.url)
        if problem is not None:
            raise IntakeError(f"url: {problem}")
    store, name = _container(settings, credentials, IntakeError, anonymous=settings.anonymous)
    async with _objects.open_intake(store, name, settings.part_size) as intake:
        yield intake


@asynccontextmanager
async def open_output(
    settings: OutputSettings, credentials: Credentials, leftovers: Leftovers = NOTHING_LEFT
) -> AsyncIterator[Output]:
    """Blocks, committed on leaving, left uncommitted on leaving by an exception."""
    store, name = _container(settings, credentials, OutputError)
    replace = settings.write_mode == "overwrite"
    async with _objects.open_output(store, name, leftovers, replace=replace) as output:
        yield output


async def names_below(settings: IntakeSettings, credentials: Credentials) -> list[str]:
    """The names below the URL."""
    return await _objects.names_below(*_container(settings, credentials, IntakeError))


async def remove_below(settings: OutputSettings, credentials: Credentials) -> None:
    """Remove what is below the URL."""
    await _objects.remove_below(*_container(settings, credentials, OutputError))


@dataclass(frozen=True, repr=False)
class _Account:
    """What a connection string says."""

    name: str
    endpoint: SplitResult
    access: Mapping[str, Any]
    """Arguments for the client."""

    @classmethod
    def stated(cls, text: str, error: type[BatchError], *, anonymous: bool) -> "_Account":
        """From ``Name=value;...``; single quotes around it are gone already."""
        fields = dict(part.strip().partition("=")[::2] for part in text.strip().strip("'\"").split(";") if part.strip())
        given = {name.lower(): value for name, value in fields.items()}
        name = given.get("accountname", "")
        suffix = given.get("endpointsuffix", "core.windows.net")
        protocol = given.get("defaultendpointsprotocol", "https")
        endpoint = urlsplit(given.get("blobendpoint") or (f"{protocol}://{name}.blob.{suffix}" if name else ""))
        access: dict[str, Any] = {}
        if anonymous:
            access = {"skip_signature": True}
        elif key := given.get("accountkey"):
            access = {"account_key": key}
        elif signature := given.get("sharedaccesssignature"):
            access = {"sas_key": signature.removeprefix("?")}
        if not endpoint.hostname or not access:
            raise error(
                "AZURE_CONNECTION_STRING: expected AccountName or BlobEndpoint, and AccountKey or SharedAccessSignature"
            )
        name = name or endpoint.hostname.partition(".")[0]
        return cls(name, endpoint, {"account_name": name, **access})

    def path_of(self, url: SplitResult) -> str | None:
        """The container and blob that *url* names; None if it is of another account."""
        path = unquote(url.path)
        if url.netloc.lower() == self.endpoint.netloc.lower():
            prefix = f"{self.endpoint.path.rstrip('/')}/"
            return path[len(prefix) :] if path.startswith(prefix) else None
        return path[1:] if (url.hostname or "").partition(".")[0] == self.name.lower() else None


def _container(
    settings: _Location, credentials: Credentials, error: type[BatchError], *, anonymous: bool = False
) -> tuple["_Container", str]:
    """The container, and what is meant in it."""
    url = urlsplit(settings.url)
    text = credentials.azure_connection_string
    if text is None and anonymous:
        text = f"BlobEndpoint={url.scheme}://{url.netloc}"
    elif text is None:
        hint = ', or read a public container with "anonymous": true' if error is IntakeError else ""
        raise error(f"{settings.url}: no credentials; set AZURE_CONNECTION_STRING{hint}")
    account = _Account.stated(text, error, anonymous=anonymous)
    path, endpoint = account.path_of(url), account.endpoint.geturl().rstrip("/")
    if path is None:
        raise error(f"{settings.url}: AZURE_CONNECTION_STRING is for {endpoint}")
    container, _, name = (settings.container_name, "", path) if settings.container_name else path.partition("/")
    if not container:
        raise error(f"{settings.url}: names no container")
    try:
        client = AzureStore(
            container_name=container,
            endpoint=endpoint,
            client_options={
                "allow_http": True,
                "connect_timeout": timedelta(seconds=10),
                "timeout": timedelta(seconds=120),
                # a proxy for nothing: else one of the environment's would be used
                "proxy_url": "http://127.0.0.1:9",
                "proxy_excludes": "*,0.0.0.0/0,::/0",
            },
            retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=120)},
            **account.access,
        )
    except (BaseError, ValueError) as exc:  # its text may hold the key
        raise error(f"{settings.url}: AZURE_CONNECTION_STRING cannot be used ({type(exc).__name__})") from None
    return _Container(client, f"{endpoint}/{container}"), name


@dataclass(frozen=True)
class _Container:
    """A `Store`."""

    client: AzureStore
    address: str
    errors: tuple[type[Exception], ...] = (BaseError, FileNotFoundError)

    def url(self, key: str) -> str:
        return f"{self.address}/{key}"

    def explain(self, exc: Exception) -> str:
        text = str(exc).partition("Debug source")[0]
        if code := re.search(r"<Code>(\w+)</Code>", text):
            message = re.search(r"<Message>([^\n<]*)", text)
            return _IN_WORDS.get(code[1]) or f"{code[1]}: {message[1] if message else 'no explanation'}"
        for kind, words in _BY_KIND:
            if isinstance(exc, kind):
                return words
        return re.sub(r"\?[^\s)]*", "", " ".join(text.split()))  # what follows a ? may be a signature

    def broke_off(self, exc: Exception) -> bool:
        return isinstance(exc, GenericError) and "non-2xx" not in str(exc)

    async def find(self, key: str) -> Stored | None:
        try:
            head = await obstore.head_async(self.client, key)
        except FileNotFoundError:
            return None
        return Stored(key, head["size"], head["e_tag"])

    async def list(self, directory: str) -> AsyncIterator[Stored]:
        async for rows in obstore.list(self.client, prefix=directory.rstrip("/") or None):
            for row in rows:
                yield Stored(row["path"], row["size"], row["e_tag"])

    async def fetch(self, stored: Stored, start: int, length: int) -> bytes:
        answer = await obstore.get_async(
            self.client, stored.key, options={"range": (start, start + length), "if_match": stored.version}
        )
        return bytes(await answer.bytes_async())

    async def check_writable(self, key: str) -> None:
        """Stage blocks that are never committed; with one at a time, the second write tells of the first."""
        writer = obstore.open_writer_async(self.client, key, buffer_size=1, max_concurrency=1)
        with suppress(_Unpublished):
            async with writer as blocks:
                for _ in range(3):
                    await blocks.write(b"?")
                raise _Unpublished

    async def begin(self, key: str, tasks: TaskGroup, leftovers: Leftovers, *, replace: bool) -> "_Blocks":
        return _Blocks(self, key, replace)

    async def end_leftovers(self, tokens: Sequence[str]) -> None:
        """There are none."""

    async def delete(self, key: str) -> None:
        await obstore.delete_async(self.client, key)


class _Unpublished(Exception):
    """Leaves a writer without committing what was written."""


@dataclass
class _Blocks:
    """An `Upload`."""

    container: _Container
    key: str
    replace: bool
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    writer: Any = None
    part_bytes: int = _BLOCK_BYTES

    async def send(self, part: bytes) -> None:
        if self.writer is None:
            self.writer = await self.stack.enter_async_context(
                obstore.open_writer_async(
                    self.container.client, self.key, buffer_size=self.part_bytes, max_concurrency=_BLOCKS_AT_ONCE
                )
            )
        await self.writer.write(part)

    async def finish(self, last: bytes) -> None:
        if self.writer is not None:
            if last:
                await self.writer.write(last)
            await self.stack.aclose()
            return
        try:
            await self._put(last, "overwrite" if self.replace else "create")
        except AlreadyExistsError:
            if await self.container.find(self.key) is not None:
                raise
            await self._put(last, "overwrite")  # there were nothing but blocks that nobody committed

    async def _put(self, data: bytes, mode: Literal["create", "overwrite"]) -> None:
        await obstore.put_async(self.container.client, self.key, data, mode=mode, use_multipart=False)

    async def abandon(self) -> None:
        await self.stack.__aexit__(_Unpublished, _Unpublished(), None)
