"""One ledger behind all views: sums that are kept, charges and explanations agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ledgers import START, attribution, node, pod, world

from mlenv_operator.cost.facts import HOUR, SECOND, Attributed, Category, Mark
from mlenv_operator.ledger.errors import LedgerError
from mlenv_operator.ledger.explaining import Name
from mlenv_operator.ledger.rollups import Amounts

if TYPE_CHECKING:
    from mlenv_operator.ledger.ledger import Ledger


@pytest.fixture
def full(ledger: Ledger) -> Ledger:
    """Three days, with corrections."""
    ledger.observe(world(7, jobs=12, hours=5))
    ledger.observe([pod("long", "j1", node("n0"), gpus=1, released=START + 60 * HOUR)])
    ledger.settle_all(START + 70 * HOUR)
    ledger.observe([Mark("uid-long", START + 30 * HOUR + 5, 1, 1, Category.HANG)])
    ledger.settle_all(START + 70 * HOUR)
    return ledger


@pytest.mark.parametrize("times", [(0, 70), (5, 29), (24, 48), (0, 24), (30, 31), (23, 49), (3, 3)])
def test_days_and_hours_add_up_to_what_the_charges_say(full: Ledger, times: tuple[int, int]) -> None:
    since, until = (START + hour * HOUR for hour in times)
    kept = full.group(["team", "category", "instance_type"], since, until)
    read = full.group(["team", "category", "instance_type", "attempt"], since, until)
    sums: dict[tuple[str, ...], list[int]] = {}
    for key, amounts in read.items():
        into = sums.setdefault(key[:3], [0, 0, 0, 0])
        sums[key[:3]] = [a + b for a, b in zip(into, amounts, strict=True)]
    assert {key: Amounts(*one) for key, one in sums.items()} == kept


def test_every_family_of_counters_and_every_job_adds_up(full: Ledger) -> None:
    whole = full.group(["category"], START, START + 70 * HOUR)
    assert sum(one.committed.cost for one in full.counters("nodes")) == sum(
        one.cost for one in whole.values()
    )
    pods = sum(one.cost for (kind,), one in whole.items() if kind in set(Category))
    for family in ("jobs", "models"):
        assert sum(one.committed.cost for one in full.counters(family)) == pods
    jobs = [f"uid-j{number}" for number in range(12)]
    assert sum(full.job(job, START + 70 * HOUR).cost for job in jobs) == pods
    assert full.imbalance() == 0


def test_an_imbalance_is_found(full: Ledger) -> None:
    with full.database.changing() as connection:
        connection.exec_driver_sql("UPDATE rollup_day SET cost = cost + 3 WHERE kind = 101")
    assert full.imbalance() >= 3


def test_a_job_is_explained_to_the_last_nanodollar(full: Ledger) -> None:
    lines = full.explain("uid-j1")
    cost = full.job("uid-j1", START + 70 * HOUR)
    assert sum(line.amounts.cost for line in lines) == cost.cost
    for line in lines:
        assert line.pod is not None
        assert line.pod.job_uid == "uid-j1"
        assert line.price is not None
        assert line.price.body["source"] == f"table of {line.price.price_id}"
        assert line.reason in {"closed", "mark"}
    hang = next(line for line in lines if line.kind == "hang")
    assert (hang.reason, hang.name.revision, hang.attempt) == ("mark", 1, 1)
    assert hang.intervals == ((START + 30 * HOUR + 5, START + 31 * HOUR),)
    assert full.audit(hang.name) == hang


def test_a_charge_names_its_intervals_pod_price_and_attribution(ledger: Ledger) -> None:
    one = node("a")
    held = pod("p", "j", one, started=START + 60 * SECOND, released=START + 1800 * SECOND, gpus=8)
    marks = [
        Mark(held.uid, START + second * SECOND, number, 1, kind)
        for number, (second, kind) in enumerate(
            [(100, Category.PRODUCTIVE), (200, Category.EVAL), (300, Category.PRODUCTIVE)]
        )
    ]
    ledger.observe([one, held, *marks, Attributed("uid-j", 0, attribution("j"))])
    ledger.settle_all(START + 2 * HOUR)
    lines = [one for one in ledger.explain("uid-j") if one.kind == "productive" and one.attempt == 1]
    assert [(a - START, b - START) for line in lines for a, b in line.intervals] == [
        (100 * SECOND, 200 * SECOND),
        (300 * SECOND, 1800 * SECOND),
    ] * len(lines)
    assert {line.attribution for line in lines} == {attribution("j")}
    assert {line.price.price_id for line in lines if line.price} <= {"p5-0", "p5-1"}
    idle = next(
        line for line in (ledger.audit(Name(one.uid, START, 0, n)) for n in range(2)) if line.kind == "idle"
    )
    assert (idle.pod, idle.attribution) == (None, None)
    with pytest.raises(LedgerError, match="no charge"):
        ledger.audit(Name(one.uid, START, 3, 0))


def test_questions_that_cannot_be_answered_are_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="does not know colour; it knows namespace"):
        ledger.group(["colour"], START, START + HOUR)
    with pytest.raises(LedgerError, match="whole hours"):
        ledger.group(["team"], START, START + 1)
