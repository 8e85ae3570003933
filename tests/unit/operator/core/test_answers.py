from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fake_cluster import checkpoint
from worlds import ago, evidence, heard, pod, raw_job, raw_status, stamp

from mlenv_api.protocol import Answer, LauncherPhase, Order, Origin
from mlenv_operator.core.answers import answer, matters, next_beat_s, undecided
from mlenv_operator.core.project import parse_job
from mlenv_operator.core.world import BeatView, CoreSettings


def told(state: str, said: BeatView | None = None, *, who: Any = None, **status: Any) -> Answer:
    job = parse_job(raw_job(status=raw_status(state, **status)))
    return answer(job, who or pod(1), said or heard(), 5)


def test_a_running_world_is_told_as_it_is_stored() -> None:
    said = told("Running")
    assert (said.term, said.attempt, said.order) == (5, 1, Order.RUN)
    assert said.world is not None
    assert (said.world.num_nodes, said.world.node_rank, said.world.num_proc_per_node) == (2, 1, 2)
    assert (said.world.master_addr, said.world.master_port) == ("10.0.0.1", 29400)


def test_an_assembling_attempt_has_no_world_yet() -> None:
    said = told("Assembling", attempt={"number": 3})
    assert (said.attempt, said.order, said.world) == (3, Order.RUN, None)


@pytest.mark.parametrize(
    ("state", "order"),
    [
        ("Queued", Order.STOP),
        ("Suspending", Order.DRAIN),
        ("Suspended", Order.DRAIN),
        ("Complete", Order.STOP),
        ("Failed", Order.STOP),
    ],
)
def test_other_states_have_their_orders(state: str, order: Order) -> None:
    said = told(state)
    assert (said.order, said.world) == (order, None)


@pytest.mark.parametrize(("index", "incarnation"), [(1, 1), (2, 0), (-1, 0)])
def test_a_pod_of_no_slot_is_stopped(index: int, incarnation: int) -> None:
    assert told("Running", who=pod(index, incarnation)).order is Order.STOP


def test_a_pod_that_is_being_deleted_saves_what_it_can() -> None:
    assert told("Running", who=pod(1, deletionTimestamp=stamp(ago(0)))).order is Order.DRAIN


def test_the_first_pod_is_told_what_its_image_was_resolved_to() -> None:
    image = "registry/ranker@sha256:77aa"
    assert [told("Running", who=replace(pod(one), image=image)).image for one in (0, 1)] == [image, ""]


def ordered(**more: Any) -> dict[str, Any]:
    return {"request": {"requestedAt": "2026-01-31T12:00:00Z", **more}}


def test_a_checkpoint_that_is_ordered_is_asked_for_until_one_is_sealed() -> None:
    said = told("Running", checkpoint=ordered())
    assert (said.order, said.ordered) == (Order.CHECKPOINT, "2026-01-31T12:00:00Z")
    assert said.world == told("Running").world is not None
    done = {"step": 3, "attempt": 1, "digest": "a" * 64}
    for record in (ordered(sealed=done), ordered(message="it makes no sense")):
        said = told("Running", checkpoint=record)
        assert (said.order, said.ordered) == (Order.RUN, "")


def test_an_order_waits_for_ranks_and_yields_to_a_drain() -> None:
    assert told("Assembling", checkpoint=ordered()).order is Order.RUN
    assert told("Suspending", checkpoint=ordered()).order is Order.DRAIN
    leaving = pod(1, deletionTimestamp=stamp(ago(0)))
    assert told("Running", who=leaving, checkpoint=ordered()).order is Order.DRAIN


def test_a_failure_is_held_for_its_decision_while_a_checkpoint_is_ordered() -> None:
    beat = heard(evidence(), phase=LauncherPhase.FAILED)
    assert undecided(pod(1), beat.beat, told("Running", beat, checkpoint=ordered()))


def test_before_the_first_attempt_there_is_nothing_to_run() -> None:
    said = answer(parse_job(raw_job()), pod(0), heard(), 5)
    assert (said.attempt, said.order, said.world) == (0, Order.RUN, None)


@pytest.mark.parametrize(("protocol", "helps"), [(0, "newer mlenv"), (999, "upgrade the operator")])
def test_a_launcher_of_an_unknown_protocol_is_told_so(protocol: int, helps: str) -> None:
    said = told("Running", heard(protocol=protocol))
    assert (said.attempt, said.world, said.next_beat_seconds) == (0, None, 60)
    assert helps in said.message


def test_evidence_is_acknowledged_once_its_attempt_is_over() -> None:
    both = heard(evidence(sequence=4, attempt=1), evidence(sequence=5, attempt=2))
    assert told("Running", both).stored_evidence == 0
    assert told("Assembling", both, attempt={"number": 2}).stored_evidence == 4
    assert told("Assembling", both, attempt={"number": 3}).stored_evidence == 5
    assert told("Failed", both).stored_evidence == 5


def test_evidence_of_a_launcher_that_knew_no_attempt_is_judged_by_time() -> None:
    before = heard(evidence(attempt=0, time=ago(200)), attempt=0)
    since = heard(evidence(attempt=0, time=ago(50)), attempt=0)
    assert told("Assembling", before, since=100).stored_evidence == 1
    assert told("Assembling", since, since=100).stored_evidence == 0


