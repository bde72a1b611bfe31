"""The wire contract as tables: every route, prefix, header, parameter, column and status of a server with one model."""

import gzip
import json
import re

import pytest

JSON = {"content-type": "application/json"}
CSV = {"content-type": "text/csv"}
AS_CSV = {"accept": "text/csv"}
ROW = b'[{"x": 3, "city": "Oslo", "id": "A1"}]'
TABLE = b"x,city,id\n3,Oslo,A1\n"

ALL_PREFIXES = ["", "/v1.0", "/predApi/v1.0"]


@pytest.mark.parametrize("slash", ["", "/"], ids=["plain", "slash"])
@pytest.mark.parametrize("prefix", [*ALL_PREFIXES, "/api/v2"])
async def test_predictions_stand_under_every_prefix(client_for, prefix, slash):
    answer = await client_for().post(f"{prefix}/predictions{slash}", content=ROW, headers=JSON)
    assert (answer.status_code, answer.json()["data"][0]["prediction"]) == (200, "yes")


@pytest.mark.parametrize("slash", ["", "/"], ids=["plain", "slash"])
@pytest.mark.parametrize("prefix", ALL_PREFIXES)
@pytest.mark.parametrize("path", ["/info", "/ping", "/livez", "/metrics", "/openapi.json", "/docs"])
async def test_get_routes_stand_under_every_prefix(client_for, prefix, path, slash):
    client = client_for()
    answer = await client.get(f"{prefix}{path}{slash}", headers={"range": "bytes=" + "0-," * 1000 + "0-"})
    head = await client.head(f"{prefix}{path}{slash}")
    assert (answer.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-type"] == answer.headers["content-type"]


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/", 404, "no such route"),
        ("GET", "/nope", 404, "no such route"),
        ("POST", "//predictions", 404, "no such route"),
        ("POST", "/predictions//", 404, "no such route"),
        ("POST", "/%70redictions", 404, "no such route"),
        ("GET", "/api/v2/ping", 404, "no such route"),
        ("GET", "/v1.0/v1.0/ping", 404, "no such route"),
        ("GET", "/v2.0/ping", 404, "no such route"),
        ("POST", "/predictionsUnstructured", 404, "no unstructured models"),
        ("GET", "/deployments", 404, "single model"),
        ("GET", "/deployments/abc/info", 404, "single model"),
        ("POST", "/deployments/abc", 404, "single model"),
        ("DELETE", "/deployments/abc", 404, "single model"),
        ("POST", "/predApi/v1.0/deployments/5fc92906ad764dde6c3264fa/predictions", 404, "single model"),
        ("POST", "/api/v2/deployments/5fc92906ad764dde6c3264fa/predictions/", 404, "single model"),
        ("POST", "/deployments/%2e%2e/predictions", 404, "single model"),
        ("POST", "/deployments/..%5c..%00/predictions", 404, "single model"),
        ("POST", "/deployments/abc/predictionsUnstructured", 404, "single model"),
    ],
)
async def test_what_is_not_there(client_for, method, path, status, says):
    answer = await client_for().request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert says in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/predictions", {"POST"}),
        ("HEAD", "/predictions", {"POST"}),
        ("PUT", "/v1.0/predictions/", {"POST"}),
        ("DELETE", "/predictionExplanations", {"POST"}),
        ("POST", "/ping", {"GET", "HEAD"}),
        ("POST", "/info", {"GET", "HEAD"}),
        ("PATCH", "/metrics", {"GET", "HEAD"}),
        ("TRACE", "/ping", {"GET", "HEAD"}),
        ("PROPFIND", "/info", {"GET", "HEAD"}),
    ],
)
async def test_wrong_methods_name_the_right_ones(client_for, method, path, allow):
    client = client_for()
    answer = await client.request(method, path)
    options = await client.options(path)
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, allow)
    assert (options.status_code, set(options.headers["allow"].split(", "))) == (204, allow)
    assert not [name for name in options.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("kind", "row", "table"),
    [
        pytest.param(
            "regression",
            {"prediction": 6.0, "predictionValues": [{"label": "price", "value": 6.0}]},
            "price_PREDICTION\n6.0\n",
            id="regression",
        ),
        pytest.param(
            "binary",
            {
                "prediction": "yes",
                "predictionThreshold": 0.5,
                "predictionValues": [{"label": "yes", "value": 0.75}, {"label": "no", "value": 0.25}],
            },
            "bad_yes_PREDICTION,bad_no_PREDICTION,bad_PREDICTION,THRESHOLD,POSITIVE_CLASS\n0.75,0.25,yes,0.5,yes\n",
            id="binary",
        ),
        pytest.param(
            "binary numbers",
            {
                "prediction": 1,
                "predictionThreshold": 0.25,
                "predictionValues": [{"label": 1, "value": 0.75}, {"label": 0, "value": 0.25}],
            },
            "bad_1_PREDICTION,bad_0_PREDICTION,bad_PREDICTION,THRESHOLD,POSITIVE_CLASS\n0.75,0.25,1,0.25,1\n",
            id="binary with labels that are numbers",
        ),
        pytest.param(
            "multiclass",
            {
                "prediction": "cat",
                "predictionValues": [
                    {"label": "cat", "value": 0.75},
                    {"label": "lion", "value": 0.125},
                    {"label": "lynx", "value": 0.125},
                ],
            },
            "pet_cat_PREDICTION,pet_lion_PREDICTION,pet_lynx_PREDICTION,pet_PREDICTION\n0.75,0.125,0.125,cat\n",
            id="multiclass",
        ),
        pytest.param(
            "multiclass numbers",
            {
                "prediction": 1,
                "predictionValues": [
                    {"label": 1, "value": 0.75},
                    {"label": 2, "value": 0.125},
                    {"label": 3, "value": 0.125},
                ],
            },
            "pet_1_PREDICTION,pet_2_PREDICTION,pet_3_PREDICTION,pet_PREDICTION\n0.75,0.125,0.125,1\n",
            id="multiclass with labels that are numbers",
        ),
        pytest.param(
            "anomaly",
            {"prediction": 6.0, "predictionValues": [{"label": "Anomaly Score", "value": 6.0}]},
            "ANOMALY_SCORE\n6.0\n",
            id="anomaly",
        ),
    ],
)
@pytest.mark.parametrize("path", ["compiled", "estimator"])
@pytest.mark.parametrize(("body", "headers"), [(ROW, JSON), (TABLE, CSV)], ids=["json in", "csv in"])
async def test_answers(client_for, kind, row, table, path, body, headers):
    client = client_for(kind, path=path)
    json_answer = await client.post("/predictions", content=body, headers=headers)
    csv_answer = await client.post("/predictions", content=body, headers=headers | AS_CSV)
    assert json_answer.json() == {"data": [{"rowId": 0, **row}]}
    assert json_answer.headers["content-type"] == "application/json"
    assert csv_answer.text == table
    assert csv_answer.headers["content-type"] == "text/csv; charset=utf-8"


