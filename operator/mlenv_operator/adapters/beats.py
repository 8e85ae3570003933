"""Launchers' heartbeats: answered from stored state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlenv_api.protocol import Answer, Beat, Misdirected
from mlenv_operator.adapters.bookkeeper import NO_ACCOUNTS
from mlenv_operator.adapters.http import NotReadyError
from mlenv_operator.adapters.tokens import NotOursError, PodIdentity
from mlenv_operator.core.answers import answer, undecided
from mlenv_operator.core.classify import silence
from mlenv_operator.core.world import JobKey

if TYPE_CHECKING:
    from mlenv_operator.adapters.bookkeeper import Accounts
    from mlenv_operator.adapters.reconciler import Queue
    from mlenv_operator.adapters.state import State
    from mlenv_operator.core.world import BeatView, CoreSettings, PodView
    from mlenv_operator.runtime.lease import Lease

HOLD_S: Final = 2.0
"""How long an answer may wait for the decision that the beat itself calls for."""
MAX_HELD: Final = 2000
"""So many answers at most wait at a time; the others are given at once."""
PROGRESS_LOOK_S: Final = 5.0
"""Progress alone makes a job be looked at after so long."""


class Launchers:
    """Answers beats while this replica leads."""

    def __init__(
        self,
        lease: Lease,
        queue: Queue,
        state: State,
        settings: CoreSettings,
        accounts: Accounts = NO_ACCOUNTS,
    ) -> None:
        self._lease = lease
        self._queue = queue
        self._state = state
        self._settings = settings
        self._accounts = accounts
        self._held = 0
        self.leading = False
        """Set once the jobs are known as they are stored."""

    def misdirected(self) -> Misdirected | None:
        """Where to go instead, unless the Lease is surely ours."""
        if self._lease.surely_ours(self._state.clock.monotonic()):
            return None
        return Misdirected(leader=self._lease.leader_address)

    async def beat(self, pod: PodIdentity, beat: Beat) -> Answer:
        """Remember what the launcher says, have the job looked at, and answer from what is stored."""
        if not self.leading:
            raise NotReadyError("the operator has just begun to lead and is reading the jobs")
        view = self._state.caches.pods.get(pod.namespace, pod.pod_name)
        if view is None or view.uid != pod.pod_uid:
            raise NotOursError(f"pod {pod.pod_name} is not a live pod of a TrainingJob")
        key = JobKey(view.namespace, view.job_name)
        after = silence(len(self._state.caches.pods), self._settings)
        heard, news = self._state.beats.record(view.uid, beat, after)
        if beat.spent is not None:
            self._meter(key, view, heard)
        if news:
            self._queue.add(key)
            await self._hold(key, view, heard)
        elif beat.progress is not None:
            self._queue.add_after(key, PROGRESS_LOOK_S)
        return self._answer(key, view, heard)

    def _meter(self, key: JobKey, view: PodView, heard: BeatView) -> None:
        job = self._state.jobs.get(key)
        if job is not None and job.uid == view.job_uid:
            self._accounts.heard(job, view, heard)

    async def _hold(self, key: JobKey, view: PodView, heard: BeatView) -> None:
        """News mostly calls for a decision: wait for it rather than answer what was.

        So a restart costs a launcher one round trip; the job's state changes when the decision is stored.
        """
        if self._held >= MAX_HELD:
            return
        until = self._state.clock.monotonic() + HOLD_S
        self._held += 1
        try:
            with self._state.beats.held(view.uid):
                while undecided(view, heard.beat, self._answer(key, view, heard)):
                    left = until - self._state.clock.monotonic()
                    if left <= 0 or not await self._state.jobs.wait_change(key, left):
                        return
        finally:
            self._held -= 1

    def _answer(self, key: JobKey, view: PodView, heard: BeatView) -> Answer:
        job = self._state.jobs.get(key)
        if job is None or job.uid != view.job_uid:
            raise NotOursError(f"the TrainingJob of pod {view.name} is gone")
        fleet = len(self._state.caches.pods)
        return answer(job, view, heard, self._lease.transitions, fleet_pods=fleet, settings=self._settings)
