"""Keep secrets out of what is printed: those that are known, wherever they stand, and what stands for one in a URL."""

import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus

HIDDEN: Final = "***"
_USERINFO: Final = re.compile(r"(?<=://)[^/?#\s@\"']*(?:@[^/?#\s@\"']*)*@")
_PARAMETERS: Final = re.compile(
    r"""(?ix) \b (?P<name> (?: sig | x-amz-(?:signature|security-token|credential) | password | passwd | pwd
        | passphrase | private_key | secret | token | access_token | api_?key | accountkey | sharedaccesssignature
        ) = ) [^&;\s"']+"""
)
_AUTHORIZATION: Final = re.compile(r"""(?i)(?P<name>\bauthorization["']?\s*[:=]\s*["']?)[^"'\r\n]+""")
LONG_ENOUGH: Final = 4
"""A shorter secret is only hidden where it is a word of its own: it may be part of anything."""


class Redactor:
    """Text in, the same text without secrets out."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets if secret for form in _forms_of(secret)}
        words = sorted(map(_pattern_of, forms), key=len, reverse=True)  # a secret may hold another one
        self._known = re.compile("|".join(words)) if words else None

    def __call__(self, text: str) -> str:
        """*text* with every secret replaced by ``***``."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        text = _USERINFO.sub(f"{HIDDEN}@", text)
        text = _PARAMETERS.sub(rf"\g<name>{HIDDEN}", text)
        return _AUTHORIZATION.sub(rf"\g<name>{HIDDEN}", text)


def _forms_of(secret: str) -> set[str]:
    """As it is, and as it stands in a URL, in JSON and in a Python literal."""
    stripped = secret.strip()
    plain = {secret, stripped} - {""}
    quoted = {form for text in plain for form in (quote(text, safe=""), quote(text), quote_plus(text))}
    literal = {form for text in plain for form in (json.dumps(text)[1:-1], repr(text)[1:-1])}
    return plain | quoted | literal


def _pattern_of(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= LONG_ENOUGH else rf"(?<!\w){escaped}(?!\w)"
