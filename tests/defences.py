"""
Take each defence away and see that its tests fail:  make defences  or  python -m tests.defences [WORD ...]

A test that passes with and without the defence that it is said to show, shows nothing. Each line below removes one in
a copy of the tree and runs the tests that should notice. With words, only lines that contain all of them.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ROOT: Final = Path(__file__).parent.parent
COPIED: Final = ("model_repository", "prediction_api", "batch", "tests", "examples", "conftest.py", "pyproject.toml")
NOTICED: Final = 1
"""pytest's status when tests failed; any other one but 0 means that the line below is wrong."""
TIME_LIMIT: Final = 300.0

Outcome = Literal["noticed", "NOT NOTICED", "CANNOT BE SEEN"]


@dataclass(frozen=True)
class Defence:
    """One place in the code, what is left of it without the defence, and who should notice."""

    promise: str
    path: str
    code: str
    without: str
    tests: str
    """Arguments of pytest, below ``tests``."""


SERVER: Final = "prediction_api"
MODELS: Final = "model_repository"
GUARD: Final = f"{SERVER}/test_guard.py"
LIFE: Final = f"{SERVER}/test_server.py"
TLS: Final = f"{SERVER}/test_tls.py"

REFUSALS: Final = {
    "prediction_api/guard.py": GUARD,
    "prediction_api/bodies.py": f"{SERVER}/test_bodies.py {SERVER}/test_app.py",
    "prediction_api/intake.py": f"{SERVER}/test_intake.py",
    "prediction_api/gate.py": f"{SERVER}/test_gate.py",
    "prediction_api/middleware.py": f"{SERVER}/test_monitoring.py {SERVER}/test_middleware.py {SERVER}/test_contract.py {SERVER}/test_app.py",
    "model_repository/mlpkg.py": f"{MODELS}/test_mlpkg.py",
    "model_repository/manifest.py": f"{MODELS}/test_mlpkg.py {MODELS}/test_timeseries_packaging.py",
    "model_repository/signing.py": f"{MODELS}/test_signing.py",
    "model_repository/estimators.py": f"{MODELS}/test_estimators.py {MODELS}/test_uploads.py",
    "model_repository/discovery.py": f"{MODELS}/test_discovery.py",
    "model_repository/json_codec.py": f"{MODELS}/test_json_codec.py",
    "model_repository/uploads.py": f"{MODELS}/test_uploads.py",
}
"""Modules in which every ``if ...: raise`` is a defence, and who should notice."""

UNSEEN: Final = {
    "lengths > 1 or (lengths and coding)": "httptools refuses it as well, today",
    "exchange.status": "uvicorn cuts an answer that was begun and not completed",
    "not _holds_directory(target)": "the rename that follows fails as well",
    "code not in _NO_EXCHANGE": "the way that needs no exchange meets the same error",
}
"""What nobody can notice, and why."""

