"""Google's key files."""

from pathlib import Path

import pytest

from batch.adapters import gcs as adapter
from batch.errors import IntakeError, OutputError
from batch.settings import Credentials
from tests.batch.adapters.conftest import Case
from tests.stores import Gcs


async def test_tokens_are_asked_for_with_the_key_file(gcs_case: Case, gcs: Gcs) -> None:
    gcs_case.put("in.csv", b"a\n1\n")
    gcs.tokens.clear()

    async with (
        gcs_case.intake("in.csv") as intake,
        gcs_case.output("out.csv") as output,
        output.open_file(None) as write,
    ):
        async for block in intake.read(intake.files[0]):
            await write(block)

    assert gcs_case.stored()["out.csv"] == b"a\n1\n"
    assert set(gcs.tokens) == {"https://www.googleapis.com/auth/devstorage.read_write"}


async def test_a_public_bucket_is_read_without_credentials(gcs_case: Case, gcs: Gcs) -> None:
    gcs_case.put("in.csv", b"1")
    gcs.tokens.clear()
    nobody = Credentials(storage_emulator_host=gcs.url.removeprefix("http://"))

    async with gcs_case.intake("in.csv", anonymous=True, credentials=nobody) as intake:
        assert intake.files[0].size == 1
    assert not gcs.tokens


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("not json", "is not the key file of a service account"),
        ('{"type": "service_account", "private_key": "SECRET"}', "is not the key file of a service account"),
        ("[]", "is not the key file of a service account"),
    ],
    ids=["missing", "no JSON", "no key", "no object"],
)
async def test_odd_key_files(tmp_path: Path, text: str | None, message: str) -> None:
    keyfile = tmp_path / "key.json"
    if text is not None:
        keyfile.write_text(text)

    with pytest.raises(IntakeError, match=message) as odd:
        async with adapter.open_intake(
            adapter.IntakeSettings(url="gs://b/x"), Credentials(google_storage_keyfile_path=keyfile)
        ):
            pytest.fail("entered")  # pragma: no cover

    assert "GOOGLE_STORAGE_KEYFILE_PATH" in str(odd.value)
    assert "SECRET" not in str(odd.value)


async def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")

    with pytest.raises(OutputError, match="set GOOGLE_STORAGE_KEYFILE_PATH"):
        async with adapter.open_output(adapter.OutputSettings(url="gs://b/x"), Credentials()):
            pytest.fail("entered")  # pragma: no cover


@pytest.mark.parametrize(
    "url", ["gs://", "gs://bucket", "gs:///x", "https://b/x", "gs://../x", "gs://a..b/x", "gs://b?c/x"]
)
def test_odd_urls(url: str) -> None:
    with pytest.raises(ValueError, match="url: expected gs://bucket/name"):
        adapter.IntakeSettings(url=url)