async def test_rows_keep_their_order(client_for):
    xs = [3, 1, 2, 0.5]
    body = json.dumps([{"x": x, "city": "Oslo"} for x in xs])
    answer = await client_for("regression").post("/predictions", content=body, headers=JSON)
    assert [(row["rowId"], row["prediction"]) for row in answer.json()["data"]] == [
        (i, 2.0 * x) for i, x in enumerate(xs)
    ]


async def test_headers_of_an_answer(client_for):
    client = client_for()
    answer = await client.post("/predictions", content=ROW, headers=JSON | {"x-request-id": "abc-123"})
    claimed = {"x-request-id": "bad id\x1b[31m", "traceparent": "00-1-1-01", "x-amzn-sagemaker-custom-attributes": "a"}
    refused = await client.post("/predictions?wd=1", content=ROW, headers=JSON | claimed)
    long = await client.post("/predictions?wd=1", content=ROW, headers=JSON | {"x-request-id": "a" * 10_000})
    for one in (answer, refused, long):
        assert float(one.headers["x-datarobot-execution-time"]) >= 0
        assert not {"traceparent", "x-amzn-sagemaker-custom-attributes"} & set(one.headers)
        assert len(one.headers["x-datarobot-request-id"]) <= 128
    assert answer.headers["x-datarobot-model-cache-hit"] == "true"
    assert re.fullmatch("[0-9a-f]{24}", answer.headers["x-model-id"])
    assert answer.headers["x-datarobot-request-id"] == "abc-123"
    assert re.fullmatch("[0-9a-f]{32}", refused.headers["x-datarobot-request-id"])


async def test_authorization_is_ignored(client_for):
    headers = JSON | {"authorization": "Bearer nobody", "datarobot-key": "none"}
    assert (await client_for().post("/predictions", content=ROW, headers=headers)).status_code == 200


LATIN = "x,city,id\n3,Oslo,Åse\n"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/csv", TABLE),
        ("TEXT/CSV", TABLE),
        ("text/csv; charset=utf8", TABLE),
        ("text/plain; charset=UTF-8", TABLE),
        ("text/plain", TABLE),
        ("textplain", TABLE),
        ("application/json", ROW),
        ("application/JSON", ROW),
        ("application/json; charset=utf-8", ROW),
        ("text/csv", b"\xef\xbb\xbf" + TABLE),
        ("text/csv; charset=iso-8859-1", LATIN.encode("latin-1")),
        ('text/csv; charset="Windows-1252"', LATIN.encode("cp1252")),
        ("text/csv; charset=utf-16", LATIN.encode("utf-16")),
        ("application/json; charset=latin-1", '[{"x": 3, "city": "Åse"}]'.encode("latin-1")),
    ],
)
async def test_content_types_that_are_read(client_for, content_type, body):
    answer = await client_for().post("/predictions", content=body, headers={"content-type": content_type})
    assert answer.json()["data"][0]["prediction"] == "yes"


