"""TLS as clients meet it: real certificates, real handshakes."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from model_repository.errors import SettingsError
from prediction_api.settings import Settings
from prediction_api.tls import context_from, warnings_about_tls
from tests.prediction_api.server_process import ServerProcess, everything_from, serving, until

PASSPHRASE = "correct horse"


@dataclass(frozen=True)
class Identity:
    certificate: str
    key: str

    def settings(self, **others: object) -> Settings:
        values = {"tls_enabled": True, "tls_certificate": self.certificate, "tls_certificate_key": self.key, **others}
        return Settings(**values)  # type: ignore[arg-type]

    def encrypted(self, passphrase: str = PASSPHRASE) -> "Identity":
        key = serialization.load_pem_private_key(self.key.encode(), None)
        form = serialization.PrivateFormat.PKCS8
        lock = serialization.BestAvailableEncryption(passphrase.encode())
        pem = key.private_bytes(serialization.Encoding.PEM, form, lock)
        return Identity(self.certificate, pem.decode())


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def issued(authority: trustme.CA, **options: object) -> Identity:
    leaf = authority.issue_cert("localhost", **options)  # type: ignore[arg-type]
    certificate = b"".join(blob.bytes() for blob in leaf.cert_chain_pems).decode()
    return Identity(certificate, leaf.private_key_pem.bytes().decode())


@pytest.fixture(scope="module")
def identity(authority: trustme.CA) -> Identity:
    return issued(authority)


@pytest.fixture(scope="module")
def other_identity(authority: trustme.CA) -> Identity:
    return issued(authority)


def client_context(authority: trustme.CA, version: str | None = None, ciphers: str = "DEFAULT") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    if version is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the old versions, which is what is tried
            context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    return context


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """The client's side of a finished handshake, without a socket."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    for _ in range(10):
        for side in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert theirs.version() is not None
    return theirs


