"""
Whether a wheel and a source distribution hold what they should:  python3 tools/release_contents.py WHEEL SDIST

The wheel: every file of the three packages that is under version control, what is compiled for it, and beside them only
its metadata. The source distribution: what one needs to build the wheel and to run the tests.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGES = ("batch", "model_repository", "prediction_api")
COMPILED = frozenset(["batch/jdbc/bridge.jar"])
"""In the wheel alone; `hatch_build.py` makes them where there is a Java compiler."""
NEEDED = (
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "LICENSE",
    "conftest.py",
    "Makefile",
)


def versioned() -> set[str]:
    """Every file that git knows here."""
    done = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True)
    return set(done.stdout.split("\n")) - {""}


def problems(wheel: Path, sdist: Path) -> list[str]:
    """What is missing or too much, one line each."""
    with zipfile.ZipFile(wheel) as file:
        in_wheel = set(file.namelist())
    with tarfile.open(sdist) as file:
        in_sdist = {name.partition("/")[2] for name in file.getnames()}
    known = versioned()
    ours = {name for name in known if name.split("/")[0] in PACKAGES}
    beside = {name for name in in_wheel if not name.split("/")[0].endswith(".dist-info")}
    needed = {*ours, *NEEDED, *(name for name in known if name.startswith(("tests/", "docs/", "examples/", "tools/")))}
    wanted = ours | COMPILED
    return [
        *(f"wheel: {name} is missing" for name in sorted(wanted - beside)),
        *(f"wheel: {name} does not belong there" for name in sorted(beside - wanted)),
        *(f"sdist: {name} is missing" for name in sorted(needed - in_sdist)),
        *(f"sdist: {name} does not belong there" for name in sorted(COMPILED & in_sdist)),
    ]


def main() -> int:
    """The exit status is 1 where something is wrong."""
    found = problems(*map(Path, sys.argv[1:3]))
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
