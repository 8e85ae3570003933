from __future__ import annotations

import asyncio
import copy
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlenv_operator.runtime.clock import FakeClock, within
from mlenv_operator.runtime.lease import LeadershipLostError, Lease, LeaseTiming, identity_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

Raw = dict[str, Any]
ADDRESS = "mlenv.io/address"


class Store:
    """A Lease as an API server keeps it, with faults: slow requests, refusals, answers that get lost."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.lease: Raw | None = None
        self.version = 0
        self.writes: list[Raw] = []
        self.before: Callable[[], Awaitable[None]] | None = None
        self.after: Callable[[], Awaitable[None]] | None = None

    async def _call(self, work: Callable[[], Raw | None]) -> Any:
        if self.before is not None:
            await self.before()
        result = copy.deepcopy(work())
        if self.after is not None:
            await self.after()
        return result

    async def read(self) -> Raw | None:
        return await self._call(lambda: self.lease)  # type: ignore[no-any-return]

    async def create(self, spec: Raw, annotations: Mapping[str, str]) -> Raw:
        def work() -> Raw:
            if self.lease is not None:
                raise RuntimeError("exists")
            return self._store({"metadata": {"annotations": dict(annotations)}, "spec": spec})

        return await self._call(work)  # type: ignore[no-any-return]

    async def update(self, lease: Raw) -> Raw:
        def work() -> Raw:
            if self.lease is None:
                raise RuntimeError("not found")
            if lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                raise RuntimeError("conflict")
            return self._store(copy.deepcopy(lease))

        return await self._call(work)  # type: ignore[no-any-return]

    def _store(self, lease: Raw) -> Raw:
        self.version += 1
        lease["metadata"]["resourceVersion"] = str(self.version)
        self.lease = lease
        self.writes.append(lease["spec"])
        return lease


def candidate(store: Any, clock: FakeClock, name: str = "a", seed: int = 1) -> Lease:
    return Lease(
        store,
        clock,
        random.Random(seed),
        identity=name,
        address=f"http://{name}:8080",
        address_annotation=ADDRESS,
    )


async def acquired(lease: Lease) -> Lease:
    await lease.acquire()
    return lease


async def test_a_new_lease_is_made_as_client_go_writes_it() -> None:
    clock = FakeClock()
    store = Store(clock)
    lease = await acquired(candidate(store, clock))
    assert store.lease is not None
    spec = store.lease["spec"]
    assert spec["holderIdentity"] == "a"
    assert spec["leaseDurationSeconds"] == 15
    assert spec["acquireTime"] == spec["renewTime"] == "2030-01-01T00:00:00.000000Z"
    assert isinstance(spec["leaseTransitions"], int)
    assert 0 < spec["leaseTransitions"] < 2**31, "an int32"
    assert lease.leader_address == "http://a:8080"
    assert lease.surely_ours(clock.monotonic())


async def test_it_is_renewed_every_two_seconds_and_the_term_stays() -> None:
    clock = FakeClock()
    store = Store(clock)
    lease = await acquired(candidate(store, clock))
    term = lease.transitions
    keeper = asyncio.create_task(lease.keep())
    await clock.advance(60)
    assert lease.surely_ours(clock.monotonic())
    assert 28 <= len(store.writes) <= 31
    assert {spec["acquireTime"] for spec in store.writes} == {"2030-01-01T00:00:00.000000Z"}
    assert lease.transitions == term
    keeper.cancel()


async def test_a_second_candidate_waits_knows_the_leader_and_takes_over_in_the_next_term() -> None:
    clock = FakeClock()
    store = Store(clock)
    first, second = candidate(store, clock), candidate(store, clock, "b", seed=2)
    await first.acquire()
    keeper = asyncio.create_task(first.keep())
    waiter = asyncio.create_task(second.acquire())
    await clock.advance(60)
    assert not waiter.done()
    assert (second.holder, second.leader_address) == ("a", "http://a:8080")
    keeper.cancel()  # the first dies
    died = clock.monotonic()
    while not waiter.done():
        await clock.advance(0.5)
        assert not (first.surely_ours(clock.monotonic()) and second.surely_ours(clock.monotonic()))
    assert 13 <= clock.monotonic() - died <= 22
    assert second.transitions == first.transitions + 1
    assert second.leader_address == "http://b:8080"


async def test_who_has_watched_a_dead_holder_for_the_lease_s_time_takes_it_at_once_and_not_before() -> None:
    clock = FakeClock()
    store = Store(clock)
    first, second = candidate(store, clock), candidate(store, clock, "b", seed=2)
    await first.acquire()  # and dies
    watching = asyncio.create_task(second.watch())
    await clock.advance(60)
    assert (second.holder, len(store.writes)) == ("", 1), "watching takes nothing"
    watching.cancel()
    waiter = asyncio.create_task(second.acquire())
    await clock.advance(0)
    assert waiter.done()
    assert second.transitions == first.transitions + 1


async def test_watching_waits_out_failures_and_does_not_shorten_the_time_of_who_lives() -> None:
    clock = FakeClock()
    store = Store(clock)
    first, second = candidate(store, clock), candidate(store, clock, "b", seed=2)
    await first.acquire()
    keeper = asyncio.create_task(first.keep())
    watching = asyncio.create_task(second.watch())
    store.before = fail
    await clock.advance(3)
    store.before = None
    await clock.advance(60)
    assert (second.holder, second.leader_address) == ("a", "http://a:8080")
    watching.cancel()
    waiter = asyncio.create_task(second.acquire())
    await clock.advance(60)
    assert not waiter.done()
    keeper.cancel()
    waiter.cancel()


@pytest.mark.parametrize("turns", range(20))
async def test_watching_ends_when_it_is_told_to_at_whatever_moment(turns: int) -> None:
    """Or a new leader would never begin."""
    clock = FakeClock()
    watching = asyncio.create_task(candidate(Store(clock), clock).watch())
    for _ in range(turns):
        await asyncio.sleep(0)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(watching, 60)


async def fail() -> None:
    raise RuntimeError("503")


async def test_a_released_lease_is_taken_at_once_in_a_new_term() -> None:
    clock = FakeClock()
    store = Store(clock)
    first, second = candidate(store, clock), candidate(store, clock, "b", seed=2)
    await first.acquire()
    await first.release()
    assert not first.surely_ours(clock.monotonic())
    assert store.lease is not None
    assert store.lease["spec"]["holderIdentity"] == ""
    await second.acquire()
    assert second.transitions == first.transitions + 1
    assert not await first._try(), "who has released does not come back"


async def test_a_stolen_lease_is_noticed_and_given_up() -> None:
    clock = FakeClock()
    store = Store(clock)
    lease = await acquired(candidate(store, clock))
    keeper = asyncio.create_task(lease.keep())
    assert store.lease is not None
    thief = copy.deepcopy(store.lease)
    thief["spec"]["holderIdentity"] = "thief"
    await store.update(thief)
    await clock.advance(5)
    assert not lease.surely_ours(clock.monotonic())
    with pytest.raises(LeadershipLostError, match="thief"):
        await keeper


async def test_without_an_answer_it_is_given_up_before_anybody_else_may_take_it() -> None:
    clock = FakeClock()
    store = Store(clock)
    lease = await acquired(candidate(store, clock))
    keeper = asyncio.create_task(lease.keep())
    await clock.advance(1)

    async def hang() -> None:
        await clock.sleep(3600)

    store.before = hang
    await clock.advance(9.1)
    assert not lease.surely_ours(clock.monotonic())
    with pytest.raises(LeadershipLostError):
        await keeper


async def test_failing_renewals_are_survived_within_the_deadline() -> None:
    clock = FakeClock()
    store = Store(clock)
    lease = await acquired(candidate(store, clock))
    keeper = asyncio.create_task(lease.keep())

    async def fail() -> None:
        raise OSError("no route")

    store.before = fail
    await clock.advance(7)
    store.before = None
    await clock.advance(30)
    assert not keeper.done()
    assert lease.surely_ours(clock.monotonic())
    keeper.cancel()


async def test_an_answer_that_is_lost_does_not_lose_the_lease() -> None:
    clock = FakeClock()
    store = Store(clock)
    lease = await acquired(candidate(store, clock))
    term = lease.transitions
    keeper = asyncio.create_task(lease.keep())

    async def lose() -> None:
        store.after = None
        raise OSError("connection reset")

    store.after = lose
    await clock.advance(20)
    assert not keeper.done()
    assert (lease.transitions, lease.holder) == (term, "a")
    keeper.cancel()


async def test_time_counts_from_before_the_request_was_sent() -> None:
    clock = FakeClock()
    store = Store(clock)

    async def slow() -> None:
        await clock.sleep(2)

    store.after = slow
    acquiring = asyncio.create_task(candidate(store, clock).acquire())
    lease = candidate(store, clock)
    acquiring.cancel()
    acquiring = asyncio.create_task(lease.acquire())
    await clock.advance(4)
    assert acquiring.done()
    assert lease.seconds_left(clock.monotonic()) == pytest.approx(8)
    assert lease.write_window(clock.monotonic()) == pytest.approx(10.5)


async def test_whoever_was_stopped_for_long_knows_at_once_that_it_is_over() -> None:
    clock = FakeClock()
    lease = await acquired(candidate(Store(clock), clock))
    clock.jump(10.1)
    assert not lease.surely_ours(clock.monotonic())
    assert lease.write_window(clock.monotonic()) == 0


async def test_a_wrong_wall_clock_of_the_holder_changes_nothing() -> None:
    clock = FakeClock()
    store = Store(clock)
    store.lease = {
        "metadata": {"resourceVersion": "0"},
        "spec": {
            "holderIdentity": "x",
            "leaseDurationSeconds": 15,
            "renewTime": "1999-01-01T00:00:00.000000Z",
        },
    }
    waiter = asyncio.create_task(candidate(store, clock).acquire())
    await clock.advance(14)
    assert not waiter.done()
    await clock.advance(8)
    assert waiter.done()


async def test_terms_go_on_upwards_after_the_lease_was_deleted() -> None:
    clock = FakeClock()
    store = Store(clock)
    first = await acquired(candidate(store, clock))
    for _ in range(3):
        await first.release()
        first = await acquired(candidate(store, clock))
    await clock.advance(3600)
    store.lease = None
    second = await acquired(candidate(store, clock, "b"))
    assert second.transitions > first.transitions


async def test_a_deleted_lease_does_not_end_the_time_of_its_holder() -> None:
    clock = FakeClock()
    store = Store(clock)
    first, second = candidate(store, clock), candidate(store, clock, "b", seed=2)
    await first.acquire()
    waiter = asyncio.create_task(second.acquire())
    await clock.advance(1)
    store.lease = None
    await clock.advance(8)
    assert first.surely_ours(clock.monotonic())
    assert not waiter.done()
    await clock.advance(15)
    assert waiter.done()
    assert not first.surely_ours(clock.monotonic())


def test_identities_differ_and_bad_timings_are_refused() -> None:
    assert identity_of("pod").startswith("pod_")
    assert identity_of("pod") != identity_of("pod")
    with pytest.raises(ValueError, match="renew deadline < duration"):
        LeaseTiming(duration_s=10, renew_deadline_s=10)


class Unreliable:
    """One candidate's way to the store: slow, lossy, refusing, as drawn."""

    def __init__(self, store: Store, clock: FakeClock, rng: random.Random, trouble: float) -> None:
        self.store, self.clock, self.rng, self.trouble = store, clock, rng, trouble

    async def _way(self) -> None:
        if self.rng.random() < self.trouble:
            await self.clock.sleep(self.rng.choice([0.1, 1, 4, 6, 20]))
        if self.rng.random() < self.trouble / 2:
            raise OSError("lost")

    async def _send(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """What is on its way arrives, even when the sender has given up."""
        task = asyncio.ensure_future(self._late(work))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        result = await asyncio.shield(task)
        await self._way()
        return result

    async def _late(self, work: Callable[[], Awaitable[Any]]) -> Any:
        await self._way()
        return await work()

    async def read(self) -> Raw | None:
        return await self._send(self.store.read)  # type: ignore[no-any-return]

    async def create(self, spec: Raw, annotations: Mapping[str, str]) -> Raw:
        return await self._send(lambda: self.store.create(spec, annotations))  # type: ignore[no-any-return]

    async def update(self, lease: Raw) -> Raw:
        return await self._send(lambda: self.store.update(lease))  # type: ignore[no-any-return]


class Life:
    """A process that leads, loses or gives up, and starts again under another identity."""

    def __init__(self, name: str, store: Store, clock: FakeClock, seed: int, trouble: float) -> None:
        self.name, self.clock, self.lives = name, clock, 0
        self.rng = random.Random(seed)
        self.store = Unreliable(store, clock, self.rng, trouble)
        self.retired: list[Lease] = []
        self.lease = self.born()

    def born(self) -> Lease:
        self.lives += 1
        return candidate(self.store, self.clock, f"{self.name}{self.lives}", self.rng.randrange(1000))

    async def run(self) -> None:
        while True:
            await self.lease.acquire()
            try:
                await within(self.clock, self.rng.uniform(5, 120), self.lease.keep())
            except LeadershipLostError:
                pass
            except TimeoutError:
                if self.rng.random() < 0.7:  # else it dies without a word
                    await self.lease.release()
            self.retired.append(self.lease)
            self.lease = self.born()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), trouble=st.sampled_from([0.0, 0.1, 0.3, 0.6]))
def test_never_two_are_sure_and_terms_never_repeat(seed: int, trouble: float) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        clock.SETTLE_TURNS = 12  # type: ignore[misc]
        store = Store(clock)
        lives = [Life(name, store, clock, seed + n, trouble) for n, name in enumerate("ab")]
        tasks = [asyncio.create_task(life.run()) for life in lives]
        leaders: dict[int, str] = {}
        for _ in range(400):
            await clock.advance(0.5)
            everyone = [lease for life in lives for lease in (life.lease, *life.retired[-3:])]
            sure = [lease for lease in everyone if lease.surely_ours(clock.monotonic())]
            assert len(sure) <= 1
            for lease in sure:
                assert leaders.setdefault(lease.transitions, lease.identity) == lease.identity
            for task in tasks:
                assert not task.done(), task.exception()
        assert leaders or trouble > 0.3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())
