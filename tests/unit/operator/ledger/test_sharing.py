"""The policy of shares is a setting; who changes it changes no hour that has begun, nor its corrections."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from ledgers import START, Book, attribution, node, pod
from money_oracle.generate import small
from money_traces import facts_of, rows_of
from sqlalchemy import select
from stored_hours import Traced, stored, told_to_oracle

from mlenv_operator.cost import metering
from mlenv_operator.cost.facts import HOUR, SECOND, Attributed, Category, Mark
from mlenv_operator.cost.prices import PriceBook
from mlenv_operator.cost.shares import AWS_SPLIT, GPU_DOMINANT
from mlenv_operator.ledger import schema
from mlenv_operator.ledger.exports import MemoryMarks
from mlenv_operator.ledger.ledger import Ledger, open_ledger
from mlenv_operator.ledger.settling import Rules
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlenv_operator.cost.facts import Micros
    from mlenv_operator.cost.shares import Policy

SPLIT = "weights=9/0.9/0.1"
MINUTE = 60 * SECOND
MACHINE = node("a", memory_bytes=2**41)
HELD = pod("p", "j", MACHINE, gpus=8, cpu_milli=96_000, memory_bytes=2**40, scheduled=START, started=START)
OWNER = Attributed("uid-j", 0, attribution("j"))
MARK = Mark(HELD.uid, START + HOUR + 10 * MINUTE, 0, 1, Category.EVAL)


def begun(dsn: str, shares: str, now: Micros, term: int) -> Ledger:
    """Another operator, with this setting."""
    ledger = open_ledger(dsn, Book(), Rules(shares=shares))
    ledger.begin(Writer(term, f"operator-{term}"), since=now)
    return ledger


def by_hand(hour: int, policy: Policy, marks: tuple[Mark, ...] = ()) -> dict[str, int]:
    start = START + hour * HOUR
    segments = Book().segments(MACHINE, start, start + HOUR)
    rows = metering.close(start, MACHINE, [HELD], marks, [], [OWNER], segments, policy).rows
    found: dict[str, int] = {}
    for row in rows:
        kind = str(row.category or row.use)
        found[kind] = found.get(kind, 0) + row.cost
    return found


def of_hour(ledger: Ledger, hour: int) -> dict[str, int]:
    start = START + hour * HOUR
    found = ledger.group(["category"], start, start + HOUR)
    return {key[0]: amounts.cost for key, amounts in found.items() if any(amounts)}


def test_policies_differ() -> None:
    assert by_hand(0, GPU_DOMINANT) != by_hand(0, AWS_SPLIT)


def test_a_switch_counts_from_the_next_hour_on_and_corrections_are_shared_as_their_hour_was(
    new_dsn: Callable[[], str],
) -> None:
    dsn = new_dsn()
    ledger = begun(dsn, "gpu-dominant", START, 1)
    ledger.observe([MACHINE, HELD, OWNER])
    ledger.settle_all(START + 2 * HOUR + 30 * MINUTE)
    ledger.database.close()
    ledger = begun(dsn, SPLIT, START + 2 * HOUR + 30 * MINUTE, 2)
    ledger.observe([MARK])
    ledger.settle_all(START + 5 * HOUR + 30 * MINUTE)
    for hour in range(5):
        marks = (MARK,) if hour else ()
        assert of_hour(ledger, hour) == by_hand(hour, AWS_SPLIT if hour > 2 else GPU_DOMINANT, marks), hour
    at = schema.settlement.c
    with ledger.database.reading() as connection:
        corrected = connection.execute(select(at.hour).where(at.revision > 0)).scalars().all()
    assert corrected == [START // HOUR + 1]
    assert ledger.imbalance() == 0
    ledger.database.close()


def test_a_switch_that_is_taken_back_in_the_same_hour_never_was(new_dsn: Callable[[], str]) -> None:
    dsn = new_dsn()
    for term, (shares, minute) in enumerate(
        [("gpu-dominant", 0), (SPLIT, 10), ("gpu-dominant", 20), ("weights=1/0/0", 30), (SPLIT, 40)], 1
    ):
        ledger = begun(dsn, shares, START + minute * MINUTE, term)
        if term == 1:
            ledger.observe([MACHINE, HELD, OWNER])
        if term < 5:
            ledger.database.close()
    ledger.settle_all(START + 3 * HOUR)
    assert of_hour(ledger, 0) == by_hand(0, GPU_DOMINANT)
    assert of_hour(ledger, 1) == by_hand(1, AWS_SPLIT)
    ledger.database.close()


def test_open_hours_are_shared_as_they_will_be_closed(new_dsn: Callable[[], str]) -> None:
    dsn, marks, before = new_dsn(), MemoryMarks(), 0
    for term, shares in enumerate(["gpu-dominant", SPLIT, SPLIT], 1):
        now = START + term * HOUR - 30 * MINUTE
        ledger = begun(dsn, shares, now, term)
        ledger.observe([MACHINE, HELD, OWNER])
        ledger.settle_all(now)
        shown = sum(one.cost for one in ledger.publish(marks, now).families["jobs"])
        assert shown > before
        before = shown
        # The second operator switches in the middle of the second hour: the third is shared anew.
        closed = sum(by_hand(hour, GPU_DOMINANT)["productive"] for hour in range(term - 1))
        policy = AWS_SPLIT if term == 3 else GPU_DOMINANT
        assert ledger.job("uid-j", now).cost == shown == closed + floor(term - 1, now, policy)
        ledger.database.close()


def floor(hour: int, now: Micros, policy: Policy) -> int:
    """What the open hour has come to for the pod."""
    start = START + hour * HOUR
    segments = Book().segments(MACHINE, start, start + HOUR)
    told = metering.so_far(start, MACHINE, [HELD], [], [], [OWNER], segments, policy, until=now)
    return sum(row.cost for row in told.rows if row.pod_uid)


@pytest.mark.parametrize("seed", [5, 6])
def test_a_new_ledger_shares_by_its_setting_from_its_beginning_on(
    new_dsn: Callable[[], str], seed: int
) -> None:
    facts, horizon = small(seed, jobs=4)
    ledger = open_ledger(new_dsn(), Traced(PriceBook(rows_of(facts))), Rules(shares=SPLIT))
    ledger.begin(Writer(1, "operator"), since=0)
    ledger.observe(facts_of(facts))
    ledger.settle_all(horizon + 7 * HOUR)
    weights = Fraction(9), Fraction(9, 10), Fraction(1, 10)
    assert stored(ledger, horizon) == told_to_oracle(facts, horizon, weights)
    ledger.database.close()


def test_what_is_no_policy_is_refused(new_dsn: Callable[[], str]) -> None:
    with pytest.raises(ValueError, match="No policy of shares"):
        begun(new_dsn(), "fair", START, 1)
