"""Metering and the oracle read one trace and say the same: every row of every node-hour, with ``==``."""

from __future__ import annotations

import itertools
import resource
from typing import TYPE_CHECKING

import pytest
from money_hours import both
from money_oracle.generate import Shape, month, small, trace
from money_oracle.tangle import tangle
from money_oracle.trace import Price

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from money_oracle.trace import Fact


MIB = 2**20


def prices_first(facts: Iterable[Fact]) -> list[Fact]:
    return sorted(facts, key=lambda fact: not isinstance(fact, Price))


def assert_agreement(
    facts: Iterable[Fact], horizon: int, *, touching: bool = False, weights: str = "", which: object = None
) -> tuple[int, int]:
    """The first node-hour on which they differ fails; how many node-hours and rows were compared."""
    hours = rows = 0
    for ours, theirs in both(facts, horizon, touching=touching, weights=weights):
        assert [one[:2] for one in ours] == [one[:2] for one in theirs]
        for mine, other in zip(ours, theirs, strict=True):
            assert mine == other, which
            rows += len(mine.rows)
        hours += len(ours)
    return hours, rows


@pytest.mark.parametrize("seed", range(20))
def test_a_heap_of_facts(seed: int) -> None:
    facts, horizon = small(seed)
    hours, rows = assert_agreement(prices_first(facts), horizon)
    assert rows > hours > 20


@pytest.mark.parametrize("seed", range(100, 110))
def test_each_hour_from_what_touches_it_only(seed: int) -> None:
    shape = Shape(jobs=60, seed=seed)
    assert_agreement(trace(shape), shape.horizon, touching=True)


@pytest.mark.parametrize("touching", [False, True])
def test_facts_without_any_sense(*, touching: bool) -> None:
    rows = 0
    for seed in range(1500):
        rows += assert_agreement(*tangle(seed), touching=touching, which=seed)[1]
    assert rows > 3000


@pytest.mark.parametrize("weights", ["9/0.9/0.1", "0/1/3", "1/0/0"])
def test_other_policies_of_shares(weights: str) -> None:
    for seed in range(500):
        assert_agreement(*tangle(seed), weights=weights, which=seed)
    facts, horizon = small(1)
    assert_agreement(prices_first(facts), horizon, weights=weights)


def test_every_kind_of_trouble() -> None:
    shape = Shape(jobs=400, seed=9)  # the trace of which test_oracle says what is in it
    assert_agreement(trace(shape), shape.horizon)


def stream() -> Iterator[int]:
    """Compares a month of 300,000 jobs, node by node; gives how many hours each had."""
    shape = month()
    for ours, theirs in both(trace(shape), shape.horizon, touching=True):
        assert ours == theirs
        yield len(ours)


def test_the_first_nodes_of_a_month() -> None:
    assert sum(itertools.islice(stream(), 100)) > 500


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_a_month_of_300_000_jobs() -> None:
    """Each node is compared and forgotten: memory stays flat, however long the month is."""
    compared = before = 0
    for hours in stream():
        compared += hours
        before = before or (peak() if compared > 20_000 else 0)
    assert compared > 1_000_000
    assert peak() < before + 200 * MIB


def peak() -> int:
    """The most memory that the process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
