"""Asks a source for fresh prices of the machines that the cluster has, now and then."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv_operator.adapters.pricefiles import FileSource
from mlenv_operator.cost.prices import ON_PREM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlenv_operator.adapters.pricebooks import Books
    from mlenv_operator.adapters.pricefiles import PriceSource
    from mlenv_operator.adapters.state import State
    from mlenv_operator.core.world import NodeView
    from mlenv_operator.runtime.clock import Clock
    from mlenv_operator.settings import Settings

EVERY_S: Final = 300.0
"""A machine of a kind that is new waits for its price so long at most."""


class Refresher:
    """Keeps what a source says beside what ships and what PriceBooks say."""

    def __init__(
        self, books: Books, source: PriceSource, nodes: Callable[[], Iterable[NodeView]], clock: Clock
    ) -> None:
        self._books = books
        self._source = source
        self._nodes = nodes
        self._clock = clock

    async def run(self) -> None:
        """At once, and again and again, until cancelled."""
        while True:
            await self.refresh()
            await self._clock.sleep(EVERY_S)

    async def refresh(self) -> None:
        """Once. Where nothing can be had, what was had before stands."""
        wanted: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for view in self._nodes():
            if view.machine is not None and view.machine.instance_type:
                place = (view.machine.provider or ON_PREM, view.machine.region)
                wanted[place].add(view.machine.instance_type)
        for (provider, region), types in sorted(wanted.items()):
            await self._books.refresh(self._source, provider, region, types)


def refresher_of(settings: Settings, books: Books, state: State) -> Refresher | None:
    """What reads the price list of the settings, when they name one."""
    if not settings.price_file:
        return None
    return Refresher(books, FileSource(Path(settings.price_file)), state.caches.nodes.views, state.clock)
