import logging
import os
import re

import anyio
import pytest
from starlette.types import Message

from prediction_api.app import create_app
from prediction_api.monitoring import LATENCY_BOUNDS, CounterBoard, RequestDone
from prediction_api.settings import Settings
from prediction_api.state import ServerState

ROW = b'[{"x": 3, "city": "Oslo"}]'
JSON = {"content-type": "application/json"}


def done(route: str = "/predictions", status: int = 200, seconds: float = 0.003, rows: int = 2) -> RequestDone:
    return RequestDone(
        request_id="r1",
        method="POST",
        path=route,
        route=route,
        status=status,
        seconds=seconds,
        bytes_sent=10,
        rows=rows,
        cache_hit=True,
    )


def samples_of(text: str) -> dict[str, float]:
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}


def test_workers_are_summed():
    """Counted in forked processes, read in this one."""
    board = CounterBoard(workers=3)
    for worker in range(3):
        pid = os.fork()
        if pid == 0:
            counters = board.for_worker(worker)
            for _ in range(worker + 1):
                counters.request_done(done())
            counters.set_in_flight(worker)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    board.parent.model_loaded(0.5)
    samples = samples_of(board.for_worker(0).prometheus_text())
    assert samples['prediction_api_requests_total{route="/predictions",status="200"}'] == 6
    assert samples["prediction_api_rows_total"] == 12
    assert samples["prediction_api_in_flight"] == 3
    assert samples["prediction_api_model_loads_total"] == 1
    assert samples["prediction_api_model_load_seconds_total"] == 0.5
    assert samples["prediction_api_model_cache_hits_total"] == 6


def test_a_replaced_worker_goes_on_counting():
    board = CounterBoard(workers=1)
    first = board.for_worker(0)
    first.request_done(done())
    first.set_in_flight(7)
    second = board.for_worker(0)
    second.request_done(done())
    samples = samples_of(second.prometheus_text())
    assert samples["prediction_api_rows_total"] == 4
    assert samples["prediction_api_in_flight"] == 0


@pytest.mark.parametrize(("seconds", "bound"), [(0.0001, 0.00025), (0.001, 0.001), (0.0011, 0.0025), (99.0, "+Inf")])
def test_latency_falls_into_its_bucket(seconds, bound):
    counters = CounterBoard().for_worker(0)
    counters.request_done(done(seconds=seconds))
    samples = samples_of(counters.prometheus_text())
    name = "prediction_api_prediction_duration_seconds_bucket"
    counts = {limit: samples[f'{name}{{le="{limit}"}}'] for limit in (*LATENCY_BOUNDS, "+Inf")}
    first = next(limit for limit, count in counts.items() if count)
    assert (first, counts["+Inf"]) == (bound, 1)
    assert samples["prediction_api_prediction_duration_seconds_sum"] == seconds


def test_what_clients_invent_has_one_label():
    counters = CounterBoard().for_worker(0)
    counters.request_done(done(route="/evil\n", status=299))
    assert 'requests_total{route="other",status="other"} 1\n' in counters.prometheus_text()


def test_every_line_is_prometheus_text():
    counters = CounterBoard().for_worker(0)
    counters.request_done(done())
    label = r'[a-z]+="[^"\\\n]*"'
    sample = re.compile(rf"prediction_api_[a-z_]+(\{{{label}(,{label})*\}})? [0-9.e+-]+")
    comment = re.compile(r"# (HELP prediction_api_[a-z_]+ .+|TYPE prediction_api_[a-z_]+ (counter|gauge|histogram))")
    for line in counters.prometheus_text().splitlines():
        assert sample.fullmatch(line) or comment.fullmatch(line), line


async def test_requests_are_counted(client_for):
    client = client_for()
    await client.post("/predictions", content=ROW, headers=JSON)
    await client.post("/v1.0/predictions/", content=b"[]", headers=JSON)
    await client.get("/nope")
    samples = samples_of((await client.get("/metrics")).text)
    assert samples['prediction_api_requests_total{route="/predictions",status="200"}'] == 1
    assert samples['prediction_api_requests_total{route="/predictions",status="400"}'] == 1
    assert samples['prediction_api_requests_total{route="other",status="404"}'] == 1
    assert samples["prediction_api_rows_total"] == 1
    assert samples["prediction_api_prediction_duration_seconds_count"] == 2


