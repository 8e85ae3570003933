"""What the ledger published last, as the core is told of it: a look-up, no question to the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_operator.core.books import Books, Spending
from mlenv_operator.cost.moments import moment

if TYPE_CHECKING:
    from mlenv_operator.ledger.accountant import Figures
    from mlenv_operator.ledger.exports import Exposition
    from mlenv_operator.ledger.live import LiveJob


class Shown:
    """Jobs by UID, sorted once for each publication."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._exposition: Exposition | None = None
        self._jobs: dict[str, LiveJob] = {}

    def of(self, uid: str) -> Books:
        """What is known of the job, and why not more."""
        shown = self._figures.exposition
        if shown is None:
            return Books(kept=True, problem=self._figures.condition)
        if shown is not self._exposition:
            self._exposition, self._jobs = shown, {one.uid: one for one in shown.jobs}
        job = self._jobs.get(uid)
        return Books(
            kept=True,
            as_of=moment(shown.as_of),
            job=None if job is None else _spending(job),
        )


def _spending(job: LiveJob) -> Spending:
    return Spending(
        cost=job.cost,
        rate=job.rate,
        by_category=job.by_category,
        unpriced=job.unpriced,
        lacking=job.unpriced_micros > 0,
        holds=bool(job.gpus or job.instance_type or job.capacity_type),
    )
