"""What the documents and the house say is so."""

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *PAGES]
NOT_OURS = {".git", ".venv", ".tools", ".demo", ".hypothesis", "site", "build", "dist"}


@cache
def house_texts() -> dict[str, str]:
    """Every text file of the repository."""
    places = [path for path in ROOT.iterdir() if path.name not in NOT_OURS and not path.name.endswith("_cache")]
    files = [path for place in places for path in (place.rglob("*") if place.is_dir() else [place]) if path.is_file()]
    contents = {str(path.relative_to(ROOT)): path.read_bytes() for path in files if path.suffix != ".pyc"}
    return {name: content.decode(errors="replace") for name, content in contents.items() if b"\0" not in content}


def nav_pages(entries: list[object]) -> set[str]:
    pages: set[str] = set()
    for entry in entries:
        for target in entry.values() if isinstance(entry, dict) else [entry]:
            pages |= nav_pages(target) if isinstance(target, list) else {str(target)}
    return pages


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert nav_pages(nav) == {str(page.relative_to(DOCS)) for page in PAGES}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.resolve().parent / link).exists()]
    assert not broken


def test_named_tests_exist() -> None:
    named = re.findall(r"`(tests/\S+?\.py)::(\w+)`", (DOCS / "promises.md").read_text())
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()]
    assert named
    assert not missing


def test_no_registry_is_named() -> None:
    """Where packages come from is the business of whoever installs them."""
    hosts = [
        ".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("debian", "org"))
    ]
    hosts += [".".join(parts) for parts in (("docker", "io"), ("conda", "anaconda"), ("maven", "org"))]
    named = [f"{name}: {host}" for name, text in house_texts().items() for host in hosts if host in text]
    assert not named


def test_nothing_of_the_vendor_is_installed() -> None:
    """Their packages' licence forbids it."""
    prefix = "data" + "robot"
    for name in ("pyproject.toml", "constraints.txt", "Dockerfile", "tools/setup.sh"):
        assert prefix not in (ROOT / name).read_text().lower()


def test_no_notes_to_self_are_left() -> None:
    words = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    assert not [name for name, text in house_texts().items() if words.search(text)]


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [entry for group in project["dependency-groups"].values() for entry in group if isinstance(entry, str)]
    extras = [entry for extra in project["project"]["optional-dependencies"].values() for entry in extra]
    wanted = {
        re.split(r"[<>=\[; ]", entry)[0].lower().replace("_", "-")
        for entry in [*project["project"]["dependencies"], *extras, *groups]
    }
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert wanted - {"portable-prediction-server"} <= pinned
