"""Uploads and deletions over HTTP, in this process and against server processes."""

import contextlib
import ctypes
import errno
import os
import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from model_repository.deployments import Repository
from model_repository.signing import new_key_pair
from model_repository.uploads import Store
from prediction_api.many import Deployer, create_app_of_many
from prediction_api.settings import Settings
from tests.prediction_api.server_process import Answer, ServerProcess, everything_from, serving, until
from tests.prediction_api.versions import BODY, JSON, PACKAGE, Client, clients_of, multipart

TOKEN = "very-s3cret"
SERVER = ("prediction_api",)
CLOSED = b"Connection: close"
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z [^\0-\x1f\x7f]+")
PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER = 1, 2, 3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def manager(root: Path, make_client, validator):
    """A client of an app over an empty repository that takes uploads."""

    def make(*, max_deployments: int = 10, **options: object) -> httpx.AsyncClient:
        root.mkdir()
        settings = Settings(model_repository_path=root, **{"host": "0.0.0.0", **options})  # type: ignore[arg-type]
        store = Store(root, validator, max_bytes=settings.upload_max_bytes, max_deployments=max_deployments)
        return make_client(create_app_of_many(Repository(root, build=Deployer(settings), store=store), settings))

    return make


def files(root: Path) -> list[str]:
    """Everything but the lock of the store."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != "lock")


async def predict(client: httpx.AsyncClient, name: str) -> httpx.Response:
    return await client.post(f"/deployments/{name}/predictions", content=BODY, headers=JSON)


# What comes


async def test_upload_replace_delete(manager, root, versions):
    client = manager()
    created = await client.post("/deployments/fraud", content=versions[0].package, headers=PACKAGE)
    assert (created.status_code, created.headers["location"]) == (201, "/deployments/fraud/info")
    assert created.json() == {"id": "fraud", "outcome": "created"}
    assert (await predict(client, "fraud")).content == versions[0].answers[0.5]
    replaced = await client.post("/v1.0/deployments/fraud/", content=versions[1].package, headers=PACKAGE)
    assert (replaced.status_code, replaced.json()["outcome"]) == (200, "replaced")
    assert (await predict(client, "fraud")).content == versions[1].answers[0.5]
    deleted = await client.delete("/deployments/fraud")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await predict(client, "fraud")).status_code == 404
    assert (await client.delete("/deployments/fraud")).status_code == 404
    assert files(root) == []


async def test_multipart_with_configuration(manager, versions):
    """A configuration stays until another one comes."""
    client = manager()
    body, headers = multipart(config=b"prediction_threshold: 0.9\ndeployment_id: d1", file=versions[0].package)
    assert (await client.post("/deployments/fraud", content=body, headers=headers)).status_code == 201
    assert (await predict(client, "d1")).content == versions[0].answers[0.9]
    await client.post("/deployments/fraud", content=versions[1].package, headers=PACKAGE)
    assert (await predict(client, "fraud")).content == versions[1].answers[0.9]
    body, headers = multipart(file=versions[1].package, config=b"")
    assert (await client.post("/deployments/fraud", content=body, headers=headers)).status_code == 200
    assert (await predict(client, "fraud")).content == versions[1].answers[0.5]
    assert (await predict(client, "d1")).status_code == 404


async def test_uploads_come_in_chunks(manager, versions):
    async def pieces():
        for start in range(0, len(versions[0].package), 100):
            yield versions[0].package[start : start + 100]

    client = manager()
    assert (await client.post("/deployments/fraud", content=pieces(), headers=PACKAGE)).status_code == 201
    assert (await predict(client, "fraud")).content == versions[0].answers[0.5]


# What is refused


def refusals():
    form, form_type = multipart(config=b"a: b")
    bad_config, _ = multipart(file=b"{good}", config=b"prediction_threshold: 7")
    octets = PACKAGE["Content-Type"]
    return [
        pytest.param("fraud", b"", octets, {}, 422, "0 bytes are too few", id="empty"),
        pytest.param("fraud", b"PK" * 999, octets, {}, 422, "not a package", id="no package"),
        pytest.param("fraud", b"{cut}", octets, {}, 422, "not a package, or cut off", id="cut off"),
        pytest.param("fraud", b"{flipped}", octets, {}, 422, "", id="one bit flipped"),
        pytest.param("fraud", b"{good}", "text/plain", {}, 415, "'text/plain' is not a package", id="simple request"),
        pytest.param("fraud", b"{good}", "", {}, 415, "Content-Type", id="no type"),
        pytest.param("fraud", b"{good}", octets, {"Content-Encoding": "gzip"}, 415, "Content-Encoding", id="gzip"),
        pytest.param("fraud", b"{good}", octets, {"Content-Encoding": "br"}, 415, "Content-Encoding", id="br"),
        pytest.param("fraud", form, form_type["Content-Type"], {}, 400, "no part file", id="no file"),
        pytest.param("fraud", bad_config, form_type["Content-Type"], {}, 422, "prediction_threshold", id="config"),
        pytest.param("a..b", b"{good}", octets, {}, 422, "deployment id 'a..b'", id="id"),
        pytest.param("%2e%2e", b"{good}", octets, {}, 422, "deployment id '%2e%2e'", id="encoded id"),
        pytest.param("fraud?token=x", b"{good}", octets, {}, 422, "token is not allowed key", id="query"),
        pytest.param("fraud", b"{good}", octets, {"Origin": "http://evil"}, 403, "another origin", id="origin"),
        pytest.param("a/b", b"{good}", octets, {}, 404, "no such route", id="two names"),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "content_type", "headers", "status", "message"), refusals())
async def test_bad_uploads_change_nothing(manager, root, versions, name, body, content_type, headers, status, message):
    client = manager()
    await client.post("/deployments/fraud", content=versions[0].package, headers=PACKAGE)
    before = files(root)
    good = versions[1].package
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for mark, content in ((b"{good}", good), (b"{cut}", good[:-100]), (b"{flipped}", bytes(flipped))):
        body = body.replace(mark, content)
    answer = await client.post(f"/deployments/{name}", content=body, headers={"Content-Type": content_type, **headers})
    assert answer.status_code == status, answer.text
    assert message in answer.json()["message"]
    assert "access-control-allow-origin" not in answer.headers
    assert files(root) == before
    assert (await predict(client, "fraud")).content == versions[0].answers[0.5]


@pytest.mark.parametrize("announced", [True, False])
async def test_too_large(manager, root, versions, announced):
    async def pieces():
        yield versions[0].package

    client = manager(upload_max_bytes=1000)
    content = versions[0].package if announced else pieces()
    answer = await client.post("/deployments/fraud", content=content, headers=PACKAGE)
    assert answer.status_code == 413
    assert "1000" in answer.json()["message"]
    assert files(root) == []


async def test_too_many(manager, root, versions):
    client = manager(max_deployments=1)
    answers = [
        await client.post(f"/deployments/{name}", content=versions[0].package, headers=PACKAGE) for name in "aba"
    ]
    assert [answer.status_code for answer in answers] == [201, 409, 200]
    assert answers[1].json() == {"message": "the repository has 1 deployments, and may have no more"}
    assert files(root) == ["a/model.mlpkg"]


async def test_no_room(manager, root, versions, monkeypatch):
    """The file system has no space left: a status of its own, and nothing stays behind."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    client = manager()
    with monkeypatch.context() as patch:
        patch.setattr("model_repository.uploads.os.write", full)
        answer = await client.post("/deployments/fraud", content=versions[0].package, headers=PACKAGE)
    assert answer.status_code == 507
    assert "no space left" in answer.json()["message"]
    assert files(root) == []


