"""A package that kills the workers that score with it is put aside, and nothing else is."""

import contextlib
import http.client
import json
from functools import partial
from pathlib import Path

import pytest

from prediction_api.quarantine import NOTES, SHARED_DEATHS, VERDICT, WINDOW_SECONDS, Quarantine
from tests.prediction_api.deadly import DEADLY, make_deadly
from tests.prediction_api.server_process import ServerProcess, serving, until
from tests.prediction_api.versions import JSON, Answered, Client, Version

KEY = (1, 2, 3, 4)
OTHER_KEY = (1, 3, 3, 4)


def die(quarantine: Quarantine, slot: int, *names: str) -> bool:
    """Worker *slot* dies while it runs these."""
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(quarantine.running(name, KEY))
        return quarantine.judge(slot)


@pytest.fixture
def quarantine(monkeypatch: pytest.MonkeyPatch) -> Quarantine:
    """Of two workers, of which we are all, and the supervisor; taking turns would wait for ourselves."""
    monkeypatch.setattr("prediction_api.quarantine.TURN_SECONDS", 0.0)
    return Quarantine(2)


def test_two_deaths_condemn_until_the_package_is_another(quarantine):
    quarantine.enter(1)
    assert die(quarantine, 1, "fraud")
    assert quarantine.verdict("fraud", KEY) is None
    assert die(quarantine, 1, "fraud")
    assert quarantine.verdict("fraud", KEY) == VERDICT
    assert quarantine.verdict("fraud", OTHER_KEY) is None
    assert quarantine.verdict("churn", KEY) is None


def test_an_idle_worker_dies_of_something_else(quarantine):
    quarantine.enter(0)
    with quarantine.running("fraud", KEY):
        pass
    assert not quarantine.judge(0)
    assert not die(quarantine, 1, "fraud")


def test_a_neighbour_is_cleared_by_a_death_alone(quarantine):
    """Both stood beside the body twice; then one of them did it alone."""
    quarantine.enter(0)
    for _ in range(2):
        die(quarantine, 0, "fraud", "churn")
    assert quarantine.verdict("fraud", KEY) is None
    die(quarantine, 0, "fraud")
    die(quarantine, 0, "churn")
    assert (quarantine.verdict("fraud", KEY), quarantine.verdict("churn", KEY)) == (VERDICT, None)


def test_deaths_that_are_never_alone_end_too(quarantine):
    quarantine.enter(0)
    for _ in range(SHARED_DEATHS):
        die(quarantine, 0, "fraud", "churn")
    assert quarantine.verdict("fraud", KEY) == quarantine.verdict("churn", KEY) == VERDICT


def test_deaths_far_apart_are_unrelated(quarantine, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("prediction_api.quarantine.time.monotonic", lambda: now)
    quarantine.enter(0)
    die(quarantine, 0, "fraud")
    now += WINDOW_SECONDS + 1
    die(quarantine, 0, "fraud")
    assert quarantine.verdict("fraud", KEY) is None


def test_more_at_once_than_can_be_noted_still_run(quarantine):
    quarantine.enter(0)
    assert die(quarantine, 0, *(f"m{number}" for number in range(NOTES + 3)))


# Over real processes


@pytest.fixture(scope="module")
def deadly(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_deadly(tmp_path_factory.mktemp("deadly") / "m.mlpkg")


def put(root: Path, name: str, package: bytes) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "new").write_bytes(package)
    (root / name / "new").replace(root / name / "model.mlpkg")


def score(server: ServerProcess, name: str, x: float) -> Answered | None:
    """The answer over a connection of its own; none if the worker died of the question."""
    with contextlib.closing(Client(server)) as client:
        try:
            return client.ask("POST", f"/deployments/{name}/predictions", json.dumps([{"x": x}]).encode(), JSON)
        except (ConnectionError, http.client.HTTPException):
            return None


def states(server: ServerProcess) -> dict[str, tuple[str, str | None]]:
    return {row["id"]: (row["state"], row["reason"]) for row in json.loads(server.get("/deployments")[1])["data"]}


def has_lost(server: ServerProcess, workers: int) -> bool:
    """Whether so many workers died of the package, as the log says."""
    return server.log.count("died: signal SIGSEGV") == workers


def is_refused(server: ServerProcess) -> bool:
    """Whether the deadly deployment is answered for by its verdict."""
    answer = score(server, "deadly", DEADLY)
    return answer is not None and (answer.status, answer.message) == (503, f"deployment 'deadly': {VERDICT}")


@pytest.mark.parametrize("preload", [True, False], ids=["preloaded", "loaded when asked for"])
def test_a_deadly_package_is_quarantined_and_freed_by_another(tmp_path, deadly, versions: list[Version], preload):
    for name, package in (("deadly", deadly), ("twin", deadly), ("fraud", versions[0].package)):
        put(tmp_path, name, package)
    settings = {"pickle_packages_enabled": True, "preload_models_enabled": preload, "workers": 2}
    with serving("prediction_api", model_repository_path=tmp_path, **settings) as server:
        before = set(server.workers(2))
        first = score(server, "deadly", 1.0)
        assert first is not None
        assert first.json["data"][0]["prediction"] == 2.0
        for deaths in (1, 2):
            assert score(server, "deadly", DEADLY) is None
            until(partial(has_lost, server, deaths), f"{deaths} deaths")
        until(partial(is_refused, server), "the verdict")  # a server without any worker is not ready for a moment
        workers = set(server.workers(2))
        assert workers != before
        for _ in range(5):
            assert (again := score(server, "deadly", 1.0)) is not None
            assert again.status == 503
            assert (twin := score(server, "twin", 1.0)) is not None
            assert twin.status == 200
        assert states(server)["deadly"] == ("unavailable", VERDICT)
        assert states(server)["fraud"][0] != "unavailable"
        assert server.status_of("/ping") == 200
        assert "keep dying" not in server.log
        put(tmp_path, "deadly", deadly)
        with contextlib.closing(Client(server)) as client:
            assert client.upload("fraud", versions[1].package).status == 200  # every worker looks again
        assert (free := score(server, "deadly", 1.0)) is not None
        assert free.status == 200
        assert set(server.workers(2)) == workers


def test_a_package_that_kills_whoever_loads_it_does_not_stop_the_start(tmp_path, versions):
    put(tmp_path / "models", "deadly", make_deadly(tmp_path / "m.mlpkg"))
    put(tmp_path / "models", "fraud", versions[0].package)
    (tmp_path / "trap").touch()
    settings = {"pickle_packages_enabled": True, "preload_models_enabled": True, "workers": 2}
    with serving("prediction_api", model_repository_path=tmp_path / "models", **settings) as server:
        server.workers(2)
        assert states(server)["deadly"] == ("unavailable", VERDICT)
        with contextlib.closing(Client(server)) as client:
            assert client.predict("fraud").body == versions[0].answers[0.5]
