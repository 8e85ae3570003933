"""Any life of a job with a limit on what it may cost, and a ledger that comes, goes and corrects itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from mlenv_api.cost import CostAction
from mlenv_operator.core.books import Books, Spending
from mlenv_operator.core.classify import LIVE
from mlenv_operator.core.plan import plan
from mlenv_operator.cost.facts import DOLLAR

from .test_machine import Life

ACTIONS = ("Warn", "Suspend", "Fail")


class Spender(Life):
    """One job whose money is counted."""

    @rule(
        dollars=st.integers(0, 40),
        lacking=st.sampled_from([(False, False), (False, False), (True, True), (False, True)]),
        holds=st.booleans(),
    )
    def the_ledger_publishes(self, dollars: int, lacking: tuple[bool, bool], *, holds: bool) -> None:
        job = Spending(dollars * DOLLAR, 36 * DOLLAR, unpriced=lacking[0], lacking=lacking[1], holds=holds)
        at = self.cluster.now - timedelta(seconds=1)
        self.operator.books = Books(kept=True, as_of=at, job=job)

    @rule(kept=st.booleans())
    def the_ledger_knows_nothing(self, *, kept: bool) -> None:
        self.operator.books = Books(kept=kept)

    @rule()
    def the_ledger_forgets_the_job(self) -> None:
        self.operator.books = replace(self.operator.books, job=None)

    @rule(limit=st.sampled_from([None, 1, 10, 20, 30]), action=st.sampled_from(ACTIONS))
    def somebody_edits_the_limit(self, limit: int | None, action: str) -> None:
        self.cluster.edit(cost={"limit": str(limit), "onExceeded": action} if limit else None)

    def teardown(self) -> None:
        """Come to rest: nobody holds pods whose known cost is as much as a limit that acts."""
        if not hasattr(self, "cluster") or self.cluster.job is None:
            super().teardown()
            return
        self.cluster.refuse = None
        self.nodes_come_back()
        self.kubelets_finish_deletions()
        self.operator.settle()
        world, status = self.operator.world(), self._stored()
        assert not plan(world).move
        limit = world.job.spec.cost if world.job and world.job.spec else None
        if status is not None and status.attempt is not None and limit is not None:
            paid = Decimal(status.cost.amount or 0) if status.cost else Decimal(0)
            acts = limit.on_exceeded is not CostAction.WARN and paid >= Decimal(limit.limit)
            assert not (acts and status.attempt.state in LIVE)
        super().teardown()


TestSpender = Spender.TestCase
TestSpender.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
