"""What a status says of money: never more than is known, and never at the price of a write of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from worlds import NOW, Raw, ago, ended_pod, heard, pod, raw_job, raw_status, stamp, world

from mlenv_api.cost import CostStatus
from mlenv_api.protocol import Progress
from mlenv_operator.core.actions import Plan, Urgency
from mlenv_operator.core.books import NO_BOOKS, Books, Spending
from mlenv_operator.core.plan import plan
from mlenv_operator.cost.facts import DOLLAR

if TYPE_CHECKING:
    from mlenv_operator.core.world import World

JOB = Spending(
    3 * DOLLAR + 1, 36 * DOLLAR, (("lost_work", 0), ("productive", 2 * DOLLAR), ("startup", DOLLAR + 1))
)
BOOKS = Books(kept=True, as_of=ago(10), job=JOB)
REST = replace(JOB, rate=0, holds=False)


def running(books: Books, *, cost: Raw | None = None, step: int | None = None, **status: Any) -> World:
    """A job that runs; `step`: of 100, one each second."""
    said: Raw = {}
    if step is not None:
        said["progress"] = Progress(step=step, total_steps=100, steps_per_second=1.0, time=ago(1))
    beats = {index: heard(**said) for index in (0, 1)}
    stored = raw_status("Running", **({"cost": cost} if cost else {}), **status)
    return world(pod(0), pod(1), job=raw_job(status=stored), beats=beats, books=books)


def again(made: Plan, books: Books, **changes: Any) -> World:
    """The same job when that status is stored."""
    assert made.status is not None
    return replace(running(books, **changes), job=world(job=raw_job(status=made.status.wire())).job)


def cost(made: Plan) -> CostStatus | None:
    assert made.status is not None
    return made.status.cost


def test_a_status_tells_what_the_ledger_published() -> None:
    assert cost(plan(running(BOOKS))) == CostStatus(
        amount="3.000000001",
        rate_per_hour="36",
        by_category={"productive": "2", "startup": "1.000000001"},
        as_of=ago(10),
    )


@pytest.mark.parametrize("books", [NO_BOOKS, Books(kept=True), Books(kept=True, as_of=ago(10))])
def test_where_nothing_is_known_nothing_is_said(books: Books) -> None:
    assert cost(plan(running(books))) is None


def test_money_alone_is_no_reason_to_write() -> None:
    first = plan(running(BOOKS))
    more = replace(BOOKS, as_of=NOW, job=replace(JOB, cost=4 * DOLLAR))
    assert plan(again(first, more)).status is None
    written = plan(again(first, more, step=7))
    assert written.status_urgency is Urgency.PROGRESS, "progress is, and takes it along"
    taken = cost(written)
    assert taken is not None
    assert taken.amount == "4"
    assert plan(again(written, more, step=7)).status is None


def test_an_older_publication_takes_nothing_back() -> None:
    stored = {"amount": "5", "asOf": stamp(ago(5))}
    made = cost(plan(running(BOOKS, cost=stored, step=7)))
    assert made is not None
    assert (made.amount, made.as_of) == ("5", ago(5))


def test_without_a_price_the_amount_is_unknown_and_not_nothing() -> None:
    books = replace(BOOKS, job=replace(JOB, cost=0, by_category=(), unpriced=True))
    first = plan(running(books))
    made = cost(first)
    assert made is not None
    assert (made.amount, made.rate_per_hour, made.by_category) == (None, None, {})
    assert "has no price" in made.message
    # It moves to machines with a price: what is counted now is not the whole.
    later = replace(BOOKS, job=replace(JOB, lacking=True))
    part = cost(plan(again(first, later, step=7)))
    assert part is not None
    assert (part.amount, part.rate_per_hour, part.estimated_total) == ("3.000000001", "36", None)
    assert part.message == made.message
    # Nobody has to have written it down before.
    assert cost(plan(running(later, step=7))) == part
    # Once all its time has a price, the whole is known.
    whole = cost(plan(again(first, BOOKS, step=7)))
    assert whole is not None
    assert (whole.amount, whole.message) == ("3.000000001", "")


def test_the_estimate_is_what_the_steps_that_are_left_will_cost() -> None:
    made = cost(plan(running(BOOKS, step=40)))
    assert made is not None
    # 60 s from a second ago: 69 s after what is known, at a cent a second.
    assert made.estimated_total == "3.690000001"
    assert cost(plan(running(BOOKS))).estimated_total is None  # type: ignore[union-attr]


def test_no_amount_is_too_much_for_a_status() -> None:
    huge = Spending(10**18 - 1, 10**18, (("productive", 10**18),))
    made = cost(plan(running(replace(BOOKS, job=huge), step=40)))
    assert made is not None
    assert (made.amount, made.rate_per_hour, made.estimated_total) == ("999999999.999999999", None, None)


class TestAtRest:
    @staticmethod
    def complete(books: Books, *, withheld: bool = False, cost: Raw | None = None) -> Plan:
        status = raw_status("Complete", **({"cost": cost} if cost else {}))
        pods = ended_pod(0, 0, ago_s=30), ended_pod(1, 0, ago_s=20)
        held = frozenset({pods[0].uid} if withheld else ())
        first = plan(world(*pods, job=raw_job(status=status), withheld=held))
        assert first.status is not None
        return plan(world(*pods, job=raw_job(status=first.status.wire()), books=books, withheld=held))

    def test_the_last_sum_is_written_once(self) -> None:
        made = self.complete(replace(BOOKS, job=REST))
        assert made.status_urgency is Urgency.PROGRESS
        last = cost(made)
        assert last is not None
        assert (last.amount, last.final) == ("3.000000001", True)
        later = self.complete(replace(BOOKS, as_of=NOW, job=REST), cost=last.wire())
        assert (later.status, later.requeue_at) == (None, None)

    @pytest.mark.parametrize(
        ("books", "withheld"),
        [
            (replace(BOOKS, job=JOB), False),
            (replace(BOOKS, job=REST), True),
            (replace(BOOKS, as_of=ago(25), job=REST), False),
        ],
        ids=["holds", "withheld", "of before"],
    )
    def test_a_sum_that_may_grow_is_not_the_last(self, books: Books, *, withheld: bool) -> None:
        made = self.complete(books, withheld=withheld, cost={"amount": "2", "asOf": stamp(ago(90))})
        assert made.status is None
        assert made.requeue_at == NOW + timedelta(seconds=30)

    def test_what_never_had_a_price_says_so(self) -> None:
        made = cost(self.complete(replace(BOOKS, job=replace(REST, cost=0, by_category=()))))
        assert made is not None
        assert (made.amount, made.final) == (None, True)
        assert "has a price" in made.message

    def test_what_it_held_without_a_price_is_unknown_in_the_end(self) -> None:
        for job, amount in ((replace(REST, cost=0, by_category=()), None), (REST, "3.000000001")):
            made = cost(self.complete(replace(BOOKS, job=replace(job, lacking=True))))
            assert made is not None
            assert (made.amount, made.final) == (amount, True)
            assert "has no price" in made.message

    def test_a_sum_that_does_not_come_is_not_awaited_for_ever(self) -> None:
        status = raw_status("Complete", since=1201)
        made = plan(world(job=raw_job(status=status), books=Books(kept=True, as_of=NOW)))
        assert made.requeue_at is None

    def test_a_job_that_goes_on_has_no_last_sum(self) -> None:
        final = {"amount": "2", "asOf": stamp(ago(90)), "final": True}
        status = raw_status("Suspended", cost=final)
        made = plan(world(job=raw_job(status=status), books=Books(kept=True, as_of=NOW)))
        assert made.move
        stored = cost(made)
        assert stored is not None
        assert (stored.amount, stored.final) == ("2", False)
