from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlenv_operator.runtime.clock import FakeClock
from mlenv_operator.runtime.workqueue import Backoff, QueueShutDown, TokenBucket, WorkQueue


class Report:
    def __init__(self) -> None:
        self.adds = self.retries = 0
        self.waits: list[float] = []
        self.works: list[float] = []

    def added(self) -> None:
        self.adds += 1

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def worked(self, seconds: float) -> None:
        self.works.append(seconds)

    def retried(self) -> None:
        self.retries += 1


def queue(clock: FakeClock, **more: object) -> WorkQueue[str]:
    return WorkQueue(clock, random.Random(1), **more)  # type: ignore[arg-type]


async def test_a_key_is_queued_once_and_the_oldest_comes_first() -> None:
    q = queue(FakeClock())
    for key in "abaab":
        q.add(key)
    assert len(q) == 2
    assert [await q.get(), await q.get()] == ["a", "b"]


async def test_a_key_added_while_held_is_queued_once_more_and_not_given_to_a_second_worker() -> None:
    q = queue(FakeClock())
    q.add("a")
    assert await q.get() == "a"
    q.add("a")
    q.add("a")
    assert len(q) == 0
    q.done("a")
    assert len(q) == 1
    assert await q.get() == "a"
    q.done("a")
    assert len(q) == 0


async def test_a_waiting_worker_is_woken() -> None:
    clock = FakeClock()
    q = queue(clock)
    worker = asyncio.create_task(q.get())
    await clock.settle()
    q.add("a")
    assert await worker == "a"


async def test_a_worker_cancelled_in_the_moment_it_is_woken_passes_the_key_on() -> None:
    clock = FakeClock()
    q = queue(clock)
    first, second = asyncio.create_task(q.get()), asyncio.create_task(q.get())
    await clock.settle()
    q.add("a")
    first.cancel()
    assert await second == "a"
    assert first.cancelled() or await asyncio.gather(first, return_exceptions=True)


async def test_of_several_delays_the_earliest_counts() -> None:
    clock = FakeClock()
    q = queue(clock)
    q.add_after("a", 10)
    q.add_after("a", 5)
    q.add_after("a", 20)
    await clock.advance(4.9)
    assert len(q) == 0
    await clock.advance(0.2)
    assert len(q) == 1
    await q.get()
    q.done("a")
    await clock.advance(60)
    assert len(q) == 0, "the later wishes are gone"


async def test_failures_back_off_and_forget_begins_anew() -> None:
    clock = FakeClock()
    q = queue(clock, backoff=Backoff(1, 300))
    for failures in range(1, 12):
        seconds = q.add_failed("a")
        assert 1.0 <= seconds <= min(300, 2**failures)
        await clock.advance(seconds)
        assert await q.get() == "a"
        q.done("a")
    assert q.failures("a") == 11
    q.forget("a")
    assert q.failures("a") == 0
    assert q.add_failed("a") <= 2


async def test_what_the_server_asks_for_is_waited_at_least() -> None:
    q = queue(FakeClock())
    assert q.add_failed("a", at_least_s=42) == 42


async def test_the_bucket_slows_failures_over_all_keys() -> None:
    clock = FakeClock()
    q = queue(clock, backoff=Backoff(0.001, 0.001), bucket=TokenBucket(clock, per_second=1, burst=2))
    waits = [q.add_failed(str(n)) for n in range(5)]
    assert waits == pytest.approx([0.001, 0.001, 1, 2, 3])


async def test_shut_down_ends_workers_after_what_is_queued() -> None:
    clock = FakeClock()
    q = queue(clock)
    waiting = asyncio.create_task(q.get())
    await clock.settle()
    q.add("a")
    q.add("b")
    q.add_after("c", 1)
    q.shut_down()
    q.add("d")
    q.add_after("e", 0)
    assert {await waiting, await q.get()} == {"a", "b"}
    await clock.advance(5)
    with pytest.raises(QueueShutDown):
        await q.get()


async def test_metrics_and_the_age_of_the_oldest_key() -> None:
    clock, report = FakeClock(), Report()
    q = queue(clock, metrics=report)
    assert q.oldest_age() == 0
    q.add("a")
    await clock.advance(3)
    q.add("b")
    assert q.oldest_age() == 3
    await q.get()
    await clock.advance(2)
    assert (q.oldest_age(), q.in_hand) == (2, 1)
    q.done("a")
    q.add_failed("a")
    assert (report.adds, report.retries, report.waits, report.works) == (2, 1, [3.0], [2.0])


@given(st.integers(1, 5000), st.integers())
def test_a_backoff_stays_within_its_bounds(failures: int, seed: int) -> None:
    assert 1 <= Backoff(1, 300).delay(failures, random.Random(seed)) <= 300


class Workers(RuleBasedStateMachine):
    """No key is lost, none is held twice, whatever the order of events."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.queue = queue(FakeClock())
        self.held: list[str] = []
        self.wanted: set[str] = set()

    @rule(key=st.sampled_from("abcd"))
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.wanted.add(key)

    @precondition(lambda self: len(self.queue) > 0)
    @rule()
    def get(self) -> None:
        key = self.loop.run_until_complete(self.queue.get())
        assert key not in self.held
        assert key in self.wanted
        self.held.append(key)
        self.wanted.discard(key)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.held))
        self.held.remove(key)
        self.queue.done(key)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.queue) == len(self.wanted - set(self.held))

    def teardown(self) -> None:
        self.loop.close()


def test_no_key_is_lost_or_held_twice() -> None:
    run_state_machine_as_test(Workers)
