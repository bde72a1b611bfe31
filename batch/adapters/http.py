"""
A resource behind a URL: read with GET, written with PUT or POST.

The result is collected on local disk and sent at the end, so that nothing of a failed job arrives and a broken
connection can be tried again. Addresses are checked after the name was resolved, and the connection goes to the address
that was checked.
"""

import tempfile
from collections.abc import AsyncIterator, Container, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, BinaryIO, Final, Literal, cast
from urllib.parse import unquote, urlsplit

import anyio
import httpx
import msgspec
from anyio import to_thread

from batch.adapters._names import Selection
from batch.addresses import is_public
from batch.declared import key
from batch.errors import BatchError, IntakeError, OutputError
from batch.ports import NOTHING_LEFT, Intake, Leftovers, Output, SourceFile, Write
from batch.retries import RetryPolicy, retry_after_from
from batch.settings import Credentials

_BLOCK_BYTES: Final = 256 * 1024
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
RETRIES: Final = RetryPolicy()


class _Location(msgspec.Struct, frozen=True, kw_only=True):
    url: Annotated[str, key("Where it is.", wanted="an http or https URL")]

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url: expected an http or https URL")


class IntakeSettings(_Location, frozen=True, kw_only=True):
    """What to GET."""


class OutputSettings(_Location, frozen=True, kw_only=True):
    """Where to send the result."""

    method: Annotated[Literal["PUT", "POST"], key("How it is sent.")] = "PUT"
    headers: Annotated[dict[str, str], key("Sent with it.", secret=True)] = {}


def place(settings: IntakeSettings | OutputSettings) -> tuple[str, Selection]:
    """Which host, and what on it."""
    parts = urlsplit(settings.url)
    return f"http {parts.netloc.lower()}", Selection(f"{parts.path}?{parts.query}")


@asynccontextmanager
async def open_intake(settings: IntakeSettings, credentials: Credentials) -> AsyncIterator[Intake]:
    """The one resource at the URL."""
    async with _client(credentials) as client:
        asking = _Asking(client, settings.url, IntakeError)
        yield await _Resource.found(asking)


@asynccontextmanager
async def open_output(
    settings: OutputSettings, credentials: Credentials, leftovers: Leftovers = NOTHING_LEFT
) -> AsyncIterator[Output]:
    """What is written is sent on leaving; nothing is on leaving by an exception."""
    async with _client(credentials) as client:
        asking = _Asking(client, settings.url, OutputError)
        await asking.reach()
        with tempfile.TemporaryFile() as collected:
            yield _Collected(asking, cast(BinaryIO, collected))
            await _send(asking, settings, cast(BinaryIO, collected))


def _client(credentials: Credentials) -> httpx.AsyncClient:
    transport = _Guarded(allow_all=credentials.private_addresses_enabled)
    return httpx.AsyncClient(transport=transport, timeout=_TIMEOUT, trust_env=False)


class _NotAllowed(Exception):
    """The name resolves to an address of this network."""


class _Guarded(httpx.AsyncBaseTransport):
    """Sends a request to an address only after it was seen to be public."""

    def __init__(self, *, allow_all: bool) -> None:
        self._inner = httpx.AsyncHTTPTransport(trust_env=False)
        self._allow_all = allow_all

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx wants it."""
        if not self._allow_all:
            host = request.url.host
            found = await anyio.getaddrinfo(host, request.url.port or 0)
            addresses = [str(row[4][0]) for row in found]
            if not addresses or not all(map(is_public, addresses)):
                raise _NotAllowed(addresses)
            request.extensions = {**request.extensions, "sni_hostname": host}
            request.url = request.url.copy_with(host=addresses[0])
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


@dataclass(frozen=True)
class _Asking:
    """Requests to one URL, tried again as long as that is of use."""

    client: httpx.AsyncClient
    url: str
    error: type[BatchError]
    retries: RetryPolicy = field(default_factory=lambda: RETRIES)

    @property
    def shown(self) -> str:
        """The URL without what may be secret in it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    async def reach(self) -> None:
        """See that somebody is there; whatever they answer."""
        async with self.answered("OPTIONS", good=range(100, 600)):
            pass

    @asynccontextmanager
    async def answered(
        self, method: str, *, good: Container[int], headers: Mapping[str, str] | None = None, content: Any = None
    ) -> AsyncIterator[httpx.Response]:
        """An answer whose status is in *good*, its body still to be read; *content* makes the body of each try."""
        answer = await self._answer(method, good, headers, content)
        try:
            yield answer
        finally:
            await answer.aclose()

    async def _answer(
        self, method: str, good: Container[int], headers: Mapping[str, str] | None, content: Any
    ) -> httpx.Response:
        tried = 0
        while True:
            tried += 1
            request = self.client.build_request(
                method, self.url, headers=headers, content=content() if content else None
            )
            try:
                answer = await self.client.send(request, stream=True)
            except _NotAllowed as exc:
                raise self.error(
                    f"{self.shown}: is at an address that is not public, and "
                    "PREDICTION_API_BATCH_PRIVATE_ADDRESSES_ENABLED is not set"
                ) from exc
            except OSError as exc:
                raise self.error(f"{self.shown}: {urlsplit(self.url).hostname} has no address") from exc
            except httpx.TransportError as exc:
                if not self.retries.allows(None, tried):
                    raise self.error(f"{self.shown}: {type(exc).__name__} after {tried} tries") from exc
                await anyio.sleep(self.retries.delay(tried))
                continue
            if answer.status_code in good:
                return answer
            await answer.aclose()
            if not self.retries.allows(answer.status_code, tried):
                raise self.error(f"{self.shown}: {_said(method, answer, tried)}")
            await anyio.sleep(self.retries.delay(tried, retry_after_from(answer.headers.get("retry-after"))))


