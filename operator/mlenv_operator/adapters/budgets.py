"""Budgets beside what the ledger published last: as status, event and metric. They stop nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from mlenv_api.names import BUDGET
from mlenv_operator.adapters import statuses
from mlenv_operator.adapters.recorder import About
from mlenv_operator.core.books import STALE_S, Books, silence
from mlenv_operator.core.budgets import Told, differs, figures, news, status_of, stored
from mlenv_operator.cost.moments import moment
from mlenv_operator.kube.resources import BUDGETS
from mlenv_operator.runtime.workqueue import WorkQueue

if TYPE_CHECKING:
    import random

    from mlenv_operator.adapters.metrics import Metrics
    from mlenv_operator.adapters.recorder import Recorder
    from mlenv_operator.core.budgets import BudgetView, Figure
    from mlenv_operator.kube.client import Client
    from mlenv_operator.ledger.accountant import Figures
    from mlenv_operator.runtime.clock import Clock
    from mlenv_operator.runtime.reflector import Change

LOOK_S: Final = 10.0
"""So often all budgets are held against what was published last: values in memory, no request."""
WRITE_S: Final = 60.0
"""The status of one budget is not written sooner again, unless its spec was edited."""


class Budgets:
    """Every Budget as it was seen last. The leader writes their statuses, and nobody else."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        rng: random.Random,
        recorder: Recorder,
        ledger: Figures | None,
        *,
        metrics: Metrics,
    ) -> None:
        """`ledger`: what it shows; None where the operator keeps none."""
        self._client = client
        self._clock = clock
        self._recorder = recorder
        self._ledger = ledger
        self._queue: WorkQueue[str] = WorkQueue(clock, rng)
        self._views: dict[str, BudgetView] = {}
        self._wrote: dict[str, float] = {}
        self._since = clock.now()
        self.figures: tuple[Figure, ...] = ()
        """What metrics show; renewed before each scrape, and only ever replaced."""
        metrics.before_scrape(self._renew)

    def changed(self, change: Change[BudgetView]) -> None:
        """A Budget came, changed or went."""
        name, view = change.key.name, change.new
        if view is None:
            self._views.pop(name, None)
            self._wrote.pop(name, None)
            return
        old, self._views[name] = self._views.get(name), view
        if old is None or old.uid != view.uid:
            self._wrote.pop(name, None)
        if old is None or (old.uid, old.generation) != (view.uid, view.generation):
            self._queue.add(name)

    async def run(self) -> None:
        """Look and write, until cancelled: the leader's work."""
        self._since = self._clock.now()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            group.create_task(statuses.work(self._queue, BUDGET, self._hold))

    async def _look(self) -> None:
        while True:
            for name in self._views:
                self._queue.add(name)
            await self._clock.sleep(LOOK_S)

    async def _hold(self, name: str) -> None:
        """Write the status if it says something new, and it is time."""
        view, told = self._views.get(name), self._told()
        if view is None or told is None or self._rests(view):
            return
        if differs(view.status, status_of(view, told, view.status, self._clock.now())):
            await self._write(view, told)

    def _rests(self, view: BudgetView) -> bool:
        wrote = self._wrote.get(view.name)
        if wrote is None or view.status.observed_generation != view.generation:
            return False  # nobody has answered to what the spec says
        return self._clock.monotonic() - wrote < WRITE_S

    async def _write(self, view: BudgetView, told: Told) -> None:
        raw = await statuses.current(self._client, BUDGETS, view)
        if raw is None:
            return
        before = stored(raw)
        after = status_of(view, told, before, self._clock.now())
        if differs(before, after):
            await self._client.update_status(BUDGETS, {**raw, "status": after.wire()})
        self._wrote[view.name] = self._clock.monotonic()
        event = news(view, before, after)
        if event is not None:
            await self._recorder.tell(About(BUDGET, "", view.name, view.uid), event)

    def _told(self) -> Told | None:
        """What the ledger says; None while a new leader's ledger has not had its first moments."""
        shown = self._ledger.exposition if self._ledger else None
        as_of = None if shown is None else moment(shown.as_of)
        problem = self._ledger.condition if self._ledger and shown is None else ""
        now = self._clock.now()
        if self._ledger and shown is None and not problem and (now - self._since).total_seconds() < STALE_S:
            return None
        books = Books(kept=self._ledger is not None, as_of=as_of, problem=problem)
        return Told(shown.month if shown else None, silence(books, now))

    def _renew(self) -> None:
        shown = self._ledger.exposition if self._ledger else None
        self.figures = figures(self._views.values(), shown.month if shown else None)
