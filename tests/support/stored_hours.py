"""Node-hours as a ledger has them in the end, and as the oracle says they are: one form, for ``==``."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from money_hours import OWNER, Seen, of_node_hour
from money_oracle.book import Book
from money_traces import with_our_ids
from sqlalchemy import select

from mlenv_operator.cost.facts import HOUR, Attribution, Category
from mlenv_operator.ledger import schema
from mlenv_operator.ledger.names import attribution_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from money_oracle import trace
    from money_oracle.sweep import Weights
    from sqlalchemy import Connection

    from mlenv_operator.cost.facts import Micros, Node
    from mlenv_operator.cost.prices import PriceBook
    from mlenv_operator.cost.segments import Segment
    from mlenv_operator.ledger.ledger import Ledger

Hours: TypeAlias = "dict[tuple[str, int], Seen]"
"""By node and beginning. Hours in which there was nothing are left out."""


@dataclass
class Traced:
    """The prices of a trace, for a ledger."""

    book: PriceBook

    def segments(self, one: Node, start: Micros, end: Micros) -> Sequence[Segment]:
        return tuple(priced.segment() for priced in self.book.segments(one, start, end))

    def describe(self, price_id: str) -> Mapping[str, str | int]:
        return {"source": price_id}

    def version(self) -> str:
        return self.book.digest


def told_to_oracle(facts: Iterable[trace.Fact], horizon: Micros, weights: Weights | None = None) -> Hours:
    """What the oracle says of all that was told."""
    book = Book(weights)
    for fact in with_our_ids(facts):
        book.take(fact)
    hours = (of_node_hour(one) for uid in book.nodes() for one in book.hours(uid, horizon))
    return {(one.node_uid, one.hour): one for one in hours if one.rows}


def stored(ledger: Ledger, horizon: Micros) -> Hours:
    """What the ledger has of the hours before the horizon, corrections added up."""
    with ledger.database.reading() as connection:
        rows = _rows(connection, horizon // HOUR)
        sums = _settled(connection, horizon // HOUR)
        uids = _named(connection)
    assert set(rows) <= set(sums)
    return {
        (uids[node], hour * HOUR): Seen(uids[node], hour * HOUR, *sums[node, hour], sorted(found))
        for (node, hour), found in rows.items()
        if found
    }


def _named(connection: Connection) -> dict[int, str]:
    return {row.id: row.uid for row in connection.execute(select(schema.uid))}


def _rows(connection: Connection, until: int) -> dict[tuple[int, int], list[tuple[Any, ...]]]:
    uids = {0: "", **_named(connection)}
    owners = {0: Attribution()}
    owners.update((row.id, attribution_from(row)) for row in connection.execute(select(schema.attribution)))
    prices = {0: "", **{row.id: row.price_id for row in connection.execute(select(schema.price))}}
    sums: defaultdict[tuple[int, int], defaultdict[tuple[Any, ...], list[int]]]
    sums = defaultdict(lambda: defaultdict(lambda: [0, 0, 0, 0]))
    for row in connection.execute(select(schema.charge).where(schema.charge.c.hour < until)):
        kind = schema.WORDS[row.kind]
        use, category = ("", str(kind)) if isinstance(kind, Category) else (str(kind), "")
        owner = OWNER(owners[row.attribution_id])
        key = (uids[row.pod_id], use, row.attempt, category, owner, prices[row.price_id])
        amounts = sums[row.node_id, row.hour][key]
        for place, name in enumerate(schema.AMOUNTS):
            amounts[place] += getattr(row, name)
    return {
        place: [_row(key, amounts) for key, amounts in found.items() if any(amounts)]
        for place, found in sums.items()
    }


def _row(key: tuple[Any, ...], amounts: Sequence[int]) -> tuple[Any, ...]:
    """As `money_hours` shows one: costs without a price mean nothing."""
    held, gpu_micros, cost, list_cost = amounts
    if key[-1]:
        return (*key, held, gpu_micros, cost, list_cost)
    assert cost == list_cost == 0
    return (*key, held, gpu_micros, None, None)


def _settled(connection: Connection, until: int) -> dict[tuple[int, int], tuple[int, int, int]]:
    """Cost and list cost, and what holds now of time without a price."""
    at = schema.settlement.c
    query = select(schema.settlement).where(at.hour < until).order_by(at.revision)
    found: dict[tuple[int, int], tuple[int, int, int]] = {}
    for row in connection.execute(query):
        cost, list_cost, _ = found.get((row.node_id, row.hour), (0, 0, 0))
        found[row.node_id, row.hour] = cost + row.cost, list_cost + row.list_cost, row.unpriced
    return found
