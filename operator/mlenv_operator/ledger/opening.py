"""What hours that are still open have cost one job so far: floors, which the closed hour will never undercut.

Read anew from the facts whenever somebody asks for a job; `openhours` keeps the same of all jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from sqlalchemy import select

from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger import facts, rollups, schema
from mlenv_operator.ledger.names import chunks
from mlenv_operator.ledger.rollups import Amounts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from sqlalchemy import Connection

    from mlenv_operator.cost.allocation import Closing
    from mlenv_operator.cost.facts import Micros
    from mlenv_operator.cost.metering import Growth
    from mlenv_operator.ledger.prices import PriceSource

HOURS: Final = 3
"""Only so many open hours are looked at: of a ledger that fell behind, older ones count once closed."""


SoFar: TypeAlias = "Callable[..., Closing]"
"""The floors of an hour that is not over: `cost.metering.so_far`."""
Grow: TypeAlias = "Callable[..., Growth]"
"""How they go on: `cost.metering.growth`."""


class Floors(NamedTuple):
    """What is open of a job."""

    by_category: dict[str, list[int]]
    unpriced: Micros
    """Of the time held, that without a price."""


def floors(  # noqa: PLR0917 - where to read, how to measure, when, and whom
    connection: Connection,
    so_far: SoFar,
    source: PriceSource,
    now: Micros,
    nodes: Collection[int],
    job_uid: str,
) -> Floors:
    """What is open of the job on these nodes."""
    found: dict[str, list[int]] = {}
    unpriced = 0
    for hour in range(now // HOUR + 1 - HOURS, now // HOUR + 1):
        for one in facts.read(connection, _open_nodes(connection, hour, nodes), hour * HOUR, now).nodes:
            closing = _so_far(so_far, source, one, hour, now)
            for row in closing.rows:
                if row.attribution.job_uid == job_uid:
                    amounts = (row.held, row.gpu_micros, row.cost, row.list_cost)
                    rollups.plus(found.setdefault(str(row.category), [0, 0, 0, 0]), amounts)
                    unpriced += 0 if row.price_id else row.held
    return Floors(found, unpriced)


def _open_nodes(connection: Connection, hour: int, nodes: Collection[int]) -> list[int]:
    at = schema.node.c
    query = select(at.id).where(at.next_hour <= hour, at.created < (hour + 1) * HOUR)
    return [
        one for some in chunks(nodes) for one in connection.execute(query.where(at.id.in_(some))).scalars()
    ]


def _so_far(so_far: SoFar, source: PriceSource, one: Any, hour: int, now: Micros) -> Closing:
    start = hour * HOUR
    segments = source.segments(one.node, start, start + HOUR)
    return so_far(start, *facts.arguments(one, segments), until=now)


def nodes_of(connection: Connection, job_uid: str) -> list[int]:
    """Nodes on which pods of the job have been in hours that may be open."""
    pod, node, uid = schema.pod.c, schema.node.c, schema.uid.c
    query = (
        select(pod.node_id)
        .distinct()
        .join(schema.uid, uid.id == pod.job_id)
        .join(schema.node, node.id == pod.node_id)
        .where(uid.uid == job_uid, pod.released // HOUR >= node.next_hour)
    )
    return list(connection.execute(query).scalars())


def rate(  # noqa: PLR0917 - as floors
    connection: Connection,
    grow: Grow,
    source: PriceSource,
    now: Micros,
    nodes: Collection[int],
    job_uid: str,
) -> int:
    """Nanodollars an hour that the job costs from this moment on."""
    start = now // HOUR * HOUR
    total = 0
    for one in facts.read(connection, nodes, start, start + HOUR).nodes:
        segments = source.segments(one.node, start, start + HOUR)
        growth = grow(start, *facts.arguments(one, segments), now=now)
        rows = (row for row in growth.rows if row.key.attribution.job_uid == job_uid)
        total += sum(hourly(row.each.cost, growth.whole) for row in rows)
    return total


def hourly(each: int, whole: int) -> int:
    """What a row costs an hour that grows by so much each microsecond."""
    return each * HOUR // whole


def amounts(numbers: Iterable[int]) -> Amounts:
    """Named."""
    return Amounts(*(int(one) for one in numbers))