@pytest.fixture(scope="module")
def server(authority: trustme.CA, identity: Identity) -> Iterator[ServerProcess]:
    locked = identity.encrypted()
    with serving(
        tls=client_context(authority),
        tls_enabled="yes",
        tls_certificate=locked.certificate.replace("\n", "\\n"),  # as an env-file has to write it
        tls_certificate_key=locked.key,
        tls_certificate_key_password=PASSPHRASE,
        header_timeout=1,
    ) as server:
        yield server


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_current_versions_are_spoken(server: ServerProcess, authority: trustme.CA, version: str) -> None:
    context = client_context(authority, version)
    with (
        socket.create_connection(("127.0.0.1", server.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

        assert everything_from(connection).endswith(b"pong")
        assert connection.version() == version.replace("_", ".")


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_versions_are_refused(server: ServerProcess, authority: trustme.CA, version: str) -> None:
    context = client_context(authority, version, "ALL")
    assert server.get("/ping")[0] == 200
    with (
        socket.create_connection(("127.0.0.1", server.port)) as plain,
        pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|UNEXPECTED_EOF"),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_plain_http_is_not_answered(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        began = time.monotonic()
        plain.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")

        assert b"200" not in everything_from(plain)
        assert time.monotonic() - began < 1


def test_stalled_handshakes_are_ended(server: ServerProcess) -> None:
    """A hundred at once, and others are answered meanwhile."""
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        stalled = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(100)]
        for connection in stalled:
            connection.sendall(b"\x16\x03\x01")

        assert server.get("/ping") == (200, b"pong")
        assert time.monotonic() - began < 0.9
        assert {everything_from(connection) for connection in stalled} == {b""}
        assert 0.9 < time.monotonic() - began < 3
    until(lambda: server.open_sockets() == 1, "nothing of them is left")


@pytest.mark.parametrize("suites", ["NULL", "aNULL", "AES128-SHA", "kRSA"])
def test_weak_suites_are_refused(server: ServerProcess, authority: trustme.CA, suites: str) -> None:
    context = client_context(authority, "TLSv1_2", suites)
    with (
        socket.create_connection(("127.0.0.1", server.port)) as plain,
        pytest.raises(ssl.SSLError, match=r"HANDSHAKE_FAILURE|UNEXPECTED_EOF"),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("name", [b"\0\xff\n\r\x1b[31m", b"localho\0t", b"../../etc"], ids=["bytes", "NUL", "path"])
def test_odd_server_names(server: ServerProcess, authority: trustme.CA, name: bytes) -> None:
    """Refused, or overlooked; nothing is looked up by them, and the log shows none."""
    to_client, from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(authority).wrap_bio(to_client, from_client, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = from_client.read()
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        plain.sendall(hello.replace(b"localhost", name))
        plain.shutdown(socket.SHUT_WR)

        assert everything_from(plain)[:1] in (b"", b"\x16")
    assert server.get("/ping") == (200, b"pong")
    assert "Traceback" not in server.log
    assert "\x1b" not in server.log


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command: Python's client cannot renegotiate")
def test_renegotiation_is_refused(server: ServerProcess) -> None:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_2"]

    done = subprocess.run(command, input=b"R\n", capture_output=True, timeout=20, check=False)

    assert b"RENEGOTIATING" in done.stderr + done.stdout
    assert b"no renegotiation" in done.stderr
    assert server.get("/ping") == (200, b"pong")


def test_a_goodbye_that_is_never_answered(server: ServerProcess) -> None:
    """The server says that it closes, and does not wait long for the client to say the same."""
    until(lambda: server.open_sockets() == 1, "the connections of other tests are closed")
    with server.connect() as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert connection.recv(9) == b"HTTP/1.1 "
        until(lambda: server.open_sockets() == 1, "the connection is closed", limit=8)


def test_refusals_and_large_answers_pass(server: ServerProcess) -> None:
    refusal = server.exchange(b"GET /ping HTTP/1.1\r\n\r\n")
    large = server.exchange(b"GET /large?bytes=5000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    assert refusal.statuses == [400]
    assert len(large.raw) > 5_000_000


def test_idle_clients_do_not_keep_it_alive(authority: trustme.CA, identity: Identity) -> None:
    with (
        serving(
            tls=client_context(authority),
            tls_enabled=1,
            tls_certificate=identity.certificate,
            tls_certificate_key=identity.key,
        ) as server,
        contextlib.ExitStack() as stack,
    ):
        for request in [b"", b"GET /pi", b"GET /ping HTTP/1.1\r\nHost: here\r\n\r\n"] * 3:
            stack.enter_context(server.connect()).sendall(request)
        stack.enter_context(socket.create_connection(("127.0.0.1", server.port))).sendall(b"\x16\x03\x01")
        assert server.get("/ping")[0] == 200

        assert server.end(limit=2.5) == 0


def test_default_ciphers(authority: trustme.CA, identity: Identity) -> None:
    """Only suites with forward secrecy that authenticate what they encrypt."""
    names = {cipher["name"] for cipher in context_from(identity.settings()).get_ciphers()}

    assert names == {
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_AES_128_GCM_SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    }
    with pytest.raises(ssl.SSLError):
        handshake(context_from(identity.settings()), client_context(authority, "TLSv1_2", "AES128-SHA"))


@pytest.mark.parametrize(
    ("settings", "client_version", "spoken"),
    [
        pytest.param({"tls_protocols": "TLSv1.2"}, "TLSv1_2", "TLSv1.2", id="only 1.2"),
        pytest.param({"tls_protocols": "TLSv1.2"}, "TLSv1_3", None, id="only 1.2, client 1.3"),
        pytest.param({"tls_protocols": "TLSv1.3"}, "TLSv1_2", None, id="only 1.3, client 1.2"),
        pytest.param({"tls_protocols": "TLSv1.1 TLSv1.3"}, "TLSv1_1", "TLSv1.1", id="old one on request"),
        pytest.param({"tls_protocols": "TLSv1.1 TLSv1.3"}, "TLSv1_2", None, id="hole in the range"),
        pytest.param({"tls_ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384"}, "TLSv1_2", "TLSv1.2", id="chosen cipher"),
        pytest.param({"tls_ciphers": "TLS_AES_256_GCM_SHA384"}, "TLSv1_3", "TLSv1.3", id="cipher of 1.3"),
        pytest.param({"tls_ciphers": "TLS_AES_256_GCM_SHA384"}, "TLSv1_2", None, id="cipher of 1.3 alone, client 1.2"),
    ],
)
def test_what_is_spoken(
    authority: trustme.CA, identity: Identity, settings: dict[str, str], client_version: str, spoken: str | None
) -> None:
    ours = context_from(identity.settings(**settings))
    theirs = client_context(authority, client_version, "ALL")

    with contextlib.nullcontext() if spoken else pytest.raises(ssl.SSLError):
        assert handshake(ours, theirs).version() == spoken


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        pytest.param({"tls_certificate": None}, "TLS_CERTIFICATE: needed when", id="no certificate"),
        pytest.param({"tls_certificate_key": None}, "TLS_CERTIFICATE_KEY: needed when", id="no key"),
        pytest.param(
            {"tls_certificate": "/etc/server.pem"}, "TLS_CERTIFICATE: expected the PEM text of a cert", id="path"
        ),
        pytest.param(
            {"tls_certificate_key": "secret"}, "TLS_CERTIFICATE_KEY: expected the PEM text of a private", id="no PEM"
        ),
        pytest.param({"tls_protocols": "SSLv3 TLSv1.2"}, "TLS_PROTOCOLS: SSLv3 cannot be served", id="SSLv3"),
        pytest.param({"tls_protocols": "SSLv2"}, "TLS_PROTOCOLS: SSLv2 cannot be served", id="SSLv2"),
        pytest.param({"tls_protocols": "TLSv1.4"}, "TLS_PROTOCOLS='TLSv1.4': expected some of SSLv2", id="no such one"),
        pytest.param({"tls_ciphers": "AES128-SHA:ROT13"}, "TLS_CIPHERS='ROT13': expected names", id="unknown cipher"),
        pytest.param({"tls_ciphers": "AES128-SHA:!AES"}, "TLS_CIPHERS='AES128-SHA:!AES': no cipher", id="none left"),
        pytest.param({"tls_ciphers": "NULL-SHA256"}, "TLS_CIPHERS='NULL-SHA256': no cipher", id="no encryption"),
        pytest.param({"tls_ciphers": "aNULL"}, "TLS_CIPHERS='aNULL': no cipher", id="no authentication"),
        pytest.param(
            {"tls_ciphers": "eNULL", "tls_protocols": "TLSv1.1"},
            "TLS_CIPHERS='eNULL': no cipher",
            id="no security at all",
        ),
        pytest.param({"tls_ciphers": "EXPORT"}, "TLS_CIPHERS='EXPORT': expected names", id="ciphers for export"),
    ],
)
def test_wrong_settings(identity: Identity, settings: dict[str, str | None], problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        context_from(identity.settings(**settings))

    assert str(caught.value).startswith(f"PREDICTION_API_{problem}")
    assert "\n" not in str(caught.value)


def test_wrong_keys(identity: Identity, other_identity: Identity) -> None:
    """Each case one line that names the variable and shows nothing of what it holds."""
    locked = identity.encrypted()
    cases = {
        "TLS_CERTIFICATE_KEY: belongs to another certificate": identity.settings(
            tls_certificate_key=other_identity.key
        ),
        "TLS_CERTIFICATE_KEY_PASSWORD: needed, because": locked.settings(),
        "TLS_CERTIFICATE_KEY_PASSWORD: does not open": locked.settings(tls_certificate_key_password="wrong battery"),
        "TLS_CERTIFICATE: damaged": identity.settings(
            tls_certificate=identity.certificate.replace("\nMII", "\nMAA", 1)
        ),
        "TLS_CERTIFICATE and PREDICTION_API_TLS_CERTIFICATE_KEY: OpenSSL cannot": identity.settings(
            tls_certificate_key=identity.key.replace("M", "?", 5)
        ),
    }
    for problem, settings in cases.items():
        with pytest.raises(SettingsError) as caught:
            context_from(settings)
        assert str(caught.value).startswith(f"PREDICTION_API_{problem}"), problem
        assert "\n" not in str(caught.value)
        assert "BEGIN" not in str(caught.value)
        assert "wrong battery" not in str(caught.value)


def test_all_problems_at_once(identity: Identity) -> None:
    with pytest.raises(SettingsError) as caught:
        context_from(Settings(tls_enabled=True, tls_protocols="SSLv3", tls_ciphers="ROT13"))

    assert len(str(caught.value).splitlines()) == 4


def test_what_should_not_stay(authority: trustme.CA, identity: Identity) -> None:
    expired = issued(authority, not_after=datetime.now(UTC) - timedelta(days=2))

    assert warnings_about_tls(identity.settings()) == []
    assert "the certificate expired on" in warnings_about_tls(expired.settings())[0]
    assert "TLSv1.1 can be broken" in warnings_about_tls(identity.settings(tls_protocols="TLSv1.1"))[0]
