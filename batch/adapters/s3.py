"""
S3, MinIO and whatever speaks like them.

A result is a multipart upload that is completed at the end; until then there is nothing under its key. What a killed
run left open is aborted by the next run of the same job: an upload is noted before it is begun, and again when its id
is known.
"""

import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from hashlib import md5
from itertools import pairwise
from typing import Annotated, Any, Final

import anyio
import msgspec
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from anyio.abc import TaskGroup
from botocore import UNSIGNED
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from batch.adapters import _objects
from batch.adapters._names import LOCATION, WRITE_MODE, Selection, WriteMode
from batch.adapters._objects import Changed, Stored
from batch.addresses import problem_of_store
from batch.declared import key
from batch.errors import BatchError, IntakeError, OutputError
from batch.ports import NOTHING_LEFT, Intake, Leftovers, Output
from batch.settings import Credentials

_MEBIBYTE: Final = 1024 * 1024
_SMALLEST_PART: Final = 5 * _MEBIBYTE
_NO_UPLOAD: Final = "none"
"""The id of no upload of any store."""
_BEGINNING_SECONDS: Final = 600.0
"""All tries to begin an upload together take less."""
_BUCKET: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_IN_WORDS: Final = {
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "no such object",
    "AccessDenied": "access is denied",
    "InvalidAccessKeyId": "the store does not know this AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID",
    "ExpiredToken": "AWS_SESSION_TOKEN has expired",
    "PreconditionFailed": "changed meanwhile",
    "403": "access is denied: wrong credentials, or no permission",
    "404": "no such bucket or object",
}


class ServerSideEncryption(msgspec.Struct, frozen=True, kw_only=True):
    """How the store encrypts the result."""

    algorithm: Annotated[str | None, key("`AES256` or `aws:kms`.")] = None
    kms_key_id: Annotated[str | None, key("Key of the key service.")] = None
    kms_encryption_context: Annotated[str | None, key("Its context, base64 of a JSON object.")] = None
    customer_algorithm: Annotated[str | None, key("`AES256`, with a key of your own.")] = None
    customer_key: Annotated[str | None, key("That key.", secret=True)] = None

    @property
    def on_creation(self) -> dict[str, str]:
        """Arguments that begin an upload."""
        of_store = {
            "ServerSideEncryption": self.algorithm,
            "SSEKMSKeyId": self.kms_key_id,
            "SSEKMSEncryptionContext": self.kms_encryption_context,
        }
        return {name: value for name, value in of_store.items() if value} | self.on_access

    @property
    def on_access(self) -> dict[str, str]:
        """Arguments of everything that touches the object's bytes."""
        of_customer = {"SSECustomerAlgorithm": self.customer_algorithm, "SSECustomerKey": self.customer_key}
        return {name: value for name, value in of_customer.items() if value}


class _Location(msgspec.Struct, frozen=True, kw_only=True):
    url: Annotated[str, key(LOCATION, wanted="s3://bucket/key")]
    endpoint_url: Annotated[
        str | None, key("Address of the store, if it is not AWS.", wanted="an http or https URL")
    ] = None
    region: Annotated[str | None, key("AWS region. Not set: what the SDK finds.")] = None
    path_style: Annotated[
        bool | None,
        key("Bucket in the path rather than in the host name. Not set: only with `endpoint_url`."),
    ] = None

    def __post_init__(self) -> None:
        problems = []
        if not self.url.startswith("s3://") or "/" not in self.url[5:] or "\0" in self.url:
            problems.append("url: expected s3://bucket/key")
        elif not _BUCKET.fullmatch(self.bucket):
            problems.append("url: expected s3://bucket/key, the bucket of letters, digits, '.', '_' and '-'")
        if self.endpoint_url is not None and not self.endpoint_url.startswith(("http://", "https://")):
            problems.append("endpoint_url: expected an http or https URL")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def bucket(self) -> str:
        return self.url[5:].partition("/")[0]

    @property
    def key(self) -> str:
        """As it is: a key may hold ``?``, ``#`` and ``%``."""
        return self.url[5:].partition("/")[2]

    @property
    def is_path_style(self) -> bool:
        return self.endpoint_url is not None if self.path_style is None else self.path_style


class IntakeSettings(_Location, frozen=True, kw_only=True):
    """What to read from which store."""

    part_size: Annotated[int, key("Bytes per read; some are under way at once.", least=1024, most=512 * _MEBIBYTE)] = (
        8 * _MEBIBYTE
    )
    anonymous: Annotated[bool, key("Read a public bucket, without credentials.")] = False


