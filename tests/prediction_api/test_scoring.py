"""Large bodies, slow models and clients that leave."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest
from starlette.requests import ClientDisconnect

from model_repository.csv_codec import CsvReader
from model_repository.predictions import ScoringOptions
from model_repository.tables import Table
from prediction_api.app import create_app
from prediction_api.negotiation import BodyForm
from prediction_api.scoring import ONE_PIECE_ROWS, Lanes, Order, Scorer, unless_left
from prediction_api.settings import Settings

JSON = {"content-type": "application/json"}
CSV = {"content-type": "text/csv"}


def csv_of(xs: list[float]) -> bytes:
    return b"x,city,id\n" + b"".join(b"%g,Oslo,%d\n" % (x, row) for row, x in enumerate(xs))


def json_of(xs: list[float]) -> bytes:
    return json.dumps([{"x": x, "city": "Oslo", "id": row} for row, x in enumerate(xs)]).encode()


@pytest.mark.parametrize(("write", "headers"), [(csv_of, CSV), (json_of, JSON)], ids=["csv", "json"])
@pytest.mark.parametrize("path", ["compiled", "estimator"])
@pytest.mark.parametrize("n_rows", [2000, ONE_PIECE_ROWS + 1], ids=["in one piece", "streamed"])
async def test_large_bodies(client_for, write, headers, path, n_rows):
    xs = [row % 10 / 2 for row in range(n_rows)]
    client = client_for("regression", path=path)
    answer = await client.post("/predictions?passthroughColumns=id", content=write(xs), headers=headers)
    rows = answer.json()["data"]
    assert [row["prediction"] for row in rows] == [2 * x for x in xs]
    assert [row["rowId"] for row in rows] == list(range(n_rows))
    assert [str(row["passthroughValues"]["id"]) for row in rows] == [str(row) for row in range(n_rows)]
    assert ("content-length" in answer.headers) == (n_rows <= ONE_PIECE_ROWS)


@pytest.mark.parametrize(("write", "headers"), [(csv_of, CSV), (json_of, JSON)], ids=["csv", "json"])
@pytest.mark.parametrize(
    ("x", "status", "says"), [(13, 422, "row 299999, column 'x': 13"), (666, 500, "estimator raised")]
)
async def test_errors_of_late_blocks_count_rows_from_the_beginning(client_for, write, headers, x, status, says):
    """The last row is many blocks after the first, and still no byte of an answer was sent."""
    answer = await client_for("regression").post("/predictions", content=write([1.5] * 299_999 + [x]), headers=headers)
    assert answer.status_code == status
    assert says in answer.json()["message"]


@pytest.mark.parametrize("n_rows", [2, 60_000])
@pytest.mark.parametrize(("end", "says"), [("]", "missing columns: city"), ("", "not valid JSON")])
async def test_errors_of_the_body_go_before_errors_of_a_value(client_for, n_rows, end, says):
    body = "[" + ",".join(['{"x": 13}'] * n_rows) + end
    answer = await client_for("regression").post("/predictions", content=body, headers=JSON)
    assert answer.status_code == 400
    assert says in answer.json()["message"]


async def test_association_id_of_a_large_table(client_for):
    client = client_for("regression", mlops_association_id_column="id")
    body = csv_of([1.0] * 20_000) + b"1,Oslo,\n"
    answer = await client.post("/predictions", content=body, headers=CSV)
    assert answer.json()["message"] == "row 20000, column 'id': the association id is missing"
    answer = await client.post("/predictions", content=body.replace(b",id", b",key"), headers=CSV)
    assert answer.json()["message"] == "column 'id': the association id is missing"


async def test_one_large_body_is_read_at_a_time(client_for, monkeypatch):
    """Two that come together never meet in the reader: each costs many times its bytes while it is read."""
    meeting = threading.Barrier(2)
    met = []

    class Reader(CsvReader):
        def tables(self, *arguments: Any) -> Iterator[Table]:
            for table in super().tables(*arguments):
                with suppress(threading.BrokenBarrierError):
                    met.append(meeting.wait(0.3))
                yield table

    monkeypatch.setattr("prediction_api.scoring.CsvReader", Reader)
    client = client_for("regression")
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(partial(client.post, "/predictions", content=csv_of([1.0] * 20_000), headers=CSV))
    assert meeting.broken
    assert not met


async def test_work_ends_when_the_client_leaves():
    told = threading.Event()
    ended = anyio.Event()
    begun = anyio.Event()

    def work(stop: threading.Event) -> None:
        anyio.from_thread.run_sync(begun.set)
        if stop.wait(10):
            told.set()
        anyio.from_thread.run_sync(ended.set)

    with pytest.raises(ClientDisconnect):
        await unless_left(work, begun.wait, anyio.CapacityLimiter(1))
    await ended.wait()
    assert told.is_set()


async def test_work_for_nobody_stops_after_its_block(make_model):
    model = make_model("regression")
    scorer = Scorer(model, Lanes.for_worker())
    stop = threading.Event()
    stop.set()
    order = Order(csv_of([1.0] * 10), BodyForm("csv"), "json", ScoringOptions())
    with pytest.raises(ClientDisconnect):
        scorer._score_table(order, stop)
    assert model.runtime.calls == 0


async def test_errors_of_the_work_pass_through():
    def work(stop: threading.Event) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await unless_left(work, anyio.sleep_forever, anyio.CapacityLimiter(1))


@pytest.mark.parametrize("n_rows", [1, 3000], ids=["small", "large"])
async def test_time_limit(make_model, make_client, n_rows):
    let_go = threading.Event()
    model = make_model("regression", path="estimator")
    predict = model.runtime.predict
    model.runtime.predict = lambda _: let_go.wait(10)
    client = make_client(create_app(model, Settings(request_timeout=0.2)))
    answer = await client.post("/predictions", content=csv_of([1.0] * n_rows), headers=CSV)
    let_go.set()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {"message": "the prediction took longer than 0.2 s"}
    model.runtime.predict = predict
    after = await client.post("/predictions", content=csv_of([2.0] * n_rows), headers=CSV)
    assert [row["prediction"] for row in after.json()["data"]] == [4.0] * n_rows


async def test_slow_models_never_run_on_the_loop(client_for):
    """Eight requests of a slow model, and a ping beside them that does not wait."""
    client = client_for("regression", path="estimator")
    async with anyio.create_task_group() as tasks:
        answers = []

        async def ask(x: int) -> None:
            answer = await client.post("/predictions", content=csv_of([x]), headers=CSV)
            answers.append(answer.json()["data"][0]["prediction"])

        for x in range(8):
            tasks.start_soon(ask, x)
        assert (await client.get("/ping")).status_code == 200
    assert sorted(answers) == [2.0 * x for x in range(8)]