def _said(method: str, answer: httpx.Response, tried: int) -> str:
    times = f", {tried} times" if tried > 1 else ""
    redirect = "; redirects are not followed" if answer.is_redirect else ""
    return f"{method} was answered with {answer.status_code} {answer.reason_phrase}{times}{redirect}"


@dataclass(frozen=True)
class _Resource:
    """What `open_intake` gives."""

    asking: _Asking
    file: SourceFile
    has_ranges: bool

    @property
    def files(self) -> tuple[SourceFile]:
        """The one."""
        return (self.file,)

    @classmethod
    async def found(cls, asking: _Asking) -> "_Resource":
        """Ask for its first byte: the answer tells of size, version and whether it knows ranges."""
        name = PurePosixPath(unquote(urlsplit(asking.url).path)).name or "index"
        # 416: there is no first byte
        async with asking.answered("GET", good={*range(200, 300), 416}, headers=_range(0, 1)) as answer:
            _check_plain(asking, answer)
            has_ranges = answer.status_code in (206, 416)
            size = answer.headers.get("content-range", "").rpartition("/")[2]
            if not has_ranges:
                size = answer.headers.get("content-length", "")
            return cls(asking, SourceFile(name, int(size) if size.isdecimal() else None, _version(answer)), has_ranges)

    async def read(self, file: SourceFile, start: int = 0) -> AsyncIterator[bytes]:
        """Blocks as they come; a connection that breaks is taken up where it broke."""
        tried = 0
        while file.size is None or start < file.size:
            tried += 1
            try:
                async with self._from(start) as blocks:
                    async for block in blocks:
                        start, tried = start + len(block), 0
                        yield block
                if file.size is None or start == file.size:
                    return
                raise httpx.ReadError("the body ended early")
            except httpx.TransportError as exc:
                if not self.asking.retries.allows(None, tried):
                    raise IntakeError(f"{self.asking.shown}: {type(exc).__name__} at byte {start}") from exc
                await anyio.sleep(self.asking.retries.delay(tried))

    @asynccontextmanager
    async def _from(self, start: int, length: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        wanted = _range(start, length) if self.has_ranges and (start or length is not None) else _AS_STORED
        async with self.asking.answered("GET", good=range(200, 300), headers=wanted) as answer:
            _check_plain(self.asking, answer)
            if _version(answer) != self.file.version:
                raise IntakeError(f"{self.asking.shown}: changed while it was read")
            yield _skipping(answer.aiter_raw(_BLOCK_BYTES), 0 if answer.status_code == 206 else start)

    async def read_range(self, file: SourceFile, start: int, length: int) -> bytes:
        """Exactly these bytes; the server must know ranges."""
        if not self.has_ranges:
            raise IntakeError(f"{self.asking.shown}: the server gives no byte ranges, which this format needs")
        data = bytearray()
        while len(data) < length:
            async with self._from(start + len(data), length - len(data)) as blocks:
                before = len(data)
                async for block in blocks:
                    data += block
            if len(data) == before:
                raise IntakeError(f"{self.asking.shown}: ends at byte {start + before}, before it should")
        return bytes(data)


_AS_STORED: Final = {"accept-encoding": "identity"}


def _range(start: int, length: int | None) -> dict[str, str]:
    return {**_AS_STORED, "range": f"bytes={start}-{'' if length is None else start + length - 1}"}


def _version(answer: httpx.Response) -> str | None:
    version: str | None = answer.headers.get("etag") or answer.headers.get("last-modified")
    return version


def _check_plain(asking: _Asking, answer: httpx.Response) -> None:
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise IntakeError(f"{asking.shown}: comes in content encoding {encoding}, though asked for as it is stored")


async def _skipping(blocks: AsyncIterator[bytes], count: int) -> AsyncIterator[bytes]:
    async for block in blocks:
        if count >= len(block):
            count -= len(block)
        else:
            yield block[count:]
            count = 0


@dataclass
class _Collected:
    """What `open_output` gives."""

    asking: _Asking
    collected: BinaryIO
    directory: bool = False

    def local_path(self, name: str | None) -> None:
        """It is elsewhere."""

    @asynccontextmanager
    async def open_file(self, name: str | None) -> AsyncIterator[Write]:
        """Bytes to the local disk."""
        yield self._write

    async def _write(self, data: bytes) -> None:
        try:
            await to_thread.run_sync(self.collected.write, data)
        except OSError as exc:
            raise OutputError(f"{tempfile.gettempdir()}: {(exc.strerror or str(exc)).lower()}") from exc


async def _send(asking: _Asking, settings: OutputSettings, collected: BinaryIO) -> None:
    size = await to_thread.run_sync(collected.tell)

    async def content() -> AsyncIterator[bytes]:
        collected.seek(0)
        while block := await to_thread.run_sync(collected.read, _BLOCK_BYTES):
            yield block

    headers = {"content-type": "application/octet-stream", **settings.headers, "content-length": str(size)}
    async with asking.answered(settings.method, good=range(200, 300), headers=headers, content=content):
        pass