DEFENCES: Final = (
    # What a client may send
    Defence(
        "a header that takes too long",
        "prediction_api/guard.py",
        "if self._receiving is HEADER and now - self._since > settings.header_timeout:",
        "if False:",
        f"{GUARD} -k nobody_is_waited_for",
    ),
    Defence(
        "a body that stops",
        "prediction_api/guard.py",
        "if too_slow or now - self._heard > settings.body_timeout:",
        "if too_slow:",
        f"{GUARD} -k 'nobody_is_waited_for or slow_clients'",
    ),
    Defence(
        "a body that trickles",
        "prediction_api/guard.py",
        "if too_slow or now - self._heard > settings.body_timeout:",
        "if now - self._heard > settings.body_timeout:",
        f"{GUARD} -k nobody_is_waited_for",
    ),
    Defence(
        "an answer that nobody takes",
        "prediction_api/guard.py",
        "if self._takes_too_little(now):",
        "if False:",
        f"{GUARD} -k takes_nothing",
    ),
    Defence(
        "too many header fields",
        "prediction_api/guard.py",
        "len(self.headers) > self._settings.max_headers or size",
        "size",
        f"{GUARD} -k one_answer",
    ),
    Defence(
        "too large header fields",
        "prediction_api/guard.py",
        "len(self.headers) > self._settings.max_headers or size > self._settings.max_header_bytes",
        "len(self.headers) > self._settings.max_headers",
        f"{GUARD} -k one_answer",
    ),
    Defence(
        "a header is measured with what came before it",
        "prediction_api/guard.py",
        "1 if self._completed else fed",
        "fed",
        f"{GUARD} -k measured",
    ),
    Defence(
        "a body that belongs to another protocol",
        "prediction_api/guard.py",
        "            rest = rest[header_bytes:]\n",
        "            rest = rest[len(rest) :]\n",
        f"{GUARD} -k offers_of_other",
    ),
    Defence(
        "trailers as headers",
        "prediction_api/guard.py",
        "        self.headers = []  # the",
        "        # the",
        f"{GUARD} -k trailers",
    ),
    Defence(
        "a refusal overtakes earlier answers",
        "prediction_api/guard.py",
        "        if self.idle:\n            self._send(refused)",
        "        if True:\n            self._send(refused)",
        f"{GUARD} -k waits_for_earlier",
    ),
    Defence(
        "a reset eats the refusal",
        "prediction_api/guard.py",
        "        if self._receiving is BODY and not self._deaf:\n            self.pipeline.clear()",
        "        if False:\n            self.pipeline.clear()",
        f"{GUARD} -k still_sending",
    ),
    Defence(
        "connections stay after refusals",
        "prediction_api/guard.py",
        "if self._linger_until and (now",
        "if False and (now",
        f"{GUARD} -k refused",
    ),
    Defence(
        "JSON that explodes in memory",
        "model_repository/json_codec.py",
        "    _refuse_bomb(piece)\n",
        "",
        f"{MODELS}/test_json_codec.py -k explode",
    ),
    Defence(
        "numbers beyond float",
        "model_repository/json_codec.py",
        "            _refuse_too_large(exc, reading.n_rows)\n",
        "",
        f"{MODELS}/test_json_codec.py -k unscorable",
    ),
    Defence(
        "more in flight than may be",
        "prediction_api/middleware.py",
        "        if state.in_flight >= self._max_inflight:",
        "        if False:",
        f"{SERVER}/test_monitoring.py -k back_pressure",
    ),
    Defence(
        "a prediction before the model is there, or in a drain",
        "prediction_api/middleware.py",
        "        if (refusal := state.refusal) is not None:",
        "        if (refusal := None) is not None:",
        f"{SERVER}/test_monitoring.py -k not_ready",
    ),
    Defence(
        "a place in flight that is never given back",
        "prediction_api/middleware.py",
        "            state.in_flight -= 1\n",
        "            pass\n",
        f"{SERVER}/test_monitoring.py",
    ),
    Defence(
        "two large bodies parsed at once",
        "prediction_api/scoring.py",
        "                with self._lanes.reading:\n                    table",
        "                if True:\n                    table",
        f"{SERVER}/test_scoring.py",
    ),
    Defence(
        "work for a client that left",
        "prediction_api/scoring.py",
        "            while not stop.is_set():",
        "            while True:",
        f"{SERVER}/test_scoring.py",
    ),
    Defence(
        "a prediction without end",
        "prediction_api/scoring.py",
        "with anyio.fail_after(self._timeout):",
        "with anyio.fail_after(None):",
        f"{SERVER}/test_scoring.py",
    ),
    Defence(
        "a drain that cuts running requests",
        "prediction_api/worker.py",
        "(self._connections.tasks and self._loop.time() < deadline)",
        "False",
        f"{LIFE} -k 'running_requests or drain_delay'",
    ),
    Defence(
        "a drain without an end",
        "prediction_api/worker.py",
        "for connection in self._open_connections()) and self._loop.time() < deadline:",
        "for connection in self._open_connections()):",
        f"{LIFE} -k stalled_clients",
    ),
    Defence(
        "a drain that waits for idle connections",
        "prediction_api/worker.py",
        "self._loop.time() < min(idle_deadline, deadline)",
        "True",
        f"{LIFE} {TLS} -k idle_c",
    ),
    Defence(
        "no ready answer in a drain",
        "prediction_api/state.py",
        "        if self.draining:",
        "        if False:",
        f"{LIFE} {SERVER}/test_monitoring.py -k 'drain or not_ready'",
    ),
    Defence(
        "a second signal",
        "prediction_api/supervisor.py",
        "                self._end(0.0)\n\n    def _on_word",
        "                pass\n\n    def _on_word",
        f"{LIFE} -k second_signal",
    ),
    Defence(
        "a parent that waits for its workers for ever",
        "prediction_api/supervisor.py",
        "            if now >= self._deadline:",
        "            if False:",
        f"{LIFE} -k cannot_drain",
    ),
    Defence(
        "orphans",
        "prediction_api/processes.py",
        "        end_with_parent(signal.SIGKILL)\n",
        "",
        f"{LIFE} -k orphans",
    ),
    Defence(
        "a dead worker",
        "prediction_api/supervisor.py",
        "            if slot not in taken:",
        "            if slot not in taken and not self._was_ready:",
        f"{LIFE} -k killed_worker",
    ),
    Defence(
        "a stopped or stuck worker",
        "prediction_api/supervisor.py",
        "        if silent > (settings",
        "        if False and silent > (settings",
        f"{LIFE} -k 'stopped_worker or stuck'",
    ),
    Defence(
        "a worker that computes is not stuck",
        "prediction_api/supervisor.py",
        "settings.worker_busy_timeout if busy else settings.worker_stall_timeout",
        "settings.worker_stall_timeout",
        f"{LIFE} -k computing_worker",
    ),
    Defence(
        "workers that keep dying",
        "prediction_api/supervisor.py",
        "            self._board.failing = True\n",
        "",
        f"{LIFE} -k survivor",
    ),
    Defence(
        "a start that fails and tries again for ever",
        "prediction_api/supervisor.py",
        "            self._status = 1\n            self._end(0.0)",
        "            pass",
        f"{LIFE} -k why_it_cannot_start",
    ),
    Defence(
        "a closed port while workers are replaced",
        "prediction_api/supervisor.py",
        "        elif not self._children:\n            self.open_door()",
        "",
        f"{LIFE} -k keep_dying",
    ),
    Defence(
        "no doorkeeper while the model is loaded",
        "prediction_api/server.py",
        "supervisor.open_door()",
        "pass",
        f"{LIFE} -k while_the_model",
    ),
    Defence(
        "no file descriptors left",
        "prediction_api/worker.py",
        "            self._stop_accepting()\n            logger.warning",
        "            logger.warning",
        f"{LIFE} -k running_out",
    ),
    Defence(
        "one worker takes all connections",
        "prediction_api/state.py",
        "        return held <= min",
        "        return True or held <= min",
        f"{LIFE} -k shared_out",
    ),
    Defence(
        "a TLS handshake without end",
        "prediction_api/worker.py",
        '"ssl_handshake_timeout": settings.header_timeout',
        '"ssl_handshake_timeout": 600.0',
        f"{TLS} -k stalled_handshake",
    ),
    Defence(
        "a TLS goodbye without end",
        "prediction_api/worker.py",
        '"ssl_shutdown_timeout": TLS_GOODBYE_SECONDS',
        '"ssl_shutdown_timeout": 600.0',
        f"{TLS} -k never_answered",
    ),
    Defence(
        "old TLS",
        "prediction_api/tls.py",
        "        context.minimum_version = VERSION[served[0]]\n",
        "        context.minimum_version = ssl.TLSVersion.TLSv1\n",
        f"{TLS} -k 'old_versions or what_is_spoken'",
    ),
    Defence(
        "TLS that encrypts nothing",
        "prediction_api/tls.py",
        "[*suites, *NEVER]",
        "suites",
        f"{TLS} -k wrong_settings",
    ),
    # Many models
    Defence(
        "a model that is loaded once for each who waits",
        "model_repository/cache.py",
        "        task = self._loads.get((key, version))",
        "        task = None",
        f"{MODELS}/test_cache.py -k one_load",
    ),
    Defence(
        "who gives up takes the load along",
        "model_repository/cache.py",
        "await asyncio.shield(task)",
        "await task",
        f"{MODELS}/test_cache.py -k gives_up",
    ),
    Defence(
        "a failed load that each request repeats",
        "model_repository/cache.py",
        "        if reason := self.failure(key, version):",
        "        if reason := None:",
        f"{MODELS}/test_cache.py {MODELS}/test_deployments.py -k failure_is_remembered",
    ),
    Defence(
        "more models than places",
        "model_repository/cache.py",
        "while len(self._values) > self._places:",
        "while False:",
        f"{MODELS}/test_cache.py",
    ),
    Defence(
        "package and configuration of two moments",
        "model_repository/deployments.py",
        "if (package_key, config_key) != snapshot.version or not is_in_place(self._root, snapshot.id, directory):",
        "if False:",
        f"{MODELS}/test_deployments.py -k are_replaced",
    ),
    Defence(
        "a replaced package that is not noticed",
        "model_repository/deployments.py",
        "        if seen is not None and is_current(seen.snapshot):",
        "        if seen is not None:",
        f"{MODELS}/test_deployments.py -k replaced",
    ),
    Defence(
        "an upload that nobody tried",
        "model_repository/uploads.py",
        "            self._store.validator.check(descriptor, self._store.trusted_keys)",
        "            pass",
        f"{MODELS}/test_uploads.py",
    ),
    Defence(
        "an upload that takes two steps",
        "model_repository/uploads.py",
        "        return\n    code = get_errno()",
        "        shutil.rmtree(target)\n        return\n    code = get_errno()",
        f"{MODELS}/test_uploads.py -k 'replaced or killed'",
    ),
    Defence(
        "two uploads of one deployment at once",
        "model_repository/uploads.py",
        "with _translated(name), self._locked():\n            target",
        "with _translated(name):\n            target",
        f"{MODELS}/test_uploads.py -k waits_for",
    ),
    Defence(
        "a part file that stays",
        "model_repository/uploads.py",
        "                self._part.unlink(missing_ok=True)",
        "                pass",
        f"{MODELS}/test_uploads.py",
    ),
    Defence(
        "a package that kills worker after worker",
        "prediction_api/quarantine.py",
        "            self._condemn(cell)",
        "            pass",
        f"{SERVER}/test_quarantine.py",
    ),
    Defence(
        "a neighbour that is condemned too",
        "prediction_api/quarantine.py",
        "enough = DEATHS if len(suspects) == 1 else SHARED_DEATHS",
        "enough = DEATHS",
        f"{SERVER}/test_quarantine.py -k neighbour",
    ),
)


