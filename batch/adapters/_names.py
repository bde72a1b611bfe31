"""
Which stored names a job means. Pure: no store is asked here.

A place is one name, a directory (it ends in ``/``: everything below it), or a pattern (``*`` and ``?`` within one
level, ``[...]``, ``**`` over levels). Names with a part that begins with a dot are skipped in directories and patterns:
they are unfinished work, ours or somebody else's.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from batch.declared import key

WriteMode = Literal["error", "overwrite"]
LOCATION: Final = "Which object; ending in `/`, all below it; read with `*`, `?`, `[...]` or `**`, all that match."
"""What the URL of an object store means."""
WRITE_MODE: Final = key("What happens if there is something of that name already.")
"""The key of every output that can tell."""

_MAGIC: Final = re.compile(r"[*?[]")
_TOKENS: Final = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^]/]*\]|.", re.DOTALL)
_MEANINGS: Final = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True)
class Selection:
    """The names that *text* stands for."""

    text: str

    @property
    def is_directory(self) -> bool:
        """Whether everything below it is meant (the whole store, if it is empty)."""
        return self.text.endswith("/") or not self.text

    @property
    def is_pattern(self) -> bool:
        """Whether it may stand for many names; a thing of exactly that name still comes first."""
        return not self.is_directory and _MAGIC.search(self.text) is not None

    @cached_property
    def stem(self) -> str:
        """The directory, with its ``/``, that holds everything meant; names are told relative to it."""
        match = _MAGIC.search(self.text) if self.is_pattern else None
        fixed = self.text[: match.start()] if match else self.text
        return fixed[: fixed.rfind("/") + 1]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("".join(map(_meaning, _TOKENS.findall(self.text))), re.DOTALL)

    def includes(self, name: str) -> bool:
        """Whether *name* is meant."""
        if name == self.text:
            return not self.is_directory
        if not name.startswith(self.stem) or name.endswith("/"):
            return False
        if any(part.startswith(".") for part in self.relative(name).split("/")):
            return False
        return self.is_directory or (self.is_pattern and self._pattern.fullmatch(name) is not None)

    def relative(self, name: str) -> str:
        """*name* as seen from the stem."""
        return name[len(self.stem) :]

    def overlaps(self, output: str) -> bool:
        """Whether writing to *output*, a name or a directory, would change what this selects."""
        if output.endswith("/") or not output:
            return (self.is_directory and output.startswith(self.text)) or any(map(self.includes, _names_below(output)))
        return self.includes(output)


def _names_below(directory: str) -> Iterable[str]:
    """What a directory output may write, as far as it is known before."""
    return (f"{directory}part-00000{suffix}" for suffix in (".csv", ".jsonl", ".parquet"))


def _meaning(token: str) -> str:
    if token in _MEANINGS:
        return _MEANINGS[token]
    if token.startswith("[") and len(token) > 1:
        inverted, members = (True, token[2:-1]) if token[1] == "!" else (False, token[1:-1])
        escaped = re.sub(r"([\\^\[\]&~|])", r"\\\1", members)
        members_only = f"(?!/)[{'^' if inverted else ''}{escaped}]"
        with suppress(re.error):  # of a range that goes backwards
            return re.compile(members_only).pattern
    return re.escape(token)
