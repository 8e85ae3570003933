"""What hours that are still open have cost so far: floors, which the closed hour will never undercut."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import select

from mlenv_operator.cost.facts import HOUR, SECOND
from mlenv_operator.ledger import facts, rollups, schema
from mlenv_operator.ledger.names import chunks, machine_of
from mlenv_operator.ledger.rollups import Amounts
from mlenv_operator.ledger.schema import FACETS, KINDS, MACHINES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from sqlalchemy import Connection

    from mlenv_operator.cost.allocation import Closing, Row
    from mlenv_operator.cost.facts import Micros, Node
    from mlenv_operator.ledger.facts import NodeFacts
    from mlenv_operator.ledger.prices import PriceSource

HOURS: Final = 3
"""Only so many open hours are looked at: of a ledger that fell behind, older ones count once closed."""


SoFar: TypeAlias = "Callable[..., Closing]"
"""The floors of an hour that is not over: `cost.metering.so_far`."""


@dataclass(slots=True)
class Floors:
    """What the open hours add to counters, and to jobs."""

    counters: dict[tuple[str, str], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0, 0, 0])
    )
    jobs: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    unpriced: Micros = 0

    def add(self, node: Node, row: Row) -> None:
        """One row of an open hour."""
        amounts = (row.held, row.gpu_micros, row.cost, row.list_cost)
        who = {name: getattr(row.attribution, name) for name in FACETS}
        machine = dict(zip(MACHINES, machine_of(node), strict=True))
        kind = row.category or row.use
        if kind is None:
            return
        for key in rollups.counters_of(who, machine, KINDS[kind]):
            rollups.plus(self.counters[key], amounts)
        if row.attribution.job_uid:
            job = self.jobs.setdefault(row.attribution.job_uid, {})
            rollups.plus(job.setdefault(str(kind), [0, 0, 0, 0]), amounts)


def floors(
    connection: Connection,
    so_far: SoFar,
    source: PriceSource,
    now: Micros,
    nodes: Collection[int] | None = None,
    *,
    each: Callable[[NodeFacts, int, Closing], None] = lambda *_: None,
) -> Floors:
    """What is open on these nodes, or on all; `each` is told of every open hour of a node."""
    found = Floors()
    for hour in range(now // HOUR + 1 - HOURS, now // HOUR + 1):
        for one in facts.read(connection, _open_nodes(connection, hour, nodes), hour * HOUR, now).nodes:
            closing = _so_far(so_far, source, one, hour, now)
            found.unpriced += closing.unpriced
            each(one, hour, closing)
            for row in closing.rows:
                found.add(one.node, row)
    return found


def _open_nodes(connection: Connection, hour: int, nodes: Collection[int] | None) -> list[int]:
    at = schema.node.c
    query = select(at.id).where(at.next_hour <= hour, at.created < (hour + 1) * HOUR)
    if nodes is None:
        return list(connection.execute(query).scalars())
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


def rate(connection: Connection, so_far: SoFar, source: PriceSource, now: Micros, job_uid: str) -> int:
    """Nanodollars an hour that the job costs at this moment."""
    start = now - SECOND
    hour = start // HOUR
    end = min(now, (hour + 1) * HOUR)
    numbers = nodes_of(connection, job_uid)
    total = 0
    for one in facts.read(connection, numbers, start, end).nodes:
        if one.node.deleted is None or one.node.deleted > start:
            one.node = replace(one.node, created=max(one.node.created, start))
            rows = _so_far(so_far, source, one, hour, end).rows
            total += sum(row.cost for row in rows if row.attribution.job_uid == job_uid)
    return total * HOUR // (end - start)


def amounts(numbers: Iterable[int]) -> Amounts:
    """Named."""
    return Amounts(*(int(one) for one in numbers))
