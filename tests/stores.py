"""
Object stores for tests, each started on a free port and reached by a client other than ours.

S3 twice (moto, which knows users and permissions, and nanio, which is small and keeps files), Azurite, an emulator of
Google's JSON API, and a plain HTTP server.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode
from xml.etree import ElementTree

import boto3
import httpx
import pytest
import uvicorn
from botocore.config import Config
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from gcp_storage_emulator.server import create_server
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.exceptions import NoSuchUpload
from moto.s3.models import S3Backend
from nanio.app import build_app
from nanio.auth.credentials import StaticCredentialResolver
from nanio.config import Settings as NanioSettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from werkzeug.serving import make_server

from batch.settings import Credentials

AZURITE = Path(__file__).parent.parent / ".tools/azurite/node_modules/.bin/azurite-blob"
AZURITE_ACCOUNT = "devstoreaccount1"
# published by its makers; a stand-in for a secret, and none itself
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


NOT_IMPLEMENTED = (501, b"<Error><Code>NotImplemented</Code><Message>A header means something else.</Message></Error>")


def is_missing(what: str) -> None:
    """Skip, saying so; where everything must be there, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"not installed here: {what}; with CI=true nothing is skipped", pytrace=False)
    pytest.skip(f"not installed here: {what}")


@dataclass(frozen=True)
class Seen:
    """One request to a store."""

    method: str
    path: str
    """With its query, percent-encoded."""
    headers: dict[str, str]
    """Names in lower case."""


@dataclass
class Record:
    """What a store was asked, and how many requests of a kind were under way at once."""

    requests: list[Seen] = field(default_factory=list)
    most_at_once: dict[str, int] = field(default_factory=dict)
    refuse: Callable[[Seen], bool] = lambda seen: False
    """Requests to be answered with `refusal` instead; tests set both."""
    refusal: tuple[int, bytes] = (400, b"")
    answering: Callable[[Seen], None] = lambda seen: None
    """Called when a request has had its effect, and nobody knows yet; what it raises becomes a 500."""
    _under_way: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def of(self, seen: Seen) -> Iterator[bool]:
        """Count a request while it is answered; True if it is to be refused."""
        with self._lock:
            self.requests.append(seen)
            self._under_way[seen.method] = now = self._under_way.get(seen.method, 0) + 1
            self.most_at_once[seen.method] = max(now, self.most_at_once.get(seen.method, 0))
        try:
            yield self.refuse(seen)
        finally:
            with self._lock:
                self._under_way[seen.method] -= 1

    def clear(self) -> None:
        """Begin anew."""
        self.requests.clear()
        self.most_at_once.clear()
        self.refuse, self.refusal = (lambda seen: False), (400, b"")
        self.answering = lambda seen: None


@dataclass
class RecordedAsgi:
    """An app whose requests are recorded."""

    app: Any
    record: Record

    async def __call__(self, scope, receive, send):
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        seen = Seen(scope["method"], scope["raw_path"].decode() + (f"?{query}" if query else ""), headers)

        async def answer(message):
            if message["type"] == "http.response.start":
                self.record.answering(seen)
            await send(message)

        with self.record.of(seen) as is_refused:
            status, body = self.record.refusal
            app = Response(body, status, media_type="application/xml") if is_refused else self.app
            await app(scope, receive, answer)


