"""The ledger beside an event loop: facts are taken at once and stored by a thread of its own.

While the database is away facts are kept up to a bound, then refused: their pods keep their finalizer, which
is removed only once `durable` says yes, and are offered again. So nothing is lost but time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from mlenv_operator.cost.facts import SECOND, Node, Pod
from mlenv_operator.cost.merge import merged
from mlenv_operator.cost.observe_spent import Metered
from mlenv_operator.ledger.errors import (
    BelowMark,
    LedgerError,
    LedgerRefused,
    MarksUnavailable,
    StaleWriter,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable
    from typing import TypeAlias

    from mlenv_operator.cost.facts import Fact, Micros
    from mlenv_operator.ledger.exports import Exposition, Marks
    from mlenv_operator.ledger.ledger import Ledger
    from mlenv_operator.ledger.remembered import Remembered
    from mlenv_operator.ledger.writer import Writer
    from mlenv_operator.runtime.clock import Clock

    Told: TypeAlias = Fact | Metered

log = logging.getLogger(__name__)
T = TypeVar("T")
KEPT: Final = 50_000
"""Ends of pods that are remembered as stored; one that is forgotten is offered, and stored, once more."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often, and how much."""

    bound: int = 100_000
    """Facts that wait, at most."""
    batch: int = 2_000
    """Facts in one transaction."""
    gather_s: float = 1.0
    """Between two transactions, at least: what comes in a trickle is stored together."""
    settle_s: float = 30.0
    publish_s: float = 30.0
    publish_cap_s: float = 60.0
    publish_share: float = 0.02
    """Of one core. A publication that takes more of it is followed by a longer pause, up to the cap."""
    retry_s: float = 1.0
    retry_cap_s: float = 60.0

    def after_publication(self, cpu_s: float) -> float:
        """Seconds until the next, when one took so many of CPU time."""
        return max(self.publish_s, min(cpu_s / self.publish_share, self.publish_cap_s))


@dataclass(slots=True)
class Figures:
    """Plain numbers for whoever shows them."""

    waiting: int = 0
    """Facts not stored yet."""
    lag_s: float = 0.0
    """Age of the oldest of them."""
    stored: int = 0
    refused: int = 0
    """Facts that were not taken, because too many wait; they are offered again."""
    impossible: int = 0
    """Facts that the database cannot hold; each was logged, and the ledger goes on without it."""
    batches: int = 0
    closed: int = 0
    corrected: int = 0
    held_back: int = 0
    """Node-hours that wait for the end of a pod."""
    failures: int = 0
    condition: str = ""
    """What is wrong, in a sentence; empty when all is well."""
    exposition: Exposition | None = None
    """What counters may show; None: nothing, not even zeros."""


@dataclass(slots=True)
class _Queue:
    """Facts by key, so that what is told twice waits once; each with the time since when it waits."""

    facts: OrderedDict[Hashable, tuple[Told, float]] = field(default_factory=OrderedDict)

    def put(self, fact: Told, now: float) -> None:
        """What says more goes behind what was told meanwhile: no pod's end is stored before its marks."""
        key = _key(fact)
        old = self.facts.get(key)
        self.facts[key] = (fact, now) if old is None else (_fuller(old[0], fact), old[1])
        self.facts.move_to_end(key)

    def take(self, count: int) -> list[Told]:
        return [self.facts.popitem(last=False)[1][0] for _ in range(min(count, len(self.facts)))]

    def give_back(self, facts: list[Told], since: float) -> None:
        for fact in reversed(facts):
            key = _key(fact)
            newer = self.facts.get(key)
            self.facts[key] = (fact if newer is None else _fuller(fact, newer[0]), since)
            if newer is None:
                self.facts.move_to_end(key, last=False)

    def oldest(self) -> float | None:
        return next(iter(self.facts.values()))[1] if self.facts else None


@dataclass(frozen=True, slots=True)
class Listener:
    """Whoever keeps the books; called in the loop."""

    jobs: Callable[[], Collection[str]] = lambda: ()
    """UIDs of the jobs that there are now."""
    opened: Callable[[Remembered], None] = lambda _: None
    """The ledger is open, and this was told before."""
    durable: Callable[[Pod], None] = lambda _: None
    """A pod's end is stored."""


