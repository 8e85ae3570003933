"""A job whose money runs out: over suspensions, edits and new operators, as its owner sees it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from fake_operator import restarted
from runs import Run

from mlenv_api.protocol import Order
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.books import NO_BOOKS, Books, Spending
from mlenv_operator.cost.facts import DOLLAR

if TYPE_CHECKING:
    from fake_cluster import Raw


def limit(amount: str, action: str = "Suspend") -> Raw:
    return {"limit": amount, "onExceeded": action}


def spend(run: Run, dollars: int, *, holds: bool = True) -> Run:
    """The ledger publishes, half a minute later."""
    job = Spending(dollars * DOLLAR, 36 * DOLLAR if holds else 0, holds=holds)
    run.after(30)
    at = run.cluster.now - timedelta(seconds=1)
    run.operator.books = Books(kept=True, as_of=at, job=job)
    return run.beat()


def let_go(run: Run) -> Run:
    for name in run.names():
        run.cluster.finish_deletion(name)
    return run.settle()


def test_at_the_limit_ranks_save_pods_go_and_a_higher_limit_brings_them_back() -> None:
    run = Run(cost=limit("100"))
    run.operator.books = Books(kept=True, as_of=run.cluster.now)
    run.running()
    assert run.condition("CostExceeded")[:2] == ("False", "WithinCostLimit")
    launchers = list(run.cluster.launchers.values())
    assert spend(run, 99).state is AttemptState.RUNNING
    before = len(run.cluster.writes)
    assert spend(run, 99).state is AttemptState.RUNNING
    assert len(run.cluster.writes) == before, "money alone is not written"

    spend(run, 100)
    assert run.state is AttemptState.SUSPENDING
    assert [one.told.order for one in launchers if one.told] == [Order.DRAIN, Order.DRAIN]
    run.operator = restarted(run.operator)
    run.operator.books = NO_BOOKS
    let_go(run)
    assert (run.status.phase, run.names()) == ("Suspended", [])
    assert run.condition("CostExceeded")[:2] == ("True", "CostExceeded")
    assert run.cluster.writes.count("event CostExceeded") == 1

    spend(run, 101, holds=False)
    assert run.status.cost is not None
    assert (run.status.cost.amount, run.status.cost.final) == ("101", True)
    before = len(run.cluster.writes)
    assert len(spend(run, 101, holds=False).cluster.writes) == before

    # Neither a user's suspension nor a limit that is too low brings it back.
    for spec in ({"suspend": True}, {"suspend": False}, {"cost": limit("101")}):
        run.cluster.edit(**spec)
        run.settle()
        assert (run.status.phase, run.names()) == ("Suspended", [])
    run.cluster.edit(cost=limit("200"))
    run.running()
    assert run.state is AttemptState.RUNNING
    assert run.status.attempt is not None
    assert run.status.attempt.number == 2
    assert run.condition("CostExceeded")[0] == "False"
    assert run.status.cost is not None
    assert not run.status.cost.final
    assert run.status.restarts.total == 0


def test_a_limit_that_is_raised_while_pods_go_is_obeyed() -> None:
    run = spend(Run(cost=limit("100")).running(), 100)
    run.cluster.edit(cost=None)
    let_go(run)
    run.running()
    assert run.state is AttemptState.RUNNING


@pytest.mark.parametrize(("action", "state"), [("Warn", AttemptState.RUNNING), ("Fail", AttemptState.FAILED)])
def test_other_limits_warn_or_fail(action: str, state: AttemptState) -> None:
    run = spend(Run(cost=limit("100", action)).running(), 150)
    assert run.state is state
    spend(run, 160)
    assert run.condition("CostExceeded")[2].startswith("the job has cost 150 USD")
    assert run.cluster.writes.count("event CostExceeded") == 1


def test_a_limit_may_come_late_and_go() -> None:
    run = spend(Run().running(), 150)
    run.cluster.edit(cost=limit("100"))
    assert run.settle().state is AttemptState.SUSPENDING
    let_go(run)
    assert run.status.phase == "Suspended"
    run.cluster.edit(cost=limit("100", "Warn"))
    run.running()
    assert run.state is AttemptState.RUNNING
    assert run.condition("CostExceeded")[0] == "True"
