"""Signatures: a package of a trusted key is taken, every other is refused before it is believed."""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from model_repository import package_cli
from model_repository.errors import InvalidKey, UnsignedPackage
from model_repository.manifest import manifest_from
from model_repository.mlpkg import SIGNATURE_NAME, Package, write_package, write_signed
from model_repository.repository import load_model
from model_repository.signing import (
    PREFIX,
    Signature,
    TrustedKeys,
    key_id,
    new_key_pair,
    read_private_key,
    signature_bytes,
)

KEY = Ed25519PrivateKey.generate()
STRANGER = Ed25519PrivateKey.generate()


def trusting(*keys: Ed25519PrivateKey) -> TrustedKeys:
    return TrustedKeys(key.public_key().public_bytes_raw() for key in keys)


def signed(source: Path, path: Path, signature: bytes | None = None, key: Ed25519PrivateKey = KEY) -> Path:
    with Package.open(source) as package:
        write_signed(path, package, signature or signature_bytes(package.manifest_content, key))
    return path


def test_a_signed_package_is_served_to_those_who_ask_and_to_those_who_do_not(binary, tmp_path: Path) -> None:
    path = signed(binary.path, tmp_path / "m.mlpkg")
    assert load_model(path, trusted_keys=trusting(STRANGER, KEY)).path == "compiled"
    assert load_model(path).manifest == binary.manifest


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        pytest.param(None, "is not signed; expected the signature of a trusted key", id="none"),
        pytest.param(lambda manifest: signature_bytes(manifest, STRANGER), "which is not trusted", id="of a stranger"),
        pytest.param(lambda manifest: signature_bytes(manifest + b" ", KEY), "was changed after it was signed", id="of another manifest"),
        pytest.param(lambda _: b"{", "cannot be read", id="no JSON"),
        pytest.param(lambda _: b'{"key_id": "a", "signature": "?"}', "cannot be read", id="no base64"),
        pytest.param(lambda _: b'{"algorithm": "none", "key_id": "a", "signature": ""}', "cannot be read", id="no such algorithm"),
        pytest.param(lambda _: b'{"key_id": "a", "signature": "", "x": 1}', "cannot be read", id="more than a signature"),
        pytest.param(lambda m: stated(signature_bytes(m, STRANGER), KEY), "was changed after", id="of a stranger under our key's name"),
        pytest.param(lambda m: stated(signature_bytes(m, KEY), KEY, b""), "was changed after", id="empty"),
        pytest.param(lambda m: naked(m), "was changed after", id="of the bare manifest"),
    ],
)  # fmt: skip
def test_every_other_signature_is_refused(binary, tmp_path: Path, signature: Any, message: str) -> None:
    path = binary.path
    if signature is not None:
        path = signed(path, tmp_path / "m.mlpkg", signature(content_of(path)))
    with pytest.raises(UnsignedPackage, match=message):
        load_model(path, trusted_keys=trusting(KEY))


def content_of(path: Path) -> bytes:
    with Package.open(path) as package:
        return package.manifest_content


def stated(signature: bytes, key: Ed25519PrivateKey, value: bytes | None = None) -> bytes:
    """The signature under the name of another key."""
    old = msgspec.json.decode(signature, type=Signature)
    name = key_id(key.public_key().public_bytes_raw())
    text = old.signature if value is None else value.decode()
    return msgspec.json.encode(msgspec.structs.replace(old, key_id=name, signature=text))


def naked(manifest: bytes) -> bytes:
    """What another program might have signed with the same key."""
    assert PREFIX
    value = msgspec.json.decode(msgspec.json.encode(KEY.sign(manifest)))
    return msgspec.json.encode(Signature(key_id=key_id(KEY.public_key().public_bytes_raw()), signature=value))


def test_the_signature_of_another_package_does_not_fit(binary, regression, tmp_path: Path) -> None:
    other = signed(regression.path, tmp_path / "other.mlpkg")
    with zipfile.ZipFile(other) as archive:
        signature = archive.read(SIGNATURE_NAME)
    path = signed(binary.path, tmp_path / "m.mlpkg", signature)
    with pytest.raises(UnsignedPackage, match="was changed after it was signed"):
        load_model(path, trusted_keys=trusting(KEY))


def test_nothing_of_an_unsigned_package_is_believed(tmp_path: Path, binary) -> None:
    """Not even what its manifest says: a broken one is refused for its signature."""
    with zipfile.ZipFile(tmp_path / "m.mlpkg", "w") as archive:
        archive.writestr(zipfile.ZipInfo("manifest.json"), b"{")
    with pytest.raises(UnsignedPackage):
        load_model(tmp_path / "m.mlpkg", trusted_keys=trusting(KEY))


def test_a_swapped_member_is_found_by_the_manifest(binary, regression, tmp_path: Path) -> None:
    path = signed(binary.path, tmp_path / "m.mlpkg")
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(regression.path) as archive:
        contents["plan.json"] = archive.read("plan.json")
    with zipfile.ZipFile(tmp_path / "swapped.mlpkg", "w") as swapped:
        for name, content in contents.items():
            swapped.writestr(zipfile.ZipInfo(name), content)
    with pytest.raises(Exception, match=r"plan\.json"):
        load_model(tmp_path / "swapped.mlpkg", trusted_keys=trusting(KEY))


