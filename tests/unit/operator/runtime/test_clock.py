from __future__ import annotations

import asyncio

import pytest

from mlenv_operator.runtime.clock import FakeClock, SystemClock, within


async def test_timers_fire_in_the_order_of_their_times() -> None:
    clock, fired = FakeClock(), list[tuple[str, float]]()
    for name, seconds in (("late", 3.0), ("early", 1.0), ("twin", 1.0)):
        clock.call_later(seconds, lambda name=name: fired.append((name, clock.monotonic())))  # type: ignore[misc]
    await clock.advance(2)
    assert fired == [("early", 1.0), ("twin", 1.0)]
    await clock.advance(1)
    assert fired[-1] == ("late", 3.0)


async def test_a_cancelled_timer_stays_silent() -> None:
    clock, fired = FakeClock(), list[int]()
    timer = clock.call_later(1, lambda: fired.append(1))
    timer.cancel()
    await clock.advance(2)
    assert not fired


async def test_a_sleeper_that_sleeps_again_wakes_at_the_right_times() -> None:
    clock, woke = FakeClock(), list[float]()

    async def sleeper() -> None:
        for _ in range(3):
            await clock.sleep(1)
            woke.append(clock.monotonic())

    task = asyncio.create_task(sleeper())
    await clock.advance(10)
    await task
    assert woke == [1.0, 2.0, 3.0]


async def test_within_gives_the_result_or_cancels_the_work() -> None:
    clock, ended = FakeClock(), list[str]()

    async def work(seconds: float) -> str:
        try:
            await clock.sleep(seconds)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "done"

    quick, slow = (asyncio.create_task(within(clock, 5, work(s))) for s in (1.0, 9.0))
    await clock.advance(6)
    assert await quick == "done"
    with pytest.raises(TimeoutError, match="5 s"):
        await slow
    assert ended == ["cancelled"]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("turns", range(12))
async def test_within_never_swallows_a_cancellation_however_late_it_comes(turns: int, fails: object) -> None:
    """Not even where the work is done, and the timer is being ended."""

    async def work() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if fails:
            raise ValueError("no")

    task = asyncio.create_task(within(SystemClock(), 60, work()))
    for _ in range(turns):
        await asyncio.sleep(0)
    if task.cancel():
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        assert (task.exception() is not None) == fails


async def test_within_passes_the_failure_of_the_work_on() -> None:
    async def work() -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        await within(SystemClock(), 5, work())


async def test_the_system_clock_runs() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0)
    assert clock.monotonic() >= before
    assert clock.now().utcoffset() is not None
