"""Puts together what tells costs; imports SQLAlchemy only where there is a ledger."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mlenv_api import names
from mlenv_operator.adapters.callers import Callers
from mlenv_operator.adapters.http import serve
from mlenv_operator.cost.moments import micros
from mlenv_operator.kube.tokens import may, review_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mlenv_api.protocol import Misdirected
    from mlenv_operator.adapters.estimates import Estimates
    from mlenv_operator.kube.client import Client
    from mlenv_operator.ledger.prices import PriceSource
    from mlenv_operator.runtime.clock import Clock
    from mlenv_operator.settings import Settings

log = logging.getLogger(__name__)


@asynccontextmanager
async def serve_costs(
    settings: Settings,
    client: Client,
    misdirected: Callable[[], Misdirected | None],
    clock: Clock,
    prices: PriceSource | None = None,
    *,
    estimates: Estimates | None = None,
) -> AsyncIterator[int]:
    """Serve while inside; yields the port, 0 when nothing is accounted."""
    if not settings.ledger_dsn:
        yield 0
        return
    from mlenv_operator.adapters.costs import Costs, build_costs_app, reader_of  # noqa: PLC0415

    callers = Callers(
        lambda token: review_token(client, token, names.COST_AUDIENCE), lambda spec: may(client, spec), clock
    )
    async with reader_of(settings.ledger_dsn, prices) as reader:
        costs = Costs(reader, callers, misdirected, lambda: micros(clock.now()), estimates)
        async with serve(build_costs_app(costs), settings.http_host, settings.cost_port) as port:
            log.info("telling costs on port %d", port)
            yield port
