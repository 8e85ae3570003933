"""Time as a dependency: one clock for the real world, one that tests move by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Timer(Protocol):
    """A call that was promised for later."""

    def cancel(self) -> None:
        """Take the promise back; harmless when the call has already happened."""


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""

    def now(self) -> datetime:
        """Wall clock time, in UTC."""

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Make the call after so many seconds, in this event loop."""

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""


# CLOCK_BOOTTIME also counts the time a suspended machine slept: whoever wakes up must not believe that its
# Lease is as young as it was.
_CLOCK_ID: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The real one."""

    def monotonic(self) -> float:
        """Seconds since boot, suspended time included where the kernel counts it."""
        return time.clock_gettime(_CLOCK_ID)

    def now(self) -> datetime:
        """Wall clock time, in UTC."""
        return datetime.now(UTC)

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Make the call after so many seconds, in the running event loop."""
        return asyncio.get_running_loop().call_later(seconds, call)

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""
        await asyncio.sleep(seconds)


class FakeTimer:
    """A promise made to a FakeClock."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Take the promise back."""
        self._call = None

    def fire(self) -> None:
        """Keep the promise, once."""
        call, self._call = self._call, None
        if call is not None:
            call()


class FakeClock:
    """A clock that stands still until a test advances it."""

    SETTLE_TURNS: Final = 25
    """Turns of the event loop after which whatever a timer woke is taken to have come to rest."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, FakeTimer]] = []

    def monotonic(self) -> float:
        """Seconds by which the test has advanced this clock."""
        return self._elapsed

    def now(self) -> datetime:
        """The start plus the seconds advanced."""
        return self._start + timedelta(seconds=self._elapsed)

    def call_later(self, seconds: float, call: Callable[[], object]) -> FakeTimer:
        """Make the call when the test has advanced this clock far enough."""
        timer = FakeTimer(call)
        heapq.heappush(self._timers, (self._elapsed + max(0.0, seconds), next(self._order), timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        """Wait until the test has advanced this clock far enough."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: _wake(done))
        try:
            await done
        finally:
            timer.cancel()

    async def advance(self, seconds: float) -> None:
        """Move on, firing every timer in its order and letting the event loop come to rest after each."""
        await self.settle()
        end = self._elapsed + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._elapsed = max(self._elapsed, due)
            timer.fire()
            await self.settle()
        self._elapsed = end
        await self.settle()

    def jump(self, seconds: float) -> None:
        """Move on without running anything, as a process that was stopped sees it."""
        self._elapsed += seconds

    async def settle(self) -> None:
        """Let the event loop run what is ready."""
        for _ in range(self.SETTLE_TURNS):
            await asyncio.sleep(0)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def within(clock: Clock, seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, or TimeoutError and the work cancelled once the seconds have passed."""
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise TimeoutError(f"no answer within {seconds:g} s")
    finally:
        task.cancel()
        timer.cancel()
        # Not `await task` with CancelledError suppressed: that would also swallow a cancellation of ours.
        await asyncio.wait((task, timer))
        if not task.cancelled():
            task.exception()  # seen: asyncio would complain of one that nobody looked at
