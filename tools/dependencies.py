"""
What an installed environment is made of, from its own metadata; nothing but the standard library is needed.

    python3 tools/dependencies.py sbom --prefix /opt/prediction-api   CycloneDX 1.6, with the Debian packages around it
    python3 tools/dependencies.py licences --prefix .venv             one line each: name, version, licence
    python3 tools/dependencies.py audit --prefix .venv                none below the versions of tools/floors.txt
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

PRODUCT = "portable-prediction-server"
FLOORS = Path(__file__).with_name("floors.txt")
LONGEST_LICENCE = 60
"""Some distributions put the whole text where its name belongs."""


def installed(prefix: Path) -> list[Distribution]:
    """All distributions below *prefix*, by name."""
    places = [str(place) for place in prefix.glob("lib/python3*/site-packages")]
    if not places:
        raise SystemExit(f"{prefix}: no site-packages below it")
    return sorted(distributions(path=places), key=name_of)


def name_of(distribution: Distribution) -> str:
    """Its name as package indexes write it."""
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()


def licence_of(distribution: Distribution) -> str:
    """What it says of its licence: the expression, else the classifiers, else the first line of its text."""
    metadata = distribution.metadata
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    classifiers = metadata.get_all("Classifier", [])
    trove = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License ::")]
    named = [line for line in trove if line != "OSI Approved"]
    if named:
        return "; ".join(named)
    texts = [metadata["License"]] if "License" in metadata else []
    texts += [text for name in metadata.get_all("License-File", []) if (text := licence_file(distribution, name))]
    firsts = [text.strip().partition("\n")[0].strip() for text in texts]
    return next((first for first in firsts if 0 < len(first) <= LONGEST_LICENCE), "not declared")


def licence_file(distribution: Distribution, name: str) -> str | None:
    """The text of a file beside the metadata, where standards have put it at one time or another."""
    return distribution.read_text(f"licenses/{name}") or distribution.read_text(name)


def sbom(prefix: Path) -> dict[str, Any]:
    """The bill of materials as a CycloneDX document; equal environments give equal documents."""
    components = [python_component(one) for one in installed(prefix)]
    product = next(one for one in components if one["name"] == PRODUCT)
    others = [one for one in components if one is not product]
    content = [*others, *debian_components()]
    digest = hashlib.sha256(json.dumps([product, content], sort_keys=True).encode()).hexdigest()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}",
        "version": 1,
        "metadata": {"component": product | {"type": "application"}},
        "components": content,
    }


def python_component(distribution: Distribution) -> dict[str, Any]:
    """A Python distribution."""
    name, version = name_of(distribution), distribution.version
    reference = f"pkg:pypi/{name}@{quote(version)}"
    return {
        "type": "library",
        "bom-ref": reference,
        "name": name,
        "version": version,
        "purl": reference,
        "licenses": [{"license": {"name": licence_of(distribution)}}],
    }


def debian_components() -> Iterator[dict[str, Any]]:
    """The Debian packages of this system, if it is one."""
    if shutil.which("dpkg-query") is None:
        return
    show = ["dpkg-query", "--show", "--showformat=${Package}\t${Version}\t${Architecture}\n"]
    for line in subprocess.run(show, check=True, capture_output=True, text=True).stdout.splitlines():
        name, version, architecture = line.split("\t")
        reference = f"pkg:deb/debian/{name}@{quote(version)}?arch={architecture}"
        yield {"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference}


def floors() -> dict[str, tuple[str, str]]:
    """The lowest version that may be used, and why, by name."""
    rows = (line.split(maxsplit=2) for line in FLOORS.read_text().splitlines() if line and not line.startswith("#"))
    return {name: (lowest, why) for name, lowest, why in rows}


def release_of(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))


def audit(prefix: Path) -> list[str]:
    """What is installed in a version with known faults."""
    wanted = floors()
    return [
        f"{name_of(one)} {one.version}: {wanted[name_of(one)][0]} or newer is needed, {wanted[name_of(one)][1]}"
        for one in installed(prefix)
        if name_of(one) in wanted and release_of(one.version) < release_of(wanted[name_of(one)][0])
    ]


def main() -> int:
    """Run one of the three; the exit status is 1 where the audit finds something."""
    parser = argparse.ArgumentParser(description="What an installed environment is made of.")
    parser.add_argument("what", choices=("sbom", "licences", "audit"))
    parser.add_argument("--prefix", type=Path, default=Path(sys.prefix), help="of the environment")
    given = parser.parse_args()
    if given.what == "sbom":
        json.dump(sbom(given.prefix), sys.stdout, indent=1, sort_keys=True)
    elif given.what == "licences":
        sys.stdout.writelines(f"{name_of(one)} {one.version}: {licence_of(one)}\n" for one in installed(given.prefix))
    else:
        found = audit(given.prefix)
        sys.stdout.writelines(f"{line}\n" for line in found)
        return 1 if found else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