def multipart(*parts: tuple[str, bytes]) -> bytes:
    body = b"".join(b"--frontier\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts)
    return body + b"--frontier--\r\n"


FILE = 'Content-Disposition: form-data; name="file"; filename="rows.csv"'
MULTIPART = {"content-type": "multipart/form-data; boundary=frontier"}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(multipart((FILE + "\r\nContent-Type: text/csv", TABLE)), id="csv by its type"),
        pytest.param(multipart((FILE, TABLE)), id="csv by default"),
        pytest.param(multipart((FILE + "\r\nContent-Type: application/octet-stream", TABLE)), id="csv of unknown type"),
        pytest.param(multipart((FILE + "\r\nContent-Type: application/json", ROW)), id="json by its type"),
        pytest.param(multipart((FILE.replace(".csv", ".JSON"), ROW)), id="json by its file name"),
        pytest.param(multipart(('Content-Disposition: form-data; name="other"', TABLE)), id="any name, no file name"),
    ],
)
async def test_multipart(client_for, body):
    answer = await client_for().post("/predictions", content=body, headers=MULTIPART)
    assert answer.json()["data"][0]["prediction"] == "yes"


async def test_gzip(client_for):
    headers = CSV | {"content-encoding": "GZIP"}
    answer = await client_for().post("/predictions", content=gzip.compress(TABLE), headers=headers)
    assert answer.json()["data"][0]["prediction"] == "yes"


async def test_gzip_of_multipart(client_for):
    headers = MULTIPART | {"content-encoding": "gzip"}
    answer = await client_for().post("/predictions", content=gzip.compress(multipart((FILE, TABLE))), headers=headers)
    assert answer.json()["data"][0]["prediction"] == "yes"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/csv", "text/csv; charset=utf-8"),
        ("text/csv;q=0.9, application/json;q=0.1", "text/csv; charset=utf-8"),
    ],
)
async def test_accept(client_for, accept, content_type):
    answer = await client_for().post("/predictions", content=ROW, headers=JSON | {"accept": accept})
    assert answer.headers["content-type"] == content_type


