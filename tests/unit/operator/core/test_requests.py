"""Checkpoints that users order by annotation."""

from __future__ import annotations

from typing import Any

import pytest
from fake_cluster import checkpoint
from worlds import heard, pod, raw_job, raw_status, world

from mlenv_api.checkpoints import CheckpointRequest
from mlenv_api.names import ANNOTATION_CHECKPOINT
from mlenv_operator.core.actions import Event, Plan, Urgency
from mlenv_operator.core.plan import plan

NOON = "2026-01-31T12:00:00Z"


def planned(
    said: str | None, *, state: str = "Running", sealed: Any = None, status: Any = None, **spec: Any
) -> Plan:
    """What follows when the annotation says this, and both launchers tell of this checkpoint."""
    job = raw_job(status=raw_status(state, **(status or {})), **spec)
    if said is not None:
        job["metadata"]["annotations"] = {ANNOTATION_CHECKPOINT: said}
    beats = {index: heard(sealed=sealed) for index in (0, 1)}
    return plan(world(pod(0), pod(1), job=job, beats=beats))


def request(made: Plan) -> CheckpointRequest | None:
    assert made.status is not None
    return made.status.checkpoint.request if made.status.checkpoint else None


def stored(**more: Any) -> dict[str, Any]:
    return {"checkpoint": {"request": {"requestedAt": NOON, **more}}}


def orders(made: Plan) -> list[Event]:
    return [one for one in made.events if one.reason in ("CheckpointSealed", "InvalidRequest")]


def test_an_order_is_stored_at_once_and_served_by_nothing_that_was_there() -> None:
    made = planned(NOON, sealed=checkpoint(40, 1))
    assert request(made) == CheckpointRequest(requested_at=NOON)
    assert (made.status_urgency, made.move, orders(made)) == (Urgency.CONDITION, False, [])


def test_it_is_served_by_what_is_sealed_next() -> None:
    made = planned(NOON, sealed=checkpoint(40, 1), status=stored())
    served = request(made)
    assert served is not None
    assert served.sealed is not None
    assert (served.sealed.step, served.sealed.digest) == (40, checkpoint(40, 1).digest)
    (event,) = orders(made)
    assert event.message == f"the checkpoint ordered at {NOON} is that of step 40, sealed by attempt 1"
    assert not event.warning


def test_what_was_sealed_later_changes_nothing_of_it() -> None:
    first = {"step": 40, "attempt": 1, "digest": checkpoint(40, 1).digest}
    made = planned(NOON, sealed=checkpoint(60, 1), status=stored(sealed=first))
    served = request(made)
    assert served is not None
    assert served.sealed is not None
    assert served.sealed.step == 40
    assert orders(made) == []


def test_what_an_older_attempt_saved_does_not_serve_it() -> None:
    status = {**stored(), "attempt": {"number": 2}}
    job = raw_job(status=raw_status("Running", **status))
    job["metadata"]["annotations"] = {ANNOTATION_CHECKPOINT: NOON}
    beats = {index: heard(attempt=2, sealed=checkpoint(40, 1)) for index in (0, 1)}
    made = plan(world(pod(0), pod(1), job=job, beats=beats))
    assert request(made) == CheckpointRequest(requested_at=NOON)


@pytest.mark.parametrize("known", [stored(), stored(message="no"), {}])
def test_another_text_is_another_order(known: dict[str, Any]) -> None:
    assert request(planned("2026-01-31T12:00:00.5+01:00", status=known)) == CheckpointRequest(
        requested_at="2026-01-31T12:00:00.5+01:00"
    )


def test_without_the_annotation_no_order_stands() -> None:
    assert request(planned(None, status=stored())) is None


@pytest.mark.parametrize(
    "said", ["", "now", "2026-01-31", "2026-13-31T12:00:00Z", "2026-01-31T12:00:00", "x" * 10_000, "1\n2"]
)
def test_what_is_no_time_orders_nothing_and_is_said_once(said: str) -> None:
    made = planned(said)
    refused = request(made)
    assert refused is not None
    assert "no checkpoint is ordered. Set it to one such as 2026-01-31T12:00:00Z" in refused.message
    (event,) = orders(made)
    assert (event.reason, event.warning, event.message) == ("InvalidRequest", True, refused.message)
    assert made.status is not None
    again = planned(said, status={"checkpoint": made.status.checkpoint.wire()})  # type: ignore[union-attr]
    assert orders(again) == []


def test_where_no_launcher_runs_nobody_can_obey() -> None:
    refused = request(planned(NOON, launcher="None"))
    assert refused is not None
    assert refused.message.startswith("launcher: None")


def test_what_nobody_could_obey_stands_once_somebody_can() -> None:
    refused = request(planned(NOON, launcher="None"))
    assert refused is not None
    assert request(planned(NOON, status=stored(message=refused.message))) == CheckpointRequest(
        requested_at=NOON
    )


@pytest.mark.parametrize("state", ["Complete", "Failed"])
def test_a_job_that_is_over_takes_no_orders(state: str) -> None:
    made = planned(NOON, state=state)
    assert made.status is None or request(made) is None


def test_an_order_stands_over_the_end_of_an_attempt_that_serves_it_or_not() -> None:
    for sealed, step in ((None, None), (checkpoint(40, 1), 40)):
        job = raw_job(status=raw_status("Running", **stored()))
        job["metadata"]["annotations"] = {ANNOTATION_CHECKPOINT: NOON}
        made = plan(world(pod(0), job=job, beats={0: heard(sealed=sealed)}))  # pod 1 is gone
        assert made.move
        kept = request(made)
        assert kept is not None
        assert (kept.sealed and kept.sealed.step) == step
        assert [one.reason for one in orders(made)] == (["CheckpointSealed"] if step else [])
