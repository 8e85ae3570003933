"""Closes hours that are over, and corrects closed ones: some nodes of one hour in each transaction."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import delete, func, insert, select, tuple_, update

from mlenv_operator.cost.facts import HOUR, SECOND, Category
from mlenv_operator.ledger import facts, names, rollups, schema, sharing
from mlenv_operator.ledger.calendar import month_at, month_of, next_month, show_hour
from mlenv_operator.ledger.errors import Imbalance
from mlenv_operator.ledger.prices import number_prices
from mlenv_operator.ledger.schema import AMOUNTS, DONE, KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection

    from mlenv_operator.cost.allocation import Closing, Row
    from mlenv_operator.cost.facts import Micros
    from mlenv_operator.cost.segments import Segment
    from mlenv_operator.ledger.facts import Facts, NodeFacts
    from mlenv_operator.ledger.prices import PriceSource

CLOSED: Final = "closed"
ZERO: Final = (0, 0, 0, 0)

RowKey: TypeAlias = "tuple[int, int, int, int, int]"
"""Pod, kind, attempt, attribution and price, by number."""
Rows: TypeAlias = "dict[RowKey, tuple[int, ...]]"


Close: TypeAlias = "Callable[..., Closing]"
"""How an hour of a node becomes rows: `cost.metering.close`."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When an hour may be closed, and how much is done at a time."""

    grace: Micros = 300 * SECOND
    """So long after its end nothing is closed: facts are on their way."""
    hold: Micros = 6 * HOUR
    """So long an hour waits for the end of a pod that must have ended; then it closes without."""
    nodes: int = 200
    """In one transaction."""
    shares: str = sharing.DEFAULT
    """By which policy nodes are shared, as `cost.shares` names it: from the next hour on."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What one transaction did."""

    closed: int = 0
    corrected: int = 0
    looked_at: int = 0
    """Node-hours; 0: there is nothing to do until more time passes or more is told."""
    waiting: int = 0
    """Node-hours that wait for the end of a pod."""
    done: frozenset[int] = frozenset()
    """Nodes, by number, whose whole life is closed now."""


@dataclass(slots=True)
class _Work:
    """One transaction: what it is about, and what it is going to write."""

    connection: Connection
    close: Close
    source: PriceSource
    now: Micros
    hour: int
    facts: Facts
    nodes: list[NodeFacts]
    booked: int | None = None
    sums: rollups.Batch = field(default_factory=rollups.Batch)
    charges: list[dict[str, Any]] = field(default_factory=list)
    settlements: list[dict[str, Any]] = field(default_factory=list)


def settle(connection: Connection, close: Close, source: PriceSource, now: Micros, rules: Rules) -> Settled:
    """Close the oldest hour that is due for some nodes; when none is, correct the oldest that is dirty."""
    hour, known, ready, waiting = _due(connection, now, rules)
    if ready:
        work = _Work(connection, close, source, now, hour, known, ready)
        done = _close_all(work)
        return Settled(len(work.settlements), looked_at=len(ready), waiting=waiting, done=done)
    hour, reasons = _dirty(connection, rules)
    if not reasons:
        return Settled(waiting=waiting)
    known = facts.read(connection, reasons, hour * HOUR, (hour + 1) * HOUR)
    work = _Work(connection, close, source, now, hour, known, known.nodes)
    _correct_all(work, reasons)
    return Settled(corrected=len(work.settlements), looked_at=len(reasons), waiting=waiting)


def _dirty(connection: Connection, rules: Rules) -> tuple[int, dict[int, str]]:
    """The oldest hour that has to be looked at again, and why, by node."""
    at = schema.dirty.c
    query = select(at.hour, at.node_id, at.reason).order_by(at.hour, at.node_id).limit(rules.nodes)
    rows = connection.execute(query).all()
    hour = rows[0].hour if rows else 0
    return hour, {row.node_id: row.reason for row in rows if row.hour == hour}


