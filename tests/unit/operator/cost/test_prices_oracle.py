"""The price of a node at any moment, as the oracle finds it by looking at every row."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest
from money_oracle import trace
from money_oracle.generate import NEW_YEAR_2028, small
from money_oracle.sweep import best_price

from mlenv_api.pricebook import CapacityType
from mlenv_operator.cost.facts import HOUR, Node
from mlenv_operator.cost.prices import PriceBook, PriceRow


def row_of(price: trace.Price) -> PriceRow:
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


@pytest.mark.parametrize("seed", range(4))
def test_book_and_oracle_find_the_same_prices(seed: int) -> None:
    facts, horizon = small(seed)
    prices = [fact for fact in facts if isinstance(fact, trace.Price)]
    book, rng = PriceBook(map(row_of, prices)), random.Random(seed)
    begin = NEW_YEAR_2028 - 20 * HOUR
    moments = [rng.randrange(begin, horizon) for _ in range(50)]
    moments += [
        cut + step for price in prices for cut in (price.since, price.until) if cut for step in (-1, 0)
    ]
    for node in {fact.uid: fact for fact in facts if isinstance(fact, trace.Node)}.values():
        mine = Node(**asdict(node))
        segments = book.segments(mine, begin, horizon)
        for at in (moment for moment in moments if begin <= moment < horizon):
            wanted = best_price(prices, node, at)
            [segment] = [one for one in segments if one.t0 <= at < one.t1]
            assert segment.price == book.price(mine, at) or (
                segment.price is not None and segment.price.id == row_of(wanted).id  # type: ignore[arg-type]
            )
            assert (segment.price and segment.price.id) == (wanted and row_of(wanted).id)