async def test_access_log(client_for, caplog):
    caplog.set_level(logging.INFO, "prediction_api.access")
    await client_for().post("/predictions?passthroughColumns=x", content=ROW, headers=JSON | {"x-request-id": "me"})
    (record,) = [one for one in caplog.records if one.name == "prediction_api.access"]
    event = record.msg
    assert isinstance(event, RequestDone)
    assert (event.request_id, event.method, event.path, event.status, event.rows) == (
        "me",
        "POST",
        "/predictions",
        200,
        1,
    )
    assert re.fullmatch(r"POST /predictions 200 \d+ bytes \d+\.\d\d ms 1 rows", record.getMessage())


async def test_unforeseen_errors_are_logged_once(client_for, caplog):
    caplog.set_level(logging.ERROR)
    answer = await client_for().post("/predictions", content=b'[{"x": 999, "city": "Oslo"}]', headers=JSON)
    (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert (answer.status_code, record.exc_info is not None) == (500, True)


@pytest.mark.parametrize(
    ("state", "says"),
    [(ServerState(), "loaded"), (ServerState(ready=True, draining=True), "shutting down")],
    ids=["starting", "draining"],
)
async def test_not_ready(make_model, make_client, state, says):
    client = make_client(create_app(make_model(), Settings(), state=state))
    ping = await client.get("/ping")
    prediction = await client.post("/predictions", content=ROW, headers=JSON)
    livez = await client.get("/livez")
    assert (ping.status_code, prediction.status_code, livez.status_code) == (503, 503, 200)
    for answer in (ping, prediction):
        assert says in answer.json()["message"]
        assert answer.headers["retry-after"] == "1"
        assert (answer.headers.get("connection") == "close") == state.draining


async def test_back_pressure(make_model, make_client):
    state = ServerState(ready=True, in_flight=2)
    client = make_client(create_app(make_model(), Settings(max_inflight=2), state=state))
    refused = await client.post("/predictions", content=ROW, headers=JSON)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert (await client.get("/ping")).status_code == 200
    assert (await client.get("/metrics")).status_code == 200
    state.in_flight = 1
    assert (await client.post("/predictions", content=ROW, headers=JSON)).status_code == 200
    assert state.in_flight == 1


SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/predictions",
    "raw_path": b"/predictions",
    "query_string": b"",
    "headers": [(b"content-type", b"text/csv"), (b"content-length", b"10")],
}


async def test_in_flight_until_the_last_byte(make_model):
    state = ServerState(ready=True)
    app = create_app(make_model(), Settings(), state=state)
    body = b"x,city\n" + b"1,a\n" * 40_000
    in_flight: list[int] = []

    async def receive() -> Message:
        if in_flight:
            await anyio.sleep_forever()
        in_flight.append(state.in_flight)
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        in_flight.append(state.in_flight)

    await app(dict(SCOPE), receive, send)
    assert (set(in_flight), state.in_flight) == ({1}, 0)
    assert len(in_flight) > 4


async def test_a_client_that_leaves_is_logged_and_no_longer_in_flight(make_model, caplog):
    caplog.set_level(logging.INFO, "prediction_api.access")
    state = ServerState(ready=True)
    app = create_app(make_model(), Settings(), state=state)
    messages: list[Message] = [{"type": "http.request", "body": b"[", "more_body": True}, {"type": "http.disconnect"}]
    in_flight: list[int] = []

    async def receive() -> Message:
        in_flight.append(state.in_flight)
        return messages.pop(0)

    async def send(message: Message) -> None:
        pytest.fail("nobody is there to take an answer")

    await app(dict(SCOPE), receive, send)
    assert (in_flight, state.in_flight) == ([1, 1], 0)
    assert caplog.records[0].msg.status == 499
