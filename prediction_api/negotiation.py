"""What a request's headers say of its body and of the answer that it wants. Pure functions."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from python_multipart.multipart import parse_options_header

from model_repository.errors import LengthRequired, MalformedBody, NotAcceptable, UnsupportedMediaType

BodyKind = Literal["csv", "json", "multipart"]
Answer = Literal["json", "csv"]

MEDIA_TYPES: Final[dict[str, BodyKind]] = {
    "text/csv": "csv",
    "text/plain": "csv",
    "textplain": "csv",
    "application/json": "json",
    "multipart/form-data": "multipart",
}
READABLE: Final = "text/csv, text/plain, application/json or multipart/form-data"
UPLOADABLE: Final = "application/octet-stream or multipart/form-data"
MAX_HEADER: Final = 1024
"""Longest Content-Type or Accept value that is looked into."""
MAX_BOUNDARY: Final = 70
"""RFC 2046, section 5.1.1."""
MAX_LENGTH_DIGITS: Final = 18

_ISO_8859: Final = {f"iso-8859-{part}": f"iso8859-{part}" for part in (*range(1, 12), *range(13, 17))}
_WINDOWS: Final = {f"{name}{page}": f"cp{page}" for page in range(1250, 1259) for name in ("windows-", "cp")}
# A closed list: Python's own look-up takes "rot13" and "utf-7" too, and remembers every name that it does not know.
CHARSETS: Final[dict[str, str]] = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "utf-8",
    "ascii": "utf-8",
    "latin1": "iso8859-1",
    "latin-1": "iso8859-1",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "shift-jis": "shift_jis",
    "euc-jp": "euc_jp",
    "euc-kr": "euc_kr",
    "gb2312": "gbk",
    "gbk": "gbk",
    "gb18030": "gb18030",
    "big5": "big5",
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
    **_ISO_8859,
    **_WINDOWS,
}


@dataclass(frozen=True, slots=True)
class BodyForm:
    """How to read a body."""

    kind: BodyKind
    encoding: str = "utf-8"
    """A codec name of Python's."""
    boundary: bytes = b""
    """Multipart only."""


@lru_cache(maxsize=256)
def body_form(content_type: bytes | None) -> BodyForm:
    """
    How to read a body with this Content-Type.

    Raises:
        UnsupportedMediaType: none given, not one of ours, an unknown charset, or multipart with no usable boundary.
    """
    if content_type is None:
        raise UnsupportedMediaType(f"Content-Type is missing; send {READABLE}")
    if len(content_type) > MAX_HEADER:
        raise UnsupportedMediaType(f"Content-Type is longer than {MAX_HEADER} bytes")
    media_type, parameters = _options(content_type)
    kind = MEDIA_TYPES.get(media_type)
    if kind is None:
        raise UnsupportedMediaType(f"Content-Type {media_type!r} cannot be read; send {READABLE}")
    if kind == "multipart":
        return BodyForm(kind, boundary=_boundary(parameters))
    return BodyForm(kind, _encoding(parameters))


def part_form(content_type: str, file_name: str) -> BodyForm:
    """
    How to read the file part of a multipart body: by its own type, else by its file's suffix, else as CSV.

    Raises:
        UnsupportedMediaType: an unknown charset.
    """
    media_type, parameters = _options(content_type.encode("latin-1")[:MAX_HEADER])
    kind = MEDIA_TYPES.get(media_type)
    if kind is None or kind == "multipart":
        kind = "json" if file_name.lower().endswith(".json") else "csv"
    return BodyForm(kind, _encoding(parameters))