class OutputSettings(_Location, frozen=True, kw_only=True):
    """What to write to which store."""

    write_mode: Annotated[WriteMode, WRITE_MODE] = "overwrite"
    write_concurrency: Annotated[int, key("Parts that are sent at once.", least=1, most=64)] = 4
    server_side_encryption: Annotated[ServerSideEncryption, key("How the store encrypts the result.")] = (
        ServerSideEncryption()
    )


def place(settings: IntakeSettings | OutputSettings) -> tuple[str, Selection]:
    """Which store, and what in it."""
    return f"s3 {(settings.endpoint_url or '').rstrip('/')} {settings.bucket}", Selection(settings.key)


@asynccontextmanager
async def open_intake(settings: IntakeSettings, credentials: Credentials) -> AsyncIterator[Intake]:
    """The objects at the URL."""
    async with _client(settings, credentials, IntakeError, anonymous=settings.anonymous) as client:
        store = _Bucket(client, settings.bucket)
        async with _objects.open_intake(store, settings.key, settings.part_size) as intake:
            yield intake


@asynccontextmanager
async def open_output(
    settings: OutputSettings, credentials: Credentials, leftovers: Leftovers = NOTHING_LEFT
) -> AsyncIterator[Output]:
    """Multipart uploads, completed on leaving, aborted on leaving by an exception."""
    async with _client(settings, credentials, OutputError) as client:
        store = _Bucket(client, settings.bucket, settings.server_side_encryption, settings.write_concurrency)
        replace = settings.write_mode == "overwrite"
        async with _objects.open_output(store, settings.key, leftovers, replace=replace) as output:
            yield output


async def names_below(settings: IntakeSettings, credentials: Credentials) -> list[str]:
    """The keys below the URL."""
    async with _client(settings, credentials, IntakeError) as client:
        return await _objects.names_below(_Bucket(client, settings.bucket), settings.key)


async def remove_below(settings: OutputSettings, credentials: Credentials) -> None:
    """Remove what is below the URL."""
    async with _client(settings, credentials, OutputError) as client:
        await _objects.remove_below(_Bucket(client, settings.bucket), settings.key)


@asynccontextmanager
async def _client(
    settings: _Location, credentials: Credentials, error: type[BatchError], *, anonymous: bool = False
) -> AsyncIterator[Any]:
    if settings.endpoint_url is not None and not credentials.private_addresses_enabled:
        problem = await problem_of_store(settings.endpoint_url)
        if problem is not None:
            raise error(f"endpoint_url: {problem}")
    session = AioSession()
    ours = settings.endpoint_url is None
    config = AioConfig(
        signature_version=UNSIGNED if anonymous else None,
        s3={"addressing_style": "path" if settings.is_path_style else "virtual" if not ours else "auto"},
        retries={"mode": "standard", "total_max_attempts": 5},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=80,
        proxies={},  # nothing of the environment's
        # stores other than AWS may not know the newer checksums
        request_checksum_calculation="when_supported" if ours else "when_required",
        response_checksum_validation="when_supported" if ours else "when_required",
    )
    try:
        keys = {} if anonymous else await _keys(session, credentials, settings, error)
        client = await session.create_client(
            "s3", endpoint_url=settings.endpoint_url, region_name=settings.region, config=config, **keys
        ).__aenter__()
    except (BotoCoreError, ValueError) as exc:
        raise error(f"{settings.url}: {exc}") from exc
    try:
        yield client
    finally:
        with anyio.CancelScope(shield=True):
            await client.close()


async def _keys(
    session: AioSession, credentials: Credentials, settings: _Location, error: type[BatchError]
) -> Mapping[str, str | None]:
    """Arguments for the client; none if the SDK finds credentials by itself."""
    key_id, secret = credentials.aws_access_key_id, credentials.aws_secret_access_key
    if key_id and secret:
        return {
            "aws_access_key_id": key_id,
            "aws_secret_access_key": secret,
            "aws_session_token": credentials.aws_session_token,
        }
    if key_id or secret:
        missing = "AWS_SECRET_ACCESS_KEY" if key_id else "AWS_ACCESS_KEY_ID"
        raise error(f"{settings.url}: {missing} is missing; the other of the two is set")
    if await session.get_credentials() is None:
        hint = ', or read a public bucket with "anonymous": true' if error is IntakeError else ""
        raise error(f"{settings.url}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY{hint}")
    return {}


