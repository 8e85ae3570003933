"""Worlds and statuses that cannot be, found: a test that builds one proves nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from mlenv_api.protocol import LauncherPhase
from mlenv_api.trainingjob import AttemptState, CheckpointStatus, Launcher
from mlenv_operator.core.actions import CreatePod, CreateRevision, DeletePod, Plan, StripFinalizer
from mlenv_operator.core.classify import ACTIVE, TERMINAL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from fake_cluster import FakeCluster

    from mlenv_api.trainingjob import AttemptOrigin, TrainingJobStatus
    from mlenv_operator.core.world import BeatView, PodView, World


def contradictions(world: World) -> list[str]:
    """What in this world contradicts itself."""
    found = [problem for pod in world.pods for problem in _pod(pod, world)]
    names = [pod.name for pod in world.pods if not pod.deleting]
    if len(set(names)) != len(names):
        found.append(f"two pods of one name: {names}")
    if world.job is not None:
        found += [f"stored status: {problem}" for problem in status_contradictions(world.job.status)]
        found += _of_job(world)
    return found


def _pod(pod: PodView, world: World) -> Iterator[str]:
    if world.job is not None and pod.job_uid != world.job.uid:
        yield f"{pod.name} belongs to another job"
    if pod.phase == "Running" and not pod.node:
        yield f"{pod.name} runs nowhere"
    if pod.running_since is not None and pod.terminated is not None:
        yield f"{pod.name} runs and has ended"
    if pod.name != f"{pod.job_name}-{pod.index}-{pod.incarnation}":
        yield f"{pod.name} is not named after its slot"


def _of_job(world: World) -> Iterator[str]:
    job = world.job
    assert job is not None
    attempt = job.status.attempt
    if attempt is None or job.spec is None:
        return
    if attempt.state is AttemptState.RUNNING and not job.spec.suspend:
        ours = job.spec.launcher is Launcher.MLENV
        if ours is not (attempt.rendezvous is not None) and job.digest == job.status.run_digest:
            yield "a running world of our launchers has a rendezvous, and no other has"
    for pod in world.pods:
        newest = max(job.status.incarnations, default=-1)
        if pod.incarnation > newest:
            yield f"{pod.name} was made before its incarnation was stored"


def status_contradictions(status: TrainingJobStatus) -> list[str]:
    """What in this status contradicts itself."""
    attempt = status.attempt
    if attempt is None:
        return ["no attempt, but incarnations"] if status.incarnations else []
    rules = {
        "active_since is set exactly while pods are wanted": (status.active_since is not None)
        == (attempt.state in ACTIVE),
        "completion_time is set exactly at the end": (status.completion_time is not None)
        == (attempt.state in TERMINAL),
        "a queued attempt says until when": attempt.state is not AttemptState.QUEUED
        or attempt.not_before is not None,
        "a wanted gang has slots": attempt.state not in ACTIVE or bool(status.incarnations),
        "a running job has started": attempt.state not in ACTIVE or status.start_time is not None,
        "counted restarts are restarts": status.restarts.counted <= status.restarts.total,
        "a rendezvous belongs to a running attempt": attempt.rendezvous is None
        or attempt.state is AttemptState.RUNNING,
        "an origin belongs to an attempt that runs, or did": attempt.origin is None
        or attempt.state in {AttemptState.RUNNING, AttemptState.SUSPENDING, *TERMINAL},
        "the record knows no later attempt": _sealed_by(status) <= attempt.number,
        "what is sane is no newer than what is gone on from": _sane_counts(status),
        "what is doubted is newer than what is gone on from": _doubted_is_newest(status),
        "idle restarts are restarts": status.restarts.without_progress <= status.restarts.total,
        "the ledger is newest first": _descending([one.number for one in status.attempts]),
        "the ledger knows no later attempt": all(one.number <= attempt.number for one in status.attempts),
        "one condition of each type": len({one.type for one in status.conditions}) == len(status.conditions),
    }
    held = {one.type for one in status.conditions if one.status == "True"}
    rules |= {
        "not both complete and failed": not {"Complete", "Failed"} <= held,
        "failed means stalled": "Failed" not in held or "Stalled" in held,
        "complete says so": ("Complete" in held) == (attempt.state is AttemptState.COMPLETE),
        "failed says so": ("Failed" in held) == (attempt.state is AttemptState.FAILED),
        "ready pods run": ("PodsReady" in held) == (attempt.state is AttemptState.RUNNING),
    }
    return [rule for rule, holds in rules.items() if not holds]


def _sealed_by(status: TrainingJobStatus) -> int:
    sealed = status.checkpoint.sealed if status.checkpoint else None
    return sealed.attempt if sealed else 0


def _sane_counts(status: TrainingJobStatus) -> bool:
    record = status.checkpoint or CheckpointStatus()
    sane, sealed = record.sane, record.sealed
    return sane is None or (sealed is not None and (sane.step, sane.attempt) <= (sealed.step, sealed.attempt))


def _doubted_is_newest(status: TrainingJobStatus) -> bool:
    record = status.checkpoint or CheckpointStatus()
    doubted, sealed = record.insane, record.sealed
    if doubted is None or sealed is None:
        return True
    return (sealed.attempt, sealed.step) <= (doubted.attempt, doubted.step)


def plan_contradictions(world: World, made: Plan) -> list[str]:
    """What in this plan breaks a promise."""
    found = [f"planned status: {one}" for one in status_contradictions(made.status)] if made.status else []
    if made.move and any(not isinstance(step, CreateRevision) for step in made.actions):
        found.append("a plan moves and acts")
    if world.job is None:
        return found
    stored = world.job.status
    if made.status is not None and not made.move and _decided(stored) != _decided(made.status):
        found.append("a plan that does not move changes the attempt")
    if made.status is not None and stored.attempt and stored.attempt.state in TERMINAL:
        now = made.status.attempt
        if made.move or now != stored.attempt:
            found.append("the end is not the end")
    if made.status == stored:
        found.append("a status is written that says what is stored")
    if not (made.actions or made.requeue_at or made.waits_for) and not _is_over(world):
        found.append("nothing is done and nothing is awaited")
    if made.requeue_at is not None and made.requeue_at < world.now:
        found.append("a look is due in the past")
    if made.move and made.status is not None and made.status.attempt is not None:
        found += _unearned(world, stored, made.status.attempt.state)
    found += _wanted_pods(world, made)
    found += _let_go(world, made)
    return found


def record_contradictions(world: World, new: TrainingJobStatus) -> list[str]:
    """What changes in the record of checkpoints without a reason in this world."""
    assert world.job is not None
    stored = world.job.status
    old, now = stored.checkpoint or CheckpointStatus(), new.checkpoint or CheckpointStatus()
    found = []
    settled = _settled_now(stored, new)
    if settled and not _proposed(world, new):
        found.append("an origin is stored that the first launcher of this attempt has not proposed")
    if now.sealed != old.sealed:
        found += _sealed_anew(world, old, now, new, settled=settled)
    told = {one.beat.judged for one in _current_beats(world)}
    if (now.sane, now.insane) != (old.sane, old.insane):
        found += _judged_anew(old, now, {one.checkpoint.digest: not one.failed for one in told if one})
    if now.request != old.request:
        found += _ordered_anew(world, old, now)
    if now.ceiling_step != old.ceiling_step and not (
        settled or _starts_anew(old, now) or _pods_went(old, new) or _rolled_back(stored, new)
    ):
        sealed = now.sealed
        raised = old.ceiling_step is not None and sealed is not None and sealed.step == now.ceiling_step
        if not raised or (now.ceiling_step or 0) < (old.ceiling_step or 0):
            found.append(f"the ceiling moves from {old.ceiling_step} to {now.ceiling_step}")
    return found


def _judged_anew(old: CheckpointStatus, now: CheckpointStatus, told: Mapping[str, bool]) -> Iterator[str]:
    if now.sane and now.sane != old.sane and not told.get(now.sane.digest, False):
        yield "a checkpoint is sane of which no launcher said so"
    if now.insane and now.insane != old.insane and told.get(now.insane.digest, True):
        yield "a checkpoint is doubted of which no launcher said so"


def _ordered_anew(world: World, old: CheckpointStatus, now: CheckpointStatus) -> Iterator[str]:
    """An order comes from the annotation, and is served by what an attempt that knew of it sealed since."""
    assert world.job is not None
    said = world.job.checkpoint_requested
    if now.request is None:
        if said is not None:
            yield "an order is forgotten that still stands in the annotation"
        return
    if old.request is None or old.request.requested_at != now.request.requested_at:
        if now.request.requested_at != said:
            yield f"{now.request.requested_at} was ordered by nobody"
        if now.request.sealed is not None:
            yield "an order is served before it was stored"
        return
    told = {one.beat.sealed.digest for one in _current_beats(world) if one.beat.sealed}
    if now.request.sealed is None or now.request.sealed.digest not in told:
        yield "an order is served by nothing that a launcher tells of"
    elif old.sealed is not None and old.sealed.digest == now.request.sealed.digest:
        yield "an order is served by a checkpoint that was known before"


def _settled_now(old: TrainingJobStatus, new: TrainingJobStatus) -> bool:
    before = old.attempt.origin if old.attempt else None
    return before is None and new.attempt is not None and new.attempt.origin is not None


def _proposed(world: World, new: TrainingJobStatus) -> bool:
    assert new.attempt is not None
    assert new.attempt.origin is not None
    wanted = new.attempt.origin.checkpoint
    for heard in _current_beats(world, only_first=True):
        said = heard.beat.origin
        if said is not None and heard.beat.attempt == new.attempt.number:
            return (said.checkpoint and said.checkpoint.digest) == (wanted and wanted.digest)
    return False


def _current_beats(world: World, *, only_first: bool = False) -> Iterator[BeatView]:
    """What pods of current incarnations said."""
    assert world.job is not None
    current = world.job.status.incarnations[: 1 if only_first else None]
    for pod in world.pods:
        if current[pod.index : pod.index + 1] == (pod.incarnation,) and pod.uid in world.beats:
            yield world.beats[pod.uid]


def _sealed_anew(
    world: World, old: CheckpointStatus, now: CheckpointStatus, new: TrainingJobStatus, *, settled: bool
) -> Iterator[str]:
    assert world.job is not None
    assert new.attempt is not None
    if now.sealed is None:
        if not (settled or _starts_anew(old, now) or _pods_went(old, new)):
            yield "a checkpoint is forgotten"
        return
    if settled:
        return
    number = world.job.status.attempt.number if world.job.status.attempt else 0
    told = [one.beat.sealed for one in _current_beats(world) if one.beat.attempt == number]
    if now.sealed.digest not in {one.digest for one in told if one}:
        yield "a checkpoint is stored that no launcher of this attempt has told of"
    if old.sealed and (now.sealed.step, now.sealed.attempt) <= (old.sealed.step, old.sealed.attempt):
        yield "the newest checkpoint gets older"
    if old.ceiling_step is not None and now.sealed.attempt != number and now.sealed.step > old.ceiling_step:
        yield "a checkpoint above the ceiling is stored"


def _starts_anew(old: CheckpointStatus, now: CheckpointStatus) -> bool:
    return now.since_attempt > old.since_attempt


def _pods_went(old: CheckpointStatus, new: TrainingJobStatus) -> bool:
    gone = new.attempt is not None and new.attempt.state in (AttemptState.SUSPENDED, AttemptState.QUEUED)
    return gone and old.spool is None


def _rolled_back(old: TrainingJobStatus, new: TrainingJobStatus) -> bool:
    return len(new.attempts) > 0 and new.attempts[:1] != old.attempts[:1] and new.attempts[0].exit_code == 77


def _unearned(world: World, stored: TrainingJobStatus, state: AttemptState) -> Iterator[str]:
    """A state that the world does not bear out."""
    if state is AttemptState.SUSPENDED and world.pods and stored.attempt is not None:
        yield "suspended, and pods are held"
    if state in (AttemptState.RUNNING, AttemptState.COMPLETE):
        for index, incarnation in enumerate(stored.incarnations):
            found = [pod for pod in world.pods if (pod.index, pod.incarnation) == (index, incarnation)]
            if not found:
                yield f"{state} without a pod in slot {index}"
            elif state is AttemptState.COMPLETE and not _has_succeeded(world, stored, found[0]):
                yield f"complete, but slot {index} has not succeeded"


def _has_succeeded(world: World, stored: TrainingJobStatus, pod: PodView) -> bool:
    if pod.phase == "Succeeded":
        return True
    heard = world.beats.get(pod.uid)
    assert stored.attempt is not None
    said = (heard.beat.phase, heard.beat.attempt) if heard else None
    return said == (LauncherPhase.SUCCEEDED, stored.attempt.number)


def _let_go(world: World, made: Plan) -> Iterator[str]:
    """A pod's facts are durable once the stored attempt is another, or over."""
    assert world.job is not None
    status = world.job.status
    if world.job.deleting or status.attempt is None or status.attempt.state not in ACTIVE:
        return
    current = {
        pod.uid for pod in world.pods if status.incarnations[pod.index : pod.index + 1] == (pod.incarnation,)
    }
    for step in made.actions:
        if isinstance(step, StripFinalizer | DeletePod) and step.uid in current:
            yield f"{step.name} is let go, and still needed"