@pytest.mark.parametrize(
    ("headers", "body", "status", "says"),
    [
        pytest.param({}, ROW, 415, "Content-Type is missing", id="no content type"),
        pytest.param({"content-type": "image/png"}, ROW, 415, "'image/png' cannot be read", id="image"),
        pytest.param({"content-type": "application/octet-stream"}, ROW, 415, "cannot be read", id="binary"),
        pytest.param({"content-type": "application/x-www-form-urlencoded"}, b"x=1", 415, "cannot be read", id="form"),
        pytest.param({"content-type": "application/x-npy"}, b"\x93NUMPY", 415, "cannot be read", id="numpy"),
        pytest.param({"content-type": "application/python-pickle"}, b"cos\n", 415, "cannot be read", id="pickle"),
        pytest.param({"content-type": "application/vnd.apache.parquet"}, b"PAR1", 415, "cannot be read", id="parquet"),
        pytest.param(
            {"content-type": "application/vnd.apache.arrow.stream"}, b"\xff" * 4, 415, "cannot be read", id="arrow"
        ),
        pytest.param({"content-type": "application/json, text/csv"}, ROW, 415, "cannot be read", id="two types"),
        pytest.param({"content-type": "application/json; charset=utf-7"}, ROW, 415, "utf-7", id="json in utf-7"),
        pytest.param({"content-type": "text/csv; charset=utf-7"}, TABLE, 415, "utf-7", id="utf-7"),
        pytest.param({"content-type": "text/csv; charset=rot13"}, TABLE, 415, "rot13", id="no charset at all"),
        pytest.param({"content-type": "text/csv; a=" + "b" * 2000}, TABLE, 415, "longer than", id="long content type"),
        pytest.param({"content-type": "multipart/form-data"}, TABLE, 415, "boundary", id="no boundary"),
        pytest.param(
            {"content-type": "multipart/form-data; boundary=" + "b" * 71}, TABLE, 415, "boundary", id="long boundary"
        ),
        pytest.param(CSV | {"content-encoding": "br"}, TABLE, 415, "gzip", id="brotli"),
        pytest.param(CSV | {"content-encoding": "gzip, gzip"}, TABLE, 415, "gzip", id="gzip twice"),
        pytest.param(CSV | {"content-encoding": "identity, gzip"}, TABLE, 415, "gzip", id="identity and gzip"),
        pytest.param(CSV | {"accept": "image/png"}, TABLE, 406, "application/json or text/csv", id="image wanted"),
        pytest.param(CSV | {"accept": "*/*;q=0"}, TABLE, 406, "application/json or text/csv", id="nothing wanted"),
        pytest.param(CSV | {"content-encoding": "gzip"}, TABLE, 400, "not valid gzip", id="not gzip"),
        pytest.param(
            CSV | {"content-encoding": "gzip"}, gzip.compress(TABLE)[:-5], 400, "ends too early", id="gzip cut short"
        ),
        pytest.param(
            CSV | {"content-encoding": "gzip"}, gzip.compress(TABLE) + b"x", 400, "behind the end", id="gzip and more"
        ),
        pytest.param(
            CSV | {"content-encoding": "gzip"}, gzip.compress(b"x,city\n" + b"1,a\n" * 10**6), 413, "more than",
            id="gzip bomb",
        ),
        pytest.param(
            JSON | {"content-encoding": "gzip"}, gzip.compress(gzip.compress(ROW)), 400, "not utf-8", id="gzip in gzip"
        ),
        pytest.param(
            JSON | {"content-encoding": "gzip"}, gzip.compress(ROW) * 2, 400, "behind the end", id="two gzip members"
        ),
        pytest.param(CSV, b"x,city\n" + b"1,a\n" * 3000, 413, "at most 10000", id="too large"),
        pytest.param(MULTIPART, multipart(*[(FILE, b"")] * 100), 400, "more than one part", id="a hundred files"),
        pytest.param(MULTIPART, multipart((FILE, TABLE), (FILE, TABLE)), 400, "more than one part", id="two files"),
        pytest.param(MULTIPART, multipart((FILE, TABLE))[:-6], 400, "before its last boundary", id="part cut short"),
        pytest.param(MULTIPART, b"nonsense", 400, "multipart", id="not multipart"),
        pytest.param(MULTIPART, multipart(), 400, "multipart", id="no part"),
        pytest.param(
            MULTIPART, multipart((FILE + "\r\nContent-Type: text/csv; charset=utf-7", TABLE)), 415, "utf-7",
            id="part in utf-7",
        ),
        pytest.param(CSV, b"", 400, "empty", id="empty csv"),
        pytest.param(CSV, b"x,city\n", 400, "no rows", id="header only"),
        pytest.param(CSV, b"x,city\n1,Oslo,more\n", 400, "line 2", id="ragged"),
        pytest.param(CSV, b"x,city\n\xff,Oslo\n", 400, "utf-8", id="not utf-8"),
        pytest.param(CSV, b"x\n1\n", 400, "missing columns: city", id="missing column"),
        pytest.param(JSON, b'[{"x": 1}]', 400, "missing columns: city", id="missing column in json"),
        pytest.param(JSON, b"", 400, "", id="empty json"),
        pytest.param(JSON, b"[]", 400, "", id="no objects"),
        pytest.param(JSON, b"null", 400, "", id="null"),
        pytest.param(JSON, b'"x"', 400, "array of objects", id="string"),
        pytest.param(JSON, b"42", 400, "array of objects", id="number"),
        pytest.param(JSON, b" \n\t ", 400, "array of objects", id="blanks"),
        pytest.param(CSV, b" \n\n", 400, "missing columns", id="blanks in csv"),
        pytest.param(JSON, b'{"x": 1', 400, "array of objects", id="half json"),
        pytest.param(JSON, ROW + ROW, 400, "content after document", id="two documents"),
        pytest.param(JSON, ROW + b"x", 400, "content after document", id="garbage behind it"),
        pytest.param(JSON, ROW.decode().encode("utf-16"), 400, "not utf-8", id="json in utf-16"),
        pytest.param(JSON, b"[" * 5000, 400, "depth limit", id="deep"),
        pytest.param(JSON, b'[{"x": 1, "city": ' + b"[" * 5000, 400, "depth limit", id="deep in a row"),
        pytest.param(JSON, b'[{"x": NaN, "city": "Oslo"}]', 400, "not valid json", id="NaN"),
        pytest.param(JSON, b'[{"x": 1e999, "city": "Oslo"}]', 422, "too large", id="1e999"),
        pytest.param(JSON, b'[{"x": %b, "city": "Oslo"}]' % (b"9" * 5000), 422, "too large", id="5000 digits"),
        pytest.param(JSON, rb'[{"x": 1, "city": "Oslo", "\ud800": 1}]', 400, "surrogate", id="half a pair in a name"),
        pytest.param(JSON, rb'[{"x": 1, "city": "\udfff"}]', 400, "not valid json", id="half a pair in a value"),
        pytest.param(JSON, b'[{"x": 1, "city": "O\0"}]', 400, "control character", id="NUL in a string"),
        pytest.param(JSON, b'[{"x": 1, "city": "O\xff"}]', 400, "not utf-8", id="no utf-8 in json"),
        pytest.param(JSON, b'[{"x": true, "city": "Oslo"}]', 422, "row 0, column 'x'", id="true for a number"),
        pytest.param(JSON, b'[{"x": "2024-01-01", "city": "Oslo"}]', 422, "row 0, column 'x'", id="date for a number"),
        pytest.param(JSON, b'[{"x": [1], "city": "Oslo"}]', 422, "row 0, column 'x'", id="array for a number"),
        pytest.param(CSV, b'x,city\n1,"Oslo\n', 400, "never closed", id="open quote"),
        pytest.param(CSV, b"x,city\n1,O\0\n", 400, "NUL", id="NUL in csv"),
        pytest.param(CSV, b"x,city\n1,Oslo\nmany,Oslo\n", 422, "row 1, column 'x'", id="word for a number"),
        pytest.param(JSON, b'[{"x": "many", "city": "Oslo"}]', 422, "row 0, column 'x'", id="word in json"),
        pytest.param(JSON, b'[{"x": 13, "city": "Oslo"}]', 422, "13 brings bad luck", id="refused by the model"),
        pytest.param(JSON, b'[{"x": 666, "city": "Oslo"}]', 500, "the estimator raised", id="the model failed"),
        pytest.param(JSON, b'[{"x": 999, "city": "Oslo"}]', 500, "internal error; request id", id="nobody foresaw"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["compiled", "estimator"])
async def test_refusals(client_for, headers, body, status, says, path):
    """One JSON answer that names what is wrong, whatever the client accepts, and nothing of the server's inside."""
    client = client_for(path=path, max_body_bytes=10_000)
    answer = await client.post("/predictions", content=body, headers={"accept": "text/csv"} | headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert list(answer.json()) == ["message"]
    assert says.lower() in answer.json()["message"].lower()
    assert "secret" not in answer.text


async def test_no_length_at_all(client_for):
    request = client_for().build_request("POST", "/predictions", headers=CSV)
    del request.headers["content-length"]
    client = client_for()
    answer = await client.send(request)
    assert (answer.status_code, answer.json()["message"]) == (
        411,
        "send Content-Length, or Transfer-Encoding: chunked",
    )


@pytest.mark.parametrize(("length", "status"), [(8192, 422), (8193, 414)])
async def test_request_line(client_for, length, status):
    fixed = len("POST /predictions?wd= HTTP/1.1")
    answer = await client_for().post("/predictions?wd=" + "a" * (length - fixed), content=ROW, headers=JSON)
    assert answer.status_code == status


X: dict[str, object] = {"feature": "x", "featureValue": 3}
CITY: dict[str, object] = {"feature": "city", "featureValue": "Oslo"}
TWO_COLUMNS = (
    "EXPLANATION_1_FEATURE_NAME,EXPLANATION_1_STRENGTH,EXPLANATION_1_ACTUAL_VALUE,EXPLANATION_1_QUALITATIVE_STRENGTH,"
    "EXPLANATION_2_FEATURE_NAME,EXPLANATION_2_STRENGTH,EXPLANATION_2_ACTUAL_VALUE,EXPLANATION_2_QUALITATIVE_STRENGTH"
)
SUMS = "SHAP_REMAINING_TOTAL,SHAP_BASE_VALUE"


@pytest.mark.parametrize(
    ("kind", "query", "fields", "columns", "cells"),
    [
        pytest.param(
            "regression", "maxExplanations=2",
            {"predictionExplanations": [X | {"strength": 5.0, "qualitativeStrength": "+++", "label": "price"}]},
            TWO_COLUMNS, "x,5.0,3,+++,,,,", id="regression: a feature without impact is not listed",
        ),
        pytest.param(
            "binary", "maxExplanations=2",
            {"predictionExplanations": [X | {"strength": 0.625, "qualitativeStrength": "+++", "label": "yes"}]},
            TWO_COLUMNS, "x,0.625,3,+++,,,,", id="binary: the positive class",
        ),
        pytest.param(
            "binary numbers", "maxCodes=2&decimalsNumber=1",
            {"predictionExplanations": [X | {"strength": 0.6, "qualitativeStrength": "+++", "label": 1}]},
            TWO_COLUMNS, "x,0.6,3,+++,,,,", id="labels keep their type, strengths are rounded",
        ),
        pytest.param(
            "anomaly", "maxExplanations=2",
            {"predictionExplanations": [X | {"strength": 5.0, "qualitativeStrength": "+++", "label": "Anomaly Score"}]},
            TWO_COLUMNS, "x,5.0,3,+++,,,,", id="anomaly",
        ),
        pytest.param(
            "binary", "maxExplanations=2&thresholdLow=0.1&thresholdHigh=0.8", {"predictionExplanations": []},
            TWO_COLUMNS, ",,,,,,,", id="between the thresholds",
        ),
        pytest.param(
            "binary", "maxExplanations=2&thresholdHigh=0.7",
            {"predictionExplanations": [X | {"strength": 0.625, "qualitativeStrength": "+++", "label": "yes"}]},
            TWO_COLUMNS, "x,0.625,3,+++,,,,", id="above the high threshold",
        ),
        pytest.param(
            "binary", "maxExplanations=2&thresholdLow=0.8",
            {"predictionExplanations": [X | {"strength": 0.625, "qualitativeStrength": "+++", "label": "yes"}]},
            TWO_COLUMNS, "x,0.625,3,+++,,,,", id="below the low threshold",
        ),
        pytest.param(
            "multiclass", "maxExplanations=1",
            {"predictionExplanations": [X | {"strength": 0.625, "qualitativeStrength": "+++", "label": "cat"}]},
            "CLASS_1,CLASS_1_EXPLANATION_1_FEATURE_NAME,CLASS_1_EXPLANATION_1_STRENGTH,"
            "CLASS_1_EXPLANATION_1_ACTUAL_VALUE,CLASS_1_EXPLANATION_1_QUALITATIVE_STRENGTH",
            "cat,x,0.625,3,+++", id="multiclass: the likeliest class",
        ),
        pytest.param(
            "multiclass", "maxExplanations=1&explanationClassNames=lynx&explanationClassNames=cat",
            {
                "predictionExplanations": [
                    X | {"strength": -0.3125, "qualitativeStrength": "---", "label": "lynx"},
                    X | {"strength": 0.625, "qualitativeStrength": "+++", "label": "cat"},
                ]
            },
            "CLASS_1,CLASS_1_EXPLANATION_1_FEATURE_NAME,CLASS_1_EXPLANATION_1_STRENGTH,"
            "CLASS_1_EXPLANATION_1_ACTUAL_VALUE,CLASS_1_EXPLANATION_1_QUALITATIVE_STRENGTH,"
            "CLASS_2,CLASS_2_EXPLANATION_1_FEATURE_NAME,CLASS_2_EXPLANATION_1_STRENGTH,"
            "CLASS_2_EXPLANATION_1_ACTUAL_VALUE,CLASS_2_EXPLANATION_1_QUALITATIVE_STRENGTH",
            "lynx,x,-0.3125,3,---,cat,x,0.625,3,+++", id="multiclass: classes by name, in that order",
        ),
        pytest.param(
            "multiclass numbers", "maxExplanations=1&explanationNumTopClasses=2",
            {
                "predictionExplanations": [
                    X | {"strength": 0.625, "qualitativeStrength": "+++", "label": 1},
                    X | {"strength": -0.3125, "qualitativeStrength": "---", "label": 2},
                ]
            },
            "CLASS_1,CLASS_1_EXPLANATION_1_FEATURE_NAME,CLASS_1_EXPLANATION_1_STRENGTH,"
            "CLASS_1_EXPLANATION_1_ACTUAL_VALUE,CLASS_1_EXPLANATION_1_QUALITATIVE_STRENGTH,"
            "CLASS_2,CLASS_2_EXPLANATION_1_FEATURE_NAME,CLASS_2_EXPLANATION_1_STRENGTH,"
            "CLASS_2_EXPLANATION_1_ACTUAL_VALUE,CLASS_2_EXPLANATION_1_QUALITATIVE_STRENGTH",
            "1,x,0.625,3,+++,2,x,-0.3125,3,---", id="multiclass: the two likeliest",
        ),
        pytest.param(
            "regression", "maxExplanations=all",
            {
                "predictionExplanations": [
                    X | {"strength": 5.0, "standardError": 1.0, "label": "price"},
                    CITY | {"strength": 0.0, "standardError": 0.0, "label": "price"},
                ],
                "shapExplanationsMetadata": [{"baseValue": 1.0, "remainingTotal": 0.0, "warnings": []}],
            },
            f"{TWO_COLUMNS},{SUMS}", "x,5.0,3,,city,0.0,Oslo,,0.0,1.0", id="all of SHAP, estimated",
        ),
        pytest.param(
            "binary", "explanationAlgorithm=shap&thresholdLow=0&thresholdHigh=1",
            {
                "predictionExplanations": [
                    X | {"strength": 0.625, "standardError": 0.125, "label": "yes"},
                    CITY | {"strength": 0.0, "standardError": 0.0, "label": "yes"},
                ],
                "shapExplanationsMetadata": [{"baseValue": 0.125, "remainingTotal": 0.0, "warnings": []}],
            },
            f"{TWO_COLUMNS},{SUMS}", "x,0.625,3,,city,0.0,Oslo,,0.0,0.125", id="SHAP ignores thresholds",
        ),
        pytest.param(
            "binary", "explanationAlgorithm=shap&maxExplanations=1&decimalsNumber=0",
            {
                "predictionExplanations": [X | {"strength": 1, "standardError": 0, "label": "yes"}],
                "shapExplanationsMetadata": [{"baseValue": 0, "remainingTotal": 0, "warnings": []}],
            },
            f"{TWO_COLUMNS.partition(',EXPLANATION_2')[0]},{SUMS}", "x,1,3,,0,0", id="the strongest of SHAP",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["compiled", "estimator"])
@pytest.mark.parametrize(("body", "headers"), [(ROW, JSON), (TABLE, CSV)], ids=["json in", "csv in"])
async def test_explanations(client_for, kind, query, fields, columns, cells, path, body, headers):
    client = client_for(kind, path=path, reference=True)
    without = f"/predictions?{'&'.join(re.findall('decimals[^&]*', query))}"
    plain = await client.post(without, content=body, headers=headers)
    table = await client.post(without, content=body, headers=headers | AS_CSV)
    url = f"/predictions?passthroughColumns=id&{query}"
    json_answer = await client.post(url, content=body, headers=headers)
    csv_answer = await client.post(url, content=body, headers=headers | AS_CSV)
    assert json_answer.json() == {
        "data": [plain.json()["data"][0] | fields | {"passthroughValues": {"id": "A1"}}],
    }
    header, line = table.text.split()
    assert csv_answer.text == f"{header},{columns},id\n{line},{cells},A1\n"


@pytest.mark.parametrize("slash", ["", "/"], ids=["plain", "slash"])
@pytest.mark.parametrize("prefix", ALL_PREFIXES)
async def test_the_old_route_of_explanations(client_for, prefix, slash):
    """Three by default."""
    client = client_for("regression", reference=True)
    url = f"{prefix}/predictionExplanations{slash}"
    by_default = await client.post(url, content=ROW, headers=JSON | AS_CSV)
    two = await client.post(f"{url}?maxCodes=2", content=ROW, headers=JSON | AS_CSV)
    assert "EXPLANATION_3_STRENGTH" in by_default.text
    assert "EXPLANATION_4_STRENGTH" not in by_default.text
    assert two.text.splitlines()[0] == f"price_PREDICTION,{TWO_COLUMNS}"


@pytest.mark.parametrize(
    ("column", "body", "fields", "cells"),
    [
        pytest.param("x", b"x,city\n3,Oslo\n", {"adjustedPrediction": 18.0}, "6.0,18.0", id="a feature"),
        pytest.param("days", b"x,city,days\n3,Oslo,0.5\n", {"adjustedPrediction": 3.0}, "6.0,3.0", id="no feature"),
        pytest.param("days", b"x,city,days\n3,Oslo,\n", {"adjustedPrediction": None}, "6.0,", id="missing"),
    ],
)
@pytest.mark.parametrize("query", ["", "&passthroughColumns=city", "&maxExplanations=1"])
async def test_adjusted_predictions(client_for, column, body, fields, cells, query):
    client = client_for("regression", reference=True, exposure=column)
    url = f"/predictions?excludeAdjustedPredictions=false{query}"
    (row,) = (await client.post(url, content=body, headers=CSV)).json()["data"]
    table = await client.post(url, content=body, headers=CSV | AS_CSV)
    without = await client.post("/predictions?excludeAdjustedPredictions=true", content=body, headers=CSV | AS_CSV)
    value = fields["adjustedPrediction"]
    assert row["adjustedPrediction"] == value
    assert row["adjustedPredictionValues"] == [{"label": "price", "value": value}]
    assert row.get("passthroughValues") == ({"city": "Oslo"} if "through" in query else None)
    assert table.text.startswith("price_PREDICTION,price_PREDICTION_ADJUSTED")
    assert table.text.splitlines()[1].startswith(cells)
    assert without.text == "price_PREDICTION\n6.0\n"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"x,city\n3,Oslo\n", 400, "missing columns: days"),
        (b"x,city,days\n3,Oslo,1\n3,Oslo,many\n", 422, "row 1, column 'days': 'many' is not a number"),
    ],
)
async def test_exposures_that_cannot_be_used(client_for, body, status, says):
    client = client_for("regression", exposure="days")
    answer = await client.post("/predictions?excludeAdjustedPredictions=no", content=body, headers=CSV)
    assert (answer.status_code, answer.json()) == (status, {"message": says})


async def test_models_without_exposure_adjust_nothing(client_for):
    answer = await client_for("binary").post("/predictions?excludeAdjustedPredictions=false", content=ROW, headers=JSON)
    assert "adjustedPrediction" not in answer.json()["data"][0]


async def test_explanations_are_off_when_zero(client_for):
    client = client_for()
    for query in ("maxExplanations=0", "maxCodes=0", "maxExplanations=0&thresholdLow=0.1&thresholdHigh=0.9"):
        assert (await client.post(f"/predictions?{query}", content=ROW, headers=JSON)).status_code == 200
    assert (await client.post("/predictionExplanations?maxExplanations=0", content=ROW, headers=JSON)).is_success


@pytest.mark.parametrize(
    ("kind", "path", "says"),
    [
        ("binary", "/predictionExplanations", "has no reference rows"),
        ("binary", "/predictionExplanations?maxCodes=2", "package it again with 'prediction-api package create'"),
        ("binary", "/predictions?maxExplanations=3", "has no reference rows"),
        ("binary", "/predictions?explanationAlgorithm=shap", "has no reference rows"),
        ("multiclass", "/predictions?explanationAlgorithm=shap", "not available for multiclass models"),
        ("binary", "/predictions?maxExplanations=11", "'maxExplanations': value is not a whole number from 0 to 10"),
        ("binary", "/predictions?maxExplanations=1&maxCodes=1", "'maxExplanations' and 'maxCodes' exclude each other"),
        ("binary", "/predictions?maxExplanations=all&explanationAlgorithm=xemp", "'all' is only for"),
        ("binary", "/predictions?explanationAlgorithm=lime", "'explanationAlgorithm': value is not 'xemp' or 'shap'"),
        ("binary", "/predictions?thresholdLow=low", "'thresholdLow': value is not a number"),
        ("multiclass", "/predictions?explanationNumTopClasses=4", "value is not a whole number from 1 to 3"),
        ("multiclass", "/predictions?explanationClassNames=dog", "the model has no class 'dog'"),
        ("binary", "/predictions?explanationClassNames=yes", "only for multiclass models"),
        ("binary", "/timeSeriesPredictions", "not a time series model"),
        ("binary", "/predictions?wd=1", "'wd': wd is not allowed key"),
        ("binary", "/predictions?passthroughColumns=", "'passthroughColumns': blank value is not allowed"),
        ("binary", "/predictions?passthroughColumnsSet=some", "'passthroughColumnsSet': value is not exactly 'all'"),
        ("binary", "/predictions?decimalsNumber=16", "'decimalsNumber'"),
        ("binary", "/predictions?forecastPoint=2024-01-01", "only for time series models"),
        ("binary", "/predictions?explanationNumTopClasses=1", "only for multiclass models"),
        ("plain regression", "/predictions?predictionWarningEnabled=true", "'predictionWarningEnabled'"),
    ],
)
async def test_parameters_that_are_refused(client_for, kind, path, says):
    answer = await client_for(kind).post(path, content=ROW, headers=JSON)
    assert answer.status_code == 422
    assert says in answer.json()["message"]


async def test_passthrough(client_for):
    client = client_for("regression")
    body = b"x,city,id,\xc3\xa9tat\n3,Oslo,007,\n"
    named = await client.post(
        "/predictions?passthroughColumns=%C3%A9tat&passthroughColumns=id", content=body, headers=CSV
    )
    whole = await client.post("/predictions?passthroughColumnsSet=all", content=body, headers=CSV | AS_CSV)
    unknown = await client.post("/predictions?passthroughColumns=a&passthroughColumns=id", content=body, headers=CSV)
    assert named.json()["data"][0]["passthroughValues"] == {"état": "", "id": "007"}
    assert whole.text == "price_PREDICTION,x,city,id,état\n6.0,3,Oslo,007,\n"
    assert (unknown.status_code, unknown.json()["message"]) == (
        400,
        "passthroughColumns do not match columns, columns expected but not found: ['a']",
    )


@pytest.mark.parametrize(("decimals", "value"), [("0", 1), ("1", 0.7), ("15", 0.6666666666666667), ("", 0.6666666667)])
async def test_decimals(client_for, decimals, value):
    query = f"?decimalsNumber={decimals}" if decimals else ""
    body = b'[{"x": 2.6666666666666665, "city": "Oslo"}]'
    answer = await client_for().post(f"/predictions{query}", content=body, headers=JSON)
    assert answer.json()["data"][0]["predictionValues"][0]["value"] == pytest.approx(value, abs=1e-15)


async def test_outlier_warnings(client_for):
    client = client_for("regression")
    body = b"x,city\n3,Oslo\n50,Oslo\n"
    answer = await client.post("/predictions?predictionWarningEnabled=true", content=body, headers=CSV)
    without = await client.post("/predictions?predictionWarningEnabled=false", content=body, headers=CSV)
    assert [row["isOutlierPrediction"] for row in answer.json()["data"]] == [False, True]
    assert "isOutlierPrediction" not in without.json()["data"][0]


@pytest.mark.parametrize(
    ("allowed", "body", "status", "says"),
    [
        (False, b"x,city,id\n3,Oslo,A1\n", 200, ""),
        (False, b"x,city\n3,Oslo\n", 422, "column 'id': the association id is missing"),
        (False, b"x,city,id\n3,Oslo,A1\n3,Rome,\n", 422, "row 1, column 'id': the association id is missing"),
        (True, b"x,city\n3,Oslo\n", 200, ""),
        (True, b"x,city,id\n3,Oslo,\n", 200, ""),
    ],
)
@pytest.mark.parametrize("query", ["", "?passthroughColumns=city", "?passthroughColumnsSet=all"])
async def test_association_id(client_for, allowed, body, status, says, query):
    client = client_for(mlops_association_id_column="id", mlops_association_id_allow_missing_values=allowed)
    answer = await client.post(f"/predictions{query}", content=body, headers=CSV)
    assert answer.status_code == status
    if status == 422:
        assert answer.json()["message"] == says
    elif query == "?passthroughColumns=city":
        assert answer.json()["data"][0]["passthroughValues"] == {"city": "Oslo"}


async def test_info(client_for):
    client = client_for("binary", path="estimator", mlops_deployment_id="5fc92906ad764dde6c3264fa")
    assert (await client.get("/info")).json() == {
        "modelId": "5fae9a023ba73530157ebdae",
        "name": "a binary model",
        "modelExecutionType": "dedicated",
        "deploymentId": "5fc92906ad764dde6c3264fa",
        "target": {
            "name": "bad",
            "type": "Binary",
            "classNames": ["yes", "no"],
            "classCount": 2,
            "predictionThreshold": 0.5,
        },
        "modelKind": {
            "isTimeSeries": False,
            "isMultiseries": False,
            "isAnomalyDetectionModel": False,
            "isUnsupervisedLearning": False,
        },
        "capabilities": {
            "supportsShapBasedPredictionExplanations": False,
            "explanationAlgorithms": [],
            "supportsPredictionWarning": False,
        },
        "timeseries": None,
        "features": [{"name": "x", "type": "Numeric"}, {"name": "city", "type": "Categorical"}],
        "runtime": {"path": "estimator", "reason": "step 'odd' is not compiled", "goldenRowsMaxDifference": 0.0},
        "packageFormat": 1,
        "versions": {"python": "3.11"},
    }


@pytest.mark.parametrize(("kind", "algorithms"), [("binary", ["xemp", "shap"]), ("multiclass", ["xemp"])])
async def test_info_says_what_explains(client_for, kind, algorithms):
    capabilities = (await client_for(kind, reference=True).get("/info")).json()["capabilities"]
    assert capabilities["explanationAlgorithms"] == algorithms
    assert capabilities["supportsShapBasedPredictionExplanations"] == ("shap" in algorithms)


async def test_ping_and_livez(client_for):
    client = client_for()
    assert (await client.get("/ping")).json() == {"ping": "pong"}
    assert (await client.get("/livez")).json() == {"live": True}