@pytest.mark.parametrize(
    ("options", "headers", "status", "challenge"),
    [
        pytest.param({"model_management_enabled": False}, {}, 403, None, id="switched off"),
        pytest.param({"management_token": TOKEN}, {}, 401, "Bearer", id="no token"),
        pytest.param({"management_token": TOKEN}, {"Authorization": "Bearer no"}, 401, "Bearer", id="wrong token"),
        pytest.param({"management_token": TOKEN}, {"Authorization": f"Bearer {TOKEN}"}, 201, None, id="token"),
        pytest.param({}, {"Authorization": "Bearer whatever"}, 201, None, id="a token nobody asked for"),
        pytest.param({"host": "127.0.0.1"}, {"Host": "evil.example"}, 403, None, id="a foreign name for this machine"),
        pytest.param({"host": "127.0.0.1"}, {"Host": "localhost:8080"}, 201, None, id="localhost"),
    ],
)
async def test_who_may(manager, root, versions, options, headers, status, challenge):
    client = manager(**options)
    answer = await client.post("/deployments/fraud", content=versions[0].package, headers=PACKAGE | headers)
    assert answer.status_code == status
    assert answer.headers.get("www-authenticate") == challenge
    deleted = await client.delete("/deployments/fraud", headers=headers)
    assert deleted.status_code == (204 if status == 201 else status)
    assert files(root) == []
    assert (await client.get("/deployments", headers=headers)).status_code == 200


