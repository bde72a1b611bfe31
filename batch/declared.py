"""
A JSON object against its declaration: a `msgspec.Struct` whose fields say type, default, bounds and meaning.

Every key may be written in snake_case or in camelCase, but only once. All problems are found in one pass, each with the
path of its key. What is shown of a wrong value is never a secret: not of fields so marked, and no user in a URL.

What no single key can say, a struct says itself: its ``__post_init__`` raises a ValueError of lines ``key: what is
wrong``, the key in snake_case.
"""

import difflib
import json
import re
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

S = TypeVar("S", bound=msgspec.Struct)

KINDS: Final = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def key(
    meaning: str,
    *names: str,
    least: float | None = None,
    most: float | None = None,
    secret: bool = False,
    ignored: bool = False,
    resumable: bool = False,
    wanted: str | None = None,
) -> Meta:
    """
    What a field's type does not say.

    Args:
        meaning: one sentence for the documentation.
        names: other spellings, besides snake_case and camelCase.
        least: smallest number that is allowed.
        most: largest number that is allowed.
        secret: its value, or all values of its object, must not be printed.
        ignored: taken for compatibility; a warning says that it means nothing here.
        resumable: may change between a job's start and its continuation.
        wanted: what a value may be, in words, where the type says too little.
    """
    extra = {"names": names, "secret": secret, "ignored": ignored, "resumable": resumable, "wanted": wanted}
    return Meta(description=meaning, extra={**extra, "least": least, "most": most})


@dataclass(frozen=True)
class Key:
    """One key as it was declared."""

    field: str
    names: tuple[str, ...]
    """All spellings, snake_case first."""
    hint: Any
    """Its type, None included where it may be null."""
    required: bool
    default: Any
    meaning: str
    least: float | None
    most: float | None
    secret: bool
    ignored: bool
    resumable: bool
    wanted: str | None

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        return self.wanted or " or ".join(self._ways())

    def _ways(self) -> Iterator[str]:
        for member in _members(self.hint):
            if member in (int, float) and (self.least is not None or self.most is not None):
                yield KINDS[member] + _bounds(self.least, self.most)
            elif member is not type(None):
                yield _in_words(member)

    def takes(self, value: Any) -> bool:
        """Whether *value* is of the type and within the bounds."""
        try:
            msgspec.convert(value, self.hint, strict=True)
        except msgspec.ValidationError:
            return False
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def _members(hint: Any) -> tuple[Any, ...]:
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)


def _bounds(least: float | None, most: float | None) -> str:
    if most is None:
        return f" of {least} or more"
    return f" from {least} to {most}"


