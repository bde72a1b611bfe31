"""
Google Cloud Storage.

A result is a resumable upload that is finished at the end; until then there is nothing under its name, and the service
forgets an unfinished one within a week. The client blocks, so every call runs on a thread.
"""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import google.auth
import msgspec
from anyio.abc import TaskGroup
from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, PreconditionFailed, Unauthorized
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, RefreshError
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud.exceptions import GoogleCloudError
from google.cloud.storage import Bucket, Client
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.oauth2.service_account import Credentials as ServiceAccount

from batch.adapters import _objects
from batch.adapters._blocking import Threads
from batch.adapters._names import LOCATION, WRITE_MODE, Selection, WriteMode
from batch.adapters._objects import Changed, Stored
from batch.declared import key
from batch.errors import BatchError, IntakeError, OutputError
from batch.ports import NOTHING_LEFT, Intake, Leftovers, Output
from batch.settings import Credentials

_MEBIBYTE: Final = 1024 * 1024
_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
_BUCKET: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_SECONDS: Final = 60.0
"""For one request; the client repeats what may be repeated for two minutes."""


class _Location(msgspec.Struct, frozen=True, kw_only=True):
    url: Annotated[str, key(LOCATION, wanted="gs://bucket/name")]

    def __post_init__(self) -> None:
        whole = self.url.startswith("gs://") and "/" in self.url[5:] and "\0" not in self.url
        if not whole or not _BUCKET.fullmatch(self.bucket):
            raise ValueError("url: expected gs://bucket/name, the bucket of letters, digits, '.', '_' and '-'")

    @property
    def bucket(self) -> str:
        return self.url[5:].partition("/")[0]

    @property
    def name(self) -> str:
        """As it is: a name may hold ``?``, ``#`` and ``%``."""
        return self.url[5:].partition("/")[2]


class IntakeSettings(_Location, frozen=True, kw_only=True):
    """What to read."""

    part_size: Annotated[int, key("Bytes per read; some are under way at once.", least=1024, most=512 * _MEBIBYTE)] = (
        8 * _MEBIBYTE
    )
    anonymous: Annotated[bool, key("Read a public bucket, without credentials.")] = False


class OutputSettings(_Location, frozen=True, kw_only=True):
    """What to write."""

    write_mode: Annotated[WriteMode, WRITE_MODE] = "overwrite"


def place(settings: IntakeSettings | OutputSettings) -> tuple[str, Selection]:
    """Which store, and what in it."""
    return f"gcs {settings.bucket}", Selection(settings.name)


@asynccontextmanager
async def open_intake(settings: IntakeSettings, credentials: Credentials) -> AsyncIterator[Intake]:
    """The objects at the URL."""
    async with (
        _bucket(settings, credentials, IntakeError, anonymous=settings.anonymous) as store,
        _objects.open_intake(store, settings.name, settings.part_size) as intake,
    ):
        yield intake


@asynccontextmanager
async def open_output(
    settings: OutputSettings, credentials: Credentials, leftovers: Leftovers = NOTHING_LEFT
) -> AsyncIterator[Output]:
    """Resumable uploads, finished on leaving, cancelled on leaving by an exception."""
    async with _bucket(settings, credentials, OutputError) as store:
        replace = settings.write_mode == "overwrite"
        async with _objects.open_output(store, settings.name, leftovers, replace=replace) as output:
            yield output


async def names_below(settings: IntakeSettings, credentials: Credentials) -> list[str]:
    """The names below the URL."""
    async with _bucket(settings, credentials, IntakeError) as store:
        return await _objects.names_below(store, settings.name)


async def remove_below(settings: OutputSettings, credentials: Credentials) -> None:
    """Remove what is below the URL."""
    async with _bucket(settings, credentials, OutputError) as store:
        await _objects.remove_below(store, settings.name)


@asynccontextmanager
async def _bucket(
    settings: _Location, credentials: Credentials, error: type[BatchError], *, anonymous: bool = False
) -> AsyncIterator["_Bucket"]:
    threads = Threads(8)
    emulator = credentials.storage_emulator_host
    if emulator and "://" not in emulator:
        emulator = f"http://{emulator}"
    keys = await threads.look(
        _keys, credentials.google_storage_keyfile_path, error, anonymous=anonymous, is_test=emulator is not None
    )
    # nothing of the environment's proxies, neither for the store nor for tokens
    tokens = Request()
    session = AuthorizedSession(keys, auth_request=tokens)  # type: ignore[no-untyped-call]
    tokens.session.trust_env = session.trust_env = False
    with tokens.session, session:
        client = Client(
            project=getattr(keys, "project_id", None) or "none",
            credentials=keys,
            _http=session,
            client_options={"api_endpoint": emulator} if emulator else None,
        )
        yield _Bucket(client.bucket(settings.bucket), session, threads)