def _due(connection: Connection, now: Micros, rules: Rules) -> tuple[int, Facts, list[NodeFacts], int]:
    """The hour, its facts, the nodes whose turn it is, and how many wait for the end of a pod."""
    at = schema.node.c
    last, after, waiting = (now - rules.grace) // HOUR, (-1, -1), 0
    while True:
        query = (
            select(at.next_hour, at.id)
            .where(at.next_hour < last, tuple_(at.next_hour, at.id) > after)
            .order_by(at.next_hour, at.id)
            .limit(rules.nodes)
        )
        rows = connection.execute(query).all()
        if not rows:
            return 0, facts.Facts([]), [], waiting
        hour = rows[0].next_hour
        same = [row.id for row in rows if row.next_hour == hour]
        known = facts.read(connection, same, hour * HOUR, (hour + 1) * HOUR)
        late = now >= (hour + 1) * HOUR + rules.hold
        ready = [one for one in known.nodes if late or not facts.due(one, (hour + 1) * HOUR)]
        if ready:
            return hour, known, ready, waiting + len(same) - len(ready)
        waiting += len(same)
        after = (hour, same[-1])


def _close_all(work: _Work) -> frozenset[int]:
    """Close the hour; which nodes have no other."""
    start, end = work.hour * HOUR, (work.hour + 1) * HOUR
    alive = [one for one in work.nodes if one.node.deleted is None or one.node.deleted > start]
    for one, closing, amounts in _closings(work, alive):
        _add(work, one, closing, amounts, revision=0, reason=CLOSED)
    _write(work)
    done = {one.id for one in work.nodes if one.node.deleted is not None and one.node.deleted <= end}
    for numbers, then in ((done, DONE), ({one.id for one in work.nodes} - done, work.hour + 1)):
        for some in names.chunks(sorted(numbers)):
            move = update(schema.node).where(schema.node.c.id.in_(some)).values(next_hour=then)
            work.connection.execute(move)
    return frozenset(done)


def _correct_all(work: _Work, reasons: Mapping[int, str]) -> None:
    before, revisions = _standing(work), _revisions(work)
    for one, closing, new in _closings(work, work.nodes):
        old = before.get(one.id, {})
        changed = {
            key: tuple(b - a for a, b in zip(old.get(key, ZERO), new.get(key, ZERO), strict=True))
            for key in sorted({*old, *new})
            if old.get(key, ZERO) != new.get(key, ZERO)
        }
        if changed:
            _add(work, one, closing, changed, revision=revisions[one.id] + 1, reason=reasons[one.id])
    _write(work)
    at = schema.dirty.c
    for some in names.chunks(reasons):
        work.connection.execute(delete(schema.dirty).where(at.hour == work.hour, at.node_id.in_(some)))


def _closings(work: _Work, nodes: Sequence[NodeFacts]) -> list[tuple[NodeFacts, Closing, Rows]]:
    """Every node's hour as the facts have it now, with its rows by number."""
    start, end = work.hour * HOUR, (work.hour + 1) * HOUR
    segments = [work.source.segments(one.node, start, end) for one in nodes]
    prices = number_prices(work.connection, work.source, chain.from_iterable(segments))
    found = [(one, _closing(work, one, known)) for one, known in zip(nodes, segments, strict=True)]
    whose = {row.attribution for _, closing in found for row in closing.rows if row.pod_uid}
    owners = dict(work.facts.attribution_ids)
    owners.update(names.number_attributions(work.connection, whose - owners.keys()))

    def number(row: Row) -> RowKey:
        kind = KINDS[row.category or row.use or Category.UNKNOWN]
        who = owners[row.attribution] if row.pod_uid else 0
        return work.facts.pod_ids.get(row.pod_uid, 0), kind, row.attempt, who, prices[row.price_id]

    return [
        (one, closing, {number(r): (r.held, r.gpu_micros, r.cost, r.list_cost) for r in closing.rows})
        for one, closing in found
    ]


