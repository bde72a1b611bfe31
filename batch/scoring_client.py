"""
The prediction server as the engine sees it: rows in, one line of predictions for each out.

An answer is trusted only if it is whole, not larger than an honest one can be, and has a line for each row; anything
else is asked for again, as what did not come at all is. What the server says of the rows themselves is raised as
`Refused`.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

import anyio
import httpx

from batch.dialect import WIRE, MalformedCsv
from batch.errors import ModelChanged, ScoringServerError
from batch.records import Records
from batch.retries import AGAIN, LONGEST_WAIT, ONCE_MORE, RetryPolicy, retry_after_from

TOO_LARGE: Final = 413
ROWS_AT_FAULT: Final = frozenset({400, TOO_LARGE, 422, 500})
"""Statuses that say something of the rows, so that fewer rows may fare better."""
MODEL_HEADER: Final = "x-model-id"
SHOWN_TEXT: Final = 500
PIECE: Final = 512 * 1024
HEADERS: Final = {"accept": "text/csv", "accept-encoding": "identity"}


Check = Callable[[int, bytes, httpx.Headers], None]
"""Looks at an answer, and may find it unusable."""


class Refused(Exception):
    """The server does not take these rows as they are."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _Unusable(Exception):
    """What came is no answer; another try may bring one."""

    def __init__(self, problem: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(problem)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Answer:
    """Predictions of some rows."""

    names: tuple[str, ...]
    lines: Sequence[bytes]
    """By row, the fields as the server wrote them."""


@dataclass
class Traffic:
    """What was asked so far."""

    requests: int = 0
    retries: int = 0
    seconds: float = 0.0
    """Of all requests together; several run at once."""
    statuses: dict[str, int] = field(default_factory=dict)
    """Why something was asked again -> how often."""

    def retried(self, reason: str) -> None:
        """Count one."""
        self.retries += 1
        self.statuses[reason] = self.statuses.get(reason, 0) + 1


AnswerLimit = Callable[[bytes, Records], int]
"""How many bytes an honest answer to a body with these rows has at most."""


def answer_limit(body: bytes, _: Records | None = None) -> int:
    """Where nothing but predictions is asked for."""
    return 10 * len(body) + 1024 * 1024


@dataclass(frozen=True)
class _Question:
    """One request, asked as often as it takes."""

    method: str
    page: str
    limit: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    parameters: Sequence[tuple[str, Any]] = ()
    check: Check | None = None


class ScoringClient:
    """One model of one server."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        endpoint: str,
        deployment_id: str | None,
        parameters: Sequence[tuple[str, str]] = (),
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  it is frozen
        request_timeout: float = 120.0,
        limit: AnswerLimit = answer_limit,
    ) -> None:
        self._http = http
        self._endpoint = endpoint.rstrip("/")
        self._place = f"/deployments/{quote(deployment_id, safe='')}" if deployment_id else ""
        self._parameters: list[tuple[str, Any]] = list(parameters)
        self._retry = retry
        self._timeout = request_timeout
        self._limit = limit
        self._columns: tuple[str, ...] | None = None
        self.model: str | None = None
        """The model of all answers, where the server tells; set by a continued run to that of the run before."""
        self.traffic = Traffic()
        self._forecasts: int | None = None

    def expect_forecasts(self, most: int, parameters: Mapping[str, str]) -> None:
        """The model is a time series: a row has up to so many answers, or none; and *parameters* are asked as well."""
        self._forecasts = most
        others = [(name, value) for name, value in self._parameters if name not in parameters]
        self._parameters = [*others, *parameters.items()]

    async def info(self) -> dict[str, Any] | None:
        """
        What ``/info`` says of the model; None: this server has no such page.

        Raises:
            ScoringServerError: it cannot be reached, or does not answer in time.
        """
        status, content, _ = await self._asked(_Question("GET", "/info", answer_limit(b"")))
        if status != httpx.codes.OK:
            return None
        try:
            info = json.loads(content)
        except ValueError:
            return None
        return info if isinstance(info, dict) else None

    async def score(self, records: Records, *, plain: bool = False) -> Answer:
        """
        The predictions of some rows, in their order; *plain*: without the options.

        Raises:
            Refused: the server does not take them.
            ScoringServerError: it fails for good, whatever the rows.
        """
        body, content_type = records.request()
        headers = {"content-type": content_type}
        answers: list[Answer] = []

        def check(status: int, content: bytes, received: httpx.Headers) -> None:
            if status == httpx.codes.OK:
                answers.append(_answer_from(content, received, None if self._forecasts else len(records)))

        limit, parameters = self._limit(body, records), [] if plain else self._parameters
        question = _Question("POST", "/predictions", limit, body, headers, parameters, check)
        status, content, received = await self._asked(question)
        if status in ROWS_AT_FAULT:
            raise Refused(status, _message(content))
        if status != httpx.codes.OK:
            raise ScoringServerError(f"{self._url('/predictions')}: {status}: {_message(content)}")
        self._watch_model(received.get(MODEL_HEADER), answers[-1])
        return answers[-1]

    def _watch_model(self, model: str | None, answer: Answer) -> None:
        """All answers must be of one model, as far as they tell."""
        for old, new in ((self.model, model), (self._columns, answer.names)):
            if old is not None and old != new:
                raise ModelChanged(f"{self._endpoint}: the model changed while the job ran: {old} became {new}")
        self.model, self._columns = model, answer.names

    def _url(self, page: str) -> str:
        return f"{self._endpoint}{self._place}{page}"

    async def _asked(self, question: _Question) -> tuple[int, bytes, httpx.Headers]:
        """An answer that is no reason to ask again; of a server with one model where it has no deployments."""
        place = self._place
        answer = await self._patiently(question)
        if answer[0] == httpx.codes.NOT_FOUND and place:
            self._place, given = "", self._place
            other = await self._patiently(question)
            if question.page != "/predictions" or other[0] == httpx.codes.NOT_FOUND:
                self._place = given  # a server of many models has an /info, too, which is no model's
            if other[0] != httpx.codes.NOT_FOUND:
                return other
        return answer

    async def _patiently(self, question: _Question) -> tuple[int, bytes, httpx.Headers]:
        tried = 0
        while True:
            tried += 1
            try:
                status, content, received = await self._once(question)
                if status in AGAIN or (status in ONCE_MORE and self._retry.allows(status, tried)):
                    wait = retry_after_from(received.get("retry-after"))
                    raise _Unusable(_message(content) or str(status), status, wait)
                if question.check is not None:
                    question.check(status, content, received)
            except _Unusable as problem:
                await self._wait(problem, tried, question.page)
            else:
                return status, content, received

    async def _wait(self, problem: _Unusable, tried: int, page: str) -> None:
        url = self._url(page)
        if not self._retry.allows(problem.status, tried):
            raise ScoringServerError(f"{url}: {problem} ({tried} tries)") from problem
        if (problem.retry_after or 0.0) > LONGEST_WAIT:
            raise ScoringServerError(f"{url}: {problem}; it asks to wait {problem.retry_after:.0f} s") from problem
        self.traffic.retried(str(problem.status or "no answer"))
        await anyio.sleep(self._retry.delay(tried, problem.retry_after))

    async def _once(self, question: _Question) -> tuple[int, bytes, httpx.Headers]:
        began = monotonic()
        self.traffic.requests += question.method == "POST"
        try:
            with anyio.fail_after(self._timeout):
                async with self._http.stream(
                    question.method,
                    self._url(question.page),
                    content=_pieces(question.body) if question.body else None,
                    params=list(question.parameters),
                    headers={
                        **HEADERS,
                        **question.headers,
                        **({"content-length": str(len(question.body))} if question.body else {}),
                    },
                ) as response:
                    content = await _limited(response, question.limit * (self._forecasts or 1))
                    return response.status_code, content, response.headers
        except TimeoutError as exc:
            raise _Unusable(f"no whole answer within {self._timeout:g} s") from exc
        except httpx.TransportError as exc:
            raise _Unusable(str(exc) or type(exc).__name__) from exc
        finally:
            if question.method == "POST":
                self.traffic.seconds += monotonic() - began


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """So that no more of it waits in the connection than goes into the network at once: a copy of all would."""
    for start in range(0, len(body), PIECE):
        yield body[start : start + PIECE]


async def _limited(response: httpx.Response, limit: int) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _Unusable(f"the answer is {response.headers['content-encoding']}, which was not asked for")
    parts = []
    size = 0
    async for part in response.aiter_raw():
        parts.append(part)
        size += len(part)
        if size > limit:
            raise _Unusable(f"the answer is longer than {limit} bytes")
    return b"".join(parts)


def _answer_from(content: bytes, headers: httpx.Headers, n_rows: int | None) -> Answer:
    kind = headers.get("content-type", "")
    if not kind.startswith("text/csv"):
        raise _Unusable(f"the answer is {kind or 'of no type'}, expected text/csv: {_message(content)}")
    try:
        header, *lines = WIRE.records(content)
        names = tuple(WIRE.cells(header))
    except (ValueError, MalformedCsv) as exc:
        raise _Unusable(f"the answer is no CSV: {exc}") from exc
    if n_rows is not None and len(lines) != n_rows:
        raise _Unusable(f"{len(lines)} predictions came for {n_rows} rows")
    return Answer(names, lines)


def _message(content: bytes) -> str:
    """What an error body says, for people."""
    try:
        message = json.loads(content)["message"]
    except (ValueError, KeyError, TypeError):
        message = content.decode(errors="replace")
    return str(message)[:SHOWN_TEXT]
