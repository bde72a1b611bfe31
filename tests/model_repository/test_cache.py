"""The cache: so many values and no more, loaded once, whoever waits or gives up."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from model_repository.cache import LOADS_AT_ONCE, LeastRecentlyUsed, ModelCache
from model_repository.errors import ModelNotFound, ModelUnavailable

KEYS = st.sampled_from("abcdefgh")


class LeastRecentlyUsedMachine(RuleBasedStateMachine):
    """Against a list of pairs, the one asked for last at its end."""

    @initialize(places=st.integers(1, 4))
    def make(self, places: int) -> None:
        self.places = places
        self.real: LeastRecentlyUsed[int] = LeastRecentlyUsed(places)
        self.model: list[tuple[str, int]] = []

    def in_model(self, key: str) -> int | None:
        return dict(self.model).get(key)

    def without(self, key: str) -> list[tuple[str, int]]:
        return [pair for pair in self.model if pair[0] != key]

    @rule(key=KEYS, value=st.integers())
    def put(self, key: str, value: int) -> None:
        self.real.put(key, value)
        self.model = [*self.without(key), (key, value)][-self.places :]

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        expected = self.in_model(key)
        assert self.real.get(key) == expected
        if expected is not None:
            self.model = [*self.without(key), (key, expected)]

    @rule(key=KEYS)
    def peek(self, key: str) -> None:
        assert self.real.peek(key) == self.in_model(key)

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        self.real.drop(key)
        self.model = self.without(key)

    @invariant()
    def same(self) -> None:
        assert list(self.real) == [key for key, _ in self.model]
        assert len(self.real) <= self.places


TestLeastRecentlyUsed = LeastRecentlyUsedMachine.TestCase


def test_no_places() -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        ModelCache[int](0)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Load:
    """A load that counts its runs, waits to be let go, and gives or raises what it is told."""

    def __init__(self, outcome: Any = "model") -> None:
        self.outcome = outcome
        self.runs = 0
        self.began = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> Any:
        self.runs += 1
        self.began.set()
        assert self.may_end.wait(10)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def at_once(outcome: Any = "model") -> Load:
    load = Load(outcome)
    load.may_end.set()
    return load


def as_version(version: object) -> Callable[[Any], tuple[Any, Any]]:
    return lambda loaded: (version, loaded)


async def test_a_hit_and_another_version() -> None:
    cache: ModelCache[str] = ModelCache(2)
    assert cache.held("a", 1) is None
    assert await cache.load("a", 1, at_once("old"), as_version(1)) == "old"
    assert cache.held("a", 1) == "old"
    assert cache.held("a", 2) is None
    assert cache.peek("a") == "old"
    await cache.load("a", 2, at_once("new"), as_version(2))
    assert (cache.held("a", 1), cache.held("a", 2), len(cache)) == (None, "new", 1)
    assert cache.holds("a", 2)
    cache.drop("a")
    assert not cache.holds("a", 2)


async def test_many_wait_for_one_load() -> None:
    cache: ModelCache[str] = ModelCache(2)
    load, builds = Load(), []

    def build(loaded: str) -> tuple[int, str]:
        builds.append(loaded)
        return 1, loaded

    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(cache.load("a", 1, load, build)) for _ in range(50)]
        await asyncio.to_thread(load.began.wait, 10)
        load.may_end.set()
    assert (load.runs, builds, {task.result() for task in waiting}) == (1, ["model"], {"model"})


async def test_other_models_answer_while_one_loads() -> None:
    cache: ModelCache[str] = ModelCache(2)
    slow = Load()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(cache.load("slow", 1, slow, as_version(1)))
        await asyncio.to_thread(slow.began.wait, 10)
        assert await cache.load("quick", 1, at_once("quick"), as_version(1)) == "quick"
        assert not waiting.done()
        slow.may_end.set()


async def test_loads_that_never_end_leave_their_turns_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_repository.cache.HANGS_SECONDS", 0.01)
    cache: ModelCache[str] = ModelCache(2)
    hanging = [Load() for _ in range(LOADS_AT_ONCE)]
    async with asyncio.TaskGroup() as group:
        for number, load in enumerate(hanging):
            group.create_task(cache.load(f"hanging {number}", 1, load, as_version(1)))
            await asyncio.to_thread(load.began.wait, 10)
        async with asyncio.timeout(5):
            assert await cache.load("quick", 1, at_once("quick"), as_version(1)) == "quick"
        for load in hanging:
            load.may_end.set()
    assert [load.runs for load in hanging] == [1, 1]
    assert cache.held("hanging 1", 1) == "model"  # slow after all


async def test_who_gives_up_takes_nothing_from_the_others() -> None:
    """Not even the one whose request began the load."""
    cache: ModelCache[str] = ModelCache(2)
    load = Load()
    first = asyncio.create_task(cache.load("a", 1, load, as_version(1)))
    await asyncio.to_thread(load.began.wait, 10)
    second = asyncio.create_task(cache.load("a", 1, load, as_version(1)))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    load.may_end.set()
    assert await second == "model"
    assert (load.runs, cache.held("a", 1)) == (1, "model")


async def test_a_load_that_everybody_gave_up_still_lands() -> None:
    cache: ModelCache[str] = ModelCache(2)
    load = Load()
    only = asyncio.create_task(cache.load("a", 1, load, as_version(1)))
    await asyncio.to_thread(load.began.wait, 10)
    only.cancel()
    load.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await only
    assert await cache.load("a", 1, load, as_version(1)) == "model"
    assert load.runs == 1


async def test_a_newer_version_does_not_wait_for_an_older_one() -> None:
    cache: ModelCache[str] = ModelCache(2)
    old = Load("old")
    waiting = asyncio.create_task(cache.load("a", 1, old, as_version(1)))
    await asyncio.to_thread(old.began.wait, 10)
    assert await cache.load("a", 2, at_once("new"), as_version(2)) == "new"
    old.may_end.set()
    assert await waiting == "old"
    assert cache.held("a", 2) in (None, "new"), "never the old one under the new version"


async def test_a_failure_is_remembered_for_its_version_and_a_while() -> None:
    clock = Clock()
    cache: ModelCache[str] = ModelCache(2, remember_failure=5, clock=clock)
    broken = at_once(ModelUnavailable("no such member"))
    for _ in range(3):
        with pytest.raises(ModelUnavailable, match="no such member"):
            await cache.load("a", 1, broken, as_version(1))
    assert broken.runs == 1
    assert cache.failure("a", 1) == "no such member"
    assert await cache.load("a", 2, at_once(), as_version(2)) == "model", "another version is tried at once"

    with pytest.raises(ModelUnavailable):
        await cache.load("b", 1, broken, as_version(1))
    clock.now += 5
    assert cache.failure("b", 1) is None
    assert await cache.load("b", 1, at_once(), as_version(1)) == "model"


async def test_a_failed_version_takes_the_place_of_the_older_one() -> None:
    cache: ModelCache[str] = ModelCache(2)
    await cache.load("a", 1, at_once(), as_version(1))
    with pytest.raises(ModelUnavailable):
        await cache.load("a", 2, at_once(ModelUnavailable("broken")), as_version(2))
    assert cache.peek("a") is None


@pytest.mark.parametrize("error", [ModelNotFound("gone"), RuntimeError("a bug")])
async def test_other_errors_reach_who_waits_and_are_not_remembered(error: Exception) -> None:
    cache: ModelCache[str] = ModelCache(2)
    with pytest.raises(type(error)):
        await cache.load("a", 1, at_once(error), as_version(1))
    assert await cache.load("a", 1, at_once(), as_version(1)) == "model"


async def test_what_finish_raises_fails_the_load() -> None:
    def finish(_: object) -> tuple[int, str]:
        raise ModelUnavailable("cannot be built")

    cache: ModelCache[str] = ModelCache(2)
    with pytest.raises(ModelUnavailable, match="cannot be built"):
        await cache.load("a", 1, at_once(), finish)


async def test_a_value_that_was_evicted_lives_as_long_as_it_is_used() -> None:
    class Model:
        pass

    cache: ModelCache[Model] = ModelCache(1)
    in_use = await cache.load("a", 1, lambda: Model(), as_version(1))
    gone = weakref.ref(in_use)
    await cache.load("b", 1, lambda: Model(), as_version(1))
    assert cache.peek("a") is None
    gc.collect()
    assert gone() is in_use
    del in_use
    gc.collect()
    assert gone() is None


@given(st.integers(1, 4), st.lists(KEYS, max_size=40))
def test_churn_keeps_to_its_places(places: int, keys: list[str]) -> None:
    async def run() -> None:
        cache: ModelCache[str] = ModelCache(places)
        for key in keys:
            if cache.held(key, 1) is None:
                assert await cache.load(key, 1, partial(str, key), as_version(1)) == key
            assert cache.held(key, 1) == key
            assert len(cache) <= places

    asyncio.run(run())
