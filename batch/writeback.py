"""
Tell a platform how the job is going, where the command was given one.

The job is announced once and then patched. Nothing of this may harm the job itself: what fails is logged, and if the
announcement fails there is nothing to patch.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

import anyio
import httpx
import msgspec

from batch.declared import camel_case, keys_of
from batch.job import Job, Store
from batch.logs import LOG
from batch.progress import Counts

API: Final = "/api/v2"
EVERY: Final = 10.0
"""Seconds between two messages."""
PATIENCE: Final = 10.0
"""Seconds for one of them."""
NOT_SENT: Final = frozenset({"prediction_endpoint", "jdbc_settings", "deployment_id", "enabled", "schedule"})
OURS: Final = frozenset({"mini_batch_size", "resume", "id_column", "include_row_id", "errors", "csv_formula_escape"})
"""Keys that no platform knows."""
STORE_KEYS: Final = (
    "url", "path", "query", "table", "schema", "catalog", "statement_type", "create_table_if_not_exists",
    "update_columns", "where_columns", "external_stage", "external_data_source",
)  # fmt: skip
"""What is told of a store; nothing that may hold a secret."""


def api_root(host: str) -> str:
    """
    The root of the platform's API.

    Args:
        host: with or without ``/api/v2`` and a slash at its end.

    Raises:
        ValueError: it is no http or https URL.
    """
    url = urlsplit(host.strip())
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError("expected an http or https URL, such as https://app.example.com")
    return host.strip().rstrip("/").removesuffix(API) + API


def announcement(job: Job, deployment_id: str | None) -> dict[str, Any]:
    """The job as the platform's API knows it: camelCase, without what is ours and without secrets."""
    told: dict[str, Any] = {"deploymentId": deployment_id}
    for row in keys_of(Job):
        value = getattr(job, row.field)
        if isinstance(value, Store):
            told[row.names[1]] = _store(value)
        elif row.field not in NOT_SENT | OURS and not row.ignored and value != row.default:
            told[row.names[1]] = _camel(msgspec.to_builtins(value)) if isinstance(value, msgspec.Struct) else value
    if job.id_column:
        told["passthroughColumns"] = list(job.kept)
    for name in ("header", "outputHeader"):
        told.get("csvSettings", {}).pop(name, None)
    return told


def _store(store: Store) -> dict[str, Any]:
    known = {name: getattr(store.settings, name, None) for name in STORE_KEYS}
    told = {camel_case(name): _without_secrets(value) for name, value in known.items() if value}
    return {"type": store.type, **({"format": store.format} if "url" in told else {}), **told}


def _without_secrets(value: Any) -> Any:
    """A URL without user, password and query; anything else as it is."""
    if not isinstance(value, str) or "://" not in value:
        return value
    url = urlsplit(value)
    return urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path, "", ""))


def _camel(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        camel_case(name): _camel(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }


@dataclass
class WriteBack:
    """One job on the platform."""

    http: httpx.AsyncClient
    """Its base is the API's root, its headers hold the token."""
    counts: Counts
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    id: str | None = None
    """None: not announced, or in vain."""
    log: list[str] = field(default_factory=list)

    async def begin(self, told: Mapping[str, Any]) -> None:
        """Announce the job and say that it runs."""
        answer = await self._send("POST", "/batchPredictions/", told)
        self.id = answer.get("id") if isinstance(answer, dict) else None
        if answer is not None and not isinstance(self.id, str):
            self.id = None
            LOG.warning("status write-back: the platform gave the job no id")
        await self._patch({"status": "RUNNING", "started": self._time(), "logs": ["Job started processing"]})

    async def advance(self) -> None:
        """Tell the counts now and then, for ever."""
        while True:
            await anyio.sleep(EVERY)
            await self._patch({"status": "RUNNING"})

    async def end(self, *, completed: bool, text: str) -> None:
        """Say how it ended."""
        status, time = ("COMPLETED", "completed") if completed else ("ABORTED", "aborted")
        await self._patch({"status": status, time: self._time(), "logs": [text]})

    async def _patch(self, fields: Mapping[str, Any]) -> None:
        if self.id is None:
            return
        counts = {
            "scoredRows": self.counts.rows_scored,
            "failedRows": self.counts.rows_failed,
            "skippedRows": self.counts.rows_skipped,
            "jobIntakeSize": self.counts.bytes_read,
            "jobOutputSize": self.counts.bytes_written,
        }
        self.log.extend(fields.get("logs", ()))
        await self._send(
            "PATCH", f"/batchPredictions/{quote(self.id, safe='')}/", {**counts, **fields, "logs": self.log}
        )

    async def _send(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """What was answered, None if nothing good."""
        try:
            with anyio.fail_after(PATIENCE):
                response = await self.http.request(method, path, json=body)
            response.raise_for_status()
            return response.json()
        except (httpx.HTTPError, ValueError, TimeoutError) as exc:
            LOG.warning("status write-back: %s %s failed: %s", method, path, str(exc) or type(exc).__name__)
            return None

    def _time(self) -> str:
        return self.now().isoformat().replace("+00:00", "Z")


@asynccontextmanager
async def written_back(host: str, token: str, counts: Counts) -> AsyncIterator[WriteBack]:
    """A `WriteBack` to that platform; the block calls ``begin`` and ``end``, the counts are told in between."""
    headers = {"authorization": f"Bearer {token}"}
    async with (
        httpx.AsyncClient(base_url=api_root(host), headers=headers, timeout=PATIENCE, trust_env=False) as http,
        anyio.create_task_group() as tasks,
    ):
        writer = WriteBack(http, counts)
        tasks.start_soon(writer.advance)
        yield writer
        tasks.cancel_scope.cancel()
