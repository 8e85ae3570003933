"""Keeps slim views of a collection current: pages through a list, then watches, forever."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from mlenv_operator.runtime.reflector import (
    Change,
    ListEnded,
    ListPage,
    ListStarted,
    Message,
    ObjectKey,
    Reflector,
    WatchEvent,
)
from mlenv_operator.runtime.workqueue import Backoff

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence

    from mlenv_operator.runtime.clock import Clock

V = TypeVar("V")
log = logging.getLogger(__name__)

GONE: Final = 410
SHORT_STREAM_S: Final = 1.0
"""A stream that ends sooner without a word counts as a failure, or the loop would spin."""
SLICE: Final = 50
"""So many objects of a page are taken in at a time; then others get their turn."""
FAILURES_UNTIL_LIST: Final = 5
"""So many failures in a row and the version to go on from is no longer trusted: an etcd restored from a
backup has never heard of it, and says so by time-outs, not by 410."""


class Page(Protocol):
    """One page of a list."""

    @property
    def items(self) -> Sequence[dict[str, Any]]:
        """The raw objects."""

    @property
    def resource_version(self) -> str:
        """The version of the collection that the list shows."""


class Source(Protocol):
    """Where an informer reads; errors of the API server have its status in an attribute ``code``."""

    def pages(self) -> AsyncIterator[Page]:
        """The whole collection, page by page."""

    def watch(self, resource_version: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """(type, raw object) from there on; ends when the server or a time limit ends it."""


class InformerMetrics(Protocol):
    """Where an informer reports."""

    def progressed(self) -> None:
        """A page, an event or a bookmark came."""

    def restarted(self) -> None:
        """The watch had to be opened anew."""


class NoInformerMetrics:
    """Reports to nobody."""

    def progressed(self) -> None:
        """Nothing."""

    def restarted(self) -> None:
        """Nothing."""


class Informer(Generic[V]):
    """A Reflector fed from a Source, with handlers for its changes.

    Handlers are called synchronously, in order, before the next message is read; they must be quick. An
    exception in a handler or in ``project`` ends ``run``: it is a mistake in this program.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        reflector: Reflector[V],
        clock: Clock,
        rng: random.Random,
        *,
        metrics: InformerMetrics | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self._source = source
        self._reflector = reflector
        self._clock = clock
        self._rng = rng
        self._metrics = metrics or NoInformerMetrics()
        self._backoff = backoff or Backoff(base_s=0.5, cap_s=30.0)
        self._handlers: list[Callable[[Change[V]], None]] = []
        self._synced = asyncio.Event()
        self._failures = 0
        self.last_progress = clock.monotonic()
        """When the last page, event or bookmark came, by the clock's ``monotonic``."""

    def on_change(self, handler: Callable[[Change[V]], None]) -> None:
        """Have the handler called for every change from now on."""
        self._handlers.append(handler)

    @property
    def synced(self) -> bool:
        """Whether the collection has been read completely once."""
        return self._reflector.synced

    async def wait_synced(self) -> None:
        """Wait for that."""
        await self._synced.wait()

    def get(self, namespace: str, name: str) -> V | None:
        """The view of one object."""
        return self._reflector.get(ObjectKey(namespace, name))

    def by_owner(self, owner: Hashable) -> list[V]:
        """The views of all objects of an owner."""
        return self._reflector.by_owner(owner)

    def owners(self) -> list[Hashable]:
        """Every owner that has an object."""
        return self._reflector.owners()

    def views(self) -> Iterator[V]:
        """All views."""
        return self._reflector.views()

    def __len__(self) -> int:
        """How many objects are known."""
        return len(self._reflector)

    async def run(self) -> None:
        """Keep current until cancelled; what the API server refuses is tried again, with backoff."""
        must_list = True
        while True:
            try:
                if must_list:
                    await self._list()
                    must_list = False
                await self._watch()
            except Exception as error:
                if not hasattr(error, "code"):
                    raise  # not the API server's: a mistake in this program
                await self._pause(error)
                must_list = must_list or error.code == GONE or self._failures >= FAILURES_UNTIL_LIST

    async def _list(self) -> None:
        self._feed(ListStarted())
        resource_version = ""
        async for page in self._source.pages():
            for start in range(0, len(page.items), SLICE):
                self._feed(ListPage(page.items[start : start + SLICE]))
                await asyncio.sleep(0)
            resource_version = page.resource_version
            self._came()
        self._feed(ListEnded(resource_version))
        self._synced.set()

    async def _watch(self) -> None:
        """One stream, until it ends."""
        started, words = self._clock.monotonic(), 0
        async for type_, raw in self._source.watch(self._reflector.resource_version):
            words += 1
            self._failures = 0
            self._came()
            self._feed(WatchEvent(type_, raw))
        self._metrics.restarted()
        if not words and self._clock.monotonic() - started < SHORT_STREAM_S:
            await self._pause(None)
        else:
            self._failures = 0
            self._came()

    def _feed(self, message: Message) -> None:
        for change in self._reflector.feed(message):
            for handler in self._handlers:
                handler(change)

    def _came(self) -> None:
        self.last_progress = self._clock.monotonic()
        self._metrics.progressed()

    async def _pause(self, error: Exception | None) -> None:
        self._failures += 1
        seconds = self._backoff.delay(self._failures, self._rng)
        if error is not None:
            self._metrics.restarted()
            log.warning("informer %s: %s; again in %.1f s", self.name, error, seconds)
        await self._clock.sleep(seconds)
