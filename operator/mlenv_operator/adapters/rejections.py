"""What the API server would not create, remembered until it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_operator.core.rejections import reject
from mlenv_operator.core.world import CoreSettings, JobKey, Rejection

if TYPE_CHECKING:
    from mlenv_operator.kube.executor import Refusal
    from mlenv_operator.runtime.clock import Clock


class Rejections:
    """The last refusal of each job. In memory: after a restart of the operator it is tried once more."""

    def __init__(self, clock: Clock, settings: CoreSettings | None = None) -> None:
        self._clock = clock
        self._settings = settings or CoreSettings()
        self._known: dict[JobKey, Rejection] = {}

    def of(self, key: JobKey) -> tuple[Rejection, ...]:
        """What was refused to this job."""
        known = self._known.get(key)
        return () if known is None else (known,)

    def refused(self, key: JobKey, refusal: Refusal) -> None:
        """The API server refused; each time in a row the next try is later."""
        self._known[key] = reject(
            refusal.reason,
            refusal.what,
            refusal.message,
            before=self._known.get(key),
            now=self._clock.now(),
            settings=self._settings,
        )

    def accepted(self, key: JobKey) -> None:
        """All that was wanted exists."""
        self._known.pop(key, None)