def test_launchers_beat_often_where_something_is_awaited_and_never_too_often_together() -> None:
    settings = CoreSettings()
    attempt = parse_job(raw_job(status=raw_status("Running"))).status.attempt
    assert attempt is not None
    waits = heard(phase=LauncherPhase.WAITING).beat
    assert next_beat_s(attempt, waits, 10, settings) == 0.5
    assert next_beat_s(attempt, heard().beat, 10, settings) == 2.0
    assert next_beat_s(attempt, heard().beat, 40_000, settings) == 80.0
    assert next_beat_s(attempt, heard().beat, 10**9, settings) == 300.0


def test_a_beat_matters_when_it_says_something_new() -> None:
    before = heard()
    assert matters(None, before.beat)
    assert not matters(before, heard().beat)
    assert matters(before, heard(phase=LauncherPhase.FAILED).beat)
    assert matters(before, heard(evidence()).beat)
    assert matters(before, heard(port=1).beat)
    assert matters(before, heard(origin=Origin()).beat)
    assert matters(before, heard(sealed=SEALED).beat)
    assert not matters(heard(sealed=SEALED), heard(sealed=SEALED).beat)
    assert matters(heard(sealed=SEALED), heard(sealed=checkpoint(42000, 2)).beat)


SEALED = checkpoint(41000, 2)
STORED = {"step": 41000, "attempt": 2, "digest": SEALED.digest}


def test_what_is_known_of_the_past_is_told_as_it_is_stored() -> None:
    said = told("Running")
    assert (said.past, said.ceiling_step, said.since_attempt, said.origin) == (None, None, 1, None)
    kept = {"sealed": STORED, "ceilingStep": 45000, "sinceAttempt": 2}
    said = told("Assembling", attempt={"number": 3}, checkpoint=kept)
    assert (said.past, said.ceiling_step, said.since_attempt) == (SEALED, 45000, 2)


def test_an_origin_is_told_only_once_it_is_stored() -> None:
    proposal = heard(origin=Origin(checkpoint=SEALED))
    assert told("Running", proposal, who=pod(0)).origin is None
    stored = told("Running", proposal, who=pod(0), attempt={"origin": {"checkpoint": STORED}})
    assert stored.origin == Origin(checkpoint=SEALED)
    other = told("Running", proposal, who=pod(0), attempt={"origin": {}})
    assert other.origin == Origin(), "a fresh start, whatever was proposed"


@pytest.mark.parametrize(
    ("index", "phase", "attempt", "stored", "waits"),
    [
        (0, LauncherPhase.RUNNING, 1, {}, True),
        (0, LauncherPhase.RUNNING, 1, {"origin": {}}, False),
        (0, LauncherPhase.RUNNING, 0, {}, False),
        (0, LauncherPhase.STOPPING, 1, {}, False),
        (1, LauncherPhase.RUNNING, 1, {}, False),
    ],
)
def test_the_answer_to_a_proposal_waits_until_it_is_stored(
    index: int, phase: LauncherPhase, attempt: int, stored: dict[str, Any], *, waits: bool
) -> None:
    said = heard(phase=phase, attempt=attempt, origin=Origin())
    given = told("Running", said, who=pod(index), attempt=stored)
    assert undecided(pod(index), said.beat, given) is waits
    silent = heard(phase=phase, attempt=attempt)
    assert not (phase is LauncherPhase.RUNNING and undecided(pod(index), silent.beat, given))


@pytest.mark.parametrize(
    ("state", "phase", "attempt", "waits"),
    [
        ("Running", LauncherPhase.FAILED, 1, True),  # the next attempt is about to be decided
        ("Running", LauncherPhase.FAILED, 0, False),  # it was: this launcher has not heard of it
        ("Running", LauncherPhase.SUCCEEDED, 1, True),
        ("Complete", LauncherPhase.SUCCEEDED, 1, False),
        ("Assembling", LauncherPhase.WAITING, 1, True),
        ("Assembling", LauncherPhase.WAITING, 0, False),
        ("Running", LauncherPhase.WAITING, 1, False),  # there is a world
        ("Suspending", LauncherPhase.WAITING, 1, False),
        ("Running", LauncherPhase.RUNNING, 1, False),
        ("Running", LauncherPhase.STOPPING, 1, False),
    ],
)
def test_an_answer_waits_only_while_it_would_tell_nothing(
    state: str, phase: LauncherPhase, attempt: int, *, waits: bool
) -> None:
    said = heard(phase=phase, attempt=attempt)
    assert undecided(pod(1), said.beat, told(state, said)) is waits


def test_the_first_launcher_is_answered_at_once_until_it_knows_where_its_store_listens() -> None:
    said = heard(phase=LauncherPhase.WAITING, port=None)
    assert not undecided(pod(0), said.beat, told("Assembling", said, who=pod(0)))
    said = heard(phase=LauncherPhase.WAITING, port=29400)
    assert undecided(pod(0), said.beat, told("Assembling", said, who=pod(0)))
