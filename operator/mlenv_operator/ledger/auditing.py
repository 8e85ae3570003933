"""How the ledger is: looked at as it grows, so that each settlement is read once and nothing is scanned."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, exists, func, select

from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger import rollups, schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Row

    from mlenv_operator.cost.facts import Micros, Nanos

REASONS: Final = frozenset({"attribution", "mark", "node", "node mark", "pod", "price"})
"""Why hours are corrected. Another word, as a person may give one, counts as OTHER."""
OTHER: Final = "other"


@dataclass(frozen=True, slots=True)
class Health:
    """The ledger about itself. Counts are since this process began to look."""

    settled_until: Micros | None
    """All hours of all nodes before it are closed; None: there is no node."""
    open_nodes: int
    """Nodes with an hour that is not closed."""
    corrections_due: int
    """Closed hours of nodes about which something was learnt since."""
    corrected: Mapping[str, int]
    """Node-hours that were corrected, by the reason."""
    clamped: int
    """Times that were moved because they contradicted others."""
    imbalance: Nanos
    """By how much sums differ that must be equal; 0, or there is a mistake."""
    unpriced: Mapping[tuple[str, str], Micros]
    """Time of nodes of which nobody knows the price, by instance type and capacity type; open hours too."""


class Audit:
    """Remembers what was seen of the ledger. One for the life of a writer."""

    def __init__(self) -> None:
        self._seq: int | None = None
        self._nodes = (0, 0)  # what the counters of nodes must show, and may not otherwise
        self._wrong = 0
        self._clamped = 0
        self._corrected: dict[str, int] = dict.fromkeys((*sorted(REASONS), OTHER), 0)
        self._unpriced: dict[tuple[str, str], Micros] = defaultdict(int)

    def look(self, connection: Connection, open_unpriced: Mapping[tuple[str, str], Micros]) -> Health:
        """What is new since the last time; the first time only what is unpriced is read, by its index."""
        if self._seq is None:
            self._begin(connection)
        for row in _settled_after(connection, self._seq or 0):
            self._settled(row)
        unpriced = defaultdict(int, {key: value for key, value in self._unpriced.items() if value})
        for key, value in open_unpriced.items():
            unpriced[key] += value
        oldest, nodes = _open(connection)
        return Health(
            settled_until=None if oldest is None else oldest * HOUR,
            open_nodes=nodes,
            corrections_due=connection.execute(select(func.count()).select_from(schema.dirty)).scalar_one(),
            corrected=dict(self._corrected),
            clamped=self._clamped,
            imbalance=self._wrong + self._between_counters(connection),
            unpriced=dict(unpriced),
        )

    def _begin(self, connection: Connection) -> None:
        at = schema.settlement.c
        self._seq = int(connection.execute(select(func.coalesce(func.max(at.seq), 0))).scalar_one())
        self._nodes = _totals(connection)[rollups.NODES]
        for row in _unpriced(connection):
            self._unpriced[row.instance_type, row.capacity_type] += int(row.unpriced)

    def _settled(self, row: Row[Any]) -> None:
        self._seq = row.seq
        self._nodes = (self._nodes[0] + row.cost, self._nodes[1] + row.list_cost)
        self._wrong += abs(row.cost - int(row.rows_cost)) + abs(row.list_cost - int(row.rows_list))
        self._clamped += row.clamped
        self._unpriced[row.instance_type, row.capacity_type] += row.unpriced - (row.unpriced_before or 0)
        if row.revision:
            self._corrected[row.reason if row.reason in REASONS else OTHER] += 1

    def _between_counters(self, connection: Connection) -> Nanos:
        sums = _totals(connection)
        allocated = _totals(connection, allocated=True)[rollups.NODES]
        pairs = [
            (self._nodes, sums[rollups.NODES]),
            (allocated, sums[rollups.JOBS]),
            (allocated, sums[rollups.MODELS]),
        ]
        return sum(abs(a - b) for left, right in pairs for a, b in zip(left, right, strict=True))


def _settled_after(connection: Connection, seq: int) -> list[Row[Any]]:
    """New settlements with the sums of their rows, and what was unpriced before them."""
    at, node, charge = schema.settlement.c, schema.node.c, schema.charge.c
    before = schema.settlement.alias()
    same = (charge.node_id == at.node_id, charge.hour == at.hour, charge.revision == at.revision)
    cost, list_cost = (
        select(func.coalesce(func.sum(charge[name]), 0)).where(*same).scalar_subquery()
        for name in ("cost", "list_cost")
    )
    was = and_(before.c.node_id == at.node_id, before.c.hour == at.hour, before.c.revision == at.revision - 1)
    query = (
        select(
            schema.settlement,
            node.instance_type,
            node.capacity_type,
            cost.label("rows_cost"),
            list_cost.label("rows_list"),
            before.c.unpriced.label("unpriced_before"),
        )
        .join(schema.node, node.id == at.node_id)
        .outerjoin(before, was)
        .where(at.seq > seq)
        .order_by(at.seq)
    )
    return list(connection.execute(query))


def _unpriced(connection: Connection) -> list[Row[Any]]:
    at, node, later = schema.settlement.c, schema.node.c, schema.settlement.alias()
    newer = exists().where(
        later.c.node_id == at.node_id, later.c.hour == at.hour, later.c.revision > at.revision
    )
    query = (
        select(node.instance_type, node.capacity_type, func.sum(at.unpriced).label("unpriced"))
        .join(schema.node, node.id == at.node_id)
        .where(at.unpriced > 0, ~newer)
        .group_by(node.instance_type, node.capacity_type)
    )
    return list(connection.execute(query))


def _totals(connection: Connection, *, allocated: bool = False) -> dict[str, tuple[Nanos, Nanos]]:
    """What is committed to the counters, by family."""
    at = schema.counter.c
    query = select(at.family, func.sum(at.cost), func.sum(at.list_cost)).group_by(at.family)
    if allocated:
        query = query.where(at.labels.contains(f'"category": "{rollups.ALLOCATED}"'))
    found = {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(query)}
    return {family: found.get(family, (0, 0)) for family in rollups.FAMILIES}


def _open(connection: Connection) -> tuple[int | None, int]:
    at = schema.node.c
    query = select(func.min(at.next_hour), func.count()).where(at.next_hour < schema.DONE)
    row = connection.execute(query).one()
    return row[0], row[1]
