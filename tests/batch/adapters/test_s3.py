"""What S3 can besides: addresses, credentials, parts, and what a killed run leaves."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from anyio import to_thread

from batch.adapters import s3
from batch.errors import OutputError
from batch.settings import Credentials
from tests.batch.adapters.conftest import MIB, Case
from tests.batch.jobs import ROOT, csv_text, people_rows
from tests.batch.test_cli import PROCESS
from tests.stores import NOT_IMPLEMENTED, S3, Seen

NOBODY = Credentials()


@pytest.fixture(autouse=True)
def _no_other_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """What the SDK would find on this machine."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


async def read(case: Case, name: str, **options: Any) -> bytes:
    async with case.intake(name, **options) as intake:
        return b"".join([block async for block in intake.read(intake.files[0])])


async def test_the_bucket_is_in_the_path_of_an_endpoint(moto: S3, moto_case: Case) -> None:
    moto_case.put("in.csv", b"a\n1\n")
    moto.record.clear()

    await read(moto_case, "in.csv")

    bucket = urlsplit(moto_case.address("")).netloc
    assert {urlsplit(seen.path).path for seen in moto.record.requests} == {f"/{bucket}/in.csv"}


async def test_the_bucket_is_in_the_host_if_asked_for(moto: S3, moto_case: Case, monkeypatch) -> None:
    """``path_style: false``; names below localtest lead to the store, as a hosts file would make them."""
    moto_case.put("in.csv", b"a\n1\n")
    moto.record.clear()
    bucket = urlsplit(moto_case.address("")).netloc
    port = urlsplit(moto.url).port
    resolve = socket.getaddrinfo

    def hosts(host, *arguments: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if str(host).endswith("localtest") else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hosts)

    data = await read(moto_case, "in.csv", path_style=False, endpoint_url=f"http://localtest:{port}")

    assert data == b"a\n1\n"
    first = moto.record.requests[0]
    assert (first.headers["host"], first.path) == (f"{bucket}.localtest:{port}", "/in.csv")


async def test_the_session_token_is_with_every_request(nanio: S3, nanio_case: Case) -> None:
    nanio_case.put("in.csv", b"a\n1\n")
    nanio.record.clear()
    temporary = Credentials(aws_access_key_id=nanio.key_id, aws_secret_access_key=nanio.secret, aws_session_token="TOK")

    async with nanio_case.output("out.csv", credentials=temporary) as output, output.open_file(None) as write:
        await write(await read(nanio_case, "in.csv", credentials=temporary))

    assert nanio_case.stored()["out.csv"] == b"a\n1\n"
    ours = [seen for seen in nanio.record.requests if "Boto3" not in seen.headers["user-agent"]]
    assert len(ours) > 5
    assert {seen.headers.get("x-amz-security-token") for seen in ours} == {"TOK"}


async def test_a_public_bucket_is_read_without_credentials(moto: S3, moto_case: Case) -> None:
    moto_case.put("in.csv", b"a\n1\n")
    moto.client().put_object_acl(Bucket=urlsplit(moto_case.address("")).netloc, Key="in.csv", ACL="public-read")
    moto.record.clear()

    with moto.open_to_all():
        data = await read(moto_case, "in.csv", anonymous=True, credentials=NOBODY)

    assert data == b"a\n1\n"
    ours = [seen for seen in moto.record.requests if seen.path.startswith("/t-")]
    assert ours
    assert not any("authorization" in seen.headers for seen in ours)


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        pytest.param(NOBODY, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", id="none"),
        pytest.param(Credentials(aws_access_key_id="A"), "AWS_SECRET_ACCESS_KEY is missing", id="no secret"),
        pytest.param(Credentials(aws_secret_access_key="B"), "AWS_ACCESS_KEY_ID is missing", id="no key"),
    ],
)
async def test_an_output_is_never_anonymous(nanio: S3, nanio_case: Case, credentials, message: str) -> None:
    nanio.record.clear()

    with pytest.raises(OutputError, match=message):
        async with nanio_case.output("out.csv", credentials=credentials):
            pytest.fail("entered")  # pragma: no cover
    assert not nanio.record.requests


