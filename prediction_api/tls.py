"""Settings -> the server's ``ssl.SSLContext``, or one clear line for each thing that is wrong with them."""

import binascii
import os
import re
import ssl
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from model_repository.errors import SettingsError
from prediction_api.settings import PREFIX, PROTOCOLS, Settings

CERTIFICATE: Final = f"{PREFIX}TLS_CERTIFICATE"
KEY: Final = f"{PREFIX}TLS_CERTIFICATE_KEY"
PASSPHRASE: Final = f"{PREFIX}TLS_CERTIFICATE_KEY_PASSWORD"
CIPHERS: Final = f"{PREFIX}TLS_CIPHERS"
VERSIONS: Final = f"{PREFIX}TLS_PROTOCOLS"

TLS13_SUITES: Final = ("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256")
"""OpenSSL offers them whenever TLS 1.3 is on, and Python cannot choose among them."""
TLS12_SUITES: Final = tuple(
    f"ECDHE-{signature}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for signature in ("ECDSA", "RSA")
)
LEGACY_SUITES: Final = tuple(
    f"ECDHE-{signature}-AES{bits}-SHA" for bits in (128, 256) for signature in ("ECDSA", "RSA")
)
UNSERVABLE: Final = {"SSLv2", "SSLv3"}
LEGACY: Final = {"TLSv1", "TLSv1.1"}
VERSION: Final = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}
OPTION_AGAINST: Final = {"TLSv1.1": ssl.OP_NO_TLSv1_1, "TLSv1.2": ssl.OP_NO_TLSv1_2}
NEVER: Final = ("!eNULL", "!aNULL")
"""Suites that encrypt nothing, and those that let anybody in between: also within words such as ``ALL``."""
PEM_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
PEM_KEY: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)


