"""The config file: KEY=VALUE lines, with the same keys as the environment."""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model_repository.errors import SettingsError
from prediction_api.settings import PREFIX, rows

MAX_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class Config:
    """What the config file, or all files of the config directory, say."""

    values: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def read_config(path: Path, *, required: bool) -> Config:
    """
    The KEY=VALUE lines of *path*, or of each regular file in it by name; a later line wins.

    Raises:
        SettingsError: it cannot be read, is too large, is no regular file, or a line is not KEY=VALUE.
    """
    try:
        files = _files(path)
    except OSError as error:
        raise SettingsError(f"{PREFIX}CONFIG_PATH={str(path)!r}: {error.strerror}") from error
    if files is None:
        if required:
            raise SettingsError(f"{PREFIX}CONFIG_PATH={str(path)!r}: no such file or directory")
        return Config({})
    values: dict[str, str] = {}
    warnings = []
    for file in files:
        text, mode = _read_bounded(file)
        found = config_from(text, str(file))
        values.update(found)
        if mode & stat.S_IROTH and _holds_secret(found):
            warnings.append(f"{file} holds a secret and is readable by everybody")
    return Config(values, tuple(warnings))


def _files(path: Path) -> list[Path] | None:
    """What is to be read; ``None`` if there is nothing at *path*."""
    if not path.exists():
        return None
    # A mounted directory may hold links and more directories beside its files: those are not for us.
    return sorted(child for child in path.iterdir() if child.is_file()) if path.is_dir() else [path]


def config_from(text: str, source: str) -> dict[str, str]:
    """
    The KEY=VALUE lines of *text*; blank lines and those that begin with ``#`` are skipped.

    Raises:
        SettingsError: with one line for each line that is none of these; never with its content, which may be a secret.
    """
    values = {}
    problems = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff")), start=1):
        key, equals, value = line.partition("=")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if equals and key.strip() and "\0" not in line:
            values[key.strip()] = _unquoted(value.strip())
        else:
            problems.append(f"{source}, line {number}: expected KEY=VALUE")
    if problems:
        raise SettingsError("\n".join(problems))
    return values


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'" else value


def _read_bounded(path: Path) -> tuple[str, int]:
    """Text and mode of a regular file; a pipe or device in its place can neither block nor flood the start."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise SettingsError(f"{path}: expected a regular file")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise SettingsError(f"{path}: expected at most {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8"), mode
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: expected UTF-8 text") from error


def _holds_secret(values: Mapping[str, str]) -> bool:
    return any(name in values for row in rows() if row.secret for name in row.names)
