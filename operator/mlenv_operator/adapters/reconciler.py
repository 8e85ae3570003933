"""One look at one job: observe, plan, then either move the attempt or act on the stored one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from mlenv_api.names import API_VERSION, TRAINING_JOB
from mlenv_operator.adapters.bookkeeper import NO_ACCOUNTS
from mlenv_operator.core.plan import plan
from mlenv_operator.core.requests import standing
from mlenv_operator.kube.errors import Conflict, NotFound
from mlenv_operator.kube.executor import Executor
from mlenv_operator.kube.resources import TRAINING_JOBS

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_api.trainingjob import TrainingJobStatus
    from mlenv_operator.adapters.bookkeeper import Accounts
    from mlenv_operator.adapters.nudges import Nudges
    from mlenv_operator.adapters.observe import Observer
    from mlenv_operator.adapters.recorder import Recorder
    from mlenv_operator.adapters.state import State
    from mlenv_operator.core.actions import Plan
    from mlenv_operator.core.world import JobKey, JobView, World
    from mlenv_operator.kube.client import Client

log = logging.getLogger(__name__)


class Queue(Protocol):
    """Where jobs are put that should be looked at."""

    def add(self, key: JobKey) -> None:
        """At once."""

    def add_after(self, key: JobKey, seconds: float) -> None:
        """In so many seconds."""


class Reconciler:
    """Carries a job one step further. What the API server cannot do now is raised, to be tried again."""

    def __init__(
        self,
        client: Client,
        queue: Queue,
        state: State,
        observer: Observer,
        recorder: Recorder,
        *,
        nudges: Nudges,
        accounts: Accounts = NO_ACCOUNTS,
    ) -> None:
        self._client = client
        self._executor = Executor(client)
        self._queue = queue
        self._state = state
        self._observer = observer
        self._recorder = recorder
        self._nudges = nudges
        self._accounts = accounts

    async def reconcile(self, key: JobKey) -> str:
        """Look once; what came of it, for the metric."""
        await self._clear_strangers(key)
        world = self._accounts.looked(key, self._observer.observe(key))
        for other in self._state.neighbours.update(key, world.job):
            self._queue.add(other)
        if world.job is None:
            self._state.rejections.accepted(key)
            self._state.overlay.forget(key)
            self._state.pace.forget(key)
        made = plan(world)
        result = await (self._move(key, world, made) if made.move else self._act(key, world, made))
        self._look_again(key, made.requeue_at)
        return result

    async def _clear_strangers(self, key: JobKey) -> None:
        """What an earlier job of this name left behind is let go of, whoever has the name now."""
        left = self._observer.strangers(key)
        if left is not None:
            left = self._accounts.looked(key, left)
            self._state.overlay.record((await self._executor.run(plan(left).actions)).done)

    async def _move(self, key: JobKey, world: World, made: Plan) -> str:
        """Store the next state of the attempt; acting on it is the next look's."""
        job = world.job
        assert job is not None, "only a job that is there can move"
        if not await self._carry_out(key, made):
            self._queue.add(key)
            return "refused"
        # If the job was changed, deleted or replaced unseen, its version is another, and nothing is stored.
        stored = await self._store(job, made.status)
        self._queue.add(key)
        if stored:
            self._nudges.moved(key)
            # What was refused before is tried anew: a job that was suspended and corrected need not wait.
            self._state.rejections.accepted(key)
            self._state.pace.wrote(key)
            await self._emit(job, made)
        return "moved" if stored else "conflict"

    async def _act(self, key: JobKey, world: World, made: Plan) -> str:
        if not await self._carry_out(key, made):
            if not world.rejections:
                self._queue.add(key)  # the refusal is news: it belongs into the conditions
                return "refused"
            for rejection in self._state.rejections.of(key):
                self._look_again(key, rejection.retry_at)
        job = world.job
        if job is None or made.status is None:
            return "acted" if made.actions else "unchanged"
        wait = self._state.pace.wait_s(key, made.status_urgency)
        if wait > 0:
            self._queue.add_after(key, wait)
            return "paced"
        stored = await self._store(job, made.status)
        if not stored:
            self._queue.add(key)
            return "conflict"
        self._state.pace.wrote(key)
        if standing(made.status.checkpoint) != standing(job.status.checkpoint):
            self._nudges.moved(key)
        await self._emit(job, made)
        return "acted"

    async def _carry_out(self, key: JobKey, made: Plan) -> bool:
        """Whether nothing was refused."""
        if not made.actions:
            return True
        result = await self._executor.run(made.actions)
        self._state.overlay.record(result.done)
        if result.refusal is not None:
            self._state.rejections.refused(key, result.refusal)
            return False
        self._state.rejections.accepted(key)
        return True

    async def _read_again(self, job: JobView) -> None:
        """The job is not as we saw it: kopf's watch may be late, and tells of no lost deletions."""
        try:
            self._state.jobs.put(await self._client.get(TRAINING_JOBS, *job.key))
        except NotFound:
            self._state.jobs.drop(job.key, job.uid)

    async def _store(self, job: JobView, status: TrainingJobStatus | None) -> bool:
        """Write the status, if the job is still as we saw it."""
        if status is None:
            return True
        body: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": TRAINING_JOB,
            "metadata": {
                "namespace": job.key.namespace,
                "name": job.key.name,
                "uid": job.uid,
                "resourceVersion": job.resource_version,
            },
            "status": status.wire(),
        }
        try:
            self._state.jobs.put(await self._client.update_status(TRAINING_JOBS, body))
        except Conflict:
            await self._read_again(job)
            return False
        except NotFound:
            self._state.jobs.drop(job.key, job.uid)
            return False
        return True

    async def _emit(self, job: JobView, made: Plan) -> None:
        for event in made.events:
            await self._recorder.emit(job, event)

    def _look_again(self, key: JobKey, at: datetime | None) -> None:
        if at is not None:
            seconds = (at - self._state.clock.now()).total_seconds()
            self._queue.add_after(key, max(0.05, seconds))
