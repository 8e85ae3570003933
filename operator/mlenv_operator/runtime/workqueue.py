"""A queue of keys to look at, with the semantics of client-go's work queue.

A key is queued at most once; one worker at a time holds it; added again meanwhile, it is queued once more
when that worker is done. The oldest key comes first. Failures of a key back off exponentially, with jitter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Hashable

    from mlenv_operator.runtime.clock import Clock, Timer

K = TypeVar("K", bound="Hashable")


class QueueShutDown(Exception):  # noqa: N818  (not an error: the end of the work)
    """The queue is shut down and empty: the worker can go home."""


class QueueMetrics(Protocol):
    """Where a queue reports what happens in it."""

    def added(self) -> None:
        """A key was queued."""

    def waited(self, seconds: float) -> None:
        """A worker took a key that had been queued so long."""

    def worked(self, seconds: float) -> None:
        """A worker held a key so long."""

    def retried(self) -> None:
        """A key was put back after a failure."""


class NoQueueMetrics:
    """Reports to nobody."""

    def added(self) -> None:
        """Nothing."""

    def waited(self, seconds: float) -> None:
        """Nothing."""

    def worked(self, seconds: float) -> None:
        """Nothing."""

    def retried(self) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after the n-th failure in a row: random between base and base * 2^n, capped."""

    base_s: float = 1.0
    cap_s: float = 300.0

    def delay(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after so many failures (1 or more)."""
        # The exponent is bounded first: 2.0 ** 2000 is an OverflowError.
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(failures, 60))
        return rng.uniform(min(self.base_s, ceiling), ceiling)


class TokenBucket:
    """At most so many a second over time, with bursts."""

    def __init__(self, clock: Clock, *, per_second: float, burst: int) -> None:
        self._clock = clock
        self._per_second = per_second
        self._burst = float(burst)
        self._tokens = float(burst)
        self._filled_at = clock.monotonic()

    def reserve(self) -> float:
        """Take a token, if need be one of the future; the seconds until it is there."""
        self._fill()
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._per_second)

    def take(self) -> bool:
        """Take a token if there is one."""
        self._fill()
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _fill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now


class WorkQueue(Generic[K]):
    """Keys to look at; everything but ``get`` is synchronous and belongs to one event loop."""

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        *,
        backoff: Backoff | None = None,
        bucket: TokenBucket | None = None,
        metrics: QueueMetrics | None = None,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._backoff = backoff or Backoff()
        self._bucket = bucket
        self._metrics = metrics or NoQueueMetrics()
        self._line: deque[K] = deque()
        self._dirty: dict[K, float] = {}  # to be looked at -> since when
        self._processing: dict[K, float] = {}  # in a worker's hands -> since when
        self._delayed: dict[K, tuple[float, Timer]] = {}
        self._failures: dict[K, int] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._shut = False

    def add(self, key: K) -> None:
        """Have the key looked at, unless it is already waiting for that."""
        if self._shut or key in self._dirty:
            return
        self._dirty[key] = self._clock.monotonic()
        self._metrics.added()
        if key not in self._processing:
            self._queue(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key looked at in so many seconds; of several such wishes the earliest counts."""
        if self._shut:
            return
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        if (known := self._delayed.get(key)) is not None:
            if known[0] <= due:
                return
            known[1].cancel()
        self._delayed[key] = (due, self._clock.call_later(seconds, lambda: self._due(key)))

    def add_failed(self, key: K, *, at_least_s: float = 0.0) -> float:
        """Have a key that failed looked at after its backoff; returns the seconds until then."""
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        seconds = max(at_least_s, self._backoff.delay(failures, self._rng))
        if self._bucket is not None:
            seconds = max(seconds, self._bucket.reserve())
        self._metrics.retried()
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: K) -> None:
        """The key went well: its next failure is its first."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """Failures in a row."""
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """The key that has waited longest; ``done`` must follow. Raises QueueShutDown at the end."""
        while not self._line:
            if self._shut:
                raise QueueShutDown
            await self._wait()
        key = self._line.popleft()
        now = self._clock.monotonic()
        self._metrics.waited(now - self._dirty.pop(key))
        self._processing[key] = now
        return key

    def done(self, key: K) -> None:
        """The worker gives the key back."""
        self._metrics.worked(self._clock.monotonic() - self._processing.pop(key))
        if key in self._dirty:
            self._queue(key)

    def shut_down(self) -> None:
        """Accept nothing more; workers end once what is queued has been looked at."""
        self._shut = True
        for _, timer in self._delayed.values():
            timer.cancel()
        self._delayed.clear()
        for getter in self._getters:
            _wake(getter)

    def __len__(self) -> int:
        """Keys that wait for a worker now."""
        return len(self._line)

    @property
    def in_hand(self) -> int:
        """Keys that workers hold now."""
        return len(self._processing)

    def oldest_age(self) -> float:
        """Seconds since the oldest key that waits, or is held by a worker, got there; 0 if none does."""
        oldest = min((*self._dirty.values(), *self._processing.values()), default=None)
        return 0.0 if oldest is None else self._clock.monotonic() - oldest

    def _due(self, key: K) -> None:
        self._delayed.pop(key, None)
        self.add(key)

    def _queue(self, key: K) -> None:
        self._line.append(key)
        for getter in self._getters:
            if not getter.done():
                _wake(getter)
                return

    async def _wait(self) -> None:
        getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._getters.append(getter)
        try:
            await getter
        except asyncio.CancelledError:
            self._pass_on(getter)
            raise
        finally:
            self._getters.remove(getter)

    def _pass_on(self, getter: asyncio.Future[None]) -> None:
        """A worker that was woken and cancelled at once must not keep the news to itself."""
        if getter.done() and not getter.cancelled():
            for other in self._getters:
                if not other.done():
                    _wake(other)
                    return


def _wake(getter: asyncio.Future[None]) -> None:
    if not getter.done():
        getter.set_result(None)
