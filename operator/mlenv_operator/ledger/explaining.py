"""From any dollar to the pod, the intervals, the price row and its source."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, select

from mlenv_operator.cost import spans as metered
from mlenv_operator.cost.facts import HOUR, Category, Mark
from mlenv_operator.ledger import facts, schema
from mlenv_operator.ledger.errors import LedgerError
from mlenv_operator.ledger.names import attribution_from, chunks
from mlenv_operator.ledger.queries import uids_of
from mlenv_operator.ledger.rollups import Amounts
from mlenv_operator.ledger.schema import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Row, Select

    from mlenv_operator.cost.facts import Attributed, Attribution, Micros, Pod

NOBODY: Final = 0


class Name(NamedTuple):
    """What one charge is called: the `n`-th of a revision of an hour of a node."""

    node_uid: str
    hour: Micros
    revision: int
    n: int


@dataclass(frozen=True, slots=True)
class Price:
    """The price row that a charge was made with, as it was then."""

    price_id: str
    list_nano_per_hour: int
    effective_nano_per_hour: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One charge, explained."""

    name: Name
    node_name: str
    instance_type: str
    pod: Pod | None
    """None: a use of the node."""
    kind: str
    attempt: int
    attribution: Attribution | None
    intervals: tuple[tuple[Micros, Micros], ...]
    """When within the hour, as the facts have it now. Empty for what was corrected away."""
    price: Price | None
    """None: nobody knew the price."""
    amounts: Amounts
    hour_cost: int
    """What the revision adds to the whole node-hour."""
    reason: str
    """`closed`, or why it was corrected."""
    booked: int
    seq: int


def explain(connection: Connection, job_uid: str, offset: int = 0, limit: int | None = None) -> list[Line]:
    """Charges of the job's pods, oldest first; the sum of all is what the job's closed hours cost.

    A charge outside a pod's life is not among them: it was made by mistake, and corrected to nothing.
    """
    pod, charge = schema.pod.c, schema.charge.c
    number = select(schema.uid.c.id).where(schema.uid.c.uid == job_uid).scalar_subquery()
    within = and_(
        charge.node_id == pod.node_id,
        charge.hour >= pod.scheduled // HOUR,
        charge.hour <= pod.released // HOUR,
        charge.pod_id == pod.id,
    )
    query = _query(schema.pod).join(schema.charge, within).where(pod.job_id == number)
    some = _joined(query).offset(offset).limit(limit)
    return _lines(connection, connection.execute(some).all())


def audit(connection: Connection, name: Name) -> Line:
    """One charge."""
    charge = schema.charge.c
    number = select(schema.uid.c.id).where(schema.uid.c.uid == name.node_uid).scalar_subquery()
    query = _joined(_query(schema.charge)).where(
        charge.node_id == number,
        charge.hour == name.hour // HOUR,
        charge.revision == name.revision,
        charge.n == name.n,
    )
    rows = connection.execute(query).all()
    if not rows:
        raise LedgerError(f"There is no charge {tuple(name)}.")
    return _lines(connection, rows)[0]


def _query(begin: Any) -> Select[Any]:
    charge, settlement, node, price = schema.charge, schema.settlement, schema.node, schema.price
    return select(
        charge,
        settlement.c.cost.label("hour_cost"),
        settlement.c.reason,
        settlement.c.booked,
        settlement.c.seq,
        node.c.name.label("node_name"),
        node.c.instance_type,
        price.c.price_id.label("price_name"),
        price.c.list_nano_per_hour,
        price.c.effective_nano_per_hour,
        price.c.body,
    ).select_from(begin)


def _joined(query: Select[Any]) -> Select[Any]:
    charge, settlement = schema.charge.c, schema.settlement.c
    same = [charge[key] == settlement[key] for key in ("node_id", "hour", "revision")]
    return (
        query.join(schema.settlement, and_(*same))
        .join(schema.node, schema.node.c.id == charge.node_id)
        .outerjoin(schema.price, schema.price.c.id == charge.price_id)
        .order_by(charge.hour, charge.node_id, charge.revision, charge.n)
    )


@dataclass(slots=True)
class _Context:
    """What the rows refer to."""

    uids: dict[int, str]
    pods: dict[int, Pod]
    attributions: dict[int, Attribution]
    spans: dict[int, Sequence[metered.Span]]


