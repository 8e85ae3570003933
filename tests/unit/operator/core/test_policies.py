from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fake_cluster import checkpoint
from worlds import NOW, ago, evidence, heard, pod, raw_job, raw_status, scene, stamp, world

from mlenv_api.conditions import Reason
from mlenv_api.protocol import LauncherPhase
from mlenv_api.trainingjob import AttemptRecord
from mlenv_operator.core.actions import DeletePod
from mlenv_operator.core.plan import plan
from mlenv_operator.core.policies.assembly import backoff_s
from mlenv_operator.core.policies.failure import quick_failures, restart_delay_s
from mlenv_operator.core.policies.queue import blocker, neighbour, shape
from mlenv_operator.core.project import parse_job
from mlenv_operator.core.rejections import reject
from mlenv_operator.core.world import CoreSettings, JobKey, Neighbour

SETTINGS = CoreSettings()
Raw = dict[str, Any]


def state_after(made: Any) -> str:
    assert made.status is not None
    return str(made.status.attempt.state)


def test_success_comes_before_suspension_deadline_and_faults() -> None:
    job = raw_job(status=raw_status("Running"), suspend=True, activeDeadlineSeconds=1)
    beats = {0: heard(phase=LauncherPhase.SUCCEEDED), 1: heard(phase=LauncherPhase.SUCCEEDED)}
    assert state_after(plan(world(pod(0), pod(1), job=job, beats=beats))) == "Complete"


def test_one_slot_that_succeeded_is_not_all() -> None:
    made = plan(world(pod(0), pod(1), beats={0: heard(phase=LauncherPhase.SUCCEEDED), 1: heard()}))
    assert not made.move


def test_success_of_an_earlier_attempt_counts_for_nothing() -> None:
    job = raw_job(status=raw_status("Running", attempt={"number": 2}))
    beats = {0: heard(phase=LauncherPhase.SUCCEEDED), 1: heard(phase=LauncherPhase.SUCCEEDED)}
    assert not plan(world(pod(0), pod(1), job=job, beats=beats)).move


def test_suspension_comes_before_deadline_and_faults() -> None:
    job = raw_job(status=raw_status("Running"), suspend=True, activeDeadlineSeconds=1)
    assert state_after(plan(world(pod(0), job=job))) == "Suspending"


def test_the_deadline_comes_before_faults() -> None:
    job = raw_job(status=raw_status("Running"), activeDeadlineSeconds=100)
    assert state_after(plan(world(pod(0), job=job))) == "Failed"


@pytest.mark.parametrize("phase", [LauncherPhase.RUNNING, LauncherPhase.STOPPING, LauncherPhase.SUCCEEDED])
def test_a_world_is_formed_of_launchers_that_wait(phase: LauncherPhase) -> None:
    job = raw_job(status=raw_status("Assembling", attempt={"number": 2}))
    waits = heard(attempt=2, phase=LauncherPhase.WAITING)
    formed = plan(world(pod(0), pod(1), job=job, beats={0: waits, 1: waits}))
    assert state_after(formed) == "Running"
    other = heard(attempt=2, phase=phase)
    assert not plan(world(pod(0), pod(1), job=job, beats={0: waits, 1: other})).move


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"attempt": 1}, "holds an older attempt"),
        ({"attempt": 2, "received": 61}, "was not heard for a minute"),
        ({"attempt": 2, "port": None}, "the first slot's store has no port yet"),
        ({"attempt": 0, "received": 31}, "spoke before this attempt began"),
    ],
)
def test_no_world_is_formed_with_a_launcher_that(said: Raw, why: str) -> None:
    job = raw_job(status=raw_status("Assembling", since=30, attempt={"number": 2}))
    waits = heard(attempt=2, phase=LauncherPhase.WAITING)
    bad = heard(phase=LauncherPhase.WAITING, **said)
    assert not plan(world(pod(0), pod(1), job=job, beats={0: bad, 1: waits})).move, why


def test_a_world_is_formed_with_a_new_launcher_that_spoke_since() -> None:
    job = raw_job(status=raw_status("Assembling", since=30, attempt={"number": 2}))
    new = heard(attempt=0, received=29, phase=LauncherPhase.WAITING)
    assert state_after(plan(world(pod(0), pod(1), job=job, beats={0: new, 1: new}))) == "Running"


