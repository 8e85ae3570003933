"""The ledger and the oracle read one trace and say the same: every row of every node-hour, with ``==``."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from dying import Operators
from money_oracle.generate import small
from money_oracle.tangle import tangle
from money_oracle.trace import Price
from money_traces import facts_of, rows_of
from stored_hours import Traced, stored, told_to_oracle

from mlenv_operator.cost.facts import HOUR, Node
from mlenv_operator.cost.prices import PriceBook
from mlenv_operator.ledger.exports import FileMarks
from mlenv_operator.ledger.ledger import open_ledger
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from money_oracle import trace

    from mlenv_operator.cost.facts import Fact, Micros
    from mlenv_operator.ledger.ledger import Ledger

LATER = 7 * HOUR
"""After the horizon: nothing is waited for any more."""


def doubled(rng: random.Random, facts: Iterable[Fact]) -> list[Fact]:
    """In any order, a third of them twice; mostly the machine is known before what it holds."""
    told = list(facts)
    told += rng.sample(told, len(told) // 3)
    rng.shuffle(told)
    if rng.random() < 0.7:
        told.sort(key=lambda one: not isinstance(one, Node))
    return told


def in_batches(ledger: Ledger, rng: random.Random, told: Sequence[Fact], begin: Micros) -> int:
    """Observed while hours are closed and corrected; how many were corrected."""
    now, place, corrected = begin, 0, 0
    while place < len(told):
        size = rng.randint(1, 1 + len(told) // 5)
        ledger.observe(told[place : place + size])
        place += size
        now += rng.randrange(4 * HOUR)
        if rng.random() < 0.7:
            corrected += ledger.settle_all(now).corrected
    return corrected


def agree(
    dsn: str, facts: Sequence[trace.Fact], begin: Micros, horizon: Micros, seed: int
) -> tuple[int, int]:
    """How many node-hours were compared, and how many were corrected on the way."""
    rng = random.Random(seed)
    ledger = open_ledger(dsn, Traced(PriceBook(rows_of(facts))))
    ledger.begin(Writer(1, "operator"))
    corrected = in_batches(ledger, rng, doubled(rng, facts_of(facts)), begin)
    corrected += ledger.settle_all(horizon + LATER).corrected
    ours, theirs = stored(ledger, horizon), told_to_oracle(facts, horizon)
    assert ours.keys() == theirs.keys(), seed
    for place, hour in ours.items():
        assert hour == theirs[place], (seed, place)
    assert ledger.imbalance() == 0
    ledger.database.close()
    return len(ours), corrected


@pytest.mark.parametrize("seed", [3, 4])
def test_jobs_and_their_troubles_in_any_order(new_dsn: Callable[[], str], seed: int) -> None:
    facts, horizon = small(seed, jobs=6)
    hours, corrected = agree(new_dsn(), facts, horizon - 9 * HOUR, horizon, seed)
    assert hours > 20
    assert corrected > 5


def test_facts_without_any_sense_in_any_order(new_dsn: Callable[[], str]) -> None:
    hours = corrected = 0
    for seed in range(100, 130):
        facts, horizon = tangle(seed)
        found = agree(new_dsn(), facts, horizon, horizon, seed)
        hours, corrected = hours + found[0], corrected + found[1]
    assert hours > 10
    assert corrected > 5


def test_operators_that_die_at_every_statement(new_dsn: Callable[[], str], tmp_path: Path) -> None:
    facts, horizon = small(8, jobs=2)
    told = doubled(random.Random(8), facts_of(facts))
    middle, halfway = len(told) // 2, horizon - 8 * HOUR
    prices = Traced(PriceBook(rows_of(facts)))
    operators = Operators(new_dsn(), prices, FileMarks(tmp_path / "counters.json"), go_on=8)
    steps: list[Callable[[Ledger], object]] = [
        lambda ledger: ledger.observe(told[:middle]),
        *[lambda ledger: ledger.settle(halfway)] * 4,
        lambda ledger: ledger.observe(told[middle:]),
        *[lambda ledger: ledger.settle(horizon + LATER)] * 4,
    ]
    for step in steps:
        moment = 1
        while not operators.do(step, dies_at=moment):
            moment += 1
            if moment % 16 == 0:
                operators.show(halfway)
        operators.show(halfway)
    for moment in range(1, 9):
        operators.show(horizon, dies_at=moment)
    operators.do(lambda ledger: ledger.settle_all(horizon + LATER))
    operators.show(horizon + LATER)
    assert operators.deaths > 100
    assert stored(operators.ledger, horizon) == told_to_oracle(facts, horizon)
    assert operators.ledger.imbalance() == 0
    operators.end()


def test_a_price_that_nobody_knew_at_first(new_dsn: Callable[[], str]) -> None:
    facts, horizon = small(5, jobs=3)
    types = sorted({one.instance_type for one in facts if isinstance(one, Price)})
    known = [one for one in facts if not isinstance(one, Price) or one.instance_type not in types[::2]]
    prices = Traced(PriceBook(rows_of(known)))
    ledger = open_ledger(new_dsn(), prices)
    ledger.begin(Writer(1, "operator"))
    ledger.observe(facts_of(facts))
    ledger.settle_all(horizon + LATER)
    assert stored(ledger, horizon) == told_to_oracle(known, horizon)
    prices.book = PriceBook(rows_of(facts))
    assert ledger.reprice(horizon + LATER) > 0
    ledger.settle_all(horizon + LATER)
    assert stored(ledger, horizon) == told_to_oracle(facts, horizon)
    assert ledger.imbalance() == 0
    ledger.database.close()
