"""Closing a month, after which what is booked in it never changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, or_, select

from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger import schema
from mlenv_operator.ledger.calendar import hours_of, month_at, show_hour, show_month
from mlenv_operator.ledger.errors import LedgerRefused

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mlenv_operator.cost.facts import Micros


@dataclass(frozen=True, slots=True)
class Month:
    """A closed month: how much is booked in it."""

    month: int
    rows: int
    cost: int
    list_cost: int


def close(connection: Connection, month: int, now: Micros) -> Month:
    """Close the month, or say why not. Closing it again changes nothing."""
    if found := closed(connection, month):
        return found
    if month_at(now) <= month:
        raise LedgerRefused(f"{show_month(month)} is not over yet.")
    _refuse_open(connection, month)
    at = schema.settlement.c
    sums = (func.coalesce(func.sum(at[name]), 0) for name in ("rows", "cost", "list_cost"))
    rows, cost, list_cost = (
        int(one) for one in connection.execute(select(*sums).where(at.booked == month)).one()
    )
    values = {"rows": rows, "cost": cost, "list_cost": list_cost}
    connection.execute(insert(schema.month).values(month=month, closed_at=now, **values))
    return Month(month, **values)


def closed(connection: Connection, month: int) -> Month | None:
    """The month, when it is closed."""
    row = connection.execute(select(schema.month).where(schema.month.c.month == month)).first()
    return Month(row.month, row.rows, row.cost, row.list_cost) if row else None


def _refuse_open(connection: Connection, month: int) -> None:
    node, dirty = schema.node.c, schema.dirty.c
    first, end = hours_of(month)
    living = or_(node.deleted.is_(None), node.deleted // HOUR >= node.next_hour)
    query = select(node.name, node.next_hour).where(node.next_hour < end, node.created < end * HOUR, living)
    if row := connection.execute(query.order_by(node.next_hour, node.id).limit(1)).first():
        raise LedgerRefused(
            f"{show_month(month)} cannot be closed: the hour {show_hour(row.next_hour)} of node {row.name} "
            "is open. Hours close minutes after their end, or hours later when the end of a pod is missing."
        )
    query = select(dirty.hour, node.name).join(schema.node, node.id == dirty.node_id)
    late = query.where(dirty.hour >= first, dirty.hour < end).order_by(dirty.hour).limit(1)
    if row := connection.execute(late).first():
        raise LedgerRefused(
            f"{show_month(month)} cannot be closed: the hour {show_hour(row.hour)} of node {row.name} waits "
            "for a correction. Try again once the operator has settled."
        )
