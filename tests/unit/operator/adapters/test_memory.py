"""What the operator keeps in memory: jobs, its own writes, beats, pace, turns."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mlenv_api import names
from mlenv_api.conditions import Reason
from mlenv_api.gitcode import Code
from mlenv_api.protocol import Beat, LauncherPhase, Progress, Spent
from mlenv_operator.adapters.beatstore import BeatStore
from mlenv_operator.adapters.jobs import JobCache
from mlenv_operator.adapters.neighbours import Neighbours
from mlenv_operator.adapters.overlay import LIFETIME_S, Overlay
from mlenv_operator.adapters.pace import BUSY_FACTOR, CONDITION_BURST, PROGRESS_S, Pace
from mlenv_operator.adapters.rejections import Rejections
from mlenv_operator.core import actions as act
from mlenv_operator.core.actions import Urgency
from mlenv_operator.core.project import parse_job
from mlenv_operator.core.world import JobKey, PodView
from mlenv_operator.kube.executor import Done, Refusal
from mlenv_operator.runtime.clock import FakeClock
from mlenv_operator.runtime.reflector import Change, ChangeType, ObjectKey

KEY = JobKey("team", "ranker")
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def job(version: int, uid: str = "u1", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "team",
            "name": "ranker",
            "uid": uid,
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": "2030-01-01T00:00:00Z",
            "managedFields": [{"manager": "x" * 10_000}],
            "annotations": {"big": "x" * 10_000},
        },
        "spec": {"trainer": {"image": "i", "command": ["c"]}},
        "status": status,
    }


def test_of_annotations_only_the_user_is_kept() -> None:
    raw = job(1)
    raw["metadata"]["annotations"]["mlenv.io/user"] = "ada"
    raw["metadata"]["labels"] = {"mlenv.io/team": "ads"}
    jobs = JobCache()
    jobs.put(raw)
    view = jobs.get(KEY)
    assert view is not None
    assert (view.attribution.user, view.attribution.team) == ("ada", "ads")


def pod(name: str = "ranker-0-0", uid: str = "p1", **more: Any) -> PodView:
    values = {"namespace": "team", "job_uid": "u1", "job_name": "ranker", "index": 0, "incarnation": 0}
    return PodView(name=name, uid=uid, **(values | more))


def raw_pod(name: str, uid: str) -> dict[str, Any]:
    owner = {"apiVersion": names.API_VERSION, "kind": names.TRAINING_JOB, "name": "ranker", "uid": "u1"}
    return {
        "metadata": {
            "namespace": "team",
            "name": name,
            "uid": uid,
            "labels": {names.LABEL_JOB: "ranker"},
            "annotations": {names.ANNOTATION_INDEX: "0", names.ANNOTATION_INCARNATION: "0"},
            "ownerReferences": [owner | {"controller": True}],
            "finalizers": [names.ACCOUNTED_FINALIZER],
        },
        "spec": {},
        "status": {},
    }


def test_a_job_never_goes_back_in_time() -> None:
    jobs = JobCache()
    assert jobs.put(job(5, phase="Running"))
    assert not jobs.put(job(4, phase="Assembling"))
    assert not jobs.put(job(5, phase="Assembling"))
    view = jobs.get(KEY)
    assert view is not None
    assert view.resource_version == "5"
    assert jobs.phases() == {"Running": 1}


def test_a_namesake_is_another_job_whatever_its_version() -> None:
    jobs = JobCache()
    jobs.put(job(5))
    assert jobs.put(job(3, uid="u2"))
    assert not jobs.drop(KEY, "u1")
    assert jobs.version(KEY) == ("u2", 3)
    assert jobs.drop(KEY, "u2")
    assert jobs.get(KEY) is None


def test_a_job_is_kept_without_what_nobody_reads() -> None:
    jobs = JobCache()
    jobs.put(job(1))
    assert len(jobs._entries[KEY].body) < 1000


def test_of_its_annotations_the_one_that_is_ours_is_kept() -> None:
    jobs, raw = JobCache(), job(1)
    raw["metadata"]["annotations"][names.ANNOTATION_CHECKPOINT] = "now"
    jobs.put(raw)
    kept = jobs.get(KEY)
    assert kept is not None
    assert kept.checkpoint_requested == "now"


def test_what_they_say_of_its_code_is_kept_without_secrets() -> None:
    jobs, raw = JobCache(), job(1)
    raw["metadata"]["annotations"] |= {
        names.ANNOTATION_GIT_COMMIT: "77aa77aa",
        names.ANNOTATION_GIT_REMOTE: "https://ada:s3cret@git.example/ranker",
        names.ANNOTATION_GIT_BRANCH: "b" * 10_000,
    }
    jobs.put(raw)
    kept = jobs.get(KEY)
    assert kept is not None
    assert kept.code == Code("77aa77aa", "https://git.example/ranker")
    assert len(jobs._entries[KEY].body) < 1000


async def test_whoever_waits_for_a_job_hears_of_its_change() -> None:
    jobs = JobCache()
    jobs.put(job(1))
    waiter = asyncio.create_task(jobs.wait_change(KEY, 30))
    await asyncio.sleep(0)
    jobs.put(job(1))  # no news
    assert not waiter.done()
    jobs.put(job(2))
    assert await waiter
    assert not await jobs.wait_change(KEY, 0.01)
    assert not jobs._waiters


def test_what_we_created_exists_until_the_cache_shows_it_or_time_is_over() -> None:
    clock = FakeClock()
    overlay = Overlay(clock)
    overlay.record([Done(act.CreatePod({}, 0), raw_pod("ranker-0-0", "p1"))])
    assert [one.uid for one in overlay.pods(KEY, [])] == ["p1"]
    assert [one.uid for one in overlay.pods(KEY, [pod(phase="Running")])] == ["p1"]
    overlay.record([Done(act.CreatePod({}, 0), raw_pod("ranker-0-0", "p1"))])
    overlay.seen(KEY, "ranker-0-0")
    assert overlay.pods(KEY, []) == ()
    overlay.record([Done(act.CreatePod({}, 0), raw_pod("ranker-0-0", "p1"))])
    clock.jump(LIFETIME_S + 1)
    assert overlay.pods(KEY, []) == ()


def test_what_we_deleted_is_being_deleted() -> None:
    clock = FakeClock()
    overlay = Overlay(clock)
    overlay.record([Done(act.DeletePod("team", "ranker-0-0", "p1"), None)])
    overlay.record([Done(act.StripFinalizer("team", "ranker-0-0", "p1", 0), None)])
    (seen,) = overlay.pods(KEY, [pod(finalizer_at=0)])
    assert seen.deleting
    assert seen.finalizer_at == -1
    (other,) = overlay.pods(KEY, [pod(uid="p2", finalizer_at=0)])
    assert not other.deleting
    clock.jump(LIFETIME_S + 1)
    overlay.expire()
    (seen,) = overlay.pods(KEY, [pod(finalizer_at=0)])
    assert not seen.deleting
    assert not overlay._deleted


SILENCE = timedelta(seconds=60)


def beat(**more: Any) -> Beat:
    values: dict[str, Any] = {"protocol": 1, "attempt": 1, "phase": LauncherPhase.RUNNING, "time": NOW}
    return Beat(**(values | more))


def test_progress_is_no_news_and_a_new_phase_is() -> None:
    beats = BeatStore(FakeClock())
    assert beats.record("p1", beat(), SILENCE)[1]
    assert not beats.record("p1", beat(progress=Progress(step=7)), SILENCE)[1]
    assert beats.record("p1", beat(phase=LauncherPhase.FAILED), SILENCE)[1]
    assert beats.of([pod()])["p1"].beat.phase is LauncherPhase.FAILED


def test_what_time_went_to_is_passed_on_and_not_kept() -> None:
    beats = BeatStore(FakeClock())
    said = beat(spent=Spent(init=7, time=NOW), progress=Progress(step=7))
    heard, _ = beats.record("p1", said, SILENCE)
    assert heard.beat is said
    kept = beats.of([pod()])["p1"].beat
    assert (kept.spent, kept.progress) == (None, said.progress)


def test_the_end_of_a_silence_is_news() -> None:
    clock = FakeClock()
    beats = BeatStore(clock)
    beats.record("p1", beat(), SILENCE)
    clock.jump(59)
    assert not beats.record("p1", beat(), SILENCE)[1]
    clock.jump(61)
    assert beats.record("p1", beat(), SILENCE)[1]


def test_beats_leave_with_their_pod_and_finished_pods_speak_no_more() -> None:
    beats = BeatStore(FakeClock())
    key = ObjectKey("team", "ranker-0-0")
    beats.pod_changed(Change(ChangeType.ADDED, key, None, pod()))
    beats.record("p1", beat(), SILENCE)
    assert beats.is_live("p1")
    done = pod(phase="Succeeded")
    beats.pod_changed(Change(ChangeType.MODIFIED, key, pod(), done))
    assert not beats.is_live("p1")
    assert beats.of([pod()])
    beats.pod_changed(Change(ChangeType.DELETED, key, done, None))
    assert not beats.of([pod()])


def test_moves_never_wait_numbers_do_and_broken_jobs_settle() -> None:
    clock = FakeClock()
    pace = Pace(clock, lambda: 1000, writes_per_s=50.0)
    assert pace.wait_s(KEY, Urgency.MOVE) == 0
    clock.jump(100)
    pace.wrote(KEY)
    assert pace.wait_s(KEY, Urgency.PROGRESS) == 20.0, "a thousand jobs share fifty writes a second"
    assert Pace(clock, lambda: 1, 50.0).wait_s(KEY, Urgency.PROGRESS) <= PROGRESS_S
    for _ in range(CONDITION_BURST):
        assert pace.wait_s(KEY, Urgency.CONDITION) == 0
    assert pace.wait_s(KEY, Urgency.CONDITION) == 60
    assert pace.wait_s(KEY, Urgency.MOVE) == 0


def test_numbers_are_told_more_rarely_while_jobs_wait_for_a_worker() -> None:
    clock, waiting = FakeClock(), 1
    pace = Pace(clock, lambda: 1, 50.0, waiting=lambda: waiting)
    pace.wrote(KEY)
    assert pace.wait_s(KEY, Urgency.PROGRESS) == BUSY_FACTOR * PROGRESS_S
    assert pace.wait_s(KEY, Urgency.MOVE) == 0
    waiting = 0
    assert pace.wait_s(KEY, Urgency.PROGRESS) == PROGRESS_S


def queued(name: str, created: datetime, state: str = "Queued") -> Any:
    attempt = {"number": 1, "state": state, "since": "2030-01-01T00:00:00Z", "timeouts": 1}
    view = parse_job(job(1, uid=name, attempt=attempt))
    return replace(view, key=JobKey("team", name), created=created)


def test_jobs_of_one_shape_are_neighbours_while_they_queue() -> None:
    neighbours = Neighbours()
    old, young = queued("old", NOW), queued("young", NOW + timedelta(seconds=1))
    assert neighbours.update(old.key, old) == ()
    assert neighbours.update(young.key, young) == ()
    assert [one.uid for one in neighbours.of(young.key)] == ["old"]
    runs = queued("old", NOW, state="Running")
    assert neighbours.update(runs.key, runs) == (young.key,), "those that waited are told"
    assert neighbours.of(young.key) == ()


def test_refusals_are_remembered_until_accepted() -> None:
    clock = FakeClock()
    rejections = Rejections(clock)
    refusal = Refusal(Reason.QUOTA_EXCEEDED, "Pod ranker-0-0", "exceeded quota")
    rejections.refused(KEY, refusal)
    rejections.refused(KEY, refusal)
    (known,) = rejections.of(KEY)
    assert known.times == 2
    assert known.retry_at == clock.now() + timedelta(seconds=20)
    rejections.accepted(KEY)
    assert rejections.of(KEY) == ()