async def test_a_large_object_is_read_in_ranges(nanio: S3, nanio_case: Case) -> None:
    data = bytes(range(250)) * (25 * MIB // 250) + b"0" * (25 * MIB % 250)
    nanio_case.put("in.csv", data)
    nanio.record.clear()

    assert await read(nanio_case, "in.csv", part_size=5 * MIB) == data

    ranges = [seen.headers["range"] for seen in nanio.record.requests if seen.method == "GET"]
    assert sorted(ranges) == sorted(f"bytes={start}-{start + 5 * MIB - 1}" for start in range(0, 25 * MIB, 5 * MIB))
    assert nanio.record.most_at_once["GET"] > 1


async def test_parts_are_written_at_once(nanio: S3, nanio_case: Case) -> None:
    async with (
        nanio_case.output("out.csv", write_concurrency=4) as output,
        output.open_file(None) as write,
    ):
        for _ in range(25):
            await write(b"x" * MIB)

    bucket = urlsplit(nanio_case.address("")).netloc
    assert nanio.record.most_at_once["PUT"] == 4
    assert nanio.client().head_object(Bucket=bucket, Key="out.csv")["ETag"].endswith('-5"')


@pytest.mark.parametrize("number", [1, 3], ids=["first part", "last part"])
async def test_a_part_that_fails_leaves_nothing(nanio: S3, nanio_case: Case, number: int) -> None:
    nanio.record.refuse = lambda seen: f"partNumber={number}&" in f"{seen.path}&"

    with pytest.raises(OutputError, match=r"out\.csv: 400"):
        async with nanio_case.output("out.csv") as output, output.open_file(None) as write:
            await write(b"x" * (12 * MIB))

    assert nanio_case.stored() == {}
    assert not nanio_case.unfinished()


async def test_a_directory_that_fails_at_its_end_is_taken_back(nanio: S3, nanio_case: Case) -> None:
    nanio_case.put("out/before.csv", b"stays")
    nanio.record.refuse = lambda seen: seen.method == "POST" and "2.csv?uploadId" in seen.path

    with pytest.raises(OutputError, match=r"2\.csv"):
        async with nanio_case.output("out/", write_mode="error") as output:
            for name in ("1.csv", "2.csv"):
                async with output.open_file(name) as write:
                    await write(b"x")

    assert nanio_case.stored() == {"out/before.csv": b"stays"}
    assert not nanio_case.unfinished()


class Noted:
    """What a journal keeps."""

    def __init__(self, *found: str) -> None:
        self.found = found
        self.noted: list[str] = []

    def note(self, token: str) -> None:
        self.noted.append(token)


def upload_id(noted: Noted) -> str:
    """Of the upload that was noted last."""
    found: str = json.loads(noted.noted[-1])["upload_id"]
    return found


async def test_what_a_killed_run_left_is_aborted(nanio: S3, nanio_case: Case) -> None:
    """A run that is killed is one whose output is never left: its upload stays, and only its token is known."""
    noted = Noted()
    killed = nanio_case.output("out.csv", leftovers=noted)
    output = await killed.__aenter__()
    await output.open_file(None).__aenter__()
    assert nanio_case.unfinished() == ["out.csv"]

    async with nanio_case.output("out.csv", leftovers=Noted(*noted.noted)) as output:
        assert nanio_case.unfinished() == []
        async with output.open_file(None) as write:
            await write(b"1")

    assert nanio_case.stored() == {"out.csv": b"1"}
    await killed.__aexit__(RuntimeError, RuntimeError(), None)


def batch(store: S3, job: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """The command, in a process that can be killed."""
    keys = {"AWS_ACCESS_KEY_ID": store.key_id, "AWS_SECRET_ACCESS_KEY": store.secret}
    command = [sys.executable, "-c", PROCESS, str(job), "--state-dir", str(job.parent / "state"), *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | keys, stderr=subprocess.PIPE)


def begins(seen: Seen) -> bool:
    """Whether a request begins an upload."""
    return seen.method == "POST" and seen.path.endswith("?uploads")


@pytest.mark.parametrize("arguments", [[], ["--restart"]], ids=["again", "restart"])
@pytest.mark.parametrize("place", ["out.csv", "out/"])
async def test_an_upload_whose_id_never_came_is_aborted(
    place: str, arguments: list[str], nanio: S3, nanio_case: Case, server: str, tmp_path: Path
) -> None:
    """Killed when the store has begun it and before its answer; uploads of others stay, also of the same object."""
    key = place if place == "out.csv" else "out/part-00000.csv"
    client, bucket = nanio.client(), urlsplit(nanio_case.address("")).netloc
    others = {name: client.create_multipart_upload(Bucket=bucket, Key=name)["UploadId"] for name in (key, f"{key}.bak")}
    (tmp_path / "in.csv").write_text(csv_text(people_rows(50)), newline="")
    job = tmp_path / "job.json"
    output = {"type": "s3", "url": nanio_case.address(place), **nanio_case.options}
    intake = {"type": "filesystem", "path": f"{tmp_path}/in.csv"}
    job.write_text(json.dumps({"prediction_endpoint": server, "intake_settings": intake, "output_settings": output}))
    killed = batch(nanio, job)

    def kill(seen: Seen) -> None:
        if begins(seen):
            killed.kill()
            killed.wait()

    nanio.record.answering = kill
    await to_thread.run_sync(killed.communicate)
    assert killed.returncode == -signal.SIGKILL
    assert len(nanio_case.unfinished()) == 3

    nanio.record.answering = lambda seen: None
    again = batch(nanio, job, *arguments)
    _, said = await to_thread.run_sync(again.communicate)

    assert again.returncode == 0, said.decode()
    assert list(nanio_case.stored()) == [key]
    rows = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert sorted((row["Key"], row["UploadId"]) for row in rows) == sorted(others.items())


async def test_an_upload_begun_twice_is_ended_once(nanio: S3, nanio_case: Case) -> None:
    """The answer to the first try is lost, and the client asks again."""
    lost: list[Seen] = []

    def lose(seen: Seen) -> None:
        if begins(seen) and not lost:
            lost.append(seen)
            raise ConnectionError("lost")

    nanio.record.answering = lose
    async with nanio_case.output("out.csv") as output, output.open_file(None) as write:
        await write(b"1")

    assert lost
    assert nanio_case.stored() == {"out.csv": b"1"}
    assert not nanio_case.unfinished()


async def test_looking_begins_no_upload(nanio: S3, nanio_case: Case) -> None:
    async with nanio_case.output("out.csv"):
        assert not [seen for seen in nanio.record.requests if begins(seen)]


async def test_uploads_that_may_not_be_listed_are_begun_all_the_same(nanio: S3, nanio_case: Case) -> None:
    nanio.record.refuse = lambda seen: seen.method == "GET" and "uploads" in seen.path
    nanio.record.refusal = (403, b"<Error><Code>AccessDenied</Code></Error>")

    async with nanio_case.output("out.csv") as output, output.open_file(None) as write:
        await write(b"1")

    assert nanio_case.stored() == {"out.csv": b"1"}


async def test_a_lost_answer_to_the_completion_is_no_failure(nanio: S3, nanio_case: Case) -> None:
    """The upload is completed behind our back, as a first try whose answer was lost would have done."""
    bucket, client, noted = urlsplit(nanio_case.address("")).netloc, nanio.client(), Noted()
    async with (
        nanio_case.output("out.csv", leftovers=noted, write_mode="overwrite") as output,
        output.open_file(None) as write,
    ):
        await write(b"x" * (5 * MIB))
        upload = {"Bucket": bucket, "Key": "out.csv", "UploadId": upload_id(noted)}
        while not (parts := (await to_thread.run_sync(lambda: client.list_parts(**upload))).get("Parts")):
            pass
        chosen = [{"PartNumber": part["PartNumber"], "ETag": part["ETag"]} for part in parts]
        await to_thread.run_sync(lambda: client.complete_multipart_upload(**upload, MultipartUpload={"Parts": chosen}))

    assert nanio_case.stored() == {"out.csv": b"x" * (5 * MIB)}


async def test_an_upload_that_somebody_else_aborted_is_a_failure(nanio: S3, nanio_case: Case) -> None:
    noted = Noted()
    with pytest.raises(OutputError, match="NoSuchUpload"):
        async with nanio_case.output("out.csv", leftovers=noted) as output, output.open_file(None) as write:
            await write(b"x" * (5 * MIB))
            nanio.client().abort_multipart_upload(
                Bucket=urlsplit(nanio_case.address("")).netloc,
                Key="out.csv",
                UploadId=upload_id(noted),
            )


async def test_a_store_without_conditions_is_asked_without_them(nanio: S3, nanio_case: Case) -> None:
    """As OpenStack Swift: everything but the condition works."""
    nanio.record.refuse = lambda seen: "if-none-match" in seen.headers
    nanio.record.refusal = NOT_IMPLEMENTED

    for name, data in (("empty.csv", b""), ("out.csv", b"1")):
        async with nanio_case.output(name) as output, output.open_file(None) as write:
            await write(data)

    assert nanio_case.stored() == {"empty.csv": b"", "out.csv": b"1"}
    assert not nanio_case.unfinished()


async def test_encryption_settings_are_sent(moto: S3, moto_case: Case) -> None:
    encryption = s3.ServerSideEncryption(algorithm="aws:kms", kms_key_id="key-1")

    async with (
        moto_case.output("out.csv", server_side_encryption=encryption) as output,
        output.open_file(None) as write,
    ):
        await write(b"1")

    head = moto.client().head_object(Bucket=urlsplit(moto_case.address("")).netloc, Key="out.csv")
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "key-1")


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://bucket",
        "s3:///key",
        "https://bucket/key",
        "s3://bu/\0",
        "s3://../key",
        "s3://a..b/k",
        "s3://b?c/k",
    ],
)
def test_odd_urls(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape("url: expected s3://bucket/key")):
        s3.IntakeSettings(url=url)


