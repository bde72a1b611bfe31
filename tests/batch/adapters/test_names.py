"""Which names a place stands for."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.adapters import TYPES, adapter_for, is_same_place
from batch.adapters._names import Selection
from batch.errors import AdapterUnavailable

SEGMENT = st.text("ab.[]*?-é", min_size=1, max_size=4)
NAME = st.lists(SEGMENT, min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("a.csv", "a.csv", True),
        ("a.csv", "aXcsv", False),
        ("d/", "d/a", True),
        ("d/", "d/e/f", True),
        ("d/", "d/", False),
        ("d/", "d/e/", False),
        ("d/", "dd/a", False),
        ("d/", "d/.a.part", False),
        ("d/", "d/.tmp/a", False),
        ("", "anything", True),
        ("*.csv", "a.csv", True),
        ("*.csv", "d/a.csv", False),
        ("**/*.csv", "a.csv", True),
        ("**/*.csv", "d/e/a.csv", True),
        ("d/**", "d/e/f", True),
        ("d/?.csv", "d/a.csv", True),
        ("d/?.csv", "d//.csv", False),
        ("d/[a-c].csv", "d/b.csv", True),
        ("d/[!a-c].csv", "d/b.csv", False),
        ("d/[!a-c].csv", "d/x.csv", True),
        ("d/[!a].csv", "d//.csv", False),
        ("d/[]]", "d/]", True),
        ("d/[^a]", "d/^", True),
        ("d/[", "d/[", True),
        ("d/[z-a]*", "d/[z-a].csv", True),
        ("a+(b).csv*", "a+(b).csv.gz", True),
    ],
)
def test_what_is_included(text: str, name: str, expected: bool) -> None:
    assert Selection(text).includes(name) is expected


@given(NAME)
def test_a_name_stands_for_itself(name: str) -> None:
    assert Selection(name).includes(name)


@given(NAME, NAME)
def test_what_is_included_is_below_the_stem(text: str, name: str) -> None:
    selection = Selection(text)

    if selection.includes(name):
        assert selection.stem + selection.relative(name) == name


@given(st.lists(SEGMENT.filter(lambda part: part[0] != "."), min_size=1, max_size=4))
def test_a_directory_includes_all_below(parts: list[str]) -> None:
    name = "/".join(parts)
    for count in range(len(parts)):
        assert Selection("".join(f"{part}/" for part in parts[:count])).includes(name)


@pytest.mark.parametrize(
    ("reads", "writes", "expected"),
    [
        ("d/in.csv", "d/in.csv", True),
        ("d/in.csv", "d/out.csv", False),
        ("d/in.csv", "d/./x/../in.csv", True),
        ("d/in.csv", "link.csv", True),
        ("d/*.csv", "d/out.csv", True),
        ("d/*.csv", "d/out/", False),
        ("d/in*.csv", "d/", False),
        ("d/*.csv", "d/", True),
        ("d/", "d/", True),
        ("d/", "d/out/", True),
        ("d/", "d/out.csv", True),
        ("d/", "e/", False),
        ("d/in.csv", "d/", False),
    ],
)
def test_the_output_must_not_be_the_input(tmp_path: Path, reads: str, writes: str, expected: bool) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/in.csv").touch()
    (tmp_path / "link.csv").symlink_to("d/in.csv")
    files = adapter_for("filesystem")
    reading = files.IntakeSettings(path=f"{tmp_path}/{reads}")
    writing = files.OutputSettings(path=f"{tmp_path}/{writes}")

    assert is_same_place("localFile", reading, "filesystem", writing) is expected


def test_different_stores_are_different_places() -> None:
    s3, files = adapter_for("s3"), adapter_for("filesystem")
    reading = s3.IntakeSettings(url="s3://b/x")

    assert is_same_place("s3", reading, "minio", s3.OutputSettings(url="s3://b/x"))
    assert not is_same_place("s3", reading, "s3", s3.OutputSettings(url="s3://c/x"))
    assert not is_same_place("s3", reading, "s3", s3.OutputSettings(url="s3://b/x", endpoint_url="http://h"))
    assert not is_same_place("s3", reading, "filesystem", files.OutputSettings(path="x"))


@pytest.mark.parametrize("type_", ["dataset", "dss", "dataStage", "bigquery", "databricks"])
def test_what_only_the_platform_has_is_refused(type_: str) -> None:
    with pytest.raises(AdapterUnavailable, match=f"type '{type_}' needs the platform; here the types are .*, jdbc, "):
        adapter_for(type_)


def test_unknown_types_are_refused() -> None:
    with pytest.raises(AdapterUnavailable, match="there is no type 'ftp'; the types are filesystem, localFile, s3"):
        adapter_for("ftp")


@pytest.mark.parametrize(
    ("type_", "client", "extra"),
    [("minio", "aiobotocore", "s3"), ("azure", "obstore", "azure"), ("gcp", "google", "gcs")],
)
def test_a_missing_client_says_what_to_install(monkeypatch, type_: str, client: str, extra: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == client or name == f"batch.adapters.{extra}"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, client, None)

    with pytest.raises(
        AdapterUnavailable, match=rf"needs {client}\b.*: pip install 'portable-prediction-server\[{extra}\]'"
    ):
        adapter_for(type_)


def test_all_types_are_told() -> None:
    assert set(TYPES) == {"filesystem", "localFile", "s3", "minio", "azure", "gcp", "gcs", "http"}
