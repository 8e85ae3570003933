"""Who spent what in a month so far: what is kept between publications is what reading anew says."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from ledgers import START, Book, attribution, node, parts, pod, world
from sqlalchemy import event, select

from mlenv_operator.cost import metering
from mlenv_operator.cost.budgets import MonthToDate, Spent
from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND, Attributed, Category
from mlenv_operator.ledger import facts, schema
from mlenv_operator.ledger.calendar import month_at
from mlenv_operator.ledger.exports import MemoryMarks
from mlenv_operator.ledger.ledger import Ledger
from mlenv_operator.ledger.opening import HOURS

if TYPE_CHECKING:
    from mlenv_operator.cost.budgets import Whose
    from mlenv_operator.cost.facts import Fact, Micros, Pod

MINUTE = 60 * SECOND
DAY = 24 * HOUR
JANUARY, FEBRUARY = 202501, START + 31 * DAY
"""START is the first of January 2025."""
CATEGORIES = {one.value for one in Category}


@pytest.fixture
def marks() -> MemoryMarks:
    return MemoryMarks()


def shown(ledger: Ledger, marks: MemoryMarks, now: Micros) -> MonthToDate:
    month = ledger.publish(marks, now).month
    assert month is not None
    return month


def anew(ledger: Ledger, now: Micros) -> dict[Whose, Spent]:
    """By the plain way: the bill of the month, what was used since a week ago, floors of open hours."""
    sums: dict[Whose, list[int]] = defaultdict(lambda: [0, 0, 0])

    def add(team: str, use_case: str, *amounts: int) -> None:
        for whose in ((team, use_case), (team, None), (None, use_case)):
            for place, amount in enumerate(amounts):
                sums[whose][place] += amount

    by = ["team", "use_case", "category"]
    for (team, use_case, kind), of in ledger.month(by, month_at(now)).items():
        if kind in CATEGORIES:
            add(team, use_case, of.cost)
    week = (now // DAY - 7) * DAY
    for (team, use_case, kind), of in ledger.group(by, week, (now // HOUR + 1) * HOUR).items():
        if kind in CATEGORIES:
            add(team, use_case, 0, of.cost)
    for (team, use_case), (hour, cost, unpriced) in _open(ledger, now):
        mine = month_at(hour) == month_at(now)
        add(team, use_case, cost if mine else 0, cost, unpriced if mine else 0)
    return {whose: Spent(*amounts) for whose, amounts in sums.items() if any(amounts)}


def _open(ledger: Ledger, now: Micros) -> list[tuple[tuple[str, str], tuple[int, int, int]]]:
    at, found = schema.node.c, []
    with ledger.database.reading() as connection:
        for hour in range(now // HOUR + 1 - HOURS, now // HOUR + 1):
            query = select(at.id).where(at.next_hour <= hour, at.created < (hour + 1) * HOUR)
            some = list(connection.execute(query).scalars())
            for one in facts.read(connection, some, hour * HOUR, now).nodes:
                segments = ledger.prices.segments(one.node, hour * HOUR, (hour + 1) * HOUR)
                closing = metering.so_far(hour * HOUR, *facts.arguments(one, segments), until=now)
                for row in closing.rows:
                    if row.category:
                        whose = (row.attribution.team, row.attribution.use_case)
                        found.append((whose, (hour * HOUR, row.cost, 0 if row.price_id else row.held)))
    return found


def agrees(ledger: Ledger, marks: MemoryMarks, now: Micros) -> int:
    """The same from what is kept, from a ledger that has nothing yet, and by the plain way; how many."""
    kept = {whose: one for whose, one in shown(ledger, marks, now).spent.items() if one != Spent()}
    again = shown(Ledger(ledger.database, ledger.prices), marks, now)
    assert {whose: one for whose, one in again.spent.items() if one != Spent()} == kept
    assert kept == anew(ledger, now)
    return len(kept)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("late", [0, 31 * DAY - 3 * HOUR], ids=["within a month", "over its end"])
def test_as_things_happen_and_are_told(ledger: Ledger, marks: MemoryMarks, seed: int, late: Micros) -> None:
    rng = random.Random(seed)
    some = [moved(one, late) for one in parts(world(seed, nodes=4, jobs=10))]
    now, found = START + late + 20 * MINUTE, 0
    for _ in range(12):
        batch, some = some[: (size := rng.randrange(1 + len(some) // 2))], some[size:]
        ledger.observe(batch)
        if rng.random() < 0.7:
            ledger.settle_all(now)
        found += agrees(ledger, marks, now)
        now += rng.choice([30 * SECOND, SECOND // 7, 11 * MINUTE, HOUR, -2 * MINUTE])
    assert found > 20


TIMES = ("created", "deleted", "scheduled", "started", "finished", "released", "at", "since")


def moved(one: Fact, by: Micros) -> Fact:
    """The same, so much later."""
    known = {name: getattr(one, name, None) for name in TIMES}
    return replace(one, **{name: at + by for name, at in known.items() if at is not None})


def held(ledger: Ledger, *, since: Micros, gpus: int = 8) -> Pod:
    """A pod that holds its node from then on."""
    one = node("a", created=since)
    got = pod("p", "j", one, gpus=gpus, scheduled=since, started=since)
    ledger.observe([one, Attributed("uid-j", 0, attribution("j")), got])
    return got


def test_a_month_begins_with_nothing_and_the_rate_goes_on(
    ledger: Ledger, marks: MemoryMarks, book: Book
) -> None:
    book.prices["p5"] = 9 * DOLLAR  # a whole number of nanodollars in every minute
    held(ledger, since=FEBRUARY - 2 * HOUR)
    ledger.settle_all(FEBRUARY - MINUTE)
    before = shown(ledger, marks, FEBRUARY - MINUTE)
    after = shown(ledger, marks, FEBRUARY)
    assert (before.month, before.until, after.month) == ("2025-01", FEBRUARY, "2025-02")
    assert after.until == FEBRUARY + 28 * DAY
    ads = after.of("ads", "ranking")
    assert (ads.cost, ads.unpriced) == (0, 0)
    assert ads.recent > before.of("ads", "ranking").cost > 0
    # Hours of January that are still open are booked there.
    ledger.settle_all(FEBRUARY + 10 * MINUTE)
    late = shown(ledger, marks, FEBRUARY + 10 * MINUTE).of("ads", None)
    assert late.cost == late.recent - ads.recent > 0
    assert agrees(ledger, marks, FEBRUARY + 10 * MINUTE) == 3


def test_corrections_count(ledger: Ledger, marks: MemoryMarks) -> None:
    got = held(ledger, since=START)
    now = START + 2 * HOUR
    ledger.settle_all(now)
    before = shown(ledger, marks, now).of("ads", None)
    ledger.observe([replace(got, finished=START + MINUTE, released=START + MINUTE)])
    ledger.settle_all(now)
    after = shown(ledger, marks, now).of("ads", None)
    assert 0 < after.cost < before.cost // 60
    assert after.cost == after.recent
    assert agrees(ledger, marks, now) == 3


def test_corrections_of_a_closed_month_are_booked_in_the_next_and_expect_nothing(
    ledger: Ledger, marks: MemoryMarks
) -> None:
    got, now = held(ledger, since=FEBRUARY - 3 * HOUR), FEBRUARY + HOUR
    ledger.settle_all(now)
    ledger.close_month(JANUARY, now)
    shown(ledger, marks, now)
    end = FEBRUARY - 3 * HOUR + MINUTE
    ledger.observe([replace(got, finished=end, released=end)])
    ledger.settle_all(now)
    month = shown(ledger, marks, now)
    ads = month.of("ads", None)
    assert ads.cost == ledger.month(["team"], 202502)["ads",].cost < 0 < ads.recent
    assert month.forecast(ads) > ads.cost
    assert agrees(ledger, marks, now) == 3


def test_time_without_a_price_is_told_until_it_has_one(
    ledger: Ledger, marks: MemoryMarks, book: Book
) -> None:
    price = book.prices.pop("p5")
    held(ledger, since=START)
    for now in (START + 30 * MINUTE, START + 2 * HOUR):
        ledger.settle_all(now)
        ads = shown(ledger, marks, now).of("ads", "ranking")
        assert (ads.cost, ads.recent, ads.unpriced) == (0, 0, now - START)
        # Another process finds it again.
        other = shown(Ledger(ledger.database, book), marks, now)
        assert other.of("ads", "ranking") == ads
    now, book.prices["p5"] = START + 2 * HOUR, price
    assert ledger.look_again(START, now, "price", only_unpriced=True) == 1
    ledger.settle_all(now)
    for one in (ledger, Ledger(ledger.database, book)):
        ads = shown(one, marks, now).of("ads", "ranking")
        assert (ads.cost > 0, ads.unpriced) == (True, 0)


def test_days_that_are_long_ago_are_in_no_rate(ledger: Ledger, marks: MemoryMarks) -> None:
    got, end = held(ledger, since=START), START + 90 * MINUTE
    ledger.observe([replace(got, finished=end, released=end)])
    ledger.settle_all(START + 3 * HOUR)
    for days, recent in ((1, True), (7, True), (8, False)):
        now = START + days * DAY + HOUR
        ledger.settle_all(now)
        ads = shown(ledger, marks, now).of("ads", None)
        assert (ads.cost > 0, ads.recent > 0) == (True, recent)
        agrees(ledger, marks, now)


def test_a_rate_goes_back_no_further_than_the_ledger(ledger: Ledger, marks: MemoryMarks) -> None:
    held(ledger, since=START)
    now = START + 3 * HOUR
    assert shown(ledger, marks, now).window == 7 * DAY + 3 * HOUR
    with ledger.database.changing() as connection:
        connection.exec_driver_sql(f"UPDATE meta SET value = '{START // HOUR}' WHERE key = 'since'")
    assert shown(Ledger(ledger.database, ledger.prices), marks, now).window == 3 * HOUR


def test_sums_are_read_once_and_then_only_what_was_settled(ledger: Ledger, marks: MemoryMarks) -> None:
    held(ledger, since=START)
    shown(ledger, marks, START + 2 * HOUR)
    said: list[str] = []

    @event.listens_for(ledger.database.reading_engine, "before_cursor_execute")
    def note(_: object, __: object, statement: str, *___: object) -> None:
        said.append(statement)

    def read(text: str) -> int:
        return sum(text in one for one in said)

    shown(ledger, marks, START + 2 * HOUR + MINUTE)
    assert (read("rollup"), read("settlement.booked, settlement.hour")) == (0, 0)
    ledger.settle_all(START + 2 * HOUR + MINUTE)
    shown(ledger, marks, START + 2 * HOUR + 2 * MINUTE)
    assert (read("rollup"), read("settlement.booked, settlement.hour")) == (0, 1)