@contextmanager
def served(app: Any) -> Iterator[str]:
    """An ASGI app on a thread; yields its URL. Its socket listens before, so nobody has to wait."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@dataclass
class S3:
    """A store that speaks S3."""

    url: str
    key_id: str
    secret: str
    record: Record = field(default_factory=Record)

    def client(self, **options: Any) -> Any:
        """Of the vendor, for looking from outside."""
        config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
        keys = {"aws_access_key_id": self.key_id, "aws_secret_access_key": self.secret}
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", config=config, **{**keys, **options})

    @contextmanager
    def open_to_all(self) -> Iterator[None]:
        """moto asks nobody who they are; without that, it breaks at requests that do not say it."""
        httpx.post(f"{self.url}/moto-api/reset-auth", content=b"inf").raise_for_status()
        yield
        httpx.post(f"{self.url}/moto-api/reset-auth", content=b"0").raise_for_status()

    @property
    def credentials(self) -> Credentials:
        return Credentials(aws_access_key_id=self.key_id, aws_secret_access_key=self.secret)


_upload_part = S3Backend.upload_part


def _upload_part_of_a_known_upload(backend: S3Backend, bucket_name: str, multipart_id: str, *rest: Any) -> Any:
    """moto breaks where the upload does not exist; S3 says so."""
    if multipart_id not in backend.get_bucket(bucket_name).multiparts:
        raise NoSuchUpload(upload_id=multipart_id)
    return _upload_part(backend, bucket_name, multipart_id, *rest)


@pytest.fixture(scope="session", name="moto")
def started_moto() -> Iterator[S3]:
    """With checked signatures and permissions; one user who may use S3."""
    record = Record()
    app = DomainDispatcherApplication(create_backend_app)

    def recorded(environ, start_response):
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith(("HTTP_", "CONTENT_"))
        }
        with record.of(Seen(environ["REQUEST_METHOD"], environ["REQUEST_URI"], headers)):
            return app(environ, start_response)

    server = make_server("127.0.0.1", 0, recorded, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    iam = boto3.client(
        "iam", endpoint_url=url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    iam.create_user(UserName="tester")
    access = iam.create_access_key(UserName="tester")["AccessKey"]
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="tester", PolicyName="s3", PolicyDocument=json.dumps(allowed))
    httpx.post(f"{url}/moto-api/reset-auth", content=b"0").raise_for_status()
    with pytest.MonkeyPatch.context() as mended:
        mended.setattr(S3Backend, "upload_part", _upload_part_of_a_known_upload)
        yield S3(url, access["AccessKeyId"], access["SecretAccessKey"], record)
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture(scope="session", name="nanio")
def started_nanio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A small S3 server that checks signatures."""
    record = Record()
    settings = NanioSettings(
        data_dir=tmp_path_factory.mktemp("nanio"), credentials=StaticCredentialResolver({"tester": "a" * 32})
    )
    with served(RecordedAsgi(build_app(settings), record)) as url:
        yield S3(url, "tester", "a" * 32, record)


@dataclass
class Azurite:
    """Microsoft's emulator of its Blob service."""

    url: str
    """Of the account."""

    @property
    def connection_string(self) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};"
            f"BlobEndpoint={self.url};"
        )

    def signature(self, permissions: str = "rwdlac") -> str:
        """A shared access signature for the account, for an hour."""
        until = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        stated = {"sv": "2021-12-02", "ss": "b", "srt": "sco", "sp": permissions, "se": until}
        text = "\n".join([AZURITE_ACCOUNT, permissions, "b", "sco", "", until, "", "", "2021-12-02", "", ""])
        digest = hmac.new(base64.b64decode(AZURITE_KEY), text.encode(), hashlib.sha256).digest()
        return urlencode({**stated, "sig": base64.b64encode(digest).decode()})

    def ask(self, method: str, path: str, query: str = "", **options: Any) -> httpx.Response:
        """By REST, with a signature."""
        answer = httpx.request(method, f"{self.url}/{path}?{query}&{self.signature()}", **options)
        answer.raise_for_status()
        return answer

    def names(self, container: str) -> list[str]:
        answer = self.ask("GET", container, "restype=container&comp=list")
        return [node.text or "" for node in ElementTree.fromstring(answer.content).iter("Name")]


