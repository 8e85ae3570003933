"""What a status says of the job's cost, from what the ledger published last."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mlenv_api.cost import CostStatus
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.classify import TERMINAL
from mlenv_operator.core.transition import second
from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND
from mlenv_operator.cost.money import format_dollars, parse_dollars

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_api.trainingjob import JobProgress, TrainingJobStatus
    from mlenv_operator.core.books import Spending
    from mlenv_operator.core.classify import Scene
    from mlenv_operator.cost.facts import Nanos

AT_REST: Final = TERMINAL | {AttemptState.SUSPENDED}
"""States in which a job comes to hold nothing."""
AWAITED_S: Final = 1200.0
"""For so long the last sum of a job at rest is awaited: the ledger shows it a quarter of an hour."""
MOST: Final = 10**9 * DOLLAR
_UNPRICED: Final = (
    "part of what the job held has no price: it cost more than the amount, or nobody knows what."
    " A PriceBook with the machine's price mends the bill (mlenv cost)"
)
_NOTHING: Final = "nothing that the job held has a price by which it would cost anything"


def told(scene: Scene, status: TrainingJobStatus | None = None) -> CostStatus | None:
    """The newest that is known, for this status; what is stored, when the ledger tells nothing newer."""
    stored, books = scene.status.cost, scene.world.books
    status = status or scene.status
    if books.job is None or books.as_of is None or (stored and second(books.as_of) < stored.as_of):
        if stored is None or not stored.final or _rests(status):
            return stored
        return stored.model_copy(update={"final": False})  # it goes on
    return _of(scene, books.job, second(books.as_of), status)


def spent(cost: CostStatus | None) -> Nanos | None:
    """Nanodollars; null where nobody knows."""
    return None if cost is None or cost.amount is None else parse_dollars(cost.amount)


def news(old: TrainingJobStatus, new: TrainingJobStatus) -> bool:
    """Whether the cost is worth a write of its own: once, when all is counted."""
    return new.cost is not None and new.cost.final and not (old.cost is not None and old.cost.final)


def look_at(scene: Scene) -> datetime | None:
    """When to look for the last sum of a job at rest; null when it is there, or will not come."""
    attempt, books = scene.attempt, scene.world.books
    if scene.state not in AT_REST or attempt is None or not books.kept:
        return None
    if (scene.status.cost is not None and scene.status.cost.final) or scene.status.start_time is None:
        return None
    late = scene.now >= attempt.since + timedelta(seconds=AWAITED_S)
    if late and books.job is None:
        return None
    return scene.now + timedelta(seconds=scene.world.settings.cost_poll_s)


def _rests(status: TrainingJobStatus) -> bool:
    return status.attempt is not None and status.attempt.state in AT_REST


def _of(scene: Scene, job: Spending, as_of: datetime, status: TrainingJobStatus) -> CostStatus:
    final = _rests(status) and _final(scene, job, as_of)
    unpriced = job.unpriced or job.lacking
    priced = job.cost > 0
    missing = _NOTHING if final and not priced else ""
    return CostStatus(
        amount=_dollars(job.cost) if priced else None,
        rate_per_hour=None if job.unpriced else _dollars(job.rate),
        by_category={kind: text for kind, cost in job.by_category if cost and (text := _dollars(cost))},
        estimated_total=_estimate(job, as_of, status.progress) if priced and not unpriced else None,
        as_of=as_of,
        final=final,
        message=_UNPRICED if unpriced else missing,
    )


def _final(scene: Scene, job: Spending, as_of: datetime) -> bool:
    """The ledger has the end of every pod, and what it says is of a moment after that."""
    if scene.attempt is None or job.holds or scene.world.withheld:
        return False
    ends = [pod.finished_at for pod in scene.world.pods if pod.finished_at is not None]
    return all(pod.finished for pod in scene.world.pods) and as_of > max(ends, default=scene.attempt.since)


def _estimate(job: Spending, as_of: datetime, progress: JobProgress | None) -> str | None:
    """At the job's own recent rate of steps, and with what it holds now."""
    ends = progress.estimated_completion_time if progress else None
    if ends is None or not job.rate or ends <= as_of:
        return None
    micros = round((ends - as_of).total_seconds()) * SECOND
    return _dollars(job.cost + job.rate * micros // HOUR)


def _dollars(nanos: Nanos) -> str | None:
    """Null for what the field cannot hold: a thousand million dollars, or less than nothing."""
    return format_dollars(nanos) if 0 <= nanos < MOST else None
