"""Markup in which nothing that was not meant as markup can become it."""

from collections.abc import Iterable
from html import escape
from typing import Final

MOST_SHOWN: Final = 200
"""Characters of a name or a value that a page shows."""
_VOID: Final = frozenset({"meta", "rect", "line"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *children: "Html | str | Iterable[Html]", **attributes: str | float) -> Html:
    """
    An element.

    Args:
        children: what is no `Html` is text, and is escaped.
        attributes: an underscore in a name is a hyphen, one at its end is left out (``class_``).
    """
    named = {key.rstrip("_").replace("_", "-"): escape(str(value)) for key, value in attributes.items()}
    opened = "".join(f' {key}="{value}"' for key, value in named.items())
    if name in _VOID:
        return Html(f"<{name}{opened}>" if name == "meta" else f"<{name}{opened}/>")
    inside = "".join(_markup(child) for child in children)
    return Html(f"<{name}{opened}>{inside}</{name}>")


def shown(text: str) -> str:
    """Text of strangers as it may be shown: no control characters, no marks that turn the direction, not too long."""
    safe = "".join(one if one.isprintable() else " " if one.isspace() else "\ufffd" for one in text)
    return safe if len(safe) <= MOST_SHOWN else f"{safe[:MOST_SHOWN]}…"


def _markup(child: "Html | str | Iterable[Html]") -> str:
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return escape(shown(child))
    return "".join(child)
