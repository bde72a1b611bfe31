import csv
import io
import re

import orjson
import pytest

from prediction_api.openapi import DOCS_PAGE, openapi_document
from prediction_api.options import PARAMETERS

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("kind", ["regression", "binary", "binary numbers", "multiclass", "anomaly"])
async def test_the_example_row_is_answered_as_described(client_for, kind):
    client = client_for(kind)
    api = (await client.get("/openapi.json")).json()
    content = api["paths"]["/predictions"]["post"]["requestBody"]["content"]
    described = api["components"]["schemas"]["Prediction"]
    answer = await client.post("/predictions", json=content["application/json"]["example"])
    table = await client.post(
        "/predictions",
        content=content["text/csv"]["example"],
        headers={"content-type": "text/csv", "accept": "text/csv"},
    )
    (row,) = answer.json()["data"]
    assert set(described["required"]) <= set(row) <= set(described["properties"])
    success = api["paths"]["/predictions"]["post"]["responses"]["200"]["content"]
    assert table.text.splitlines()[0] == success["text/csv"]["example"].strip()


async def test_the_columns_of_the_model_are_there(client_for):
    row = (await client_for().get("/openapi.json")).json()["components"]["schemas"]["Row"]
    assert row["properties"]["x"] == {"type": ["number", "null"]}
    assert row["properties"]["city"] == {"type": ["string", "null"], "examples": ["Oslo", "Rome"]}
    assert row["examples"] == [{"x": 1.5, "city": "Oslo"}]


@pytest.mark.parametrize(("kind", "only_for"), [("binary", None), ("multiclass", "Multiclass")])
async def test_parameters_are_those_of_the_model(client_for, kind, only_for):
    api = (await client_for(kind).get("/openapi.json")).json()
    names = {one["name"] for one in api["paths"]["/predictions"]["post"]["parameters"]}
    assert names == {name for name, one in PARAMETERS.items() if one.only_for in (None, only_for)}


def test_references_lead_somewhere(make_model):
    api = orjson.loads(orjson.dumps(openapi_document(make_model().manifest, 100)))
    for reference in set(re.findall(r'"\$ref":"#/([^"]+)"', orjson.dumps(api).decode())):
        node = api
        for step in reference.split("/"):
            node = node[step]


def test_csv_example_is_quoted_where_it_must_be(make_model):
    manifest = make_model().manifest
    odd = manifest.features[1].__class__(name='a,"b"', type="text", dtype="str")
    manifest = manifest.__class__(
        **{name: getattr(manifest, name) for name in manifest.__struct_fields__} | {"features": [odd]}
    )
    content = openapi_document(manifest, 100)["paths"]["/predictions"]["post"]["requestBody"]["content"]
    header, values = csv.reader(io.StringIO(content["text/csv"]["example"]))
    assert (header, values) == (['a,"b"'], ["some words"])


async def test_docs_page_needs_no_network(client_for):
    answer = await client_for().get("/docs/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    assert not re.search(r"https?://|//[a-z]+\.|@import|<link|src=", DOCS_PAGE)