class _Noted(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is remembered of an upload."""

    key: str
    upload_id: str | None = None
    """None: it is about to be begun."""
    others: tuple[str, ...] = ()
    """Uploads of that key that were there before."""
    until: float = 0.0
    """One that began later, by the store's clock, is somebody else's."""

    def token(self) -> str:
        """As it stands in the journal."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def read_from(cls, token: str) -> "_Noted":
        """The other way."""
        return msgspec.json.decode(token, type=cls)


@dataclass(frozen=True)
class _Bucket:
    """A `Store`."""

    client: Any
    name: str
    encryption: ServerSideEncryption = field(default_factory=ServerSideEncryption)
    concurrency: int = 1
    errors: tuple[type[Exception], ...] = (ClientError, BotoCoreError)

    def url(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def explain(self, exc: Exception) -> str:
        if not isinstance(exc, ClientError):
            return str(exc)
        code = _code(exc)
        return _IN_WORDS.get(code) or f"{code}: {exc.response.get('Error', {}).get('Message') or 'no explanation'}"

    def broke_off(self, exc: Exception) -> bool:
        return isinstance(exc, ResponseStreamingError | ReadTimeoutError | ConnectionClosedError)

    async def find(self, key: str) -> Stored | None:
        try:
            head = await self.client.head_object(Bucket=self.name, Key=key, **self.encryption.on_access)
        except ClientError as exc:
            if _code(exc) in ("404", "NoSuchKey", "NotFound"):
                return None
            raise
        return Stored(key, head["ContentLength"], head.get("ETag"))

    async def list(self, directory: str) -> AsyncIterator[Stored]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=directory)
        async for page in pages:
            for row in page.get("Contents", ()):
                yield Stored(row["Key"], row["Size"], row.get("ETag"))

    async def fetch(self, stored: Stored, start: int, length: int) -> bytes:
        same = {"IfMatch": stored.version} if stored.version else {}
        answer = await self.client.get_object(
            Bucket=self.name, Key=stored.key, Range=f"bytes={start}-{start + length - 1}", **same
        )
        async with answer["Body"] as body:
            if stored.version and answer.get("ETag") != stored.version:  # not every store minds If-Match
                raise Changed
            data: bytes = await body.read()
        return data

    async def check_writable(self, key: str) -> None:
        """Send a part of an upload that does not exist: who may write there is told so, and nothing was begun."""
        to = {"Bucket": self.name, "Key": key, "UploadId": _NO_UPLOAD, "PartNumber": 1, "Body": b""}
        try:
            await self.client.upload_part(**to, **self.encryption.on_access)
        except ClientError as exc:
            if _code(exc) not in ("NoSuchUpload", "InvalidArgument"):
                raise

    async def begin(self, key: str, tasks: TaskGroup, leftovers: Leftovers, *, replace: bool) -> "_Multipart":
        attempt = await self._attempt(key)
        if attempt is not None:
            leftovers.note(attempt.token())
        try:
            upload_id, tries = await self._create(key)
        except self.errors:
            with suppress(*self.errors):
                await self._end_attempt(attempt)
            raise
        leftovers.note(_Noted(key, upload_id).token())
        if tries > 1:  # an earlier try may have begun one, too, and its answer was lost
            await self._end_attempt(attempt, but=upload_id)
        return _Multipart(self, key, upload_id, tasks, replace, anyio.Semaphore(self.concurrency))

    async def _create(self, key: str) -> tuple[str, int]:
        """Its id, and how many times the client asked."""
        answer = await self.client.create_multipart_upload(Bucket=self.name, Key=key, **self.encryption.on_creation)
        return answer["UploadId"], 1 + answer["ResponseMetadata"].get("RetryAttempts", 0)

    async def _attempt(self, key: str) -> "_Noted | None":
        """What tells an upload that is begun now from all others; None: the store does not let us see them."""
        try:
            uploads, now = await self._open_uploads(key)
        except ClientError:
            return None
        return _Noted(key, others=tuple(uploads), until=now + _BEGINNING_SECONDS)

    async def _open_uploads(self, key: str) -> tuple[dict[str, float], float]:
        """Ids of the unfinished uploads of exactly that key with their beginnings, and the store's time."""
        uploads: dict[str, float] = {}
        now = time.time()
        async for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=key):
            if date := page["ResponseMetadata"]["HTTPHeaders"].get("date"):
                now = parsedate_to_datetime(date).timestamp()
            rows = [row for row in page.get("Uploads", ()) if row["Key"] == key]
            uploads |= {row["UploadId"]: row["Initiated"].timestamp() for row in rows}
        return uploads, now

    async def end_leftovers(self, tokens: Sequence[str]) -> None:
        noted = [_Noted.read_from(token) for token in tokens]
        for note in noted:
            if note.upload_id is not None:
                await self._abort(note.key, note.upload_id)
        for note, after in pairwise([*noted, _Noted("")]):
            if note.upload_id is None and (after.key != note.key or after.upload_id is None):
                await self._end_attempt(note)

    async def _end_attempt(self, attempt: "_Noted | None", but: str | None = None) -> None:
        """Abort what it may have begun."""
        if attempt is None:
            return
        uploads, _ = await self._open_uploads(attempt.key)
        for upload_id, began in uploads.items():
            if upload_id != but and upload_id not in attempt.others and began <= attempt.until:
                await self._abort(attempt.key, upload_id)

    async def _abort(self, key: str, upload_id: str) -> None:
        """Until the store has forgotten it: a part that was still arriving may have been kept."""
        for _ in range(3):
            try:
                await self.client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload_id)
            except ClientError as exc:
                if _code(exc) in ("NoSuchUpload", "404"):
                    return
                raise

    async def delete(self, key: str) -> None:
        await self.client.delete_object(Bucket=self.name, Key=key)