def _wanted_pods(world: World, made: Plan) -> Iterator[str]:
    assert world.job is not None
    for step in made.actions:
        if isinstance(step, CreatePod):
            incarnation = world.job.status.incarnations[step.index]
            if step.manifest["metadata"]["annotations"]["mlenv.io/incarnation"] != str(incarnation):
                yield "a pod of an incarnation that is not stored is wanted"
            if any((pod.index, pod.incarnation) == (step.index, incarnation) for pod in world.pods):
                yield "a pod is wanted that is there"


def _is_over(world: World) -> bool:
    attempt = world.job.status.attempt if world.job else None
    return bool(world.job and world.job.deleting) or (attempt is not None and attempt.state in TERMINAL)


def _decided(status: TrainingJobStatus) -> object:
    """What only a move may change."""
    return (
        status.attempt,
        status.incarnations,
        status.restarts,
        status.attempts,
        status.environment,
        status.run_generation,
        status.run_digest,
        status.active_seconds,
        status.completion_time,
    )


def _descending(numbers: list[int]) -> bool:
    return all(first > second for first, second in pairwise(numbers))


def assert_origins_told(cluster: FakeCluster, stored: Mapping[int, Collection[AttemptOrigin]]) -> None:
    """What launchers are told of origins is what is stored, one for each attempt."""
    for launcher in cluster.launchers.values():
        told = launcher.told
        if told is not None and told.origin is not None:
            (origin,) = stored[told.attempt]
            said, kept = told.origin.checkpoint, origin.checkpoint
            assert (said and said.digest) == (kept and kept.digest)
