"""Everything that fuzzing ever found, and what fuzzing begins with: quiet since."""

import pytest

from batch.formats.jsonl import members_of
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

FINDINGS = [
    pytest.param("csv", b'\0\xef\xbb\xbf"1","","a,b",\n,,,\n', id="byte order mark behind the header"),
    pytest.param("csv-header", b"\x01" + "n,b,s,k\n1,,,\n".encode("utf-16-le"), id="UTF-16 without byte order mark"),
    pytest.param(
        "csv-header",
        b'\0n,b,s,k\n1,0,"' + b"y" * 58 + b'\r\nz",k\n',
        id="CR and LF in quotes, on two sides of a block's end",
    ),
    pytest.param("plan", b'\x0c\0\0\0{"\xd7version":1}', id="plan with a key that is not UTF-8"),
]


@pytest.mark.parametrize(("target", "data"), FINDINGS)
def test_findings(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_seeds(target: str) -> None:
    for seed in seeds()[target]:
        TARGETS[target](seed)


@pytest.mark.parametrize("line", [b'{"\xd7":1}', b'{"a":"\xd7"}'])
def test_a_line_of_json_that_is_not_utf8(line: bytes) -> None:
    """No object: it becomes an error row, not a traceback."""
    assert members_of(line) is None