def test_the_manifest_cannot_list_the_signature(binary, tmp_path: Path) -> None:
    with zipfile.ZipFile(binary.path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    manifest = manifest_from(contents.pop("manifest.json"))
    write_package(tmp_path / "m.mlpkg", manifest, contents | {SIGNATURE_NAME: b"{}"})
    with pytest.raises(Exception, match=r"'signature\.json' is listed in the manifest"):
        load_model(tmp_path / "m.mlpkg")


# Keys


def pem(key: Any) -> bytes:
    bytes_: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return bytes_


def private_pem(key: Any, passphrase: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    bytes_: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    return bytes_


def test_a_file_may_hold_many_keys_and_comments(tmp_path: Path) -> None:
    (tmp_path / "keys.pem").write_bytes(b"# ours\n" + pem(KEY) + b"# theirs\n" + pem(STRANGER))
    keys = TrustedKeys.read(tmp_path / "keys.pem")
    assert len(keys) == 2
    keys.check(b"{}", signature_bytes(b"{}", STRANGER))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "no public key", id="empty"),
        pytest.param(private_pem(KEY), "not a public key", id="a private key"),
        pytest.param(pem(generate_private_key(SECP256R1())), "expected Ed25519", id="an ECDSA key"),
        pytest.param(pem(KEY).replace(b"MC", b"MD"), "not a public key", id="damaged"),
        pytest.param(b"x" * 70_000, "larger than 65536 bytes", id="too large"),
    ],
)
def test_files_without_public_keys(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "keys.pem"
    path.write_bytes(content)
    with pytest.raises(InvalidKey, match=message) as caught:
        TrustedKeys.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(pem(KEY), "not a private key", id="a public key"),
        pytest.param(private_pem(KEY, b"secret"), "without a passphrase", id="with a passphrase"),
        pytest.param(private_pem(generate_private_key(SECP256R1())), "expected Ed25519", id="an ECDSA key"),
    ],
)
def test_files_without_private_keys(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(InvalidKey, match=message):
        read_private_key(path)


def test_a_key_of_another_length() -> None:
    with pytest.raises(InvalidKey, match="32 bytes"):
        TrustedKeys([b"short"])


def test_a_new_pair_fits_together(tmp_path: Path) -> None:
    private, public = new_key_pair()
    (tmp_path / "key.pem").write_bytes(private)
    signature = signature_bytes(b"{}", read_private_key(tmp_path / "key.pem"))
    TrustedKeys.from_pem(public).check(b"{}", signature)


# The commands


@pytest.fixture
def package(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs ``package ...``; gives exit code, output and error output."""

    def run(*arguments: object) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        package_cli.add_arguments(parser)
        return package_cli.run(parser.parse_args([str(argument) for argument in arguments])), *capsys.readouterr()

    return run


def test_keygen_sign_verify(package, binary, tmp_path: Path) -> None:
    private, public, path = tmp_path / "private.pem", tmp_path / "public.pem", tmp_path / "m.mlpkg"
    path.write_bytes(binary.path.read_bytes())
    code, output, _ = package("keygen", "--private", private, "--public", public)
    assert (code, output) == (0, f"{private}: keep it secret\n{public}: for PREDICTION_API_TRUSTED_KEYS\n")
    assert private.stat().st_mode & 0o777 == 0o600

    code, _, errors = package("verify", path, "--key", public)
    assert (code, errors) == (1, "prediction-api package: the package is not signed; expected the signature of a trusted key\n")  # fmt: skip
    code, output, _ = package("sign", path, "--key", private)
    assert code == 0
    assert output.startswith(f"{path}: signed with key ")
    code, output, _ = package("verify", path, "--key", public)
    assert (code, output.splitlines()[0]) == (0, "signature  fits")
    assert package("sign", path, "--key", private)[0] == 0, "signed again, it has one signature"
    assert load_model(path, trusted_keys=TrustedKeys.read(public)).manifest == binary.manifest


def test_keygen_never_replaces_a_key(package, tmp_path: Path) -> None:
    (tmp_path / "private.pem").write_text("precious")
    code, _, errors = package("keygen", "--private", tmp_path / "private.pem", "--public", tmp_path / "public.pem")
    assert (code, "File exists" in errors) == (2, True)
    assert (tmp_path / "private.pem").read_text() == "precious"


def test_signing_with_what_is_no_key(package, binary, tmp_path: Path) -> None:
    path = tmp_path / "m.mlpkg"
    path.write_bytes(binary.path.read_bytes())
    code, _, errors = package("sign", path, "--key", path)
    assert (code, f"{path}: not a private key" in errors) == (1, True)
    assert package("sign", path, "--key", tmp_path / "absent")[0] == 2
    assert path.read_bytes() == binary.path.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.mlpkg"]