def _keys(keyfile: Path | None, error: type[BatchError], *, anonymous: bool, is_test: bool) -> Any:
    if anonymous or (keyfile is None and is_test):
        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    if keyfile is None:
        try:
            return google.auth.default(scopes=[_SCOPE])[0]
        except DefaultCredentialsError as exc:
            raise error(
                "no credentials for gs://; set GOOGLE_STORAGE_KEYFILE_PATH to a service account's key file"
            ) from exc
    try:
        stated = json.loads(keyfile.read_bytes())
        return ServiceAccount.from_service_account_info(stated, scopes=[_SCOPE])  # type: ignore[no-untyped-call]
    except OSError as exc:
        raise error(f"GOOGLE_STORAGE_KEYFILE_PATH: {keyfile}: {(exc.strerror or str(exc)).lower()}") from exc
    except (ValueError, TypeError, AttributeError, GoogleAuthError):  # its text may quote the file
        raise error(f"GOOGLE_STORAGE_KEYFILE_PATH: {keyfile} is not the key file of a service account") from None


@dataclass(frozen=True)
class _Bucket:
    """A `Store`."""

    client: Bucket
    session: AuthorizedSession
    threads: Threads
    # OSError: what the HTTP library beneath raises
    errors: tuple[type[Exception], ...] = (
        GoogleAPIError,
        GoogleCloudError,
        GoogleAuthError,
        InvalidResponse,
        DataCorruption,
        OSError,
    )

    def url(self, key: str) -> str:
        return f"gs://{self.client.name}/{key}"

    def explain(self, exc: Exception) -> str:
        status = getattr(getattr(exc, "response", None), "status_code", None)
        if isinstance(exc, RefreshError):
            return "the key in GOOGLE_STORAGE_KEYFILE_PATH was refused"
        if isinstance(exc, Forbidden | Unauthorized) or status in (401, 403):
            return "access is denied: wrong credentials, or no permission"
        if isinstance(exc, NotFound) or status == 404:
            return "no such bucket or object"
        if isinstance(exc, PreconditionFailed) or status == 412:
            return "changed, or came to be, while the job ran"
        return f"{type(exc).__name__}{f' with status {status}' if status else ''}"

    def broke_off(self, exc: Exception) -> bool:
        return isinstance(exc, OSError | DataCorruption)

    async def find(self, key: str) -> Stored | None:
        blob = await self.threads.look(self.client.get_blob, key, timeout=_SECONDS)
        return None if blob is None else _stored(blob)

    async def list(self, directory: str) -> AsyncIterator[Stored]:
        pages = self.client.list_blobs(prefix=directory or None, timeout=_SECONDS).pages
        while (page := await self.threads.look(next, pages, None)) is not None:
            for blob in page:
                yield _stored(blob)

    async def fetch(self, stored: Stored, start: int, length: int) -> bytes:
        blob = self.client.blob(stored.key, generation=int(stored.version or 0) or None)
        try:
            data: bytes = await self.threads.look(
                blob.download_as_bytes, start=start, end=start + length - 1, raw_download=True, timeout=_SECONDS
            )
        except NotFound as exc:  # it was there, in this generation
            raise Changed from exc
        return data

    async def check_writable(self, key: str) -> None:
        session_url = await self.threads.do(self.client.blob(key).create_resumable_upload_session, timeout=_SECONDS)
        await self.threads.do(self.session.delete, session_url, timeout=_SECONDS)

    async def begin(self, key: str, tasks: TaskGroup, leftovers: Leftovers, *, replace: bool) -> "_Resumable":
        return _Resumable(self, key, replace)

    async def end_leftovers(self, tokens: Sequence[str]) -> None:
        """There are none."""

    async def delete(self, key: str) -> None:
        await self.threads.do(self.client.blob(key).delete, timeout=_SECONDS)


def _stored(blob: Any) -> Stored:
    return Stored(blob.name, blob.size, str(blob.generation))


@dataclass
class _Resumable:
    """An `Upload`."""

    bucket: _Bucket
    key: str
    replace: bool
    part_bytes: int = 8 * _MEBIBYTE
    writer: Any = field(init=False)

    def __post_init__(self) -> None:
        if_new = {} if self.replace else {"if_generation_match": 0}
        blob = self.bucket.client.blob(self.key)
        self.writer = blob.open(
            "wb", chunk_size=self.part_bytes, timeout=_SECONDS, content_type="application/octet-stream", **if_new
        )

    async def send(self, part: bytes) -> None:
        await self.bucket.threads.do(self.writer.write, part)

    async def finish(self, last: bytes) -> None:
        await self.bucket.threads.do(self._finish, last)

    def _finish(self, last: bytes) -> None:
        self.writer.write(last)
        self.writer.close()

    async def abandon(self) -> None:
        await self.bucket.threads.do(self.writer.terminate)
