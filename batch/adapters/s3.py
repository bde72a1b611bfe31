"""
S3, MinIO and whatever speaks like them.

A result is a multipart upload that is completed at the end; until then there is nothing under its key. What a killed
run left open is noted by its id, and aborted by the next run of the same job.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import md5
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
from batch.declared import key
from batch.errors import BatchError, IntakeError, OutputError
from batch.ports import NOTHING_LEFT, Intake, Leftovers, Output
from batch.settings import Credentials

_MEBIBYTE: Final = 1024 * 1024
_SMALLEST_PART: Final = 5 * _MEBIBYTE
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
        if not self.url.startswith("s3://") or not self.bucket or "/" not in self.url[5:] or "\0" in self.url:
            problems.append("url: expected s3://bucket/key")
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
        await self._abort(key, await self._create(key))

    async def begin(self, key: str, tasks: TaskGroup, leftovers: Leftovers, *, replace: bool) -> "_Multipart":
        upload_id = await self._create(key)
        leftovers.note(f"{upload_id} {key}")
        return _Multipart(self, key, upload_id, tasks, replace, anyio.Semaphore(self.concurrency))

    async def _create(self, key: str) -> str:
        answer = await self.client.create_multipart_upload(Bucket=self.name, Key=key, **self.encryption.on_creation)
        upload_id: str = answer["UploadId"]
        return upload_id

    async def end_leftover(self, token: str) -> None:
        upload_id, _, key = token.partition(" ")
        await self._abort(key, upload_id)

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
