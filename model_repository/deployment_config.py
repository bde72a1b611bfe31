"""
``config.yml`` beside a package: what its deployment is called and which rules it has, read like any hostile input.

YAML guesses types, and would turn the id ``0123`` into 83. Here only ``true``, ``no``, ``null`` and their like are
guessed; numbers are read where a number is expected. Aliases are refused: a few hundred bytes of them can stand for
more than any memory holds.
"""

import logging
import os
import stat
from collections.abc import Hashable
from typing import Annotated, Any, Final, cast

import msgspec
import yaml

from model_repository.errors import InvalidConfig

CONFIG_NAMES: Final = ("config.yml", "config.yaml")
MAX_CONFIG_BYTES: Final = 64 * 1024
MAX_CONFIG_DEPTH: Final = 8
MOST_WARNINGS: Final = 10

logger = logging.getLogger(__name__)

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Id = Annotated[str, msgspec.Meta(pattern=r"^(?!\.)(?!.*\.\.)[A-Za-z0-9_.-]{1,128}\Z")]
Percentile = Annotated[int, msgspec.Meta(ge=1, le=99)]


class AssociationIdSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which column names a prediction later."""

    column_name: Word
    allow_missing_values: bool = False


class PredictionIntervals(msgspec.Struct, frozen=True, kw_only=True):
    """Of a time series model; one percentile at a time."""

    enabled: bool
    percentiles: Annotated[list[Percentile], msgspec.Meta(max_length=1)] = []


class DeploymentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in ``config.yml``; everything may be absent."""

    deployment_id: Id | None = None
    """Another name by which the deployment can be addressed."""
    model_id: Word | None = None
    """Instead of the package's own."""
    association_id_settings: AssociationIdSettings | None = None
    prediction_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Of a binary model, instead of the package's own."""
    prediction_intervals: PredictionIntervals | None = None


NO_CONFIG: Final = DeploymentConfig()


def config_from(raw: bytes, origin: str = CONFIG_NAMES[0], deployment: str | None = None) -> DeploymentConfig:
    """
    The configuration that *raw* says; unknown keys are named in the log.

    Args:
        origin: where it stands, for messages.
        deployment: whose it is, for the log.

    Raises:
        InvalidConfig: with the line or the key that is wrong.
    """
    if len(raw) > MAX_CONFIG_BYTES:
        raise InvalidConfig(f"{origin}: more than {MAX_CONFIG_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
        _refuse_traps(text)
        content = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader that guesses even less
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise InvalidConfig(f"{origin}: {_problem(exc)}") from exc
    if content is None:
        return NO_CONFIG
    if not isinstance(content, dict):
        raise InvalidConfig(f"{origin}: expected `key: value` lines")
    _warn_of_unknown(content, DeploymentConfig, origin if deployment is None else f"{deployment}/{origin}")
    try:
        return msgspec.convert(content, DeploymentConfig, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidConfig(f"{origin}: {exc}") from exc


def read_config(name: str, dir_fd: int, deployment: str | None = None) -> tuple[DeploymentConfig, os.stat_result]:
    """
    The configuration in file *name* of an open directory, and the state of the file that was read; see `config_from`.

    Raises:
        InvalidConfig: it cannot be read, is a symbolic link, or says something wrong.
        FileNotFoundError: it is gone.
    """
    raw, status = config_bytes(name, dir_fd)
    return config_from(raw, name, deployment), status


def config_bytes(name: str, dir_fd: int) -> tuple[bytes, os.stat_result]:
    """
    As `read_config`, unread; of a file that is too large only its beginning.

    Raises:
        InvalidConfig: it cannot be read, or is no regular file.
        FileNotFoundError: it is gone.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=dir_fd)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise InvalidConfig(f"{name}: {exc.strerror}") from exc
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidConfig(f"{name}: not a regular file")
        return os.read(descriptor, MAX_CONFIG_BYTES + 1), status
    finally:
        os.close(descriptor)


def _refuse_traps(text: str) -> None:
    """Aliases, tags and deep nesting, before anything is built of them."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        problem = None
        if isinstance(event, yaml.AliasEvent):
            problem = "aliases are not read"
        elif getattr(event, "tag", None) is not None:
            problem = "tags are not read"
        elif depth > MAX_CONFIG_DEPTH:
            problem = f"nested more than {MAX_CONFIG_DEPTH} deep"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=cast(yaml.Mark, event.start_mark))


def _problem(exc: Exception) -> str:
    if isinstance(exc, yaml.MarkedYAMLError) and exc.problem_mark is not None:
        return f"line {exc.problem_mark.line + 1}: {', '.join(filter(None, (exc.context, exc.problem)))}"
    return "not UTF-8" if isinstance(exc, UnicodeDecodeError) else str(exc)


def _warn_of_unknown(content: dict[Any, Any], kind: type[msgspec.Struct], origin: str) -> None:
    unknown = [key for key in content if key not in kind.__struct_fields__]
    for key in unknown[:MOST_WARNINGS]:
        logger.warning("%s: %r is not a setting of a deployment; ignored", origin, str(key)[:80])
    if more := unknown[MOST_WARNINGS:]:
        logger.warning("%s: %d more keys are not settings of a deployment; ignored", origin, len(more))


class _Loader(yaml.SafeLoader):
    """A SafeLoader that guesses nothing but booleans and null, and takes no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key stands twice", node.start_mark)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag.endswith((":bool", ":null"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
