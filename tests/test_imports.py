"""What importing costs, and that nothing is imported that was not declared."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGES = ("prediction_api", "batch", "model_repository")
HEAVY = {"sklearn", "pandas", "scipy", "skops", "joblib", "lightgbm", "xgboost", "shap"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after running *code*."""
    report = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["package", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    ask = f"sys.argv[1:] = {arguments}\nfrom contextlib import suppress\nfrom prediction_api.cli import main"

    loaded = loaded_by(f"{ask}\nwith suppress(SystemExit):\n    main()")

    assert "prediction_api" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("module", ["prediction_api.app", "prediction_api.server", "model_repository.repository"])
def test_serving_imports_nothing_of_the_model_libraries(module: str) -> None:
    assert not loaded_by(f"import {module}") & HEAVY


def third_party_imports() -> dict[str, set[str]]:
    """Top-level module -> the files that import it."""
    found: dict[str, set[str]] = {}
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec
        assert spec.origin
        for path in Path(spec.origin).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                for name in names:
                    top = name.partition(".")[0]
                    if top not in sys.stdlib_module_names and top not in PACKAGES:
                        found.setdefault(top, set()).add(str(path))
    return found


def test_every_import_is_declared() -> None:
    """In dependencies or in an extra; not merely there because something else brings it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    declared = {canonicalize_name(Requirement(requirement).name) for requirement in requirements}
    distributions = packages_distributions()

    undeclared = {
        module: files
        for module, files in third_party_imports().items()
        if not declared & {canonicalize_name(name) for name in distributions.get(module, [module])}
    }

    assert not undeclared


def test_every_dependency_is_imported() -> None:
    """A base dependency that no module imports is a dependency too many."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    distributions = packages_distributions()
    used = {canonicalize_name(name) for module in third_party_imports() for name in distributions.get(module, [module])}
    names = {canonicalize_name(Requirement(requirement).name) for requirement in project["dependencies"]}

    assert not names - used
