"""What is published beside the counters: live jobs, the ledger's health, who is shown as others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from ledgers import START, Book, attribution, node, pod, world

from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND, Attributed, NodeMark, NodeUse
from mlenv_operator.ledger import admission, exports, live, rollups
from mlenv_operator.ledger.exports import MemoryMarks
from mlenv_operator.ledger.ledger import Ledger
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from mlenv_operator.cost.facts import Fact, Micros
    from mlenv_operator.ledger.auditing import Health
    from mlenv_operator.ledger.exports import Exposition, Series
    from mlenv_operator.ledger.live import LiveJob

MINUTE = 60 * SECOND


@pytest.fixture
def marks() -> MemoryMarks:
    return MemoryMarks()


def health(exposition: Exposition) -> Health:
    assert exposition.health is not None
    return exposition.health


def spent(exposition: Exposition, family: str = rollups.JOBS) -> dict[str, Series]:
    return {one.labels["team"]: one for one in exposition.families[family]}


@pytest.mark.parametrize("seed", range(3))
def test_a_live_job_is_shown_with_what_the_ledger_says_of_it(
    ledger: Ledger, marks: MemoryMarks, seed: int
) -> None:
    ledger.observe(world(seed, nodes=4, jobs=10, hours=5))
    for now in (START + 47 * MINUTE, START + 90 * MINUTE, START + 100 * MINUTE):
        ledger.settle_all(now)
        jobs = ledger.publish(marks, now).jobs
        assert jobs
        for one in jobs:
            told = ledger.job(one.uid, now)
            assert (one.cost, one.rate) == (told.cost, told.rate)
            by_category = {kind: of.cost for kind, of in told.by_category.items() if of.cost}
            assert dict(one.by_category) == by_category
            assert one.gpu_micros == sum(amounts.gpu_micros for amounts in told.by_category.values())


def test_a_job_is_shown_a_while_longer_than_it_lives_and_then_no_more(
    ledger: Ledger, marks: MemoryMarks
) -> None:
    one, end = node("a"), START + 55 * MINUTE
    ledger.observe([one, Attributed("uid-j", 0, attribution("j"))])
    ledger.observe([pod("p", "j", one, gpus=8, finished=end, released=end)])
    for now, gone in ((end - MINUTE, False), (end + 14 * MINUTE, False), (end + live.LINGER, True)):
        ledger.settle_all(now)
        jobs = ledger.publish(marks, now).jobs
        assert [job.attribution.job for job in jobs] == ([] if gone else ["j"])
    (last,) = ledger.publish(marks, end + 14 * MINUTE).jobs
    assert (last.gpus, last.rate, last.instance_type, last.since) == (0, 0, "", START + 7 * SECOND)
    assert last.cost == ledger.job("uid-j", end + 14 * MINUTE).cost


def test_a_job_on_machines_of_two_types_and_one_without_a_price(
    ledger: Ledger, marks: MemoryMarks, book: Book
) -> None:
    del book.prices["g6"]
    one, two = node("a"), node("b", instance_type="g6")
    ledger.observe([one, two, Attributed("uid-j", 0, attribution("j"))])
    ledger.observe([pod("p", "j", one, gpus=8), pod("q", "j", two, gpus=8)])
    (job,) = ledger.publish(marks, START + 30 * MINUTE).jobs
    assert (job.instance_type, job.capacity_type, job.gpus, job.unpriced) == (
        live.MIXED,
        "on-demand",
        16,
        True,
    )
    assert job.cost > 0


def test_a_job_that_let_go_of_a_machine_without_a_price_is_known_by_it(
    ledger: Ledger, marks: MemoryMarks, book: Book
) -> None:
    del book.prices["g6"]
    one, two = node("a", instance_type="g6"), node("b")

    def shown(now: Micros, *told: Fact) -> tuple[LiveJob, tuple[bool, Micros]]:
        ledger.observe(told)
        ledger.settle_all(now)
        (job,) = ledger.publish(marks, now).jobs
        (again,) = Ledger(ledger.database, book).publish(marks, now).jobs
        assert again == job, "a new leader knows it too"
        assert job.unpriced_micros == ledger.job("uid-j", now).unpriced
        return job, (job.unpriced, job.unpriced_micros)

    held = pod("p", "j", one, gpus=8, scheduled=START)
    whose = Attributed("uid-j", 0, attribution("j"))
    job, lacks = shown(START + 10 * MINUTE, one, two, whose, held)
    assert (job.cost, lacks) == (0, (True, 10 * MINUTE))
    end = START + 20 * MINUTE
    job, lacks = shown(START + 25 * MINUTE, replace(held, finished=end, released=end))
    assert (job.cost, lacks) == (0, (False, 20 * MINUTE))
    # Its hour closes, and what the job holds then has a price.
    job, lacks = shown(START + 90 * MINUTE, pod("q", "j", two, scheduled=START + HOUR))
    assert lacks == (False, 20 * MINUTE)
    assert job.cost > 0
    assert ledger.imbalance() == 0
    with ledger.database.changing() as connection:
        connection.exec_driver_sql("UPDATE job_unpriced SET held = held + 7")
    assert ledger.imbalance() == 7
    with ledger.database.changing() as connection:
        connection.exec_driver_sql("UPDATE job_unpriced SET held = held - 7")
    # A price that comes later takes it away.
    book.prices["g6"] = 3 * DOLLAR
    late = START + 3 * HOUR
    assert ledger.reprice(late) == 1
    assert shown(late)[1] == (False, 0)
    assert ledger.imbalance() == 0


def test_whether_a_job_tells_of_its_steps_is_known_once_one_of_its_pods_does(
    ledger: Ledger, marks: MemoryMarks
) -> None:
    one, now = node("a"), START + 30 * MINUTE
    ledger.observe([one, Attributed("uid-j", 0, attribution("j"))])
    silent, tells = pod("p", "j", one, gpus=4), pod("q", "j", one, gpus=4)
    ledger.observe([silent, tells])
    assert [job.telemetry for job in ledger.publish(marks, now).jobs] == [False]
    ledger.observe([replace(tells, telemetry=True)])
    assert [job.telemetry for job in ledger.publish(marks, now).jobs] == [True]


def test_missing_prices_are_told_until_they_are_known(ledger: Ledger, marks: MemoryMarks, book: Book) -> None:
    del book.prices["p5"]
    ledger.observe([node("a")])
    assert health(ledger.publish(marks, START + 30 * MINUTE)).unpriced == {("p5", "on-demand"): 30 * MINUTE}
    ledger.settle_all(START + 2 * HOUR)
    late = START + 2 * HOUR
    assert health(ledger.publish(marks, late)).unpriced == {("p5", "on-demand"): 2 * HOUR}
    # Another process finds it again.
    again = Ledger(ledger.database, book)
    assert health(again.publish(marks, late)).unpriced == {("p5", "on-demand"): 2 * HOUR}
    book.prices["p5"] = 3 * DOLLAR
    assert ledger.look_again(START, late, "price", only_unpriced=True) == 1
    assert health(ledger.publish(marks, late)).corrections_due == 1
    ledger.settle_all(late)
    after = health(ledger.publish(marks, late))
    assert (after.unpriced, after.corrections_due, after.corrected["price"]) == ({}, 0, 1)


def test_the_health_of_a_ledger_that_is_well(ledger: Ledger, marks: MemoryMarks) -> None:
    now = START + 100 * MINUTE
    for seed in range(3):
        ledger.observe(world(seed, jobs=4))
        ledger.settle_all(now)
        found = health(ledger.publish(marks, now))
        assert found.imbalance == 0
        assert found.settled_until == START + HOUR
        assert found.open_nodes == 3
    assert sum(found.corrected.values()) > 0


def test_an_imbalance_is_seen_when_it_comes(ledger: Ledger, marks: MemoryMarks) -> None:
    ledger.observe([node("a"), node("b")])
    ledger.publish(marks, START)
    with ledger.database.changing() as connection:
        connection.exec_driver_sql("UPDATE counter SET cost = cost + 5")
    ledger.settle_all(START + 2 * HOUR)
    assert health(ledger.publish(marks, START + 2 * HOUR)).imbalance == 0
    with ledger.database.changing() as connection:
        connection.exec_driver_sql("UPDATE counter SET cost = cost + 5")
    assert health(ledger.publish(marks, START + 2 * HOUR)).imbalance > 0


def test_a_series_is_fresh_until_something_of_it_was_shown(ledger: Ledger, marks: MemoryMarks) -> None:
    one = node("a")
    ledger.observe([one, pod("p", "j", one, gpus=8), Attributed("uid-j", 0, attribution("j"))])
    first, second = (ledger.publish(marks, START + minutes * MINUTE) for minutes in (1, 2))
    assert [series.fresh for series in first.families[rollups.JOBS]] == [True]
    assert [series.fresh for series in second.families[rollups.JOBS]] == [False]
    # What somebody else has shown is not fresh to the next leader.
    third = Ledger(ledger.database, ledger.prices).publish(marks, START + 3 * MINUTE)
    assert [series.fresh for series in third.families[rollups.JOBS]] == [False]


def test_who_comes_too_late_is_shown_with_the_others_for_good(
    ledger: Ledger, marks: MemoryMarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LIMITS", {**admission.LIMITS, rollups.JOBS: 3})
    one = node("a", gpus=64)
    ledger.observe([one])
    before: dict[str, int] = {}
    for number, team in enumerate(("d", "c", "b", "a", "e")):
        ledger.observe([Attributed(f"uid-{team}", 0, attribution(team, team))])
        ledger.observe([pod(team, team, one, scheduled=START + number * MINUTE)])
        shown = ledger.publish(marks, START + (number + 1) * MINUTE)
        costs = {name: series.cost for name, series in spent(shown).items()}
        assert all(costs[name] >= cost for name, cost in before.items())
        before = costs
    assert sorted(before) == [admission.OTHER, "b", "c", "d"]
    assert shown.overflow == {rollups.JOBS: 1, rollups.MODELS: 0, rollups.NODES: 0}
    other = spent(shown)[admission.OTHER].labels
    assert (other["category"], other["capacity_type"]) == ("startup", "on-demand")
    assert {other[name] for name in ("namespace", "use_case", "instance_type")} == {admission.OTHER}
    # Sums stay complete, and a larger bound takes nobody out of the others: that would go back.
    assert sum(before.values()) == sum(series.cost for series in shown.families[rollups.MODELS])
    monkeypatch.setattr(admission, "LIMITS", {**admission.LIMITS, rollups.JOBS: 100})
    ledger.settle_all(START + 2 * HOUR)
    late = ledger.publish(marks, START + 2 * HOUR)
    assert sorted(spent(late)) == sorted(before)
    assert all(spent(late)[name].cost >= cost for name, cost in before.items())
    assert (ledger.imbalance(), health(late).imbalance) == (0, 0)
    exports.reset(ledger.database, marks, START + 2 * HOUR)
    anew = spent(ledger.publish(marks, START + 2 * HOUR + MINUTE))
    assert {"a", "b", "c", "d", "e"} <= anew.keys()
    assert anew[admission.OTHER].cost == 0
    # They overflow once more, and find the others of the first time.
    monkeypatch.setattr(admission, "LIMITS", {**admission.LIMITS, rollups.JOBS: 2})
    ledger.observe([Attributed("uid-f", 0, attribution("f", "f")), pod("f", "f", one)])
    again = ledger.publish(marks, START + 2 * HOUR + 2 * MINUTE)
    assert again.overflow[rollups.JOBS] == 1
    assert all(spent(again)[name].cost >= series.cost for name, series in anew.items())


def test_the_next_leader_counts_corrections_of_its_own(ledger: Ledger, marks: MemoryMarks) -> None:
    one = node("a")
    ledger.observe([one, held := pod("p", "j", one)])
    ledger.settle_all(START + 2 * HOUR)
    ledger.publish(marks, START + 2 * HOUR)
    ledger.observe([replace(held, finished=START + MINUTE, released=START + MINUTE)])
    ledger.settle_all(START + 2 * HOUR)
    assert health(ledger.publish(marks, START + 2 * HOUR)).corrected["pod"] == 1
    heir = Ledger(ledger.database, ledger.prices)
    heir.begin(Writer(2, "heir"))
    assert health(heir.publish(marks, START + 2 * HOUR)).corrected["pod"] == 0
    heir.observe([NodeMark(one.uid, START + MINUTE, NodeUse.DRAINING)])
    heir.settle_all(START + 2 * HOUR)
    assert health(heir.publish(marks, START + 2 * HOUR)).corrected["node mark"] == 1