@dataclass
class _Multipart:
    """An `Upload`."""

    bucket: _Bucket
    key: str
    upload_id: str
    tasks: TaskGroup
    replace: bool
    places: anyio.Semaphore
    tags: list[str] = field(default_factory=list)
    """ETag of each part, as far as they are there."""
    failure: Exception | None = None

    @property
    def part_bytes(self) -> int:
        """Grows, for there may be 10,000 parts at most: 268 GiB in all."""
        return _SMALLEST_PART * (1 + len(self.tags) // 1000)

    async def send(self, part: bytes) -> None:
        await self.places.acquire()
        if self.failure is not None:
            raise self.failure
        self.tags.append("")
        self.tasks.start_soon(self._send, len(self.tags), part)

    async def _send(self, number: int, part: bytes) -> None:
        """Keeps the error for `send` and `finish`: it belongs to whoever writes, not to the task."""
        try:
            answer = await self.bucket.client.upload_part(
                Bucket=self.bucket.name,
                Key=self.key,
                UploadId=self.upload_id,
                PartNumber=number,
                Body=part,
                **self.bucket.encryption.on_access,
            )
            self.tags[number - 1] = answer["ETag"]
        except self.bucket.errors as exc:
            self.failure = exc
        finally:
            self.places.release()

    async def finish(self, last: bytes) -> None:
        if last:
            await self.send(last)
        for _ in range(self.bucket.concurrency):
            await self.places.acquire()
        if self.failure is not None:
            raise self.failure
        try:
            await self._publish({} if self.replace else {"IfNoneMatch": "*"})
        except ClientError as exc:
            if _code(exc) == "NotImplemented" and not self.replace:  # an older store; our own look at it must do
                await self._publish({})
            elif not await self._is_there():
                raise

    async def _publish(self, condition: Mapping[str, str]) -> None:
        to = {"Bucket": self.bucket.name, "Key": self.key, **condition}
        encryption = self.bucket.encryption
        if self.tags:
            parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(self.tags, 1)]
            await self.bucket.client.complete_multipart_upload(
                **to, UploadId=self.upload_id, MultipartUpload={"Parts": parts}, **encryption.on_access
            )
        else:  # an upload without parts cannot be completed
            await self.bucket.client.put_object(**to, Body=b"", **encryption.on_creation)
            await self.abandon()

    async def _is_there(self) -> bool:
        """Whether it was completed after all: the answer to an earlier try may have been lost."""
        stored = await self.bucket.find(self.key)
        return stored is not None and bool(self.tags) and (stored.version or "").strip('"') == _tag_of(self.tags)

    async def abandon(self) -> None:
        await self.bucket._abort(self.key, self.upload_id)  # noqa: SLF001 - of this module


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))


def _tag_of(tags: list[str]) -> str | None:
    """The ETag of an object made of parts, where the store computes it as AWS does."""
    try:
        digests = b"".join(bytes.fromhex(tag.strip('"')) for tag in tags)
    except ValueError:
        return None
    return f"{md5(digests, usedforsecurity=False).hexdigest()}-{len(tags)}"