def package_boundary(content_type: bytes | None, content_encoding: bytes | None) -> bytes | None:
    """
    How to read the upload of a package: ``None`` for the bare file, else the boundary of a multipart body.

    Raises:
        UnsupportedMediaType: neither of the two, or compressed once more.
    """
    if content_encoding is not None and content_encoding.strip().lower() not in (b"identity", b""):
        raise UnsupportedMediaType("a package is compressed already: send it without Content-Encoding")
    if content_type is None or len(content_type) > MAX_HEADER:
        raise UnsupportedMediaType(f"Content-Type is missing or too long; send {UPLOADABLE}")
    media_type, parameters = _options(content_type)
    if media_type == "application/octet-stream":
        return None
    if media_type != "multipart/form-data":
        raise UnsupportedMediaType(f"Content-Type {media_type!r} is not a package; send {UPLOADABLE}")
    return _boundary(parameters)


def is_gzip(content_encoding: bytes | None) -> bool:
    """
    Whether the body is compressed.

    Raises:
        UnsupportedMediaType: by anything but gzip, or more than once.
    """
    coding = (content_encoding or b"identity").strip().lower()
    if coding in (b"identity", b""):
        return False
    if coding not in (b"gzip", b"x-gzip"):
        raise UnsupportedMediaType("Content-Encoding must be gzip or absent")
    return True


def announced_length(content_length: bytes | None, transfer_encoding: bytes | None) -> int | None:
    """
    The length of a body, ``None`` when it comes in chunks.

    Raises:
        LengthRequired: neither is announced.
        MalformedBody: the length is no number.
    """
    if content_length is None:
        if transfer_encoding is None:
            raise LengthRequired("send Content-Length, or Transfer-Encoding: chunked")
        return None
    if not content_length.isdigit() or len(content_length) > MAX_LENGTH_DIGITS:
        raise MalformedBody("Content-Length is not a number")
    return int(content_length)


@lru_cache(maxsize=256)
def answer_for(accept: bytes | None) -> Answer:
    """
    The best answer for an Accept header (RFC 9110, section 12.5.1); JSON when nothing is asked for.

    Of equal weights the one that is named more exactly wins, then JSON.

    Raises:
        NotAcceptable: neither JSON nor CSV.
    """
    weights = dict(_weights(accept or b"*/*"))
    if not weights:
        return "json"
    json, csv = (_rank(weights, names) for names in (_JSON_RANGES, _CSV_RANGES))
    if max(json, csv)[0] <= 0:
        raise NotAcceptable("this server answers application/json or text/csv")
    return "csv" if csv > json else "json"


_JSON_RANGES: Final = ("application/json", "application/*", "*/*")
_CSV_RANGES: Final = ("text/csv", "text/*", "*/*")


def _options(header: bytes) -> tuple[str, dict[bytes, bytes]]:
    media_type, parameters = parse_options_header(header.decode("latin-1"))
    return media_type.decode("latin-1").strip(), {name.strip().lower(): value for name, value in parameters.items()}


def _encoding(parameters: dict[bytes, bytes]) -> str:
    charset = parameters.get(b"charset", b"utf-8").decode("latin-1").strip().lower()
    try:
        return CHARSETS[charset.replace("_", "-")]
    except KeyError:
        raise UnsupportedMediaType(f"charset {charset!r} cannot be read; send utf-8") from None


def _boundary(parameters: dict[bytes, bytes]) -> bytes:
    boundary = parameters.get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY:
        raise UnsupportedMediaType(f"multipart/form-data needs a boundary of 1 to {MAX_BOUNDARY} characters")
    return boundary


def _weights(accept: bytes) -> list[tuple[str, float]]:
    """Media ranges with their q-values; what cannot be read is left out."""
    found = []
    for part in accept[:MAX_HEADER].decode("latin-1").lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        if "/" in name and quality.isascii() and quality.replace(".", "", 1).isdigit():
            found.append((name, min(float(quality), 1.0)))
    return found


def _rank(weights: dict[str, float], ranges: tuple[str, ...]) -> tuple[float, int]:
    """The weight of the most exact range that is given, and how exact it is."""
    for place, name in enumerate(ranges):
        if name in weights:
            return weights[name], -place
    return 0.0, -len(ranges)