# Real servers


def test_a_bare_directory_serves_uploads_to_every_worker(tmp_path, versions):
    """After the 2xx each worker answers new, although none looks at the files for a minute."""
    with serving(*SERVER, workers=2, model_repository_path=tmp_path) as server, clients_of(server, 4) as clients:
        for turn in range(12):
            version = versions[turn % 3]
            answer = clients[turn % 4].upload("fraud", version.package)
            assert answer.status == (200 if turn else 201)
            assert [client.predict("fraud").body for client in clients] == [version.answers[0.5]] * 4
        assert clients[0].ask("DELETE", "/deployments/fraud").status == 204
        assert [client.predict("fraud").status for client in clients] == [404] * 4
        assert finished_in_the_end(server, "late", versions[0].package) == [201]
        assert (tmp_path / "late" / "model.mlpkg").read_bytes() == versions[0].package


def finished_in_the_end(server: ServerProcess, name: str, package: bytes) -> list[int]:
    """The answer to an upload of which half had come when the server was told to end."""
    root = raw_server_root(server)
    head = b"POST /deployments/%b HTTP/1.1\r\nHost: localhost\r\n%b\r\nContent-Length: %d\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head % (name.encode(), OCTETS, len(package)) + package[:1000])
        until(lambda: files(root), "the upload has begun")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.status_of("/ping") != 200, "it drains")
        connection.sendall(package[1000:])
        answer = Answer(everything_from(connection))
    assert server.process.wait(10) == 0
    return answer.statuses


def test_secrets_stay_secret(tmp_path, versions):
    """The token is in no log, no answer and no list of processes, also not of who sends it in the wrong place."""
    with serving(
        *SERVER, model_repository_path=tmp_path, management_token=TOKEN, log_level="debug", host="0.0.0.0"
    ) as server, clients_of(server, 1) as [client]:  # fmt: skip
        answers = [
            client.ask("POST", "/deployments/a", versions[0].package, PACKAGE | {"Authorization": f"Bearer {TOKEN}"}),
            client.ask("POST", f"/deployments/a?token={TOKEN}", versions[0].package, PACKAGE),
            client.ask("POST", "/deployments/a", versions[0].package, PACKAGE | {"Authorization": f"Basic {TOKEN}"}),
            client.ask("GET", "/info"),
        ]
        assert [answer.status for answer in answers] == [201, 401, 401, 200]
        assert answers[3].json["exposure"] == "token"
        assert not any(TOKEN.encode() in answer.body for answer in answers)
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (server.process.pid, *server.children())]
        assert not any(TOKEN.encode() in command for command in commands)
        assert server.end() == 0
        assert TOKEN not in server.log
        assert "can upload and delete" not in server.log


@pytest.mark.parametrize(
    ("options", "exposure"),
    [
        pytest.param({"host": "0.0.0.0"}, "open", id="open"),
        pytest.param({"host": "127.0.0.1"}, "local", id="loopback"),
        pytest.param({"host": "0.0.0.0", "model_management_enabled": False}, "off", id="off"),
        pytest.param({"host": "0.0.0.0", "trusted_keys": True}, "signed packages", id="signed"),
    ],
)
def test_an_open_server_warns_and_says_so(tmp_path, options, exposure):
    if options.get("trusted_keys"):
        options = options | {"trusted_keys": new_key_pair()[1].decode()}
    with serving(*SERVER, model_repository_path=tmp_path, **options) as server, clients_of(server, 1) as [client]:
        assert client.ask("GET", "/info").json["exposure"] == exposure
        assert ("WARNING" in server.log and "can upload and delete models" in server.log) == (exposure == "open")


