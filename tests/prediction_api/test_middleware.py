import pytest
from hypothesis import given
from hypothesis import strategies as st

from prediction_api.exchange import headers_of, request_id_from
from prediction_api.middleware import route_label, route_path
from prediction_api.monitoring import OTHER_ROUTE, ROUTES


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/predictions", "/predictions"),
        (b"/predictions/", "/predictions"),
        (b"/predictions//", "/predictions/"),
        (b"/v1.0/ping", "/ping"),
        (b"/predApi/v1.0/info/", "/info"),
        (b"/predapi/v1.0/info", "/predapi/v1.0/info"),
        (b"/v1.0", "/v1.0"),
        (b"/v1.0/", "/"),
        (b"/v1.0ping", "/v1.0ping"),
        (b"/v1.0/v1.0/ping", "/v1.0/ping"),
        (b"/api/v2/predictions", "/predictions"),
        (b"/api/v2/deployments/a/predictions/", "/deployments/a/predictions"),
        (b"/api/v2/ping", "/api/v2/ping"),
        (b"/api/v2/deployments/a/predictionsUnstructured", "/api/v2/deployments/a/predictionsUnstructured"),
        (b"/", "/"),
        (b"", "/"),
        (b"//", "/"),
        (b"/%2e%2e/ping", "/%2e%2e/ping"),
        (b"/\xff", "/\xff"),
    ],
)
def test_route_path(raw, path):
    assert route_path(raw) == path


@given(st.binary(max_size=60))
def test_labels_are_few(raw):
    assert route_label(route_path(raw)) in {*ROUTES, OTHER_ROUTE}


@given(st.sampled_from(["", "/v1.0", "/predApi/v1.0"]), st.sampled_from(ROUTES), st.sampled_from(["", "/"]))
def test_every_spelling_is_the_same_route(prefix, route, slash):
    assert route_path(f"{prefix}{route}{slash}".encode()) == route


@pytest.mark.parametrize("given_id", [b"a", b"A1-_.:/+=@,~", b"x" * 128])
def test_harmless_ids_are_kept(given_id):
    assert request_id_from(given_id) == given_id.decode()


@pytest.mark.parametrize("given_id", [None, b"", b"x" * 129, b"a b", b"a\r\nb", b"\x1b[31m", "é".encode(), b'"'])
def test_other_ids_are_replaced(given_id):
    assert len(request_id_from(given_id)) == 32


def test_repeated_headers_are_joined():
    assert headers_of([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]) == {b"a": b"1, 3", b"b": b"2"}