def context_from(settings: Settings) -> ssl.SSLContext:
    """
    What the server needs to speak TLS as *settings* say.

    Raises:
        SettingsError: with one line for each problem; it names variables and never shows what PEM text they hold.
    """
    certificate, key, problems = _pem_from(settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    for step in (_set_protocols, _set_ciphers):
        problems.extend(step(context, settings))
    if certificate and key:
        problems.extend(_load(context, certificate, key, settings.tls_certificate_key_password))
    if problems:
        raise SettingsError("\n".join(problems))
    return context


def warnings_about_tls(settings: Settings) -> list[str]:
    """What is allowed, but should not stay so."""
    found = []
    legacy = LEGACY.intersection(settings.tls_protocols.split())
    if legacy:
        found.append(f"{VERSIONS}: {' and '.join(sorted(legacy))} can be broken; leave out what no client needs")
    expiry = _expiry_of(_with_line_ends(settings.tls_certificate or ""))
    if expiry is not None and expiry < time.time():
        day = time.strftime("%Y-%m-%d", time.gmtime(expiry))
        found.append(f"{CERTIFICATE}: the certificate expired on {day}")
    return found


def _pem_from(settings: Settings) -> tuple[str | None, str | None, list[str]]:
    """Certificate and key with their line ends, and what is wrong with them at first sight."""
    problems = []
    found = []
    for name, value, pattern, noun in (
        (CERTIFICATE, settings.tls_certificate, PEM_CERTIFICATE, "certificate"),
        (KEY, settings.tls_certificate_key, PEM_KEY, "private key"),
    ):
        pem = _with_line_ends(value) if value else None
        if pem is None:
            problems.append(f"{name}: needed when {PREFIX}TLS_ENABLED is true: the PEM text of a {noun}")
        elif not pattern.search(pem):
            problems.append(f"{name}: expected the PEM text of a {noun}, not a path or anything else")
            pem = None
        found.append(pem)
    return found[0], found[1], problems


def _with_line_ends(pem: str) -> str:
    """An env-file or config line cannot hold line ends, so ``\\n`` may stand for them."""
    return pem.replace("\\r", "").replace("\\n", "\n") + "\n"


def _set_protocols(context: ssl.SSLContext, settings: Settings) -> Iterator[str]:
    wanted = settings.tls_protocols.split()
    unknown = [word for word in wanted if word not in PROTOCOLS]
    if unknown or not wanted:
        yield f"{VERSIONS}={settings.tls_protocols!r}: expected some of {' '.join(PROTOCOLS)}"
        return
    too_old = sorted(UNSERVABLE.intersection(wanted))
    if too_old:
        yield f"{VERSIONS}: {' and '.join(too_old)} cannot be served: no current OpenSSL has them"
        return
    available = {
        "TLSv1": ssl.HAS_TLSv1,
        "TLSv1.1": ssl.HAS_TLSv1_1,
        "TLSv1.2": ssl.HAS_TLSv1_2,
        "TLSv1.3": ssl.HAS_TLSv1_3,
    }
    absent = [word for word in wanted if not available[word]]
    if absent:
        yield f"{VERSIONS}: {ssl.OPENSSL_VERSION} was built without {' and '.join(absent)}"
        return
    served = [version for version in VERSION if version in wanted]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of old versions, and of options, which alone can make holes
        context.minimum_version = VERSION[served[0]]
        context.maximum_version = VERSION[served[-1]]
        for version in OPTION_AGAINST:
            if served[0] < version < served[-1] and version not in served:
                context.options |= OPTION_AGAINST[version]


def _set_ciphers(context: ssl.SSLContext, settings: Settings) -> Iterator[str]:
    legacy = bool(LEGACY.intersection(settings.tls_protocols.split()))
    if settings.tls_ciphers is None:
        suites = [*TLS12_SUITES, *(LEGACY_SUITES if legacy else ())]
    else:
        given = [word for word in re.split(r"[\s:,]+", settings.tls_ciphers) if word]
        unknown = [word for word in given if not _is_cipher(word)]
        if unknown or not given:
            shown = ":".join(unknown) or settings.tls_ciphers
            yield f"{CIPHERS}={shown!r}: expected names that {ssl.OPENSSL_VERSION} knows, separated by colons"
            return
        suites = [word for word in given if word not in TLS13_SUITES]
        if not suites:  # none but suites of TLS 1.3 were named: so nothing older can be spoken
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            return
    if legacy:
        suites.append("@SECLEVEL=0")  # OpenSSL 3 refuses the SHA-1 of the old versions above it
    try:
        context.set_ciphers(":".join([*suites, *NEVER]))
    except ssl.SSLError:
        yield f"{CIPHERS}={settings.tls_ciphers!r}: no cipher suite is left that encrypts and authenticates"


def _is_cipher(word: str) -> bool:
    """Whether OpenSSL knows that word; on its own it skips unknown ones without a sound."""
    if word in TLS13_SUITES or word.startswith("@"):
        return True
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(word.lstrip("!-+"))
    except ssl.SSLError:
        return False
    return True


def _load(context: ssl.SSLContext, certificate: str, key: str, passphrase: str | None) -> Iterator[str]:
    """Put both into *context*; say what is wrong if that fails."""
    asked = False

    def tell_passphrase() -> str:
        nonlocal asked
        asked = True
        return passphrase or ""

    try:
        for block in PEM_CERTIFICATE.findall(certificate):
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=block)
    except (ssl.SSLError, ValueError):
        yield f"{CERTIFICATE}: damaged: OpenSSL cannot read it"
        return
    try:
        with _in_memory(certificate) as certificate_path, _in_memory(key) as key_path:
            context.load_cert_chain(certificate_path, key_path, tell_passphrase)
    except (ssl.SSLError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            yield f"{KEY}: belongs to another certificate than the one in {CERTIFICATE}"
        elif asked and passphrase is None:
            yield f"{PASSPHRASE}: needed, because the private key is encrypted"
        elif asked:
            yield f"{PASSPHRASE}: does not open the private key"
        else:
            reason = getattr(error, "reason", None) or "unreadable"
            yield f"{CERTIFICATE} and {KEY}: OpenSSL cannot use them ({reason.lower().replace('_', ' ')})"


@contextmanager
def _in_memory(pem: str) -> Iterator[str]:
    """A path of a file that is on no disk and that goes with the block: OpenSSL's loader wants paths."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _expiry_of(certificate: str) -> float | None:
    """When the first certificate ends, in seconds since 1970; ``None`` if that cannot be told."""
    decode: Any = getattr(ssl._ssl, "_test_decode_cert", None)  # type: ignore[attr-defined] # noqa: SLF001 - no public door
    first = PEM_CERTIFICATE.search(certificate)
    if decode is None or first is None:
        return None
    try:
        with _in_memory(first[0] + "\n") as path:
            return float(ssl.cert_time_to_seconds(decode(path)["notAfter"]))
    except (ssl.SSLError, ValueError, binascii.Error):
        return None