@pytest.fixture(scope="session", name="azurite")
def started_azurite() -> Iterator[Azurite]:
    command = AZURITE if AZURITE.exists() else shutil.which("azurite-blob")
    if command is None or shutil.which("node") is None:
        is_missing("azurite (tools/setup.sh system installs it into .tools, from npm)")
    arguments = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"]
    options = ["--disableTelemetry", "--silent", "--skipApiVersionCheck"]
    process = subprocess.Popen([str(command), *arguments, *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = ""
    while not (found := re.search(r"successfully listens on (http://\S+)", said)):
        line = process.stdout.readline()
        assert line, said
        said += line
    try:
        yield Azurite(f"{found[1]}/{AZURITE_ACCOUNT}")
    finally:
        process.terminate()
        process.communicate(timeout=10)


@dataclass
class Gcs:
    """Google's JSON API, and an endpoint that gives tokens for one service account."""

    url: str
    token_url: str
    keyfile: Path
    tokens: list[str]
    """Scopes of the tokens that were asked for with a good signature."""

    def put(self, bucket: str, name: str, data: bytes) -> None:
        # not uploadType=media: the emulator dies of an empty body
        address = f"{self.url}/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
        described = json.dumps({"name": name}).encode()
        parts = [(b"application/json", described), (b"text/csv", data)]
        body = b"".join(b"--=\r\ncontent-type: %s\r\n\r\n%s\r\n" % part for part in parts) + b"--=--"
        headers = {"content-type": 'multipart/related; boundary="="'}
        httpx.post(address, content=body, headers=headers).raise_for_status()

    def stored(self, bucket: str) -> dict[str, bytes]:
        rows = httpx.get(f"{self.url}/storage/v1/b/{bucket}/o").raise_for_status().json().get("items", [])
        at = f"{self.url}/download/storage/v1/b/{bucket}/o"
        return {
            row["name"]: httpx.get(f"{at}/{quote(row['name'], safe='')}?alt=media").raise_for_status().content
            for row in rows
        }


def keyfile_for(private: rsa.RSAPrivateKey, token_url: str, path: Path) -> Path:
    """A service account's key, as Google's console gives it."""
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    stated = {
        "type": "service_account",
        "project_id": "tests",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": "tester@tests.example",
        "client_id": "1",
        "token_uri": token_url,
    }
    path.write_text(json.dumps(stated))
    return path


@pytest.fixture(scope="session", name="gcs")
def started_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gcs]:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    tokens: list[str] = []

    async def token(request: Request) -> Response:
        signed = parse_qs((await request.body()).decode())["assertion"][0]
        stated, _, signature = signed.rpartition(".")
        try:
            private.public_key().verify(_unpadded(signature), stated.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return JSONResponse({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 400)
        tokens.append(json.loads(_unpadded(stated.partition(".")[2]))["scope"])
        return JSONResponse({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})

    emulator = create_server("127.0.0.1", 0, in_memory=True)
    emulator.start()
    port = emulator._api._httpd.server_port
    with served(Starlette(routes=[Route("/token", token, methods=["POST"])])) as url:
        path = tmp_path_factory.mktemp("gcs") / "key.json"
        yield Gcs(f"http://127.0.0.1:{port}", f"{url}/token", keyfile_for(private, f"{url}/token", path), tokens)
    emulator.stop()


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Web:
    """An HTTP server that keeps what is put."""

    url: str
    files: dict[str, bytes]
    record: Record
    answers: list[Response] = field(default_factory=list)
    """Given instead, one for each of the next requests."""
    has_ranges: bool = True


@pytest.fixture(name="web")
def started_web() -> Iterator[Web]:
    files: dict[str, bytes] = {}

    async def answer(request: Request) -> Response:
        if store.answers:
            return store.answers.pop(0)
        name = request.url.path[1:]
        if request.method in ("PUT", "POST"):
            files[name] = await request.body()
            return Response(status_code=201)
        if request.method == "OPTIONS":
            return Response(status_code=204)
        if name not in files:
            return Response(status_code=404)
        return _part_of(files[name], request.headers.get("range") if store.has_ranges else None)

    record = Record()
    app = Starlette(routes=[Route("/{name:path}", answer, methods=["GET", "PUT", "POST", "OPTIONS"])])
    with served(RecordedAsgi(app, record)) as url:
        store = Web(url, files, record)
        yield store


def _part_of(data: bytes, wanted: str | None) -> Response:
    headers = {"etag": f'"{hashlib.sha256(data).hexdigest()}"'}
    if wanted is None:
        return Response(data, 200, headers)
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last or len(data)), len(data) - 1)
    if start >= len(data):
        return Response(status_code=416, headers={**headers, "content-range": f"bytes */{len(data)}"})
    return Response(data[start : end + 1], 206, {**headers, "content-range": f"bytes {start}-{end}/{len(data)}"})


def fresh_name() -> str:
    """For a bucket or container of one test."""
    return f"t-{uuid.uuid4().hex[:20]}"
