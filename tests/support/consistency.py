"""Worlds and statuses that cannot be, found: a test that builds one proves nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from mlenv_api.protocol import LauncherPhase
from mlenv_api.trainingjob import AttemptState, Launcher
from mlenv_operator.core.actions import CreatePod, CreateRevision, DeletePod, Plan, StripFinalizer
from mlenv_operator.core.classify import ACTIVE, TERMINAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlenv_api.trainingjob import TrainingJobStatus
    from mlenv_operator.core.world import PodView, World


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