def refusals() -> Iterator[Defence]:
    """Each ``if ...: raise`` of `REFUSALS`, as if it were never so."""
    for path, tests in REFUSALS.items():
        text = (ROOT / path).read_text()
        lines = text.splitlines(keepends=True)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise):
                condition = ast.get_source_segment(text, node.test)
                assert condition is not None
                if condition in UNSEEN:
                    continue
                code = "".join(lines[node.lineno - 1 : node.body[-1].end_lineno])
                # What a condition assigns is needed by what follows.
                without = code.replace(condition, f"({condition}) and False", 1)
                yield Defence(" ".join(condition.split())[:90], path, code, without, tests)


def taken_away(defence: Defence, tree: Path) -> Outcome:
    """What the tests say when *tree* is without it."""
    path = tree / defence.path
    whole = path.read_text()
    if whole.count(defence.code) != 1:
        return "CANNOT BE SEEN"
    path.write_text(whole.replace(defence.code, defence.without))
    try:
        status = _tests(defence.tests, tree)
    finally:
        path.write_text(whole)
    if status == 0:
        return "NOT NOTICED"
    return "noticed" if status == NOTICED else "CANNOT BE SEEN"


def _tests(arguments: str, tree: Path) -> int:
    """The status of pytest; tests that never end have noticed something."""
    command = f"{sys.executable} -m pytest -q -x --no-header -p no:cacheprovider --rootdir {tree} {arguments}"
    environ = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.Popen(
        command,
        shell=True,
        cwd=tree / "tests",
        env=environ,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return run.wait(TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return NOTICED
    finally:
        if run.poll() is None:
            os.killpg(run.pid, 9)
            run.wait()


def main(words: Sequence[str]) -> int:
    """The status: 1 when a defence can go without being missed."""
    chosen = [defence for defence in (*refusals(), *DEFENCES) if all(word in repr(defence) for word in words)]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(folder) / name)
        for defence in chosen:
            began = time.monotonic()
            outcome = taken_away(defence, Path(folder))
            missed += outcome != "noticed"
            print(f"{outcome:15} {time.monotonic() - began:5.1f} s  {defence.promise} ({defence.path})", flush=True)
    print(f"{len(chosen)} defences taken away, {missed} not missed")
    return min(missed, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.defences", description=__doc__)
    parser.add_argument("words", nargs="*")
    sys.exit(main(parser.parse_args().words))
