"""Completes a status: what is seen, conditions, phase; and what of the difference is worth an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlenv_api.conditions import ConditionType, Reason
from mlenv_api.trainingjob import AttemptState, Nodes
from mlenv_operator.core import drain, sanity, spending, tracking
from mlenv_operator.core.actions import Event, Urgency
from mlenv_operator.core.checkpoints import HEARD, heard_of
from mlenv_operator.core.checkpoints import stored as kept
from mlenv_operator.core.classify import ACTIVE, LIVE, TERMINAL
from mlenv_operator.core.conditions import Words, conditions, phase
from mlenv_operator.core.converge import snapshot
from mlenv_operator.core.diagnose import (
    NEEDS_HUMAN,
    REJECTIONS,
    Headline,
    checkpoint_degraded,
    launcher_connected,
)
from mlenv_operator.core.policies.costlimit import held, watched
from mlenv_operator.core.policies.queue import blocker
from mlenv_operator.core.policies.start import obstacle
from mlenv_operator.core.progress import progress
from mlenv_operator.core.requests import noted
from mlenv_operator.core.words import pods_ready, said, stalled, stored

if TYPE_CHECKING:
    from mlenv_api.trainingjob import Condition, TrainingJobStatus
    from mlenv_operator.core.classify import Scene, Slot
    from mlenv_operator.core.transition import Move
    from mlenv_operator.core.world import JobView, World

STORE_TROUBLE: Final = frozenset(
    {
        Reason.STORE_UNAUTHORIZED,
        Reason.STORE_KEY_MISSING,
        Reason.STORE_FORBIDDEN,
        Reason.STORE_NOT_FOUND,
        Reason.STORE_RATE_LIMITED,
        Reason.STORE_FAILING,
        Reason.STORE_UNREACHABLE,
        Reason.STORE_TIMEOUT,
        Reason.CHECKPOINT_UNREADABLE,
        Reason.UPLOAD_FAILED,
        Reason.CHECKPOINT_NOT_STORED,
        Reason.HISTORY_NOT_LOGGED,
        Reason.HISTORY_STOPPED,
        Reason.HISTORY_DRIFT,
    }
)
WARNINGS: Final = (
    NEEDS_HUMAN
    | REJECTIONS
    | {
        Reason.UNSCHEDULABLE,
        Reason.IMAGE_PULL_FAILED,
        Reason.CONTAINER_CONFIG_ERROR,
        Reason.NO_HEARTBEAT,
        Reason.PROTOCOL_UNSUPPORTED,
        *STORE_TROUBLE,
        Reason.INVALID_SPEC,
        Reason.ENVIRONMENT_NOT_FOUND,
    }
)


def moved(scene: Scene, move: Move) -> TrainingJobStatus:
    """The status of a move."""
    state = move.status.attempt.state if move.status.attempt else None
    words = Words(
        move.headline,
        stalled(scene) if state in LIVE else None,
        move.restarting,
        _launcher(scene),
        _degraded(scene),
        tracking.degraded(scene, move.status),
        watched(scene, state),
    )
    return _complete(scene, move.status, words)


def seen(scene: Scene) -> TrainingJobStatus:
    """The stored status with what is seen now."""
    status = scene.status
    if scene.state is AttemptState.RUNNING:
        status = status.model_copy(update={"progress": progress(scene)})
    record = heard_of(scene) if scene.state in HEARD else drain.record(scene)
    status = status.model_copy(update={"checkpoint": kept(noted(scene, record))})
    restarting = _holds(stored(status, ConditionType.RESTARTING))
    words = Words(
        _headline(scene),
        _stalled(scene),
        said(status, ConditionType.RESTARTING) if restarting else None,
        _launcher(scene),
        _degraded(scene),
        tracking.degraded(scene, status),
        watched(scene, scene.state),
    )
    return _complete(scene, status, words)


def unreadable(job: JobView, world: World) -> TrainingJobStatus:
    """The stored status of a job whose spec cannot be read: it is left as it is until a human comes."""
    problem = Headline(Reason.INVALID_SPEC, "; ".join(job.problems))
    words = Words(problem, problem)
    return job.status.model_copy(
        update={
            "observed_generation": job.generation,
            "phase": phase(job.status, words),
            "conditions": conditions(job.status, words, job.generation, world.now),
        }
    )


def urgency(old: TrainingJobStatus, new: TrainingJobStatus) -> Urgency:
    """How soon the difference must be stored. What a job costs waits for another reason to write."""
    if old == new or (old == new.model_copy(update={"cost": old.cost}) and not spending.news(old, new)):
        return Urgency.NONE
    same = _gist(old) == _gist(new)
    return Urgency.PROGRESS if same else Urgency.CONDITION


def warnings(old: TrainingJobStatus, new: TrainingJobStatus) -> tuple[Event, ...]:
    """Events for conditions that have become bad news; one for each reason."""
    before = {condition.type: condition for condition in old.conditions}
    fresh = (one for one in new.conditions if _is_news(before.get(one.type), one))
    found = {one.reason: Event(Reason(one.reason), one.message, warning=True) for one in fresh}
    return tuple(found.values())


def _is_news(old: Condition | None, new: Condition) -> bool:
    if new.reason not in _WARNING_NAMES or not new.message or new.status == "Unknown":
        return False
    return old is None or (old.status, old.reason) != (new.status, new.reason)


_WARNING_NAMES: Final = frozenset(reason.value for reason in WARNINGS)


def _gist(status: TrainingJobStatus) -> tuple[object, ...]:
    told = tuple((one.type, one.status, one.reason, one.observed_generation) for one in status.conditions)
    request = status.checkpoint.request if status.checkpoint else None
    news = _sealed_by(status), request, sanity.gist(status), status.tracking
    return status.observed_generation, status.phase, told, *news


def _sealed_by(status: TrainingJobStatus) -> object:
    """By what attempt the newest checkpoint is; while pods are released, each may be the last heard of."""
    sealed = status.checkpoint.sealed if status.checkpoint else None
    if sealed is None:
        return None
    suspending = status.attempt is not None and status.attempt.state is AttemptState.SUSPENDING
    return sealed.attempt, sealed.digest if suspending else ""


def _headline(scene: Scene) -> Headline:
    """What PodsReady, and whatever else follows from it, says while nothing moves."""
    if scene.state is AttemptState.ASSEMBLING:
        return pods_ready(scene)
    if scene.state is None:
        return obstacle(scene) or Headline(Reason.WAITING_FOR_PODS)
    if scene.state is AttemptState.QUEUED and (other := _ahead(scene)):
        return Headline(Reason.WAITING_FOR_TURN, f"job {other}, older and of the same shape, goes first")
    main = {AttemptState.COMPLETE: ConditionType.COMPLETE, AttemptState.FAILED: ConditionType.FAILED}
    told = said(scene.status, main.get(scene.state, ConditionType.PODS_READY))
    return told or Headline(Reason.WAITING_FOR_PODS)


def _ahead(scene: Scene) -> str:
    """The job that goes first, once this one could go."""
    not_before = scene.attempt.not_before if scene.attempt else None
    other = blocker(scene) if not_before is None or not_before <= scene.now else None
    return f"{other.key.namespace}/{other.key.name}" if other else ""


def _stalled(scene: Scene) -> Headline | None:
    if scene.state in (None, AttemptState.SUSPENDED):
        return None if scene.spec.suspend or held(scene) else obstacle(scene)
    if scene.state is AttemptState.ASSEMBLING and any(slot.pod is None for slot in scene.slots):
        lost = snapshot(scene).lost
        if lost is not None:
            return lost
    return stalled(scene) if scene.state in LIVE else None


def _launcher(scene: Scene) -> tuple[str, Headline] | None:
    if not scene.mlenv:
        return None
    now = launcher_connected(scene) if scene.slots else None
    if now is not None:
        return now
    before = stored(scene.status, ConditionType.LAUNCHER_CONNECTED)
    told = said(scene.status, ConditionType.LAUNCHER_CONNECTED)
    return (before.status, told) if before and told else ("Unknown", Headline(Reason.WAITING_FOR_PODS))


def _degraded(scene: Scene) -> tuple[str, Headline] | None:
    if not tracking.tracked(scene):
        return None
    before = stored(scene.status, ConditionType.CHECKPOINT_DEGRADED)
    told = said(scene.status, ConditionType.CHECKPOINT_DEGRADED)
    if scene.state in TERMINAL:
        return drain.behind(scene)
    now = checkpoint_degraded(scene)
    return now or ((before.status, told) if before and told else None)


def _holds(condition: Condition | None) -> bool:
    return condition is not None and condition.status == "True"


def _complete(scene: Scene, status: TrainingJobStatus, words: Words) -> TrainingJobStatus:
    generation = scene.job.generation
    return status.model_copy(
        update={
            "observed_generation": generation,
            "phase": phase(status, words),
            "conditions": conditions(status, words, generation, scene.now),
            "nodes": _nodes(scene, status),
            "tracking": tracking.told(scene, status),
            "cost": spending.told(scene, status),
        }
    )


def _nodes(scene: Scene, status: TrainingJobStatus) -> Nodes:
    state = status.attempt.state if status.attempt else None
    desired = len(status.incarnations) or scene.spec.trainer.num_nodes
    if state in TERMINAL:
        return Nodes(desired=desired, names=scene.status.nodes.names)
    if state not in ACTIVE:
        return Nodes(desired=desired)
    kept = [
        slot
        for slot in scene.slots
        if status.incarnations[slot.index : slot.index + 1] == (slot.incarnation,)
    ]
    names = [""] * desired
    for slot in kept:
        names[slot.index] = slot.pod.node if slot.pod else ""
    return Nodes(desired=desired, ready=sum(map(_ready, kept)), names=tuple(names) if any(names) else ())


def _ready(slot: Slot) -> bool:
    return slot.pod is not None and not slot.lost and slot.pod.phase in ("Running", "Succeeded")
