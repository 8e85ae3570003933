"""The price of a node at any moment, as the oracle finds it by looking at every row."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest
from money_oracle import trace
from money_oracle.book import all_hours
from money_oracle.generate import NEW_YEAR_2028, small
from money_oracle.sweep import best_price
from money_traces import facts_of, row_of, rows_of, with_our_ids

from mlenv_operator.cost.facts import HOUR, Attributed, Category, Mark, Node, NodeUse
from mlenv_operator.cost.prices import PriceBook


@pytest.mark.parametrize("seed", range(4))
def test_book_and_oracle_find_the_same_prices(seed: int) -> None:
    facts, horizon = small(seed)
    prices = [fact for fact in facts if isinstance(fact, trace.Price)]
    book, rng = PriceBook(rows_of(facts)), random.Random(seed)
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


def test_a_trace_can_be_told_in_the_platforms_words() -> None:
    facts, _ = small(3)
    told = list(facts_of(facts))
    assert len(told) == len([fact for fact in facts if not isinstance(fact, trace.Price)])
    assert {one.category for one in told if isinstance(one, Mark)} <= set(Category)
    assert {fact.use for fact in facts if isinstance(fact, trace.NodeMark) and fact.use} <= set(NodeUse)
    owner = next(one.to for one in told if isinstance(one, Attributed))
    assert owner.job_uid
    assert hash(owner) is not None


def test_names_of_prices_change_no_cost_but_the_nanodollar_of_a_tie() -> None:
    facts, horizon = small(1)
    one, other = all_hours(facts, horizon), all_hours(with_our_ids(facts), horizon)
    for mine, theirs in zip(one, other, strict=True):
        assert mine.cost == theirs.cost
        assert {row.key.price_id for row in theirs.rows} <= {"", *(row.id for row in rows_of(facts))}