def _in_words(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return " or ".join(json.dumps(word) for word in typing.get_args(hint))
    if origin is tuple or origin is list:
        inner = typing.get_args(hint)[0]
        return f"a list of {'texts' if inner is str else _in_words(inner)}"
    return KINDS.get(hint, "an object")


@cache
def keys_of(struct: type[msgspec.Struct]) -> tuple[Key, ...]:
    """All keys of *struct*, in the order of their declaration."""
    hints = typing.get_type_hints(struct, include_extras=True)
    return tuple(_key_of(row, hints[row.name]) for row in msgspec.structs.fields(struct))


def _key_of(row: msgspec.structs.FieldInfo, hint: Any) -> Key:
    kind, meta = (hint.__origin__, hint.__metadata__[0]) if typing.get_origin(hint) is Annotated else (hint, Meta())
    extra = meta.extra or {}
    snake = row.name.rstrip("_")  # a field may not be called `async`
    names = dict.fromkeys((snake, camel_case(snake), *extra.get("names", ())))
    default = row.default if row.default_factory is msgspec.NODEFAULT else row.default_factory()
    return Key(
        field=row.name,
        names=tuple(names),
        hint=kind,
        required=row.required,
        default=None if row.required else default,
        meaning=meta.description or "",
        least=extra.get("least"),
        most=extra.get("most"),
        secret=extra.get("secret", False),
        ignored=extra.get("ignored", False),
        resumable=extra.get("resumable", False),
        wanted=extra.get("wanted"),
    )


def camel_case(name: str) -> str:
    """``snake_case`` as ``snakeCase``."""
    return re.sub("_([a-z0-9])", lambda found: found[1].upper(), name)


def refuse(*problems: str) -> None:
    """For a ``__post_init__``: raise a ValueError of these lines, if there are any."""
    if problems:
        raise ValueError("\n".join(problems))


@dataclass
class Findings:
    """What reading a definition brings up besides its values."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)
    """Keys of the top level, as they were spelled, that have a problem themselves or somewhere below."""

    def problem(self, path: str, text: str) -> None:
        """Note what is wrong at *path*."""
        self.problems.append(f"{path}: {text}" if path else text)
        self.wrong.add(re.split(r"[.\[]", path, maxsplit=1)[0])


def struct_from(
    struct: type[S], raw: Mapping[str, Any], path: str, findings: Findings, *, others: Collection[str] = ()
) -> S | None:
    """
    The values of *raw* as a *struct*.

    Args:
        struct: the declaration; a field that is a struct itself is read the same way.
        raw: one JSON object.
        path: of the object, "" at the top.
        findings: takes the problems, warnings and secrets.
        others: keys of *raw* that somebody else reads.

    Returns:
        None if there were problems.
    """
    before = len(findings.problems)
    values = values_from(struct, raw, path, findings, others=others)
    if len(findings.problems) > before:
        return None
    try:
        return struct(**values)
    except ValueError as exc:
        for line in str(exc).splitlines():
            name, _, text = line.partition(": ")
            is_key = text and any(name == row.names[0] for row in keys_of(struct))
            findings.problem(*((below(path, name), text) if is_key else (path, line)))
        return None


def values_from(
    struct: type[msgspec.Struct],
    raw: Mapping[str, Any],
    path: str,
    findings: Findings,
    *,
    others: Collection[str] = (),
) -> dict[str, Any]:
    """As `struct_from`, but the values of those fields that have no problems."""
    known = [row for row in keys_of(struct) if row.field not in others]
    refuse_unknown(raw, [*others, *(name for row in known for name in row.names)], path, findings)
    found = {}
    for row in known:
        value = _found(row, raw, path, findings)
        if value is not msgspec.UNSET:
            found[row.field] = value
    return found


def _found(row: Key, raw: Mapping[str, Any], path: str, findings: Findings) -> Any:
    """The value of a field in *raw*, or UNSET."""
    name = spelling_of(row.names, raw, path, findings)
    if name is None:
        if row.required:
            findings.problem(below(path, row.names[0]), f"required, expected {row.allowed}")
        return msgspec.UNSET
    if row.ignored:
        findings.warnings.append(f"{below(path, name)} means nothing here and is ignored")
        if row.secret:
            findings.secrets.extend(_texts(raw[name]))
        return msgspec.UNSET
    if raw[name] is None and not row.required:
        return msgspec.UNSET  # null is "not given", as in what the platform's tools write
    return _value_from(row, raw[name], below(path, name), findings)


def _value_from(row: Key, value: Any, path: str, findings: Findings) -> Any:
    nested = _nested(row.hint)
    if nested is not None and isinstance(value, dict):
        found = struct_from(nested, value, path, findings)
        return msgspec.UNSET if found is None else found
    if row.secret:
        findings.secrets.extend(_texts(value))
    if not row.takes(value):
        shown = "" if row.secret else f", got {shown_value(value)}"
        findings.problem(path, f"expected {row.allowed}{shown}")
        return msgspec.UNSET
    return msgspec.convert(value, row.hint)


def _nested(hint: Any) -> type[msgspec.Struct] | None:
    classes = (member for member in _members(hint) if isinstance(member, type))
    return next((member for member in classes if issubclass(member, msgspec.Struct)), None)


def _texts(value: Any) -> list[str]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str)]


def spelling_of(names: Sequence[str], raw: Mapping[str, Any], path: str, findings: Findings) -> str | None:
    """Which of *names* the object uses, if any; using two is a problem."""
    given = [name for name in names if name in raw]
    if len(given) > 1:
        findings.problem(below(path, given[0]), f"given twice, also as {given[1]!r}: keep one of them")
    return given[0] if given else None


def refuse_unknown(raw: Mapping[str, Any], known: Iterable[str], path: str, findings: Findings) -> None:
    """Note every key of *raw* that is none of *known*, with the one that was probably meant."""
    known = tuple(known)
    for name in raw:
        if name not in known:
            findings.problem(below(path, name), f"no such key{suggestion(name, known)}")


def suggestion(word: str, known: Iterable[str]) -> str:
    """A question with the nearest of *known*, or nothing."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower()[:80], by_lower, n=1, cutoff=0.7)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


def below(path: str, name: str) -> str:
    """The path of key *name* in the object at *path*."""
    shown = name if name.isidentifier() and len(name) <= 80 else json.dumps(name[:80])
    return f"{path}.{shown}" if path else shown


def shown_value(value: Any) -> str:
    """*value* in a message: short, and without the user and password of a URL."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        value = re.sub(r"//[^/@\s]*@", "//***@", value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
