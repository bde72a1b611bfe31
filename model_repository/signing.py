"""
Who made a package: an Ed25519 signature over its manifest, which holds the SHA-256 of every other member.

The signature stands in the archive as ``signature.json``, the only member that the manifest does not list. What is
signed is a fixed prefix and the bytes of ``manifest.json`` as they are, so nothing needs to be parsed before it is
believed, and a signature made for anything else never fits.

A signature says who made a package, not when: an old package of the same key is still a good one.
"""

import base64
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import msgspec

from model_repository.errors import InvalidKey, UnsignedPackage

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PREFIX: Final = b"mlpkg signature, format 1\n"
MAX_KEY_FILE_BYTES: Final = 64 * 1024
NOT_INSTALLED: Final = (
    "signed packages need the cryptography library: pip install 'portable-prediction-server[signing]'"
)
_PEM: Final = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of ``signature.json``."""

    algorithm: Literal["ed25519"] = "ed25519"
    key_id: str
    """First 16 hexadecimal digits of the SHA-256 of the public key's 32 bytes: to find it by, not to trust it by."""
    signature: str
    """Base64 of 64 bytes."""


class TrustedKeys:
    """Public keys, by whose signatures packages are accepted."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        """
        Args:
            keys: of 32 bytes each.

        Raises:
            InvalidKey: one is no public key, or the library for them is not installed.
        """
        self.raw = tuple(keys)
        self._keys = {key_id(key): _public_key(key) for key in self.raw}

    @classmethod
    def from_pem(cls, pem: bytes) -> "TrustedKeys":
        """
        All public keys of a PEM text.

        Raises:
            InvalidKey: it holds none, or something else.
        """
        serialization, ed25519 = _library()
        raw = []
        for block in _PEM.findall(pem):
            try:
                key = serialization.load_pem_public_key(block)
            except ValueError as exc:
                raise InvalidKey("not a public key in PEM form") from exc
            if not isinstance(key, ed25519.Ed25519PublicKey):
                raise InvalidKey("a public key of another kind, expected Ed25519")
            raw.append(key.public_bytes_raw())
        if not raw:
            raise InvalidKey("no public key in PEM form")
        return cls(raw)

    @classmethod
    def read(cls, path: Path) -> "TrustedKeys":
        """
        All public keys of a file in PEM form.

        Raises:
            InvalidKey: naming the file, which holds none, or something else.
            OSError: it cannot be read.
        """
        with _named(path):
            return cls.from_pem(_read_key_file(path))

    def check(self, manifest: bytes, signature: bytes | None) -> None:
        """
        Raises:
            UnsignedPackage: *signature* is missing, or not one of these keys' over *manifest*.
        """
        from cryptography.exceptions import InvalidSignature

        if signature is None:
            raise UnsignedPackage("the package is not signed; expected the signature of a trusted key")
        try:
            claimed = msgspec.json.decode(signature, type=Signature)
            value = base64.b64decode(claimed.signature, validate=True)
        except ValueError as exc:
            raise UnsignedPackage("the package's signature cannot be read") from exc
        key = self._keys.get(claimed.key_id)
        if key is None:
            raise UnsignedPackage(f"the package is signed by key {claimed.key_id[:16]!r}, which is not trusted")
        try:
            key.verify(value, PREFIX + manifest)
        except InvalidSignature as exc:
            raise UnsignedPackage(
                f"the package was changed after it was signed: the signature of key {claimed.key_id} does not fit"
            ) from exc

    def __len__(self) -> int:
        return len(self._keys)


def signature_bytes(manifest: bytes, key: "Ed25519PrivateKey") -> bytes:
    """``signature.json`` for a manifest."""
    public = key.public_key().public_bytes_raw()
    value = base64.b64encode(key.sign(PREFIX + manifest)).decode()
    return msgspec.json.encode(Signature(key_id=key_id(public), signature=value))


def key_id(public: bytes) -> str:
    """A short name of a public key."""
    return hashlib.sha256(public).hexdigest()[:16]


def read_private_key(path: Path) -> "Ed25519PrivateKey":
    """
    The key to sign with.

    Raises:
        InvalidKey: naming the file, which holds no private Ed25519 key in PEM form without a passphrase.
        OSError: it cannot be read.
    """
    with _named(path):
        return _private_key(_read_key_file(path))


def new_key_pair() -> tuple[bytes, bytes]:
    """
    A new private key and its public key, both in PEM form.

    Raises:
        InvalidKey: the library for them is not installed.
    """
    serialization, ed25519 = _library()
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, public


def _private_key(pem: bytes) -> "Ed25519PrivateKey":
    serialization, ed25519 = _library()
    try:
        key: Any = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as exc:  # TypeError: it has a passphrase
        raise InvalidKey("not a private key in PEM form without a passphrase") from exc
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InvalidKey("a private key of another kind, expected Ed25519")
    return cast("Ed25519PrivateKey", key)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except InvalidKey as exc:
        raise InvalidKey(f"{path}: {exc}") from exc


def _read_key_file(path: Path) -> bytes:
    # O_NONBLOCK: opening a FIFO would wait for a writer
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - has no flags
        content = file.read(MAX_KEY_FILE_BYTES + 1)
    if len(content) > MAX_KEY_FILE_BYTES:
        raise InvalidKey(f"larger than {MAX_KEY_FILE_BYTES} bytes")
    return content


def _public_key(raw: bytes) -> "Ed25519PublicKey":
    _, ed25519 = _library()
    try:
        key: Ed25519PublicKey = ed25519.Ed25519PublicKey.from_public_bytes(raw)
    except ValueError as exc:
        raise InvalidKey("not the 32 bytes of a public key") from exc
    return key


def _library() -> tuple[ModuleType, ModuleType]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError as exc:
        raise InvalidKey(NOT_INSTALLED) from exc
    return serialization, ed25519