class Accountant:
    """A ledger for an event loop. `offer` and `durable` never wait; `run` works until it is cancelled."""

    def __init__(
        self,
        open_ledger: Callable[[], Ledger],
        clock: Clock,
        marks: Marks,
        pace: Pace | None = None,
        on_durable: Callable[[Pod], None] = lambda _: None,
    ) -> None:
        """`open_ledger` is called in the thread, anew after a failure; `on_durable` in the loop."""
        self.listener = Listener(durable=on_durable)
        self.figures = Figures()
        self._open = open_ledger
        self._clock = clock
        self._marks = marks
        self._pace = pace or Pace()
        self._queue = _Queue()
        self._ended: OrderedDict[str, Pod] = OrderedDict()
        self._ledger: Ledger | None = None
        self._refusal = ""  # why counters show nothing
        self._news = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    def offer(self, fact: Told) -> bool:
        """Take a fact, to be stored soon; False when too many wait: offer it again later."""
        if len(self._queue.facts) >= self._pace.bound and _key(fact) not in self._queue.facts:
            self.figures.refused += 1
            return False
        self._queue.put(fact, self._clock.monotonic())
        self.refresh()
        self._news.set()
        return True

    def durable(self, pod: Pod) -> bool:
        """Whether the pod's end, as it is told here, is stored: its finalizer may go. If not, offer it."""
        stored = self._ended.get(pod.uid)
        return stored is not None and pod.released is not None and _fuller(stored, pod) == stored

    async def run(self, writer: Writer) -> None:
        """Take the ledger over and work, for as long as the lease is held."""
        delay = self._pace.retry_s
        try:
            while True:
                done = self.figures.batches
                error = await self._try(writer)
                self._failed(error)
                if self.figures.batches > done:
                    delay = self._pace.retry_s
                await self._in_thread(self._close)
                await self._clock.sleep(self._pace.retry_cap_s if isinstance(error, StaleWriter) else delay)
                delay = min(delay * 2, self._pace.retry_cap_s)
        finally:
            # After the call that is under way, if one is.
            self._thread.submit(self._close)
            self._thread.shutdown(wait=False)

    async def _try(self, writer: Writer) -> Exception:
        """Work until it fails; why it did."""
        try:
            await self._work(writer)
        except LedgerError as error:
            return error
        except Exception as error:
            log.exception("the ledger: a mistake in this program")
            return error

    async def _work(self, writer: Writer) -> NoReturn:
        """Store, settle and publish in turns, until something fails."""
        jobs = self.listener.jobs()
        self.listener.opened(await self._in_thread(lambda: self._begin(writer, jobs)))
        store_at = settle_at = publish_at = self._clock.monotonic()
        while True:
            if self._clock.monotonic() >= store_at and await self._store():
                full = len(self._queue.facts) >= self._pace.batch
                store_at = self._clock.monotonic() + (0.0 if full else self._pace.gather_s)
            if self._clock.monotonic() >= settle_at and not await self._settle():
                settle_at = self._clock.monotonic() + self._pace.settle_s
            if self._clock.monotonic() >= publish_at:
                took = await self._publish()
                publish_at = self._clock.monotonic() + self._pace.after_publication(took)
            self.figures.condition = self._refusal
            now = self._clock.monotonic()
            if self._queue.facts and store_at > now:
                await self._clock.sleep(min(store_at, settle_at, publish_at) - now)
            else:
                await self._wait(min(settle_at, publish_at) - now)

    async def _wait(self, seconds: float) -> None:
        """Until there is something to store, or it is time for something else."""
        if self._queue.facts or seconds <= 0:
            await asyncio.sleep(0)
            return
        self._news.clear()
        timer = self._clock.call_later(seconds, self._news.set)
        try:
            await self._news.wait()
        finally:
            timer.cancel()

    async def _store(self) -> bool:
        """One batch, if there is any. Until it is stored it counts as waiting; if it cannot be, again."""
        since, facts = self._queue.oldest(), self._queue.take(self._pace.batch)
        if not facts:
            return False
        try:
            bad = await self._in_thread(lambda: _observe(self._opened(), facts))
        except BaseException:
            self._queue.give_back(facts, self._clock.monotonic() if since is None else since)
            raise
        self.figures.stored += len(facts) - len(bad)
        self.figures.impossible += len(bad)
        self.figures.batches += 1
        self.refresh()
        for fact in facts:
            if isinstance(fact, Pod) and fact.released is not None and fact not in bad:
                self._remember(fact)
        return True

    def _remember(self, pod: Pod) -> None:
        self._ended[pod.uid] = pod
        self._ended.move_to_end(pod.uid)
        while len(self._ended) > KEPT:
            self._ended.popitem(last=False)
        self.listener.durable(pod)

    async def _settle(self) -> bool:
        """One transaction of settling; whether there may be more to do."""
        now = self._now()
        await self._in_thread(lambda: self._opened().reprice(now))
        done = await self._in_thread(lambda: self._opened().settle(now))
        self.figures.closed += done.closed
        self.figures.corrected += done.corrected
        self.figures.held_back = done.waiting
        return done.looked_at > 0

    async def _publish(self) -> float:
        """Renew what counters show, and say what CPU time that took.

        A ledger that may show nothing goes on storing and settling.
        """
        now = self._now()
        took = 0.0

        def publish() -> Exposition:
            nonlocal took
            begin = time.thread_time()
            shown = self._opened().publish(self._marks, now)
            took = time.thread_time() - begin
            return shown

        try:
            self.figures.exposition = await self._in_thread(publish)
            self._refusal = ""
        except MarksUnavailable as error:
            # What was shown so far was told to the second place: that may stay.
            self._refusal = str(error)
        except BelowMark as error:
            self.figures.exposition = None
            if self._refusal != str(error):
                log.error("%s", error)  # noqa: TRY400  (a sentence, no traceback)
            self._refusal = str(error)
        return took

    def _begin(self, writer: Writer, jobs: Collection[str]) -> Remembered:
        self._ledger = self._open()
        self._ledger.begin(writer, since=self._now())
        return self._ledger.remembered(jobs)

    def _opened(self) -> Ledger:
        if self._ledger is None:
            raise LedgerRefused("The ledger is not open.")
        return self._ledger

    def _close(self) -> None:
        if self._ledger is not None:
            self._ledger.database.close()
            self._ledger = None

    def _failed(self, error: Exception) -> None:
        self.figures.failures += 1
        if self.figures.condition != str(error):
            log.warning("%s", error)
        self.figures.condition = str(error)
        self.refresh()

    def refresh(self) -> None:
        """Renew the figures of the queue, as before a scrape."""
        oldest = self._queue.oldest()
        self.figures.waiting = len(self._queue.facts)
        self.figures.lag_s = 0.0 if oldest is None else self._clock.monotonic() - oldest

    def _now(self) -> Micros:
        return int(self._clock.now().timestamp()) * SECOND

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """In the ledger's own thread. A cancelled caller does not end the call: what it writes is whole."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _observe(ledger: Ledger, facts: list[Told]) -> list[Told]:
    """Store the facts; gives those that cannot be stored, so that one of them does not hold up all others."""
    try:
        ledger.observe(facts)
    except LedgerError:
        raise
    except Exception:
        if len(facts) == 1:
            log.exception("this fact cannot be stored, what it tells will be missing: %s", facts[0])
            return facts
        middle = len(facts) // 2
        return [*_observe(ledger, facts[:middle]), *_observe(ledger, facts[middle:])]
    return []


def _key(fact: Told) -> Hashable:
    """What is told of by two facts at once: a pod, a node, a meter; all others are told once."""
    if isinstance(fact, Metered):
        return Metered, fact.meter.pod_uid
    return (type(fact), fact.uid) if isinstance(fact, Pod | Node) else fact


def _fuller(old: Told, new: Told) -> Told:
    """One fact that says what both say: nothing that was told once is lost while it waits."""
    if isinstance(new, Metered) and isinstance(old, Metered):
        return Metered(new.meter, old.marks + new.marks)
    if isinstance(new, Node) and isinstance(old, Node):
        return merged(old, new)
    if isinstance(new, Pod) and isinstance(old, Pod):
        return merged(old, new)
    return new