def test_read_only_repository(tmp_path, versions):
    """As a container with a read-only volume: it serves, and says why it takes nothing."""
    (tmp_path / "fraud").mkdir()
    (tmp_path / "fraud" / "model.mlpkg").write_bytes(versions[0].package)
    tmp_path.chmod(0o555)
    with (
        serving(*SERVER, model_repository_path=tmp_path, before=obey_permissions) as server,
        clients_of(server, 1) as [client],
    ):
        assert client.predict("fraud").body == versions[0].answers[0.5]
        for method in ("POST", "DELETE"):
            answer = client.ask(method, "/deployments/fraud", versions[1].package, PACKAGE)
            assert answer.status == 409
            assert "cannot be changed" in answer.message
        assert client.predict("fraud").body == versions[0].answers[0.5]


def obey_permissions() -> None:
    """Root may write anywhere, unless it gives that up for the program that it starts next."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER):
        libc.prctl(PR_CAPBSET_DROP, capability)


RAW_IDS = [
    *(b"..", b".", b"", b"./x", b"//", b"../..", b"%2e%2e/x", b"..;/x", b"x/../..", b"kept/.", b"kept%2f", b"kept#x"),
    *(b"\xff", b"\xc3\xa9", b"a\tb", b"a b", b"a\0b", b"a\rb", b"a\x1b[31mb", b"a%0d%0ab", b"a%1b[31mb"),
]


@pytest.mark.parametrize("name", RAW_IDS)
def test_raw_ids(raw_server: ServerProcess, name: bytes):
    """What no client would send: refused, and the file beside the repository stays."""
    root = raw_server_root(raw_server)
    canary = root.parent / "canary.mlpkg"
    before = canary.read_bytes(), files(root)
    for method, suffix in ((b"GET", b"/info"), (b"POST", b""), (b"DELETE", b"")):
        request = b"%b /deployments/%b%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" % (method, name, suffix)
        answer = raw_server.exchange(request + b"Content-Type: application/octet-stream\r\nContent-Length: 2\r\n\r\nPK")
        assert answer.status in (400, 404, 405, 422), (method, answer.raw)
        assert answer.message
    assert (canary.read_bytes(), files(root)) == before
    assert raw_server.status_of("/ping") == 200
    assert all(LOG_LINE.fullmatch(line) for line in raw_server.log.splitlines())


OCTETS = b"Content-Type: application/octet-stream"
LOCAL = b"Host: localhost"


@pytest.mark.parametrize(
    ("line", "fields", "status", "message"),
    [
        pytest.param(b"POST", [LOCAL, b"Content-Type: text/plain"], 415, "not a package", id="a form's simple request"),
        pytest.param(b"POST", [LOCAL, OCTETS, b"Origin: http://evil.example"], 403, "another origin", id="origin"),
        pytest.param(b"DELETE", [LOCAL, b"Origin: null"], 403, "another origin", id="deletion by a page"),
        pytest.param(b"DELETE", [LOCAL, b"Sec-Fetch-Site: cross-site"], 403, "another origin", id="and an older one"),
        pytest.param(b"POST", [b"Host: evil.example", OCTETS], 403, "localhost", id="a name made to point here"),
        pytest.param(b"DELETE", [b"Host: evil.example:80"], 403, "localhost", id="deletion by that name"),
        pytest.param(b"TRACE", [LOCAL, b"Cookie: s3cret"], 405, "does not take TRACE", id="TRACE"),
        pytest.param(b"PATCH", [LOCAL, OCTETS], 405, "does not take PATCH", id="PATCH"),
        pytest.param(b"PUT", [LOCAL, OCTETS], 405, "does not take PUT", id="PUT"),
        pytest.param(b"CONNECT", [LOCAL], 400, "no proxy", id="CONNECT"),
        pytest.param(
            b"POST", [LOCAL, OCTETS, b"Expect: 100-continue", b"Content-Length: 10000000000"], 413, "at most", id="10 GB"
        ),
    ],
)  # fmt: skip
def test_raw_requests(raw_server: ServerProcess, line: bytes, fields: list[bytes], status: int, message: str):
    """What pages of others make browsers send, and methods that nobody needs: refused, and nothing is changed."""
    root = raw_server_root(raw_server)
    before = files(root)
    if status != 413:
        fields = [*fields, b"Content-Length: 0"]

    answer = raw_server.exchange(b"\r\n".join([line + b" /deployments/kept HTTP/1.1", *fields, CLOSED, b"", b""]))

    assert answer.statuses == [status]
    assert message in answer.message
    assert b"access-control" not in answer.raw
    assert b"s3cret" not in answer.raw
    assert files(root) == before
    assert raw_server.status_of("/deployments/kept/info") == 200


def test_no_page_gets_leave(raw_server: ServerProcess):
    """A browser asks before it sends what a page of another origin wants sent; nothing in the answer permits it."""
    fields = b"Host: localhost\r\nOrigin: http://evil.example\r\nAccess-Control-Request-Method: DELETE\r\n"

    answer = raw_server.exchange(b"OPTIONS /deployments/kept HTTP/1.1\r\n" + fields + CLOSED + b"\r\n\r\n")

    assert answer.statuses == [204]
    assert b"access-control" not in answer.raw


@pytest.fixture(scope="module")
def raw_server(tmp_path_factory, versions):
    root = tmp_path_factory.mktemp("outside") / "repository"
    root.mkdir()
    (root.parent / "canary.mlpkg").write_bytes(versions[0].package)
    (root / "kept").mkdir()
    (root / "kept" / "model.mlpkg").write_bytes(versions[0].package)
    with serving(*SERVER, model_repository_path=root) as server:
        yield server


def raw_server_root(server: ServerProcess) -> Path:
    environ = Path(f"/proc/{server.process.pid}/environ").read_bytes().split(b"\0")
    prefix = b"PREDICTION_API_MODEL_REPOSITORY_PATH="
    return Path(next(line for line in environ if line.startswith(prefix)).removeprefix(prefix).decode())


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_cut_uploads_leave_nothing(raw_server: ServerProcess, versions, how: str):
    """Nor do they keep a place: afterwards as many uploads are taken at once as before."""
    root = raw_server_root(raw_server)
    package = versions[0].package
    head = b"POST /deployments/%b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    with clients_of(raw_server, 4) as clients:
        assert clients[0].upload("live", package).status in (200, 201)
        before = files(root)
        for part in range(20):
            for name in (b"live", b"new"):
                with raw_server.connect() as connection:
                    connection.sendall(head % name + b"Content-Length: %d\r\n\r\n" % len(package))
                    connection.sendall(package[: len(package) * part // 20])
                    if how == "RST":
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    else:
                        connection.shutdown(socket.SHUT_WR)
                        everything_from(connection)
        until(lambda: clients[0].upload("live", package).status == 200, "a place is free")
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda client: client.upload("live", package).status, clients)) == [200] * 4
        assert files(root) == before
        assert clients[0].predict("live").body == versions[0].answers[0.5]
        assert clients[0].predict("new").status == 404


def test_uploads_of_one_name_at_once(raw_server: ServerProcess, versions):
    """One wins whole."""
    with clients_of(raw_server, 6) as clients, ThreadPoolExecutor(6) as pool:

        def upload(place: int) -> int:
            config = b"prediction_threshold: 0.9" if place % 2 else b"prediction_threshold: 0.5"
            return clients[place].upload("contested", versions[place % 3].package, config).status

        statuses = list(pool.map(upload, range(6)))
        assert set(statuses) <= {200, 201, 503}
        assert statuses.count(201) == 1
        whole = {versions[place % 3].answers[0.9 if place % 2 else 0.5] for place in range(6)}
        assert {client.predict("contested").body for client in clients} <= whole
        assert len({client.predict("contested").body for client in clients}) == 1


def test_more_uploads_at_once_than_are_taken(tmp_path, versions):
    """Nobody waits for those that are half sent, and when they are gone there is room again."""
    head = f"POST /deployments/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PACKAGE['Content-Type']}\r\n"
    with serving(*SERVER, model_repository_path=tmp_path) as server, clients_of(server, 1) as [client]:
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                connection = stack.enter_context(server.connect())
                connection.sendall(f"{head}Content-Length: 1000\r\n\r\nPK".encode())
            until(lambda: len(files(tmp_path)) == 4, "four uploads have begun")
            answer = client.upload("b", versions[0].package)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.message == "4 uploads are running, and no more are taken at once; try again"
            assert client.ask("GET", "/ping").status == 200
        until(lambda: client.upload("b", versions[0].package).status in (200, 201), "there is room again")
        until(lambda: files(tmp_path) == ["b/model.mlpkg"], "nothing is left")


def test_deleted_under_load(raw_server: ServerProcess, versions):
    """Each answer is the model's or a 404; after the 204 nobody has it, and after the next 201 everybody."""
    stop = threading.Event()

    def ask(client: Client) -> set[tuple[int, bytes]]:
        answers = set()
        while not stop.is_set():
            answer = client.predict("fleeting")
            answers.add((answer.status, answer.body if answer.status == 200 else b""))
        return answers

    with clients_of(raw_server, 4) as [manager, *askers], ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, client) for client in askers[:2]]
        try:
            for turn in range(6):
                version = versions[turn % 3]
                assert manager.upload("fleeting", version.package).status == 201
                assert askers[2].predict("fleeting").body == version.answers[0.5]
                assert manager.ask("DELETE", "/deployments/fleeting").status == 204
                assert askers[2].predict("fleeting").status == 404
                assert manager.ask("DELETE", "/deployments/fleeting").status == 404
        finally:
            stop.set()
        seen = set().union(*(one.result() for one in asked))
    assert seen <= {(404, b""), *((200, version.answers[0.5]) for version in versions)}
    assert len(seen) > 1


