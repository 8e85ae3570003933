"""The conditions and the phase of a status: derived, never decided upon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlenv_api.conditions import ConditionType, Reason
from mlenv_api.trainingjob import AttemptState, Condition, Phase
from mlenv_operator.core import sanity
from mlenv_operator.core.classify import ACTIVE, TERMINAL
from mlenv_operator.core.diagnose import Headline
from mlenv_operator.core.text import clip
from mlenv_operator.core.transition import MAX_SENTENCE, second

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from typing import Literal

    from mlenv_api.trainingjob import TrainingJobStatus

_RECONCILING: Final = frozenset({AttemptState.ASSEMBLING, AttemptState.QUEUED, AttemptState.SUSPENDING})
_NOT_YET: Final = {
    None: Reason.WAITING_FOR_PODS,
    AttemptState.ASSEMBLING: Reason.WAITING_FOR_PODS,
    AttemptState.QUEUED: Reason.BACKING_OFF,
    AttemptState.RUNNING: Reason.STARTED,
    AttemptState.SUSPENDING: Reason.SUSPENDING,
    AttemptState.SUSPENDED: Reason.SUSPENDED,
    AttemptState.COMPLETE: Reason.COMPLETED,
}
"""Reasons of conditions that do not hold."""
_PHASES: Final = {
    AttemptState.ASSEMBLING: Phase.ASSEMBLING,
    AttemptState.QUEUED: Phase.QUEUED,
    AttemptState.RUNNING: Phase.RUNNING,
    AttemptState.SUSPENDING: Phase.SUSPENDING,
    AttemptState.SUSPENDED: Phase.SUSPENDED,
    AttemptState.COMPLETE: Phase.COMPLETE,
    AttemptState.FAILED: Phase.FAILED,
}


@dataclass(frozen=True, slots=True)
class Words:
    """What there is to say."""

    headline: Headline
    stalled: Headline | None = None
    restarting: Headline | None = None
    launcher: tuple[str, Headline] | None = None
    """Status and reason of LauncherConnected; null leaves the condition out."""
    degraded: tuple[str, Headline] | None = None
    """The same of CheckpointDegraded."""
    tracking: tuple[str, Headline] | None = None
    """The same of TrackingDegraded."""
    cost_limit: tuple[str, Headline] | None = None
    """The same of CostExceeded."""


@dataclass(frozen=True, slots=True)
class _Row:
    type: ConditionType
    status: str
    headline: Headline


def conditions(
    status: TrainingJobStatus, words: Words, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """All conditions of a status; those that say what is stored keep their time."""
    old = {condition.type: condition for condition in status.conditions}
    return tuple(_condition(row, old.get(row.type), generation, now) for row in _rows(status, words))


def phase(status: TrainingJobStatus, words: Words) -> Phase:
    """A word for the printer."""
    state = _state(status)
    if state is None or (words.stalled and state is not AttemptState.FAILED):
        return Phase.STALLED
    if state is AttemptState.ASSEMBLING and words.restarting:
        return Phase.RESTARTING
    return _PHASES[state]


def _state(status: TrainingJobStatus) -> AttemptState | None:
    return status.attempt.state if status.attempt else None


def _rows(status: TrainingJobStatus, words: Words) -> Iterator[_Row]:
    state, head = _state(status), words.headline
    failed = state is AttemptState.FAILED
    absent = Headline(_NOT_YET.get(state, head.reason))
    restarting = words.restarting if state is AttemptState.ASSEMBLING else None
    stalled = head if failed else words.stalled
    yield _row(ConditionType.SUSPENDED, head if state is AttemptState.SUSPENDED else None, absent)
    yield _row(ConditionType.PODS_READY, head if state is AttemptState.RUNNING else None, head)
    yield _row(ConditionType.RESTARTING, restarting, absent)
    if words.launcher and state in ACTIVE:
        yield _Row(ConditionType.LAUNCHER_CONNECTED, *words.launcher)
    # A finished job has them only while its last checkpoint, or its history, is not where it should be.
    carried = {
        ConditionType.CHECKPOINT_DEGRADED: words.degraded,
        ConditionType.TRACKING_DEGRADED: words.tracking,
    }
    for type_, said in carried.items():
        if said and (state in ACTIVE or (state in TERMINAL and said[0] != "False")):
            yield _Row(type_, *said)
    if judged := sanity.condition(status.checkpoint):
        yield _Row(ConditionType.CHECKPOINT_SANE, *judged)
    if words.cost_limit:
        yield _Row(ConditionType.COST_EXCEEDED, *words.cost_limit)
    yield _row(ConditionType.COMPLETE, head if state is AttemptState.COMPLETE else None, absent)
    yield _row(ConditionType.FAILED, head if failed else None, absent)
    yield _row(ConditionType.RECONCILING, head if state in _RECONCILING else None, absent)
    yield _row(ConditionType.STALLED, stalled, absent)


def _row(type_: ConditionType, holds: Headline | None, otherwise: Headline) -> _Row:
    return _Row(type_, "False" if holds is None else "True", holds or otherwise)


def _condition(row: _Row, old: Condition | None, generation: int, now: datetime) -> Condition:
    reason, message = row.headline.reason, clip(row.headline.message, MAX_SENTENCE)
    if old is not None and (old.status, old.reason, old.message, old.observed_generation) == (
        row.status,
        reason,
        message,
        generation,
    ):
        return old
    since = old.last_transition_time if old is not None and old.status == row.status else second(now)
    return Condition(
        type=row.type,
        status=_literal(row.status),
        observed_generation=generation,
        last_transition_time=since,
        reason=reason,
        message=message,
    )


def _literal(status: str) -> Literal["True", "False", "Unknown"]:
    if status == "True":
        return "True"
    return "False" if status == "False" else "Unknown"
