"""What the product is made of: known faults, licences, and the bill of materials of any environment."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parent.parent


def dependencies(what: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "tools" / "dependencies.py"), what, "--prefix", sys.prefix]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def floors() -> list[list[str]]:
    lines = (ROOT / "tools" / "floors.txt").read_text().splitlines()
    return [line.split(maxsplit=2) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize(("name", "lowest", "why"), floors(), ids=lambda value: value)
def test_no_version_with_a_known_fault_is_pinned(name: str, lowest: str, why: str) -> None:
    lines = (line.partition(";")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pinned = [Version(version) for package, _, version in (line.partition("==") for line in lines) if package == name]
    assert pinned, f"{name} is not a dependency any more"
    assert min(pinned) >= Version(lowest)


def test_none_is_installed_here() -> None:
    done = dependencies("audit")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_every_dependency_says_its_licence() -> None:
    lines = dependencies("licences").stdout.splitlines()
    assert len(lines) > 50
    assert not [
        line for line in lines if not re.fullmatch(r"[a-z0-9-]+ [^ ]+: .+", line) or line.endswith("not declared")
    ]


def test_the_bill_of_materials_is_repeatable() -> None:
    first, second = dependencies("sbom").stdout, dependencies("sbom").stdout
    bill = json.loads(first)
    assert first == second
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "portable-prediction-server"
    references = [part["bom-ref"] for part in bill["components"]]
    assert len(set(references)) == len(references)
    assert re.fullmatch(
        r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}", bill["serialNumber"]
    )