@pytest.mark.parametrize(
    ("endpoint", "address", "message"),
    [
        pytest.param(
            "http://store.example", "8.8.8.8", "is at the public address 8.8.8.8, expected https", id="public"
        ),
        pytest.param("http://store.example", "::ffff:8.8.8.8", "expected https", id="public in IPv6"),
        pytest.param("https://store.example", "169.254.77.77", "is the link-local address 169.254.77.77", id="local"),
        pytest.param("http://store.example", "::ffff:169.254.77.77", "link-local", id="local in IPv6"),
    ],
)
async def test_endpoints_that_no_job_may_choose(endpoint: str, address: str, message: str, monkeypatch) -> None:
    """By where their names lead; before anything is sent there."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(None, None, 0, "", (address, 0))])
    settings = s3.OutputSettings(url="s3://b/x", endpoint_url=endpoint)

    with pytest.raises(OutputError, match=f"endpoint_url: store.example {message}|{message}"):
        async with s3.open_output(settings, Credentials(aws_access_key_id="A", aws_secret_access_key="B")):
            pytest.fail("entered")  # pragma: no cover


def test_an_endpoint_is_a_url() -> None:
    with pytest.raises(ValueError, match="endpoint_url: expected an http or https URL"):
        s3.IntakeSettings(url="s3://b/x", endpoint_url="127.0.0.1:9000")