def _closing(work: _Work, one: NodeFacts, segments: Sequence[Segment]) -> Closing:
    """The hour's rows; refuses what does not add up."""
    closing = work.close(work.hour * HOUR, *facts.arguments(one, segments))
    sums = (sum(row.cost for row in closing.rows), sum(row.list_cost for row in closing.rows))
    if sums != (closing.total, closing.list_total):
        raise Imbalance(
            f"Node {one.node.name} ({one.node.uid}), hour {show_hour(work.hour)}: its rows are {sums} "
            f"nanodollars and its price {(closing.total, closing.list_total)}. Nothing is written; this is a "
            "mistake in this program: report it."
        )
    return closing


def _standing(work: _Work) -> dict[int, Rows]:
    """What the hour's rows and their corrections add up to now, by node."""
    at = schema.charge.c
    keys = (at.pod_id, at.kind, at.attempt, at.attribution_id, at.price_id)
    sums = (func.sum(at[name]) for name in AMOUNTS)
    found: dict[int, Rows] = defaultdict(dict)
    for some in names.chunks(one.id for one in work.nodes):
        query = select(at.node_id, *keys, *sums).where(at.node_id.in_(some), at.hour == work.hour)
        for row in work.connection.execute(query.group_by(at.node_id, *keys)):
            amounts = tuple(int(one) for one in row[6:])
            if any(amounts):
                found[row[0]][(row[1], row[2], row[3], row[4], row[5])] = amounts
    return found


def _revisions(work: _Work) -> dict[int, int]:
    """The last revision of the hour, by node."""
    at = schema.settlement.c
    found: dict[int, int] = {}
    for some in names.chunks(one.id for one in work.nodes):
        query = select(at.node_id, func.max(at.revision)).where(at.node_id.in_(some), at.hour == work.hour)
        found.update((row[0], row[1]) for row in work.connection.execute(query.group_by(at.node_id)))
    return found


def _add(work: _Work, one: NodeFacts, closing: Closing, amounts: Rows, *, revision: int, reason: str) -> None:
    """One settlement with its charges."""
    place = {"node_id": one.id, "hour": work.hour, "revision": revision}
    booked = _booked(work)
    for n, (key, numbers) in enumerate(amounts.items()):
        pod_id, kind, attempt, attribution_id, price_id = key
        who = {"pod_id": pod_id, "kind": kind, "attempt": attempt, "attribution_id": attribution_id}
        row = {**place, "n": n, **who, "price_id": price_id, **dict(zip(AMOUNTS, numbers, strict=True))}
        work.charges.append(row)
        at = rollups.Place(booked, work.hour, one.machine_id, attribution_id, kind)
        work.sums.add(at, numbers, priced=bool(price_id))
    work.settlements.append(
        {
            **place,
            "booked": booked,
            "cost": sum(numbers[2] for numbers in amounts.values()),
            "list_cost": sum(numbers[3] for numbers in amounts.values()),
            "unpriced": closing.unpriced,
            "clamped": closing.clamped,
            "rows": len(amounts),
            "digest": digest_of(closing),
            "reason": reason,
            "settled_at": work.now,
        }
    )


def _booked(work: _Work) -> int:
    """The hour's month while that is open, else the current one."""
    if work.booked is None:
        closed = set(work.connection.execute(select(schema.month.c.month)).scalars())
        own = month_of(work.hour)
        work.booked = own if own not in closed else max(month_at(work.now), next_month(max(closed)))
    return work.booked


def digest_of(closing: Closing) -> bytes:
    """Of all rows that hold for the hour, in words that mean the same in every database."""
    rows = [
        [row.pod_uid, row.use or "", row.attempt, row.category or "", names.digest_of(row.attribution).hex(),
         row.price_id, row.held, row.gpu_micros, row.cost, row.list_cost]
        for row in closing.rows
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).digest()


def _write(work: _Work) -> None:
    """Settlements, their charges and all sums."""
    if not work.settlements:
        return
    seq = work.connection.execute(select(func.coalesce(func.max(schema.settlement.c.seq), 0))).scalar_one()
    rows = [{**row, "seq": seq + place} for place, row in enumerate(work.settlements, 1)]
    work.connection.execute(insert(schema.settlement), rows)
    if work.charges:
        work.connection.execute(insert(schema.charge), work.charges)
    rollups.write(work.connection, work.sums)
