"""What there is to tell people of a job's history: that it is not logged, or not what was recorded. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mlenv.courier import runlog
from mlenv.courier.faults import HUMAN, Kind
from mlenv_api.conditions import Reason
from mlenv_api.protocol import Degraded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from mlenv import rows
    from mlenv.courier.faults import Fault

SERIOUS: Final = 3
"""So many failures in a row are worth a condition; what a person must mend is at once."""
NO_DRIFT: Final = runlog.Drift()
ELSEWHERE: Final = 0.01
"""Relative difference of a loss that kernels which are not deterministic are not expected to make."""
NOT_LOGGED: Final = Reason.HISTORY_NOT_LOGGED
NEXT: Final = "The job's next attempt logs them, or the Job that carries its last checkpoint"
MAX_NAME: Final = 60
"""Of a metric in a sentence: a status has 400 characters."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the losses of the last attempt that replayed anything compare with what was recorded."""

    attempt: int = 0
    drift: runlog.Drift = NO_DRIFT
    exact: bool = False
    """Whether its program asked for deterministic kernels."""
    off: bool = False
    """Whether that is worth a word. It stays so for the attempt, whatever the rest of its replay is like."""

    def with_(self, other: Verdict) -> Verdict:
        """The later one of both; of one attempt that which knows more: rows may be read again."""
        newer = (other.attempt, other.drift.differ) >= (self.attempt, self.drift.differ)
        if not newer or not other.drift.compared:
            return self
        return replace(other, off=other.off or (self.off and self.attempt == other.attempt))


def judged(
    before: Verdict, attempt: int, replayed: Iterable[rows.Row], recorded: Iterable[Mapping[str, Any]]
) -> Verdict:
    """The verdict on an attempt, with these rows; `before` says how exact it is meant to be."""
    so_far = before if before.attempt == attempt else Verdict(attempt, exact=before.exact)
    bar = runlog.Bar(within=0.0 if before.exact else ELSEWHERE, losses=True)
    drift = runlog.compare(replayed, recorded, so_far.drift, bar)
    return replace(so_far, drift=drift, off=so_far.off or _off(drift, exact=before.exact))


def _off(drift: runlog.Drift, *, exact: bool) -> bool:
    """Without deterministic kernels single steps go astray, as noise grows from step to step; most do not."""
    return drift.differ > 0 if exact else 2 * drift.differ > drift.compared


def of_store(fault: Fault | None, failures: int, *, ending: bool, done: bool) -> Degraded | None:
    """What keeps history out of the run. Of a pod that ends nobody may hear again."""
    if fault is not None and (ending or fault.kind in HUMAN or failures >= SERIOUS):
        reason = NOT_LOGGED if fault.kind in {Kind.OTHER, Kind.LOCAL} else Reason(fault.kind.value)
        return _said(reason, f"history is not logged to the job's run: {fault.sentence}")
    if ending and not done:
        where = "rows wait in the spool, and go with the pod unless that is a volume"
        return _said(NOT_LOGGED, f"not all history is in the job's run: {where}. {NEXT}")
    return None


def of_rank(stopped: tuple[int, str], newest: int) -> Degraded | None:
    """That rank 0 of the newest attempt writes none."""
    attempt, why = stopped
    if not why or attempt < newest:
        return None
    advice = "Training goes on, and the next attempt writes history again: make room, or mend the store"
    return _said(Reason.HISTORY_STOPPED, f"attempt {attempt} writes no more history: {why}. {advice}")


def of_replay(found: Verdict, branched_by: int, run: str) -> Degraded | None:
    """That replayed steps differ, until a later attempt replays them well, or the branch is left."""
    drift = found.drift
    if not found.off or branched_by > found.attempt:
        return None
    bar = (
        "deterministic kernels were asked for, so any difference is one"
        if found.exact
        else f"up to {ELSEWHERE:.0%} is taken for noise"
    )
    text = (
        f"attempt {found.attempt} made steps again with another loss than {run} has recorded:"
        f" {drift.name[:MAX_NAME]} differs at {drift.differ} of {drift.compared} steps, first at step"
        f" {drift.first}, by {drift.worst:.2g} of its size at most ({bar}). Compare data, code, image and"
        " world of the attempts: one is not what it was"
    )
    return _said(Reason.HISTORY_DRIFT, text)


def _said(reason: Reason, text: str) -> Degraded:
    return Degraded(reason=reason.value, message=text[:1024])
