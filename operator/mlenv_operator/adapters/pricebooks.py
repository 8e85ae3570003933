"""The prices in use: what ships, what is refreshed, and the PriceBooks of the cluster; and their statuses."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from mlenv_api.names import PRICE_BOOK
from mlenv_api.pricebook import PriceBookStatus
from mlenv_operator.adapters import statuses
from mlenv_operator.adapters.pricefiles import PriceSourceError, shipped_hardware, shipped_rows
from mlenv_operator.cost.books import BookView, read_book, status_of
from mlenv_operator.cost.moments import micros
from mlenv_operator.cost.prices import PriceBook
from mlenv_operator.kube.resources import PRICE_BOOKS
from mlenv_operator.runtime.workqueue import WorkQueue

if TYPE_CHECKING:
    import random
    from collections.abc import Collection

    from mlenv_operator.adapters.metrics import Metrics
    from mlenv_operator.adapters.pricefiles import PriceSource
    from mlenv_operator.cost.facts import Micros, Node
    from mlenv_operator.cost.prices import PriceRow
    from mlenv_operator.cost.segments import Segment
    from mlenv_operator.kube.client import Client
    from mlenv_operator.runtime.clock import Clock
    from mlenv_operator.runtime.reflector import Change

log = logging.getLogger(__name__)
SHIPPED_BOOK: Final = "shipped"
"""How metrics name the prices in the wheel; a PriceBook of that name hides them there."""
REFRESHED_BOOK: Final = "refreshed"
"""And those that were read from a source since."""


def project_book(raw: dict[str, Any]) -> BookView:
    """The view of a PriceBook, measured by what is shipped."""
    return read_book(raw, shipped_hardware(), shipped_rows())


class Books:
    """Keeps the last good version of every PriceBook, and one PriceBook made of all of them."""

    def __init__(self, client: Client, clock: Clock, rng: random.Random, metrics: Metrics) -> None:
        self._client = client
        self._clock = clock
        self._metrics = metrics
        self._queue: WorkQueue[str] = WorkQueue(clock, rng)
        self._seen: dict[str, BookView] = {}
        self._used: dict[str, BookView] = {}
        self._refreshed: dict[tuple[str, str], tuple[PriceRow, ...]] = {}
        self._book: PriceBook | None = None
        self._changes = 0
        metrics.before_scrape(self._report)

    @property
    def prices(self) -> PriceBook:
        """Every price in use now. The ledger's thread asks too: what is read here is only ever replaced."""
        book, changes = self._book, self._changes
        if book is None:
            books = (row for view in self._used.values() for row in view.rows)
            refreshed = (row for rows in self._refreshed.values() for row in rows)
            book = PriceBook([*shipped_rows(), *refreshed, *books])
            if changes == self._changes:
                self._book = book
        return book

    def segments(self, node: Node, start: Micros, end: Micros) -> tuple[Segment, ...]:
        """What the ledger needs of the prices of a node."""
        return tuple(one.segment() for one in self.prices.segments(node, start, end))

    def describe(self, price_id: str) -> dict[str, str | int]:
        """All of a price row, as the ledger keeps it with the first charge that it makes."""
        row = self.prices.row(price_id)
        if row is None:
            return {}
        said = {name: value for name, value in asdict(row).items() if value is not None}
        return {**said, "capacity_type": str(row.capacity_type), "version": row.version}

    def version(self) -> str:
        """Changes whenever a price does."""
        return self.prices.digest

    def _renew(self) -> None:
        self._changes += 1
        self._book = None

    def changed(self, change: Change[BookView]) -> None:
        """A PriceBook came, changed or went. One that is refused leaves the version before in use."""
        name, view = change.key.name, change.new
        if view is None:
            self._seen.pop(name, None)
            self._forget(name)
        else:
            self._take(view)
        self._renew()
        self._queue.add(name)

    def _take(self, view: BookView) -> None:
        self._seen[view.name] = view
        if not view.errors:
            self._used = {**self._used, view.name: view}
            return
        used = self._used.get(view.name)
        if used is not None and used.uid != view.uid:
            self._forget(view.name)
        log.warning("PriceBook %s, generation %d, is refused: %s", view.name, view.generation, view.errors[0])

    def _forget(self, name: str) -> None:
        self._used = {one: view for one, view in self._used.items() if one != name}

    async def refresh(self, source: PriceSource, provider: str, region: str, types: Collection[str]) -> bool:
        """Ask a source, in a thread, for the prices of these machines.

        What cannot be had leaves the ones before in use.
        """
        try:
            rows = await asyncio.to_thread(lambda: tuple(source.fetch(provider, region, types)))
        except PriceSourceError as error:
            log.warning("prices of %s %s are not refreshed: %s", provider, region, error)
            return False
        if rows != self._refreshed.get((provider, region)):
            self._refreshed = {**self._refreshed, (provider, region): rows}
            self._renew()
        return True

    async def run(self) -> None:
        """Write the statuses, until cancelled: the leader's work."""
        await statuses.work(self._queue, PRICE_BOOK, self._write)

    async def _write(self, name: str) -> None:
        """One status, if it says something new about the version that was looked at."""
        view = self._seen.get(name)
        if view is None:
            return
        raw = await statuses.current(self._client, PRICE_BOOKS, view)
        if raw is None:
            return
        before = _stored(raw)
        status = status_of(view, self._used.get(name), before, self._clock.now())
        if status != before:
            await self._client.update_status(PRICE_BOOKS, {**raw, "status": status.wire()})

    def _report(self) -> None:
        """How old the prices are, by the word of their sources."""
        now = micros(self._clock.now())
        ages = {SHIPPED_BOOK: PriceBook(shipped_rows()).age(now) or 0}
        refreshed = PriceBook(row for rows in self._refreshed.values() for row in rows).age(now)
        ages |= {} if refreshed is None else {REFRESHED_BOOK: refreshed}
        ages |= {name: max(0, now - view.as_of) for name, view in self._used.items()}
        self._metrics.price_book_age.clear()
        for name, age in ages.items():
            self._metrics.price_book_age.labels(name).set(age / 1e6)
        self._metrics.price_book_refused.clear()
        for name, view in self._seen.items():
            self._metrics.price_book_refused.labels(name).set(1 if view.errors else 0)


def _stored(raw: dict[str, Any]) -> PriceBookStatus:
    """What stands there; what cannot be read is written anew."""
    try:
        return PriceBookStatus.model_validate(raw.get("status") or {})
    except ValidationError:
        return PriceBookStatus()
