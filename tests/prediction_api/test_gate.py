"""Who may upload and delete."""

import pytest

from model_repository.errors import Forbidden, Unauthorized
from prediction_api.gate import Gate, is_loopback
from prediction_api.settings import Settings

TOKEN = "s3cret-é"
LOCAL = Settings()
OPEN = Settings(host="0.0.0.0")
GUARDED = Settings(host="0.0.0.0", management_token=TOKEN)
HERE = {b"host": b"localhost:8080"}
BEARER = b"Bearer " + TOKEN.encode()


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        pytest.param(LOCAL, HERE, id="a program on this machine"),
        pytest.param(LOCAL, {b"host": b"127.0.0.1:8080"}, id="by address"),
        pytest.param(LOCAL, {b"host": b"[::1]:8080"}, id="by address, IPv6"),
        pytest.param(LOCAL, {**HERE, b"origin": b"http://localhost:8080"}, id="a page of ours"),
        pytest.param(LOCAL, {**HERE, b"origin": b"http://LOCALHOST:8080"}, id="a page of ours, in capitals"),
        pytest.param(LOCAL, {**HERE, b"sec-fetch-site": b"same-origin"}, id="a browser says so"),
        pytest.param(OPEN, {b"host": b"models.example"}, id="open to everybody"),
        pytest.param(GUARDED, {b"host": b"models.example", b"authorization": BEARER}, id="token"),
        pytest.param(GUARDED, {b"host": b"x", b"authorization": b"bEARER " + TOKEN.encode()}, id="scheme in any case"),
        pytest.param(
            Settings(management_token=TOKEN),
            {b"host": b"models.example", b"authorization": BEARER},
            id="through a proxy",
        ),
    ],
)
def test_lets_through(settings, headers):
    Gate(settings).check(headers)


@pytest.mark.parametrize(
    ("settings", "headers", "error", "message"),
    [
        pytest.param(
            Settings(model_management_enabled=False, management_token=TOKEN),
            {**HERE, b"authorization": BEARER},
            Forbidden,
            "switched off",
            id="off, even with the token",
        ),
        pytest.param(LOCAL, {**HERE, b"origin": b"http://evil.example"}, Forbidden, "another origin", id="origin"),
        pytest.param(LOCAL, {**HERE, b"origin": b"null"}, Forbidden, "another origin", id="origin null"),
        pytest.param(LOCAL, {**HERE, b"origin": b""}, Forbidden, "another origin", id="origin empty"),
        pytest.param(
            LOCAL, {**HERE, b"origin": b"http://localhost:3000"}, Forbidden, "another origin", id="another port"
        ),
        pytest.param(LOCAL, {**HERE, b"sec-fetch-site": b"cross-site"}, Forbidden, "another origin", id="cross-site"),
        pytest.param(
            LOCAL,
            {b"host": b"evil.example:8080", b"origin": b"http://evil.example:8080"},
            Forbidden,
            "localhost",
            id="a name that was made to point here",
        ),
        pytest.param(LOCAL, {b"host": b"localhost.evil.example"}, Forbidden, "localhost", id="nearly localhost"),
        pytest.param(GUARDED, HERE, Unauthorized, "management token", id="no token"),
        pytest.param(GUARDED, {**HERE, b"authorization": b"Bearer"}, Unauthorized, "token", id="empty token"),
        pytest.param(GUARDED, {**HERE, b"authorization": BEARER + b"x"}, Unauthorized, "token", id="wrong token"),
        pytest.param(
            GUARDED, {**HERE, b"authorization": b"Basic " + TOKEN.encode()}, Unauthorized, "token", id="other scheme"
        ),
        pytest.param(
            GUARDED, {**HERE, b"authorization": b"Bearer " + b"a" * 10**6}, Unauthorized, "token", id="a megabyte"
        ),
        pytest.param(
            GUARDED,
            {**HERE, b"authorization": BEARER, b"origin": b"http://evil.example"},
            Forbidden,
            "another origin",
            id="a foreign page with the token",
        ),
    ],
)
def test_refuses(settings, headers, error, message):
    with pytest.raises(error, match=message) as refusal:
        Gate(settings).check(headers)
    assert TOKEN not in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "exposure"),
    [
        (LOCAL, "local"),
        (Settings(host="::1"), "local"),
        (OPEN, "open"),
        (Settings(host="::"), "open"),
        (Settings(host="models.example"), "open"),
        (GUARDED, "token"),
        (Settings(host="0.0.0.0", trusted_keys="-----BEGIN PUBLIC KEY-----"), "signed packages"),
        (Settings(host="0.0.0.0", model_management_enabled=False), "off"),
    ],
)
def test_exposure(settings, exposure):
    assert Gate(settings).exposure == exposure


def test_token_is_never_shown():
    assert TOKEN not in repr(GUARDED)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback(host):
    assert is_loopback(host)