def test_no_world_is_formed_with_a_pod_that_is_being_deleted() -> None:
    job = raw_job(status=raw_status("Assembling"))
    waits = heard(phase=LauncherPhase.WAITING)
    going = pod(1, deletionTimestamp=stamp(ago(0)))
    made = plan(world(pod(0), going, job=job, beats={0: waits, 1: waits}))
    assert state_after(made) == "Assembling"
    assert made.status is not None
    assert made.status.incarnations == (0, 1)


def test_only_the_pod_that_is_dead_is_replaced() -> None:
    made = plan(world(pod(0), beats={0: heard()}))
    assert made.status is not None
    assert made.status.incarnations == (0, 1)


def test_restarts_after_quick_attempts_are_delayed_and_pods_are_not_made_before() -> None:
    quick = {"reason": "PodLost", "endTime": stamp(ago(1)), "startTime": stamp(ago(5))}
    ledger = [{**quick, "number": number} for number in (3, 2, 1)]
    status = raw_status("Running", since=10, attempt={"number": 4}, attempts=ledger)
    status["restarts"] = {"total": 3, "withoutProgress": 3}
    made = plan(world(pod(0), job=raw_job(status=status)))
    assert made.status is not None
    assert made.status.attempt is not None
    assert made.status.attempt.not_before == NOW + timedelta(seconds=20)
    again = plan(world(pod(0), job=raw_job(status=made.status.wire())))
    assert again.actions == ()
    assert again.requeue_at == NOW + timedelta(seconds=20)


def test_the_delay_doubles_up_to_its_bound() -> None:
    delays = [restart_delay_s(quick, SETTINGS) for quick in range(12)]
    assert delays == [0, 0, 0, 10, 20, 40, 80, 160, 320, 640, 1280, 1280]


def test_only_attempts_that_ended_quickly_in_a_row_are_counted() -> None:
    def record(number: int, lasted: float | None, reason: str = "ProgramFailed") -> AttemptRecord:
        start = None if lasted is None else ago(lasted)
        return AttemptRecord(number=number, start_time=start, end_time=NOW, reason=reason)

    assert quick_failures([record(3, 5), record(2, None), record(1, 100)], SETTINGS) == 2
    assert quick_failures([record(3, 5), record(2, 5, "Suspended"), record(1, 5)], SETTINGS) == 1


def test_the_backoff_of_the_queue_doubles_and_is_spread() -> None:
    for timeouts, seconds in ((1, 30), (2, 60), (5, 480), (40, 1800)):
        waits = {backoff_s(f"uid-{number}", timeouts, SETTINGS) for number in range(50)}
        assert all(0.8 * seconds <= wait <= 1.2 * seconds for wait in waits)
        assert len(waits) > 20
    assert backoff_s("uid", 1, SETTINGS) == backoff_s("uid", 1, SETTINGS)


def queued(**attempt: Any) -> Raw:
    return raw_job(status=raw_status("Queued", attempt={"notBefore": stamp(ago(1)), **attempt}))


def other(created: float, not_before: float | None) -> Neighbour:
    due = None if not_before is None else ago(not_before)
    return Neighbour(JobKey("ns", "other"), "other-uid", ago(created), due)


@pytest.mark.parametrize(
    ("neighbour_", "blocks"),
    [
        (other(7200, 1), True),  # older, and due
        (other(7200, None), True),  # older, and assembling
        (other(7200, -10), False),  # older, and backing off
        (other(60, 1), False),  # younger
    ],
)
def test_the_oldest_of_one_shape_goes_first(neighbour_: Neighbour, *, blocks: bool) -> None:
    made = plan(world(job=queued(), neighbours=(neighbour_,)))
    assert made.move is not blocks
    if blocks:
        assert made.status is not None
        reasons = {one.type: one.reason for one in made.status.conditions}
        assert reasons["PodsReady"] == "WaitingForTurn"
        assert made.requeue_at == NOW + timedelta(seconds=15)


