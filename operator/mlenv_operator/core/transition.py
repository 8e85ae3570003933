"""Moves of the attempt: the next status, without conditions (they follow from it)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlenv_api.trainingjob import Attempt, AttemptRecord, AttemptState, Restarts
from mlenv_operator.core.checkpoints import heard_of, progressed, stored
from mlenv_operator.core.classify import ACTIVE, TERMINAL
from mlenv_operator.core.progress import progress
from mlenv_operator.core.text import clip

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_api.conditions import Reason
    from mlenv_api.trainingjob import TrainingJobStatus
    from mlenv_operator.core.actions import CreateRevision, Event
    from mlenv_operator.core.classify import Scene
    from mlenv_operator.core.diagnose import Headline
    from mlenv_operator.core.faults import Fault

MAX_RECORDS: Final = 10
MAX_SENTENCE: Final = 2048


_SAME_WORLD: Final = TERMINAL | {AttemptState.SUSPENDING}
"""What ranks ran from stays said when they end, or are being ended."""


@dataclass(frozen=True, slots=True)
class Move:
    """A policy's decision: the attempt goes to another state."""

    status: TrainingJobStatus
    headline: Headline
    """Why, for the conditions that this move decides."""
    restarting: Headline | None = None
    """Set when a fault made this move."""
    events: tuple[Event, ...] = ()
    actions: tuple[CreateRevision, ...] = ()


def second(time: datetime) -> datetime:
    """Whole seconds, as Kubernetes writes times."""
    return time.replace(microsecond=0)


def enter(
    scene: Scene, state: AttemptState, *, attempt: dict[str, Any] | None = None, **changes: Any
) -> TrainingJobStatus:
    """The stored status with its attempt in another state; ``attempt`` and ``changes`` replace fields."""
    old = scene.status.attempt
    base: dict[str, Any] = {"number": old.number, "timeouts": old.timeouts} if old else {"number": 1}
    if old and state in _SAME_WORLD:
        base["origin"] = old.origin
    moved = Attempt(**{**base, "state": state, "since": scene.now, **(attempt or {})})
    update = {"attempt": moved, **_active(scene, state), **changes}
    if state in TERMINAL:
        update["completion_time"] = second(scene.now)
    return scene.status.model_copy(update=update)


def ended(scene: Scene, reason: Reason, message: str, fault: Fault | None = None) -> dict[str, Any]:
    """The ledger with the end of the current attempt in front, and what it came to last."""
    attempt, last = scene.attempt, progress(scene)
    if attempt is None:
        return {}
    started = attempt.since if attempt.state is AttemptState.RUNNING else None
    record = AttemptRecord(
        number=attempt.number,
        start_time=started and second(started),
        end_time=second(scene.now),
        reason=reason,
        message=clip(message, MAX_SENTENCE),
        index=fault.index if fault else None,
        node=(fault.node or None) if fault else None,
        exit_code=fault.exit_code if fault else None,
        counted=fault.counted if fault else False,
        last_step=last.step if last else _sealed_step(scene, attempt),
        resumed_from=_resumed_from(attempt),
    )
    return {
        "attempts": (record, *scene.status.attempts)[:MAX_RECORDS],
        "progress": last,
        "checkpoint": stored(heard_of(scene)),
        "restarts": charged(scene),
    }


def _sealed_step(scene: Scene, attempt: Attempt) -> int | None:
    """Of the checkpoint that the attempt sealed: a beat may tell of it before any tells of progress."""
    sealed = heard_of(scene).sealed
    return sealed.step if sealed is not None and sealed.attempt == attempt.number else None


def charged(scene: Scene) -> Restarts:
    """What stands against the budget as the current attempt ends: nothing, if it sealed something newer."""
    old = scene.status.restarts
    return Restarts(total=old.total) if progressed(scene, heard_of(scene)) else old


def restarted(scene: Scene, *, counted: bool) -> Restarts:
    """One restart more."""
    old = charged(scene)
    idle = not progressed(scene, heard_of(scene))
    return Restarts(
        total=old.total + 1, counted=old.counted + counted, without_progress=old.without_progress + idle
    )


def active_seconds(scene: Scene) -> float:
    """How long the job has held pods, over all attempts."""
    since = scene.status.active_since
    running = (scene.now - since).total_seconds() if since else 0.0
    return scene.status.active_seconds + max(0.0, running)


def _resumed_from(attempt: Attempt) -> int | None:
    if attempt.origin is None:
        return None
    return attempt.origin.checkpoint.step if attempt.origin.checkpoint else 0


def _active(scene: Scene, state: AttemptState) -> dict[str, Any]:
    if state in ACTIVE:
        return {"active_since": scene.status.active_since or second(scene.now)}
    return {"active_since": None, "active_seconds": round(active_seconds(scene))}
