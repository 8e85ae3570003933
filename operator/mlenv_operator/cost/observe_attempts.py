"""Marks from the stored status of a job: when attempts began, formed their worlds, and ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mlenv_api.trainingjob import AttemptState
from mlenv_operator.cost.facts import SECOND, Category, Mark
from mlenv_operator.cost.moments import micros

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from mlenv_api.trainingjob import AttemptRecord, TrainingJobStatus
    from mlenv_operator.core.world import PodView
    from mlenv_operator.cost.facts import Micros

_NOW: Final = {
    AttemptState.ASSEMBLING: Category.RECOVERY,
    AttemptState.RUNNING: Category.PRODUCTIVE,
    AttemptState.QUEUED: Category.DRAIN,
    AttemptState.SUSPENDING: Category.DRAIN,
    AttemptState.SUSPENDED: Category.DRAIN,
    AttemptState.COMPLETE: Category.DRAIN,
    AttemptState.FAILED: Category.DRAIN,
}


class Turn(NamedTuple):
    """From `at` on, whole seconds, the job's pods do this. Without telemetry running is all that is known."""

    at: Micros
    attempt: int
    category: Category


def turns(status: TrainingJobStatus) -> list[Turn]:
    """What became of the attempts that the status still tells of, oldest first."""
    now = status.attempt
    newest = now.number if now else 0
    found = [turn for record in reversed(status.attempts) for turn in _of_record(record, newest)]
    if now is not None:
        found.append(Turn(_second(now.since), now.number, _NOW[now.state]))
    return sorted(found, key=_by_time)


def _of_record(record: AttemptRecord, newest: int) -> Iterator[Turn]:
    """The world forms; later its end is decided. What comes then is the next attempt's, if there is one."""
    if record.start_time is not None:
        yield Turn(_second(record.start_time), record.number, Category.PRODUCTIVE)
    if record.number < newest:
        yield Turn(_second(record.end_time), record.number + 1, Category.RECOVERY)


def attempt_marks(pod: PodView, history: Sequence[Turn]) -> tuple[Mark, ...]:
    """The marks of one pod, all of them each time: the same ones from the same status.

    What the job did when the pod started, the pod joins: waiting for its world then is init, and no recovery.
    """
    if pod.started_at is None:
        return ()
    start, end = micros(pod.started_at), pod.terminated.finished_at if pod.terminated else None
    until = None if end is None else micros(end)
    begun = [turn for turn in history if turn.at <= start][-1:]
    did = [Turn(start, turn.attempt, _joined(turn.category)) for turn in begun]
    did += [turn for turn in history if turn.at > start and (until is None or turn.at < until)]
    if until is not None:
        did.append(Turn(until, did[-1].attempt if did else 0, Category.DRAIN))
    return tuple(
        Mark(pod.uid, turn.at, number, turn.attempt, turn.category) for number, turn in _numbered(did)
    )


def _joined(category: Category) -> Category:
    return Category.INIT if category is Category.RECOVERY else category


def _numbered(history: Sequence[Turn]) -> Iterator[tuple[int, Turn]]:
    """Those of one second in their order, below the sequences of what beats tell."""
    at, number = -1, 0
    for turn in history:
        number = number + 1 if turn.at == at else 0
        at = turn.at
        yield min(number, MOST), turn


MOST: Final = 9
"""Highest sequence of such a mark."""


def _by_time(turn: Turn) -> Micros:
    return turn.at


def _second(time: datetime) -> Micros:
    """Records keep whole seconds: the same turn must have the same time in both."""
    at = micros(time)
    return at - at % SECOND


def world_formed(status: TrainingJobStatus) -> Micros | None:
    """Since when the stored attempt runs; null while it does not. What `hear` begins at."""
    now = status.attempt
    return _second(now.since) if now is not None and now.state is AttemptState.RUNNING else None


def highest_step(status: TrainingJobStatus, attempt: int) -> int:
    """The highest step that attempts before this one had committed, as far as they are still told of."""
    return max((one.last_step or 0 for one in status.attempts if one.number < attempt), default=0)
