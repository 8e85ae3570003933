"""How often statuses are written: news at once, numbers rarely, all jobs together within a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlenv_operator.core.actions import Urgency
from mlenv_operator.runtime.workqueue import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlenv_operator.core.world import JobKey
    from mlenv_operator.runtime.clock import Clock

PROGRESS_S: Final = 5.0
"""Between two writes of one job's numbers, at least."""
BUSY_FACTOR: Final = 4
"""So much rarer while keys wait for a worker: in a burst, the API server has better things to do."""
CONDITION_BURST: Final = 20
CONDITIONS_PER_S: Final = 1 / 60
"""Beyond the burst, changes of one job's conditions that are no moves: a broken job settles."""


class Pace:
    """Says how long a status has to wait. Moves never wait."""

    def __init__(
        self,
        clock: Clock,
        live_jobs: Callable[[], int],
        writes_per_s: float,
        *,
        waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        self._clock = clock
        self._waiting = waiting
        self._writes_per_s = writes_per_s
        self._live_jobs = live_jobs
        self._written: dict[JobKey, float] = {}
        self._conditions: dict[JobKey, TokenBucket] = {}

    def wait_s(self, key: JobKey, urgency: Urgency) -> float:
        """Seconds until a status of this urgency may be written; 0: now."""
        if urgency is Urgency.PROGRESS:
            interval = max(PROGRESS_S, self._live_jobs() / self._writes_per_s)
            interval *= BUSY_FACTOR if self._waiting() else 1
            return max(0.0, self._written.get(key, 0.0) + interval - self._clock.monotonic())
        if urgency is Urgency.CONDITION and not self._bucket(key).take():
            return 1 / CONDITIONS_PER_S
        return 0.0

    def wrote(self, key: JobKey) -> None:
        """A status was written."""
        self._written[key] = self._clock.monotonic()

    def forget(self, key: JobKey) -> None:
        """The job is gone."""
        self._written.pop(key, None)
        self._conditions.pop(key, None)

    def _bucket(self, key: JobKey) -> TokenBucket:
        if key not in self._conditions:
            self._conditions[key] = TokenBucket(
                self._clock, per_second=CONDITIONS_PER_S, burst=CONDITION_BURST
            )
        return self._conditions[key]
