"""A fault ends the attempt: the next one begins, or the job fails."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlenv_api.conditions import Reason
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.actions import Event
from mlenv_operator.core.checkpoints import heard_of, rolled_back, stored
from mlenv_operator.core.diagnose import Headline
from mlenv_operator.core.faults import faults, settled_at
from mlenv_operator.core.transition import Move, charged, ended, enter, restarted, second

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mlenv_api.trainingjob import AttemptRecord
    from mlenv_operator.core.classify import Scene, Slot
    from mlenv_operator.core.faults import Fault
    from mlenv_operator.core.world import CoreSettings


def failure(scene: Scene) -> Move | None:
    """End the attempt for its root cause, once that is surely known."""
    found = faults(scene)
    if not found or settled_at(scene, found[0]) > scene.now:
        return None
    root = found[0]
    if root.fatal:
        return _fail(scene, root, root.reason, root.message)
    limit, used = scene.spec.failure_policy.max_restarts, charged(scene).counted
    if root.counted and used >= limit:
        tried = f"failurePolicy.maxRestarts ({limit}) is used up; the last failure: " if limit else ""
        return _fail(scene, root, Reason.MAX_RESTARTS_EXCEEDED, tried + root.message)
    return _restart(scene, root)


def decided_at(scene: Scene) -> datetime | None:
    """When a fault that is seen will be acted on; null when there is none."""
    found = faults(scene)
    return settled_at(scene, found[0]) if found else None


def quick_failures(records: Sequence[AttemptRecord], settings: CoreSettings) -> int:
    """How many attempts in a row, the last ones, ended quickly."""
    count = 0
    for record in records:
        if record.reason in (Reason.SUSPENDED, Reason.COMPLETED) or not _was_quick(record, settings):
            break
        count += 1
    return count


def restart_delay_s(quick: int, settings: CoreSettings) -> float:
    """None at first, then doubling: a job that fails at once must not keep the cluster busy."""
    beyond = quick - settings.quick_attempts_free - 1
    if beyond < 0:
        return 0.0
    return float(min(settings.quick_backoff_first_s * 2**beyond, settings.quick_backoff_max_s))


def _was_quick(record: AttemptRecord, settings: CoreSettings) -> bool:
    if record.start_time is None:
        return True
    return (record.end_time - record.start_time).total_seconds() < settings.quick_attempt_s


def _fail(scene: Scene, root: Fault, reason: Reason, message: str) -> Move:
    status = enter(scene, AttemptState.FAILED, **ended(scene, root.reason, root.message, root))
    return Move(status, Headline(reason, message), events=(Event(reason, message, warning=True),))


def _restart(scene: Scene, root: Fault) -> Move:
    number = scene.attempt.number if scene.attempt else 0
    ledger = ended(scene, root.reason, root.message, root)
    ledger["restarts"] = restarted(scene, counted=root.counted)
    where = ""
    if root.reason is Reason.ROLLED_BACK:
        record, where = rolled_back(scene, heard_of(scene))
        ledger["checkpoint"] = stored(record)
    settings = scene.world.settings
    # A short attempt that sealed something newer got on all the same.
    quick = min(quick_failures(ledger["attempts"], settings), ledger["restarts"].without_progress)
    delay = restart_delay_s(quick, settings)
    again: dict[str, Any] = {"number": number + 1}
    if delay:
        again["not_before"] = second(scene.now) + timedelta(seconds=delay)
    status = enter(
        scene,
        AttemptState.ASSEMBLING,
        attempt=again,
        incarnations=tuple(_next_incarnation(scene, slot) for slot in scene.slots),
        **ledger,
    )
    next_ = f"{where}. " if where else ""
    message = f"attempt {number} ended: {root.message}. {next_}{_what_next(scene, root, number, delay)}"
    return Move(
        status,
        Headline(Reason.WAITING_FOR_PODS, f"pods of attempt {number + 1} are awaited"),
        Headline(root.reason, message),
        events=(Event(root.reason, message, warning=True),),
    )


def _what_next(scene: Scene, root: Fault, number: int, delay: float) -> str:
    limit, used = scene.spec.failure_policy.max_restarts, charged(scene).counted
    charge = f"restart {used + 1} of {limit}" if root.counted else "not charged to maxRestarts"
    when = f" in {delay:.0f} s, because the last ones were short" if delay else ""
    return f"Attempt {number + 1} follows{when} ({charge})"


def _next_incarnation(scene: Scene, slot: Slot) -> int:
    """Our launcher runs the next attempt in the same pod; without it, all pods are replaced."""
    missing = slot.pod is None and scene.state is AttemptState.RUNNING
    return slot.incarnation + (not scene.mlenv or slot.lost or missing or _finished(slot))


def _finished(slot: Slot) -> bool:
    return slot.pod is not None and slot.pod.finished
