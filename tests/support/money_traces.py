"""Traces of the oracle in the platform's own words: the same facts for both, to be compared with ``==``.

facts, horizon = small(seed)
facts = with_our_ids(facts)
ours = [...from facts_of(facts) and PriceBook(rows_of(facts))...]
theirs = list(all_hours(facts, horizon))
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from money_oracle import trace

from mlenv_api.pricebook import CapacityType
from mlenv_operator.cost import facts as ours
from mlenv_operator.cost.prices import PriceRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def row_of(price: trace.Price) -> PriceRow:
    """The platform's row of a price."""
    return PriceRow(
        provider=price.provider,
        instance_type=price.instance_type,
        capacity_type=CapacityType(price.capacity_type),
        list_nanos_per_hour=price.list_nanos,
        effective_nanos_per_hour=price.effective_nanos,
        since=price.since,
        until=price.until,
        region=price.region,
        zone=price.zone,
        reservation=price.reservation,
        priority=price.priority,
        as_of=price.as_of,
    )


def rows_of(facts: Iterable[trace.Fact]) -> Iterator[PriceRow]:
    """The prices of a trace."""
    return (row_of(fact) for fact in facts if isinstance(fact, trace.Price))


def with_our_ids(facts: Iterable[trace.Fact]) -> Iterator[trace.Fact]:
    """The same trace, its prices named as the platform names them: ties are decided by that name, too."""
    for fact in facts:
        yield replace(fact, id=row_of(fact).id) if isinstance(fact, trace.Price) else fact


def fact_of(fact: trace.Fact) -> ours.Fact | None:
    """The platform's fact; None for prices, and for the word that a node is settled."""
    match fact:
        case trace.Node():
            return ours.Node(**asdict(fact))
        case trace.Pod():
            return ours.Pod(**asdict(fact))
        case trace.NodeMark():
            use = None if fact.use is None else ours.NodeUse(fact.use)
            return ours.NodeMark(fact.node_uid, fact.at, use)
        case trace.Mark():
            category = ours.Category(fact.category)
            return ours.Mark(fact.pod_uid, fact.at, fact.sequence, fact.attempt, category)
        case trace.Attributed():
            return ours.Attributed(fact.job_uid, fact.since, ours.Attribution(**asdict(fact.to)))
        case _:
            return None


def facts_of(facts: Iterable[trace.Fact]) -> Iterator[ours.Fact]:
    """All facts of a trace, in its order."""
    return (found for fact in facts if (found := fact_of(fact)) is not None)
