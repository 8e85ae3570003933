"""A part of the operator that hears of one kind of object, as app.py puts it together, at a real server."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from mlenv_operator.kube.sources import KindSource
from mlenv_operator.runtime.clock import SystemClock
from mlenv_operator.runtime.informer import Informer
from mlenv_operator.runtime.reflector import Reflector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mlenv_operator.kube.client import Client
    from mlenv_operator.kube.resources import Resource

DEADLINE_S = 300.0


class Part(Protocol):
    """What hears, and works."""

    def changed(self, change: Any) -> None:
        """One of them came, changed or went."""

    async def run(self) -> None:
        """Work until cancelled."""


@asynccontextmanager
async def informed(
    client: Client, resource: Resource, read: Callable[[dict[str, Any]], Any], part: Part
) -> AsyncIterator[None]:
    """It has heard of all there are, and works."""
    source, reflector = KindSource(client, resource), Reflector(read, lambda _: None)
    informer = Informer(resource.plural, source, reflector, SystemClock(), random.Random(1))
    informer.on_change(part.changed)
    tasks = [asyncio.create_task(informer.run()), asyncio.create_task(part.run())]
    await asyncio.wait_for(informer.wait_synced(), DEADLINE_S)
    yield
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