@pytest.mark.timeout(120)
def test_what_a_killed_worker_received_is_removed(tmp_path, versions):
    """By the worker that replaces it, and not only when the server starts again."""
    with serving(*SERVER, model_repository_path=tmp_path) as server, server.connect() as connection:
        (worker,) = server.workers()
        head = f"POST /deployments/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PACKAGE['Content-Type']}\r\n"
        connection.sendall(f"{head}Content-Length: {2**20 + 10}\r\n\r\n".encode() + bytes(2**20))
        until(lambda: files(tmp_path), "an upload has begun")
        os.kill(worker, signal.SIGKILL)
        until(lambda: server.workers() != [worker] and not files(tmp_path), "nothing is left")


def test_kill_during_uploads(tmp_path, versions):
    """Whatever moment the server is killed in: after a restart there are only whole packages, and no remains."""
    root = tmp_path / "repository"
    root.mkdir()
    whole = {version.answers[0.5] for version in versions}
    for n_done in (1, 3):
        with serving(*SERVER, workers=2, model_repository_path=root) as server:
            done = threading.Semaphore(0)
            uploaders = [threading.Thread(target=keep_uploading, args=(server, name, versions, done)) for name in "abb"]
            for uploader in uploaders:
                uploader.start()
            for _ in range(n_done):
                assert done.acquire(timeout=30)
            server.end(signal.SIGKILL)
            for uploader in uploaders:
                uploader.join(30)
                assert not uploader.is_alive()
        with serving(*SERVER, model_repository_path=root) as server, clients_of(server, 1) as [client]:
            rows = client.ask("GET", "/deployments").json["data"]
            assert rows
            assert {row["state"] for row in rows} == {"available"}
            assert {client.predict(row["id"]).body for row in rows} <= whole
            assert all(name.split("/")[0] in "ab" for name in files(root))
            assert server.end() == 0


def keep_uploading(server: ServerProcess, name: str, versions, done: threading.Semaphore) -> None:
    client = Client(server)
    try:
        for turn in range(1000):
            assert client.upload(name, versions[turn % 3].package).status in (200, 201)
            done.release()
    except OSError:  # the server is gone
        return
    except Exception as exc:
        if type(exc).__name__ not in ("RemoteDisconnected", "IncompleteRead", "BadStatusLine"):
            raise
    finally:
        client.close()
