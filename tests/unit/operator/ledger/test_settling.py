"""Facts become rows that add up, whatever the order, the repetition or the delay in which they come."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from ledgers import START, Book, attribution, content, money, node, parts, pod, world
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from mlenv_operator.cost import metering
from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND, Attributed, Category, Mark, Node
from mlenv_operator.ledger import schema
from mlenv_operator.ledger.errors import Imbalance
from mlenv_operator.ledger.ledger import Ledger
from mlenv_operator.ledger.settling import Rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlenv_operator.cost.allocation import Closing
    from mlenv_operator.cost.facts import Fact

LATER = START + 30 * HOUR


def test_a_node_hour_is_paid_by_who_held_it_and_by_what_nobody_held(ledger: Ledger) -> None:
    one = node("a")
    ledger.observe([one, pod("p", "j", one, released=START + HOUR), Attributed("uid-j", 0, attribution("j"))])
    assert ledger.settle_all(START + HOUR + 600 * SECOND).closed == 1
    found = ledger.group(["team", "category"], START, START + HOUR)
    assert set(found) == {("", "idle"), ("", "fragmented"), ("ads", "startup")}
    whole = metering.close(START, one, [], [], [], [], ledger.prices.segments(one, START, START + HOUR)).total
    assert sum(amounts.cost for amounts in found.values()) == whole
    assert ledger.imbalance() == 0


def test_the_same_facts_again_change_nothing(ledger: Ledger) -> None:
    facts = world(1)
    assert ledger.observe(facts).changed == len(set(facts))
    ledger.settle_all(LATER)
    before = content(ledger)
    assert ledger.observe(facts).changed == 0
    assert ledger.settle_all(LATER).looked_at == 0
    assert content(ledger) == before


@pytest.mark.parametrize("seed", range(2))
def test_order_delay_and_batches_change_no_sum(new_ledger: Callable[[], Ledger], seed: int) -> None:
    facts = world(seed)
    whole, torn = new_ledger(), new_ledger()
    whole.observe(facts)
    whole.settle_all(LATER)
    rng = random.Random(seed)
    pieces = parts(facts) * 2
    rng.shuffle(pieces)
    now = START
    while pieces:
        count = rng.randint(1, 60)
        batch, pieces = pieces[:count], pieces[count:]
        torn.observe(batch)
        now += rng.randrange(HOUR)
        torn.settle(now)
    torn.settle_all(max(now, LATER) + 10 * HOUR)
    whole.settle_all(max(now, LATER) + 10 * HOUR)
    assert money(torn) == money(whole)
    assert torn.imbalance() == whole.imbalance() == 0


@pytest.mark.parametrize("seed", range(2))
def test_what_is_stored_is_what_metering_says_of_the_whole_facts(ledger: Ledger, seed: int) -> None:
    facts = world(seed)
    ledger.observe(parts(facts))
    ledger.settle_all(START + 8 * HOUR)
    assert ledger.group(["node"], START, START + 8 * HOUR) != {}
    for one in (fact for fact in facts if isinstance(fact, Node)):
        for hour in range(START, START + 7 * HOUR, HOUR):
            direct = _close(ledger, one, hour, facts)
            stored = ledger.group(["node", "category"], hour, hour + HOUR)
            ours = {key[1]: amounts for key, amounts in stored.items() if key[0] == one.name}
            assert sum(amounts.cost for amounts in ours.values()) == direct.total
            assert _settled(ledger, one, hour) == ([direct.clamped] if direct.rows else [])
            for kind, amounts in ours.items():
                rows = [row for row in direct.rows if (row.category or row.use) == kind]
                assert amounts.cost == sum(row.cost for row in rows)
                assert amounts.held == sum(row.held for row in rows)


def _settled(ledger: Ledger, one: Node, hour: int) -> list[int]:
    at, uid = schema.settlement.c, schema.uid
    query = select(at.clamped).join(uid, uid.c.id == at.node_id)
    with ledger.database.reading() as connection:
        found = connection.execute(query.where(uid.c.uid == one.uid, at.hour == hour // HOUR))
        return list(found.scalars())


def _close(ledger: Ledger, one: object, hour: int, facts: list[object]) -> Closing:
    def of(kind: str) -> list[object]:
        return [fact for fact in facts if type(fact).__name__ == kind]

    segments = ledger.prices.segments(one, hour, hour + HOUR)  # type: ignore[arg-type]
    return metering.close(  # type: ignore[arg-type]
        hour, one, of("Pod"), of("Mark"), of("NodeMark"), of("Attributed"), segments
    )


def test_of_times_that_contradict_each_other_the_earlier_holds_whichever_came_first(
    new_ledger: Callable[[], Ledger],
) -> None:
    one = node("a")
    early = pod("p", "j", one, started=START + 60 * SECOND, finished=START + HOUR, released=START + HOUR)
    late = replace(
        early, scheduled=START + 9 * SECOND, started=START + 70 * SECOND, released=START + 2 * HOUR
    )
    found = []
    for order in ([early, late], [late, early], [early]):
        ledger = new_ledger()
        for fact in order:
            ledger.observe([one, fact])
            ledger.settle_all(START + 4 * HOUR)
        found.append(money(ledger))
    assert found[0] == found[1] == found[2]


def test_a_late_fact_makes_a_correction_and_leaves_the_closed_rows(ledger: Ledger) -> None:
    one = node("a")
    ledger.observe([one, held := pod("p", "j", one), Attributed("uid-j", 0, attribution("j"))])
    ledger.settle_all(START + 3 * HOUR)
    before = set(content(ledger).splitlines())
    ended = replace(held, finished=START + HOUR, released=START + HOUR)
    assert ledger.observe([ended]).dirty == {(one.uid, START + HOUR)}
    assert ledger.settle_all(START + 3 * HOUR).corrected == 1
    after = set(content(ledger).splitlines())
    assert not [line for line in before - after if line.startswith(("charge", "settlement"))]
    found = ledger.group(["team", "category"], START + HOUR, START + 2 * HOUR)
    assert found["ads", "startup"].cost == 0
    assert ledger.imbalance() == 0


@pytest.mark.parametrize("stands_for_it", ["a mark", "its end"])
def test_a_late_start_changes_what_lies_before_it_too(
    new_ledger: Callable[[], Ledger], stands_for_it: str
) -> None:
    """Until a start is told, something earlier stood for it, in an hour that is closed by now."""
    one = node("a")
    held = pod("p", "j", one, released=START + 4 * HOUR)
    facts: list[Fact] = [one, Mark(held.uid, START + 600 * SECOND, 1, 1, Category.HANG)]
    if stands_for_it == "its end":
        held = replace(held, finished=START + 900 * SECOND)
        facts = facts[:1]
    started = replace(held, started=START + 2 * HOUR)
    once, twice = new_ledger(), new_ledger()
    once.observe([*facts, held, started])
    twice.observe([*facts, held])
    twice.settle_all(START + 6 * HOUR)
    twice.observe([started])
    for ledger in (once, twice):
        ledger.settle_all(START + 6 * HOUR)
    assert money(twice) == money(once)
    assert "startup" in money(once)


def test_a_late_mark_touches_only_the_hours_until_the_next(ledger: Ledger) -> None:
    one = node("a")
    held = pod("p", "j", one, started=START + 60 * SECOND)
    ledger.observe([one, held, Mark(held.uid, START + 3 * HOUR, 9, 1, Category.EVAL)])
    ledger.settle_all(START + 6 * HOUR)
    dirty = ledger.observe([Mark(held.uid, START + HOUR, 1, 1, Category.HANG)]).dirty
    assert dirty == {(one.uid, START + HOUR), (one.uid, START + 2 * HOUR)}


def test_a_late_mark_of_a_newer_attempt_touches_what_was_said_of_older_ones(ledger: Ledger) -> None:
    one = node("a")
    held = pod("p", "j", one, started=START + 60 * SECOND)
    said = [Mark(held.uid, START + hour * HOUR, hour, 1, Category.EVAL) for hour in (1, 2, 3)]
    ledger.observe([one, held, *said])
    ledger.settle_all(START + 6 * HOUR)
    news = Mark(held.uid, START + HOUR + 5, 0, 2, Category.HANG)
    assert ledger.observe([news]).dirty == {(one.uid, START + hour * HOUR) for hour in range(1, 5)}
    ledger.settle_all(START + 6 * HOUR)
    found = ledger.group(["hour", "category"], START + 2 * HOUR, START + 5 * HOUR)
    assert {kind for (_, kind), amounts in found.items() if amounts.cost} == {"hang", "fragmented"}


def test_a_change_of_team_moves_only_what_comes_after_it(ledger: Ledger) -> None:
    one = node("a")
    ledger.observe([one, pod("p", "j", one), Attributed("uid-j", START, attribution("j"))])
    ledger.settle_all(START + 4 * HOUR)
    moved = Attributed("uid-j", START + 2 * HOUR, attribution("j", "feed"))
    assert ledger.observe([moved]).dirty == {(one.uid, START + 2 * HOUR)}
    ledger.settle_all(START + 4 * HOUR)
    found = ledger.group(["team", "hour"], START, START + 3 * HOUR)
    teams = {
        (team, int(hour) - START // HOUR) for (team, hour), amounts in found.items() if team and amounts.cost
    }
    assert teams == {("ads", 0), ("ads", 1), ("feed", 2)}


def test_an_hour_waits_for_the_end_of_a_pod_that_must_have_ended_but_not_forever(ledger: Ledger) -> None:
    one = node("a", deleted=START + 1800 * SECOND)
    ledger.observe([one, pod("p", "j", one)])
    assert ledger.settle(START + 2 * HOUR).waiting == 1
    assert ledger.settle(START + 8 * HOUR).closed == 1


def test_nothing_is_closed_before_the_grace_is_over(ledger: Ledger) -> None:
    ledger.observe([node("a")])
    assert ledger.settle(START + HOUR + ledger.rules.grace - 1).closed == 0
    assert ledger.settle(START + HOUR + ledger.rules.grace).closed == 1


def test_when_prices_change_hours_without_one_are_looked_at_again_once(ledger: Ledger, book: Book) -> None:
    del book.prices["p5"]
    ledger.observe([node("a")])
    ledger.settle_all(START + 2 * HOUR)
    ledger.reprice(START + 2 * HOUR)
    ledger.settle_all(START + 2 * HOUR)
    assert ledger.reprice(START + 2 * HOUR) == 0
    book.prices["p5"] = 3 * DOLLAR
    assert ledger.reprice(START + 2 * HOUR) == 1
    assert ledger.reprice(START + 2 * HOUR) == 0
    ledger.settle_all(START + 2 * HOUR)
    assert ledger.unpriced() == []


def test_a_missing_price_is_told_until_it_is_known(ledger: Ledger, book: Book) -> None:
    del book.prices["p5"]
    ledger.observe([node("a")])
    ledger.settle_all(START + 2 * HOUR)
    assert [(one.node_name, one.hour, one.unpriced) for one in ledger.unpriced()] == [("a", START, HOUR)]
    assert ledger.group(["category"], START, START + HOUR)["idle",].cost == 0
    book.prices["p5"] = 3 * DOLLAR
    assert ledger.look_again(START, START + HOUR, "price", only_unpriced=True) == 1
    assert ledger.reprice(START + 2 * HOUR) == 0  # it is going to be looked at already
    ledger.settle_all(START + 2 * HOUR)
    assert ledger.unpriced() == []
    assert ledger.group(["category"], START, START + HOUR)["idle",].list_cost == 3 * DOLLAR
    assert ledger.imbalance() == 0


def test_nothing_from_before_the_ledgers_beginning_is_accounted(ledger: Ledger) -> None:
    with ledger.database.changing() as connection:
        from mlenv_operator.ledger import remarks

        remarks.put(connection, "since", str(START // HOUR))
    ledger.observe([node("old", created=START - 5000 * HOUR)])
    assert ledger.settle_all(START + 2 * HOUR).closed == 1


def test_rows_that_do_not_add_up_are_refused(new_dsn: Callable[[], str], ledger: Ledger) -> None:
    def wrong(*facts: object) -> Closing:
        return replace(metering.close(*facts), total=1)  # type: ignore[arg-type]

    broken = Ledger(ledger.database, ledger.prices, close=wrong)
    broken.observe([node("a")])
    with pytest.raises(Imbalance, match="rows are"):
        broken.settle(LATER)
    assert ledger.group(["category"], START, LATER) == {}


def test_the_database_itself_refuses_to_change_what_is_closed(ledger: Ledger) -> None:
    ledger.observe([node("a")])
    ledger.settle_all(START + 2 * HOUR)
    for statement in ("UPDATE charge SET cost = 0", "DELETE FROM charge", "DELETE FROM settlement"):
        with pytest.raises(DBAPIError, match="never change"), ledger.database.changing() as connection:
            connection.exec_driver_sql(statement)


def test_batches_are_bounded(new_dsn: Callable[[], str], ledger: Ledger) -> None:
    small = Ledger(ledger.database, ledger.prices, Rules(nodes=2))
    small.observe([node(f"n{i}") for i in range(5)])
    assert [small.settle(START + 2 * HOUR).closed for _ in range(4)] == [2, 2, 1, 0]
