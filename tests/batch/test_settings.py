"""Variables of batch, and keeping them secret."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.errors import JobError
from batch.redaction import Redactor
from batch.settings import Credentials, credentials_from, variables_table

AZURE = "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=c2VjcmV0L2tleSs=;EndpointSuffix=core.windows.net"


def test_nothing_given() -> None:
    assert credentials_from({"PATH": "/bin", "AWS_ACCESS_KEY_ID": " ", "JDBC_PASSWORD": "''"}) == Credentials()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("AZURE_CONNECTION_STRING", AZURE, id="plain"),
        pytest.param("AZURE_CONNECTION_STRING", f"'{AZURE}'", id="single quotes"),
        pytest.param("AZURE_CONNECTION_STRING", f' "{AZURE}"\n', id="double quotes and blanks"),
        pytest.param("export AZURE_CONNECTION_STRING", AZURE, id="export"),
    ],
)
def test_what_files_for_a_shell_hold(name: str, text: str) -> None:
    assert credentials_from({name: text}).azure_connection_string == AZURE


def test_every_kind_of_value() -> None:
    credentials = credentials_from(
        {
            "ALLOW_SELF_SIGNED_CERTS": "True",
            "GOOGLE_STORAGE_KEYFILE_PATH": "/keys/google.json",
            "PREDICTION_API_BATCH_STATE_DIR": "/state",
            "SYNAPSE_USERNAME": "somebody",
        }
    )
    assert credentials.allow_self_signed_certs
    assert credentials.google_storage_keyfile_path == Path("/keys/google.json")
    assert credentials.state_dir == Path("/state")
    assert credentials.synapse_username == "somebody"


def test_a_flag_is_yes_or_no() -> None:
    with pytest.raises(JobError) as caught:
        credentials_from({"ALLOW_SELF_SIGNED_CERTS": "maybe"})
    assert (
        str(caught.value) == "ALLOW_SELF_SIGNED_CERTS='maybe': expected true or yes or y or 1 or false or no or n or 0"
    )


def test_no_secret_is_shown() -> None:
    credentials = credentials_from(
        {"AWS_SECRET_ACCESS_KEY": "hunter2hunter2", "AZURE_CONNECTION_STRING": AZURE, "JDBC_USERNAME": "bob"}
    )
    shown = repr(credentials) + str(credentials) + str(credentials.__rich_repr__())
    assert "hunter2" not in shown
    assert "c2VjcmV0L2tleSs" not in shown
    assert "jdbc_username='bob'" in shown
    assert {"hunter2hunter2", AZURE, "c2VjcmV0L2tleSs="} <= set(credentials.secrets)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("key hunter2 here", "key *** here", id="as it is"),
        pytest.param("/x?sig=a%2Bb%2Fc%3D%3D", "/x?sig=***", id="in a URL"),
        pytest.param("{'key': 'a+b/c=='}", "{'key': '***'}", id="in a literal"),
        pytest.param("http://bob:pass@host/x", "http://***@host/x", id="user of a URL"),
        pytest.param("https://host/x?a=1&token=abc&b=2", "https://host/x?a=1&token=***&b=2", id="token in a query"),
        pytest.param("jdbc:pg://h/d?user=u&password=pw", "jdbc:pg://h/d?user=u&password=***", id="password in a query"),
        pytest.param("Authorization: Bearer abc.def", "Authorization: ***", id="a header"),
        pytest.param("{'authorization': 'Basic abc'}", "{'authorization': '***'}", id="a header in a literal"),
        pytest.param("pw is ab, not abc", "pw is ***, not abc", id="a short one is a word"),
        pytest.param("mail a@b.c, 3 of 4", "mail a@b.c, 3 of 4", id="nothing secret"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert Redactor(["hunter2", "a+b/c==", "ab", ""])(text) == shown


@given(st.text(min_size=8), st.text(), st.text())
def test_a_known_secret_never_passes(secret: str, before: str, after: str) -> None:
    redact = Redactor([secret])
    if secret.strip() and secret not in "***@":
        assert secret not in redact(before + secret + after).replace("***", "")


def test_a_secret_within_a_secret() -> None:
    assert Redactor(["inner-secret", "outer-inner-secret"])("outer-inner-secret") == "***"


def test_the_documented_variables_are_those_that_are_read() -> None:
    assert variables_table() in (Path(__file__).parents[2] / "docs/batch/command-line.md").read_text()
