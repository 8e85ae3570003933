"""Questions about money: answered from sums that are kept, and from charges only where these do not know."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, exists, func, select

from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger import rollups, schema
from mlenv_operator.ledger.calendar import DAY, month_of
from mlenv_operator.ledger.errors import LedgerError
from mlenv_operator.ledger.names import chunks
from mlenv_operator.ledger.rollups import Amounts
from mlenv_operator.ledger.schema import AMOUNTS, FACETS, FIRST_USE, MACHINES, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection, Table

    from mlenv_operator.cost.facts import Micros

ROLLED: Final = (*FACETS, *MACHINES, "category")
"""What roll-ups know."""
CHARGED: Final = {
    "job": schema.attribution.c.job,
    "job_uid": schema.attribution.c.job_uid,
    "labels": schema.attribution.c.labels,
    "pod": schema.pod.c.name,
    "node": schema.node.c.name,
    "price_id": schema.price.c.price_id,
    "attempt": schema.charge.c.attempt,
    "hour": schema.charge.c.hour,
}
"""What only the charges know."""


@dataclass(frozen=True, slots=True)
class Counter:
    """One series of a family: what was committed, corrections included."""

    family: str
    labels: dict[str, str]
    committed: Amounts


@dataclass(frozen=True, slots=True)
class UnpricedHour:
    """An hour of a node that has time without a price."""

    node_uid: str
    node_name: str
    instance_type: str
    capacity_type: str
    hour: Micros
    unpriced: Micros


def counters(connection: Connection, family: str) -> list[Counter]:
    """Sums since installation, as many as there are combinations of labels; nothing is scanned."""
    at = schema.counter.c
    query = select(at.labels, *(at[name] for name in AMOUNTS)).where(at.family == family).order_by(at.labels)
    return [
        Counter(family, json.loads(labels), Amounts(*amounts))
        for labels, *amounts in connection.execute(query)
    ]


def of_job(connection: Connection, job_uid: str) -> dict[str, Amounts]:
    """What closed hours of the job cost, by category."""
    at, uid = schema.job_total.c, schema.uid
    query = select(schema.job_total).join(uid, uid.c.id == at.job_id).where(uid.c.uid == job_uid)
    return {
        str(WORDS[row.kind]): Amounts(row.held, row.gpu_micros, row.cost, row.list_cost)
        for row in connection.execute(query)
    }


def unpriced_of(connection: Connection, job_uid: str) -> Micros:
    """Time that the job held in closed hours and of which nobody knows the price."""
    at, uid = schema.job_unpriced.c, schema.uid
    query = select(at.held).join(uid, uid.c.id == at.job_id).where(uid.c.uid == job_uid)
    return int(connection.execute(query).scalar() or 0)


def group(
    connection: Connection, by: Sequence[str], since: Micros, until: Micros
) -> dict[tuple[str, ...], Amounts]:
    """What closed hours within [since, until) cost, wherever it was booked; whole hours only."""
    if since % HOUR or until % HOUR:
        raise LedgerError("The ledger knows hours as a whole: ask for times that are whole hours.")
    if unknown := [name for name in by if name not in ROLLED and name not in CHARGED]:
        known = ", ".join([*ROLLED, *CHARGED])
        raise LedgerError(f"The ledger does not know {', '.join(unknown)}; it knows {known}.")
    first, last = since // HOUR, until // HOUR
    if any(name in CHARGED for name in by):
        return _from_charges(connection, by, and_(schema.charge.c.hour >= first, schema.charge.c.hour < last))
    return _from_rollups(connection, by, first, last)


def of_month(connection: Connection, by: Sequence[str], month: int) -> dict[tuple[str, ...], Amounts]:
    """What was booked in the month, corrections of older months included: what its bill says."""
    at = schema.rollup_day.c
    return _labelled(connection, by, _sums(connection, schema.rollup_day, [at.booked == month]))


def _from_rollups(
    connection: Connection, by: Sequence[str], first: int, last: int
) -> dict[tuple[str, ...], Amounts]:
    """Whole days from the days, what is left at both ends from the hours."""
    day0, day1 = -(-first // DAY), last // DAY
    days, hours = schema.rollup_day.c, schema.rollup_hour.c
    months = booked_since(connection, month_of(first))
    booked = days.booked.in_(months), hours.booked.in_(months)
    if day0 >= day1:
        parts = [(schema.rollup_hour, [booked[1], hours.hour >= first, hours.hour < last])]
    else:
        parts = [
            (schema.rollup_day, [booked[0], days.day >= day0, days.day < day1]),
            (schema.rollup_hour, [booked[1], hours.hour >= first, hours.hour < day0 * DAY]),
            (schema.rollup_hour, [booked[1], hours.hour >= day1 * DAY, hours.hour < last]),
        ]
    sums: dict[tuple[int, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for table, where in parts:
        for key, amounts in _sums(connection, table, where).items():
            rollups.plus(sums[key], amounts)
    return _labelled(connection, by, sums)


def booked_since(connection: Connection, first: int) -> list[int]:
    """Months in which something was booked, from the first on."""
    at, found = schema.rollup_day.c, [first - 1]
    while True:
        after = connection.execute(select(func.min(at.booked)).where(at.booked > found[-1])).scalar()
        if after is None:
            return found[1:]
        found.append(int(after))


def _sums(
    connection: Connection, table: Table, where: Sequence[ColumnElement[bool]]
) -> dict[tuple[int, ...], list[int]]:
    keys = (table.c.facet_id, table.c.machine_id, table.c.kind)
    query = select(*keys, *(func.sum(table.c[name]) for name in AMOUNTS)).where(*where).group_by(*keys)
    return {(row[0], row[1], row[2]): [int(one) for one in row[3:]] for row in connection.execute(query)}


def _labelled(
    connection: Connection, by: Sequence[str], sums: dict[tuple[int, ...], list[int]]
) -> dict[tuple[str, ...], Amounts]:
    facets = rollups.labels(connection, schema.facet, FACETS, {key[0] for key in sums})
    machines = rollups.labels(connection, schema.machine, MACHINES, {key[1] for key in sums})
    found: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for (facet_id, machine_id, kind), amounts in sums.items():
        known = {**dict.fromkeys(FACETS, ""), **facets.get(facet_id, {}), **machines[machine_id]}
        known["category"] = str(WORDS[kind])
        rollups.plus(found[tuple(known[name] for name in by)], amounts)
    return {key: Amounts(*amounts) for key, amounts in sorted(found.items())}


def _from_charges(
    connection: Connection, by: Sequence[str], where: ColumnElement[bool]
) -> dict[tuple[str, ...], Amounts]:
    charge = schema.charge.c
    known: dict[str, ColumnElement[Any]] = {
        **{name: schema.attribution.c[name] for name in FACETS},
        **{name: schema.node.c[name] for name in MACHINES},
        **CHARGED,
        "category": charge.kind,
    }
    columns = [known[name] for name in by]
    query = (
        select(*columns, *(func.sum(charge[name]) for name in AMOUNTS))
        .select_from(schema.charge)
        .join(schema.node, schema.node.c.id == charge.node_id)
        .outerjoin(schema.attribution, schema.attribution.c.id == charge.attribution_id)
        .outerjoin(schema.pod, schema.pod.c.id == charge.pod_id)
        .outerjoin(schema.price, schema.price.c.id == charge.price_id)
        .where(where)
        .group_by(*columns)
    )
    found = {}
    for row in connection.execute(query):
        key = tuple(
            str(WORDS[value]) if name == "category" else "" if value is None else str(value)
            for name, value in zip(by, row, strict=False)
        )
        found[key] = Amounts(*(int(one) for one in row[len(by) :]))
    return dict(sorted(found.items()))


def unpriced(connection: Connection) -> list[UnpricedHour]:
    """Closed hours with time of which nobody knows the price, as they stand."""
    at, node, uid = schema.settlement.c, schema.node.c, schema.uid.c
    later = schema.settlement.alias()
    superseded = exists().where(
        later.c.node_id == at.node_id, later.c.hour == at.hour, later.c.revision > at.revision
    )
    query = (
        select(uid.uid, node.name, node.instance_type, node.capacity_type, at.hour, at.unpriced)
        .join(schema.node, node.id == at.node_id)
        .join(schema.uid, uid.id == at.node_id)
        .where(at.unpriced > 0, ~superseded)
        .order_by(at.hour, at.node_id)
    )
    return [UnpricedHour(*row[:4], row[4] * HOUR, row[5]) for row in connection.execute(query)]


def imbalance(connection: Connection) -> int:
    """By how many nanodollars (of time without a price, microseconds) what must be equal differs.

    Everything is read; 0, or there is a mistake.
    """
    charge, settlement = schema.charge.c, schema.settlement.c
    keys = ("node_id", "hour", "revision")
    sums = (
        select(*(charge[key] for key in keys), *(func.sum(charge[n]).label(n) for n in ("cost", "list_cost")))
        .group_by(*(charge[key] for key in keys))
        .subquery()
    )
    differ = func.abs(settlement.cost - func.coalesce(sums.c.cost, 0)) + func.abs(
        settlement.list_cost - func.coalesce(sums.c.list_cost, 0)
    )
    joined = and_(*(sums.c[key] == settlement[key] for key in keys))
    rows = select(func.coalesce(func.sum(differ), 0)).select_from(schema.settlement).outerjoin(sums, joined)
    return int(connection.execute(rows).scalar_one()) + _between_sums(connection)


def _between_sums(connection: Connection) -> int:
    """By how much the sums that are kept differ from the charges, and from each other."""
    counter = schema.counter.c
    whole = _total(connection, schema.charge)
    jobs = _total(connection, schema.charge, schema.charge.c.kind < FIRST_USE)
    by_job = select(schema.attribution.c.id).where(schema.attribution.c.job_id > 0)
    named = _total(connection, schema.charge, schema.charge.c.attribution_id.in_(by_job))
    pairs = [
        (whole, _total(connection, schema.rollup_hour)),
        (whole, _total(connection, schema.rollup_day)),
        (whole, _total(connection, schema.counter, counter.family == rollups.NODES)),
        (jobs, _total(connection, schema.counter, counter.family == rollups.JOBS)),
        (jobs, _total(connection, schema.counter, counter.family == rollups.MODELS)),
        (named, _total(connection, schema.job_total)),
    ]
    free = schema.charge.c.price_id == 0, schema.charge.c.attribution_id.in_(by_job)
    unpriced = _held(connection, schema.charge, *free) - _held(connection, schema.job_unpriced)
    return abs(unpriced) + sum(abs(a - b) for left, right in pairs for a, b in zip(left, right, strict=True))


def _held(connection: Connection, table: Table, *where: ColumnElement[bool]) -> Micros:
    query = select(func.coalesce(func.sum(table.c.held), 0)).where(*where)
    return int(connection.execute(query).scalar_one())


def _total(connection: Connection, table: Table, *where: ColumnElement[bool]) -> tuple[int, int]:
    query = select(*(func.coalesce(func.sum(table.c[name]), 0) for name in ("cost", "list_cost"))).where(
        *where
    )
    row = connection.execute(query).one()
    return int(row[0]), int(row[1])


def settled_until(connection: Connection) -> int | None:
    """The first hour of any living node that is not closed; None when there is none."""
    at = schema.node.c
    return connection.execute(select(func.min(at.next_hour)).where(at.next_hour < schema.DONE)).scalar()


def uids_of(connection: Connection, numbers: Iterable[int]) -> dict[int, str]:
    """Names by number."""
    found: dict[int, str] = {}
    for some in chunks(numbers):
        query = select(schema.uid.c.id, schema.uid.c.uid).where(schema.uid.c.id.in_(some))
        found.update((row[0], row[1]) for row in connection.execute(query))
    return found