def test_a_turn_bumps_incarnations_and_keeps_the_number() -> None:
    made = plan(world(job=queued(number=3, timeouts=2)))
    assert made.status is not None
    assert made.status.attempt is not None
    assert (made.status.attempt.number, made.status.attempt.timeouts) == (3, 2)
    assert made.status.incarnations == (1, 1)


def test_a_job_is_a_neighbour_while_it_is_queued_or_assembles_again() -> None:
    due = neighbour(parse_job(queued()))
    assert due is not None
    assert due.not_before == ago(1)
    assert neighbour(parse_job(raw_job(status=raw_status("Running")))) is None
    assert neighbour(parse_job(raw_job(status=raw_status("Assembling")))) is None
    again = neighbour(parse_job(raw_job(status=raw_status("Assembling", attempt={"timeouts": 1}))))
    assert again is not None
    assert again.not_before is None
    assert blocker(scene(world(job=queued()))) is None


def test_jobs_of_one_shape_want_the_same() -> None:
    def job(**changes: Any) -> Any:
        return shape(parse_job(raw_job(**changes)))

    gpus = {"resourcesPerNode": {"limits": {"nvidia.com/gpu": 1}}}
    assert job() == job(name="other", failurePolicy={"maxRestarts": 1}, trainer={"args": ["x"]})
    assert job() != job(trainer=gpus)
    assert job() != job(trainer={"numNodes": 3})
    assert hash(job(trainer=gpus)) == hash(job(trainer=gpus))


@pytest.mark.parametrize("reason", [Reason.QUOTA_EXCEEDED, Reason.POD_SECURITY, Reason.FORBIDDEN])
def test_what_was_refused_is_tried_again_soon_and_ever_later(reason: Reason) -> None:
    """Also what a rule forbids: a right or a policy that was made just now is obeyed a little later."""
    tried, waits = None, []
    for _ in range(7):
        tried = reject(reason, "Pod x", "no", before=tried, now=NOW)
        waits.append((tried.retry_at - NOW).total_seconds())
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    other = reject(Reason.NAME_CONFLICT, "Pod x", "no", before=tried, now=NOW)
    assert other.times == 1


def test_an_account_that_a_new_namespace_does_not_have_yet_is_tried_again_at_once_and_ever_later() -> None:
    tried, waits = None, []
    for _ in range(11):
        tried = reject(Reason.SERVICE_ACCOUNT_NOT_FOUND, "Pod x", "no", before=tried, now=NOW)
        waits.append((tried.retry_at - NOW).total_seconds())
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_fault_records_the_last_step_that_was_reported() -> None:
    beat = heard(evidence(exit_code=1), progress={"step": 77})
    made = plan(world(pod(0), pod(1), beats={0: beat, 1: heard()}))
    assert made.status is not None
    assert made.status.attempts[0].last_step == 77
    assert made.status.progress is not None
    assert made.status.progress.step == 77


@pytest.mark.parametrize(("number", "last"), [(1, 20), (7, None)])
def test_a_checkpoint_is_a_report_of_its_steps_too(number: int, last: int | None) -> None:
    """Of the attempt that sealed it: the page of progress may have been read a moment before."""
    sealed = checkpoint(20, number)
    beats = {0: heard(evidence(exit_code=1), sealed=sealed), 1: heard(sealed=sealed)}
    made = plan(world(pod(0), pod(1), beats=beats))
    assert made.status is not None
    assert made.status.attempts[0].last_step == last


@pytest.mark.parametrize(("since", "deleted"), [(59, False), (61, True)])
def test_a_pod_whose_program_has_ended_may_say_so_before_it_is_deleted(
    since: float, *, deleted: bool
) -> None:
    """Of a job that failed: its kubelet is about to tell, and then the pod stays, with its logs."""
    dying = pod(0, state={"terminated": {"exitCode": 1, "finishedAt": stamp(ago(since))}})
    job = raw_job(status=raw_status("Failed", since=since), launcher="None")
    made = plan(world(dying, pod(1), job=job))
    gone = {action.name for action in made.actions if isinstance(action, DeletePod)}
    assert gone == ({"ranker-0-0", "ranker-1-0"} if deleted else {"ranker-1-0"})
    if not deleted:
        assert made.requeue_at == NOW + timedelta(seconds=60 - since)