def _lines(connection: Connection, rows: Sequence[Row[Any]]) -> list[Line]:
    context = _context(connection, rows)
    return [_line(row, context) for row in rows]


def _line(row: Row[Any], context: _Context) -> Line:
    pod, attribution = context.pods.get(row.pod_id), context.attributions.get(row.attribution_id)
    price = None
    if row.price_name is not None:
        body = json.loads(row.body)
        price = Price(row.price_name, row.list_nano_per_hour, row.effective_nano_per_hour, body)
    return Line(
        Name(context.uids[row.node_id], row.hour * HOUR, row.revision, row.n),
        row.node_name,
        row.instance_type,
        pod,
        str(WORDS[row.kind]),
        row.attempt,
        attribution,
        _intervals(row, context.spans.get(row.pod_id, ()), attribution),
        price,
        Amounts(row.held, row.gpu_micros, row.cost, row.list_cost),
        row.hour_cost,
        row.reason,
        row.booked,
        row.seq,
    )


def _intervals(
    row: Row[Any], spans: Iterable[metered.Span], attribution: Attribution | None
) -> tuple[tuple[Micros, Micros], ...]:
    start, end = row.hour * HOUR, (row.hour + 1) * HOUR
    found: list[tuple[Micros, Micros]] = []
    for t0, t1, attempt, category, whose in spans:
        if (
            (attempt, category, whose) != (row.attempt, WORDS[row.kind], attribution)
            or t1 <= start
            or t0 >= end
        ):
            continue
        begin, stop = max(t0, start), min(t1, end)
        if found and found[-1][1] == begin:
            begin = found.pop()[0]
        found.append((begin, stop))
    return tuple(found)


def _context(connection: Connection, rows: Sequence[Row[Any]]) -> _Context:
    uids = uids_of(connection, {row.node_id for row in rows})
    pods = _pods(connection, {row.pod_id for row in rows} - {NOBODY})
    attributions: dict[int, Attribution] = {}
    for some in chunks({row.attribution_id for row in rows} - {NOBODY}):
        query = select(schema.attribution).where(schema.attribution.c.id.in_(some))
        attributions.update((row.id, attribution_from(row)) for row in connection.execute(query))
    return _Context(uids, pods, attributions, _spans(connection, pods, _until(rows)))


def _until(rows: Sequence[Row[Any]]) -> Micros:
    return max((row.hour + 1 for row in rows), default=0) * HOUR


def _pods(connection: Connection, numbers: Iterable[int]) -> dict[int, Pod]:
    rows = [
        row
        for some in chunks(numbers)
        for row in connection.execute(facts.pods_query().where(schema.pod.c.id.in_(some)))
    ]
    nodes = uids_of(connection, {row.node_id for row in rows})
    return {row.id: facts.pod_from(row, nodes.get(row.node_id, "")) for row in rows}


def _spans(connection: Connection, pods: dict[int, Pod], until: Micros) -> dict[int, Sequence[metered.Span]]:
    """What these pods did, as the facts have it now."""
    marks: dict[int, list[Mark]] = defaultdict(list)
    for some in chunks(pods):
        for row in connection.execute(select(schema.mark).where(schema.mark.c.pod_id.in_(some))):
            kind = Category(WORDS[row.category])
            marks[row.pod_id].append(Mark(pods[row.pod_id].uid, row.at, row.sequence, row.attempt, kind))
    whose = _attributed(connection, pods)
    found: dict[int, Sequence[metered.Span]] = {}
    for number, pod in pods.items():
        said = metered.sort_marks(marks[number])
        life = metered.life(pod, said)
        who = metered.owners(pod, whose.get(pod.job_uid, ()))
        points = metered.states(pod, said, life)
        found[number] = metered.spans(points, who, life.scheduled, min(life.released, until))
    return found


def _attributed(connection: Connection, pods: dict[int, Pod]) -> dict[str, list[Attributed]]:
    uids = {pod.job_uid for pod in pods.values() if pod.job_uid}
    numbers: dict[str, int] = {}
    for some in chunks(uids):
        query = select(schema.uid.c.uid, schema.uid.c.id).where(schema.uid.c.uid.in_(some))
        numbers.update((row[0], row[1]) for row in connection.execute(query))
    found: dict[str, list[Attributed]] = defaultdict(list)
    for one, _ in facts.attributed_to(connection, numbers):
        found[one.job_uid].append(one)
    return found
