"""An operator's metrics, as Prometheus would read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping

Samples = dict[str, float]
LOOP_LAG = "mlenv_operator_event_loop_lag_seconds"


async def scraped(session: aiohttp.ClientSession, port: int) -> Samples:
    """All samples by their whole names; none while the operator does not answer."""
    try:
        async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError):
        return {}
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def histogram_quantile(before: Mapping[str, float], after: Mapping[str, float], name: str, q: float) -> float:
    """Upper bound of the bucket that holds this quantile of what came between two scrapes."""
    prefix, end = f'{name}_bucket{{le="', '"}'
    found = {
        float(one.removeprefix(prefix).removesuffix(end)): count - before.get(one, 0.0)
        for one, count in after.items()
        if one.startswith(prefix)
    }
    total = found.get(float("inf"), 0.0)
    return next((bound for bound in sorted(found) if found[bound] >= q * total), float("inf"))


def loop_lag_ms(before: Mapping[str, float], after: Mapping[str, float], q: float = 0.99) -> float:
    """Upper bound of the bucket that holds this quantile of the event loop's lag, in milliseconds."""
    return histogram_quantile(before, after, LOOP_LAG, q) * 1000
