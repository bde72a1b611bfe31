import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_repository.errors import LengthRequired, MalformedBody, NotAcceptable, RequestError, UnsupportedMediaType
from prediction_api.negotiation import CHARSETS, announced_length, answer_for, body_form, is_gzip, part_form


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        (None, "json"),
        (b"", "json"),
        (b"*/*", "json"),
        (b"application/*", "json"),
        (b"text/*", "csv"),
        (b"text/csv", "csv"),
        (b"TEXT/CSV", "csv"),
        (b"text/csv; header=present", "csv"),
        (b"text/csv, application/json", "json"),
        (b"text/csv, */*", "csv"),
        (b"text/csv;q=0.5, */*;q=0.6", "json"),
        (b"application/json;q=0, */*", "csv"),
        (b"application/json;q=0.2, text/csv;q=0.3", "csv"),
        (b"text/html, application/xhtml+xml, */*;q=0.8", "json"),
        (b"image/png, text/csv;q=0.01", "csv"),
        (b"text/csv;q=nonsense, application/json;q=0.1", "json"),
        ("text/csv;q=²".encode("latin-1"), "json"),
    ],
)
def test_answer_for(accept, answer):
    assert answer_for(accept) == answer


@pytest.mark.parametrize("accept", [b"image/png", b"text/html", b"application/json;q=0", b"*/*;q=0"])
def test_not_acceptable(accept):
    with pytest.raises(NotAcceptable, match="application/json or text/csv"):
        answer_for(accept)


@given(st.binary(max_size=2000))
def test_any_header_is_read_or_refused(raw):
    for read in (answer_for, body_form, is_gzip):
        try:
            read(raw)
        except RequestError as exc:
            assert 400 <= exc.status_hint < 500


@pytest.mark.parametrize(
    ("content_type", "file_name", "kind", "encoding"),
    [
        ("", "", "csv", "utf-8"),
        ("", "rows.json", "json", "utf-8"),
        ("application/octet-stream", "rows.JSON", "json", "utf-8"),
        ("application/vnd.ms-excel", "rows.csv", "csv", "utf-8"),
        ("text/csv", "rows.json", "csv", "utf-8"),
        ("application/json", "rows.csv", "json", "utf-8"),
        ("text/plain; charset=Shift_JIS", "rows.txt", "csv", "shift_jis"),
        ("multipart/form-data; boundary=x", "rows.csv", "csv", "utf-8"),
    ],
)
def test_part_form(content_type, file_name, kind, encoding):
    form = part_form(content_type, file_name)
    assert (form.kind, form.encoding) == (kind, encoding)


@pytest.mark.parametrize("codec", sorted(set(CHARSETS.values())))
def test_every_charset_can_be_decoded(codec):
    assert "x,city\n".encode(codec).decode(codec) == "x,city\n"


@pytest.mark.parametrize(("length", "chunks", "known"), [(b"0", None, 0), (b"12", None, 12), (None, b"chunked", None)])
def test_announced_length(length, chunks, known):
    assert announced_length(length, chunks) == known


@pytest.mark.parametrize("length", [b"-1", b"+3", b"0x3", b"3, 3", b"", b"9" * 32])
def test_lengths_that_are_none(length):
    with pytest.raises(MalformedBody, match="Content-Length"):
        announced_length(length, None)


def test_no_length():
    with pytest.raises(LengthRequired):
        announced_length(None, None)


@pytest.mark.parametrize(("coding", "gzip"), [(None, False), (b"", False), (b"identity", False), (b" GZip ", True)])
def test_is_gzip(coding, gzip):
    assert is_gzip(coding) is gzip


@pytest.mark.parametrize("coding", [b"br", b"gzip, gzip", b"identity, gzip", b"deflate"])
def test_other_codings(coding):
    with pytest.raises(UnsupportedMediaType):
        is_gzip(coding)
