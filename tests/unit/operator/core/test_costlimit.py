"""spec.cost: what it does at the limit, what it says, and that it is never ignored in silence."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from worlds import NOW, Raw, ago, heard, pod, raw_job, raw_status, stamp, world

from mlenv_api.protocol import LauncherPhase
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.actions import CreatePod, DeletePod, Plan, Urgency
from mlenv_operator.core.books import NO_BOOKS, Books, Spending
from mlenv_operator.core.plan import plan
from mlenv_operator.cost.facts import DOLLAR

if TYPE_CHECKING:
    from mlenv_api.trainingjob import Condition
    from mlenv_operator.core.world import World

BOOKS = Books(kept=True, as_of=ago(10), job=Spending(100 * DOLLAR, 36 * DOLLAR))


def books(dollars: int, **job: Any) -> Books:
    return replace(BOOKS, job=Spending(dollars * DOLLAR, 36 * DOLLAR, **job))


def running(
    action: str, known: Books, *, limit: str = "100", status: Raw | None = None, **spec: Any
) -> World:
    if limit:
        spec["cost"] = {"limit": limit, "onExceeded": action}
    stored = raw_job(status=status or raw_status("Running"), **spec)
    beats = {index: heard() for index in (0, 1)}
    return world(pod(0), pod(1), job=stored, beats=beats, books=known)


def after(made: Plan, action: str, known: Books, **more: Any) -> Plan:
    """The next look, when that status is stored."""
    assert made.status is not None
    return plan(running(action, known, status=made.status.wire(), **more))


def said(made: Plan, type_: str = "CostExceeded") -> Condition | None:
    assert made.status is not None
    return next((one for one in made.status.conditions if one.type == type_), None)


def told(made: Plan, type_: str = "CostExceeded") -> tuple[str, str, str]:
    one = said(made, type_)
    assert one is not None
    return one.status, one.reason, one.message


def state(made: Plan) -> AttemptState | None:
    assert made.status is not None
    return made.status.attempt.state if made.status.attempt else None


@pytest.mark.parametrize("action", ["Warn", "Suspend", "Fail"])
def test_below_the_limit_nothing_happens_and_it_is_said_to_be_watched(action: str) -> None:
    made = plan(running(action, books(99)))
    assert not made.move
    assert told(made)[:2] == ("False", "WithinCostLimit")
    assert "limit of 100 USD (spec.cost.limit) is watched" in told(made)[2]
    assert not made.events
    assert made.requeue_at is not None
    assert made.requeue_at <= NOW + timedelta(seconds=30), "no other change tells when it is reached"
    assert after(made, action, replace(books(99, by_category=(("init", 1),)), as_of=NOW)).status is None


def test_without_a_limit_nothing_is_said() -> None:
    made = plan(running("", books(10**6), limit=""))
    assert said(made) is None
    assert not made.move


def test_warn_says_it_once_and_training_goes_on() -> None:
    made = plan(running("Warn", books(100)))
    assert (made.move, made.status_urgency) == (False, Urgency.CONDITION)
    status, reason, message = told(made)
    assert (status, reason) == ("True", "CostExceeded")
    assert message.startswith(
        "the job has cost 100 USD, and the limit of 100 USD (spec.cost.limit) is reached."
    )
    assert "raise spec.cost.limit" in message
    assert [(event.reason, event.warning) for event in made.events] == [("CostExceeded", True)]
    assert after(made, "Warn", books(140)).status is None, "its words stay as they were"
    # What is reached stays reached while nobody edits the spec, also when a correction lowers the bill.
    assert after(made, "Warn", books(90)).status is None


def test_a_raised_limit_is_watched_again() -> None:
    made = plan(running("Warn", books(100)))
    raised = after(made, "Warn", books(101), limit="200", generation=2)
    assert told(raised)[:2] == ("False", "WithinCostLimit")
    assert said(after(made, "Warn", books(101), limit="", generation=2)) is None


def test_fail_ends_the_job_for_good() -> None:
    made = plan(running("Fail", books(101)))
    assert state(made) is AttemptState.FAILED
    assert told(made, "Failed")[:2] == ("True", "CostExceeded")
    assert told(made, "Stalled")[0] == "True"
    assert told(made)[:2] == ("True", "CostExceeded")
    assert "create it anew with a higher limit" in told(made)[2]
    assert [event.reason for event in made.events] == ["CostExceeded"]
    assert made.status is not None
    assert made.status.cost is not None
    assert made.status.cost.amount == "101", "the move tells what it was decided by"
    later = after(made, "Fail", books(101), limit="999", generation=2)
    assert state(later) is AttemptState.FAILED
    assert told(later)[0] == "True"


def test_what_is_complete_does_not_fail_by_its_bill() -> None:
    done = {index: heard(phase=LauncherPhase.SUCCEEDED) for index in (0, 1)}
    made = plan(
        replace(running("Fail", books(101)), beats={f"uid-{index}-0": one for index, one in done.items()})
    )
    assert state(made) is AttemptState.COMPLETE
    assert told(made)[2].endswith("is reached. It has ended")


class TestSuspend:
    def test_ranks_are_told_to_save_and_pods_go(self) -> None:
        made = plan(running("Suspend", books(100)))
        assert state(made) is AttemptState.SUSPENDING
        assert [event.reason for event in made.events] == ["CostExceeded"]
        assert (
            "the cost limit (spec.cost.limit) is reached: pods are being released"
            in told(made, "PodsReady")[2]
        )
        released = after(made, "Suspend", books(100))
        assert {type(one) for one in released.actions} == {DeletePod}

    @staticmethod
    def suspended(**cost: Any) -> Raw:
        """As stored once the pods are gone."""
        paid = {"amount": "101", "asOf": stamp(ago(60)), "final": True, **cost}
        made = plan(
            world(
                job=raw_job(
                    status=raw_status("Suspending", cost=paid),
                    cost={"limit": "100", "onExceeded": "Suspend"},
                ),
                books=replace(BOOKS, job=None),
            )
        )
        assert made.status is not None
        assert made.status.phase == "Suspended"
        return made.status.wire()

    def look(self, known: Books, stored: Raw, *, generation: int = 1, **spec: Any) -> Plan:
        return plan(world(job=raw_job(status=stored, generation=generation, **spec), books=known))

    def test_it_stays_suspended_and_says_what_to_do(self) -> None:
        stored = self.suspended()
        held = {one["type"]: one for one in stored["conditions"]}
        assert held["Suspended"]["status"] == "True"
        assert "raise spec.cost.limit, or remove spec.cost, to resume" in held["Suspended"]["message"]
        assert held["Stalled"]["status"] == "False"
        # Also when the ledger has forgotten it, is away, or there is none any more.
        for known in (replace(BOOKS, job=None), Books(kept=True), NO_BOOKS, books(90)):
            made = self.look(known, stored, cost={"limit": "100", "onExceeded": "Suspend"})
            assert (made.move, made.actions) == (False, ())

    @pytest.mark.parametrize(
        "spec",
        [
            {},
            {"cost": {"limit": "101.5", "onExceeded": "Suspend"}},
            {"cost": {"limit": "100", "onExceeded": "Warn"}},
        ],
        ids=["removed", "raised", "warn"],
    )
    def test_it_goes_on_when_the_limit_is_raised_removed_or_only_warns(self, spec: Raw) -> None:
        made = self.look(replace(BOOKS, job=None), self.suspended(), generation=2, **spec)
        assert state(made) is AttemptState.ASSEMBLING
        assert made.status is not None
        assert any(
            isinstance(one, CreatePod)
            for one in self.look(BOOKS, made.status.wire(), generation=2, **spec).actions
        )

    def test_a_limit_that_is_raised_while_a_new_leader_knows_nothing_yet_is_obeyed_for_good(self) -> None:
        spec = {"cost": {"limit": "200", "onExceeded": "Suspend"}}
        view = world(job=raw_job(status=self.suspended(), generation=2, **spec), books=Books(kept=True))
        made = plan(replace(view, listening_since=ago(5)))
        assert state(made) is AttemptState.ASSEMBLING
        assert told(made)[:2] == ("False", "WithinCostLimit")
        assert made.status is not None
        assert not self.look(books(101), made.status.wire(), generation=2, **spec).move

    @pytest.mark.parametrize("limit", ["100.5", "101"])
    def test_an_edit_that_raises_it_too_little_changes_nothing(self, limit: str) -> None:
        spec = {"cost": {"limit": limit, "onExceeded": "Suspend"}}
        made = self.look(replace(BOOKS, job=None), self.suspended(), generation=2, **spec)
        assert not made.move
        assert told(made)[0] == "True"

    def test_a_user_may_suspend_it_besides(self) -> None:
        spec = {"cost": {"limit": "500", "onExceeded": "Suspend"}, "suspend": True}
        made = self.look(replace(BOOKS, job=None), self.suspended(), generation=2, **spec)
        assert not made.move


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (NO_BOOKS, "the operator keeps no ledger. Ask the platform team to set ledger.type"),
        (Books(kept=True, problem="it was restored"), "the ledger shows nothing: it was restored. Ask"),
        (Books(kept=True), "the ledger has not been read yet"),
        (
            replace(books(5), as_of=ago(901)),
            "the ledger has said nothing since 2026-01-01 11:44 UTC. Ask the",
        ),
        (books(5, unpriced=True), "part of what the job held has no price"),
    ],
    ids=["no ledger", "hidden", "never read", "stale", "no price"],
)
@pytest.mark.parametrize("action", ["Warn", "Suspend", "Fail"])
def test_a_limit_that_nobody_can_watch_says_so(known: Books, why: str, action: str) -> None:
    made = plan(running(action, known))
    assert not made.move
    assert told(made)[:2] == ("Unknown", "CostUnknown")
    assert f"the limit of 100 USD (spec.cost.limit) cannot be watched: {why}" in told(made)[2]
    assert [(event.reason, event.warning) for event in made.events] == [("CostUnknown", True)]
    assert after(made, action, known).status is None


def test_what_is_known_to_be_too_much_is_too_much_whatever_else_is_not_known() -> None:
    assert state(plan(running("Fail", books(100, unpriced=True)))) is AttemptState.FAILED


def test_a_new_leader_says_nothing_new_in_its_first_moments() -> None:
    made = plan(running("Suspend", books(99)))
    assert made.status is not None
    young = replace(running("Suspend", Books(kept=True), status=made.status.wire()), listening_since=ago(60))
    assert plan(young).status is None
    assert said(plan(replace(running("Suspend", Books(kept=True)), listening_since=ago(60)))) is None
