"""Every few minutes, everything once: what no watch told is found here."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from mlenv_operator.core.world import JobKey
from mlenv_operator.kube.errors import ApiError, Conflict, NotFound
from mlenv_operator.kube.resources import CONTROLLER_REVISIONS, TRAINING_JOBS
from mlenv_operator.kube.sources import metadata_of

if TYPE_CHECKING:
    from mlenv_operator.adapters.caches import RevisionView
    from mlenv_operator.adapters.reconciler import Queue
    from mlenv_operator.adapters.state import State
    from mlenv_operator.kube.client import Client

log = logging.getLogger(__name__)
BETWEEN_TURNS: Final = 50
"""So many jobs are gone through at a time; then others get their turn."""
REVISION_AGE: Final = timedelta(hours=1)
"""A younger snapshot may be about to be referred to."""


class Sweep:
    """Compares the caches with what is stored."""

    def __init__(self, client: Client, queue: Queue, state: State, *, interval_s: float) -> None:
        self._client = client
        self._queue = queue
        self._state = state
        self._interval_s = interval_s

    async def read_jobs(self) -> None:
        """Read all jobs as they are stored now: the first act of a new leader."""
        keys = set(self._state.jobs.keys())
        async for page in self._client.list_pages(TRAINING_JOBS):
            for number, raw in enumerate(page.items):
                self._state.jobs.put(raw)
                keys.discard(_key(raw["metadata"]))
                if number % BETWEEN_TURNS == 0:
                    await asyncio.sleep(0)
        for key in keys:
            await self._check(key)
        for key in self._everything():
            self._queue.add(key)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self._state.clock.sleep(self._interval_s)
            try:
                await self.once()
            except ApiError as error:
                log.warning("sweep not finished, the next one will be: %s", error)

    async def once(self) -> None:
        """One sweep."""
        for key in await self._behind():
            await self._check(key)
        for key in self._everything():
            if self._state.jobs.version(key) is None:
                self._queue.add(key)
        await self._delete_revisions()
        self._state.overlay.expire()

    async def _behind(self) -> list[JobKey]:
        """Jobs of which the list knows more than the caches; what these know more, a watch has told them."""
        unlisted = set(self._state.jobs.keys())
        behind = []
        async for metadata in metadata_of(self._client, TRAINING_JOBS):
            key = _key(metadata)
            unlisted.discard(key)
            known = self._state.jobs.version(key)
            if known is None or known[0] != metadata["uid"] or known[1] < int(metadata["resourceVersion"]):
                behind.append(key)
        return [*behind, *unlisted]

    async def _check(self, key: JobKey) -> None:
        """Read one job; the caches may be ahead of the list, or the list of the caches."""
        try:
            news = self._state.jobs.put(await self._client.get(TRAINING_JOBS, *key))
        except NotFound:
            known = self._state.jobs.version(key)
            news = known is not None and self._state.jobs.drop(key, known[0])
        if news:
            self._queue.add(key)

    def _everything(self) -> set[JobKey]:
        """Every job, and every name under which there are pods."""
        owners = {owner for owner in self._state.caches.pods.owners() if isinstance(owner, JobKey)}
        return {*self._state.jobs.keys(), *owners}

    async def _delete_revisions(self) -> None:
        """Delete the snapshots that no job refers to."""
        old = [one for one in self._state.caches.revisions.views() if self._is_old(one)]
        if not old:
            return
        used = set()
        for number, job in enumerate(self._state.jobs.views()):
            if job.status.environment is not None:
                used.add((job.key.namespace, job.status.environment.revision))
            if number % BETWEEN_TURNS == 0:
                await asyncio.sleep(0)
        for one in old:
            if (one.namespace, one.name) not in used:
                await self._delete_revision(one)

    async def _delete_revision(self, one: RevisionView) -> None:
        try:
            await self._client.delete(CONTROLLER_REVISIONS, one.namespace, one.name, uid=one.uid)
        except (NotFound, Conflict):
            log.debug("snapshot %s/%s is gone already", one.namespace, one.name)

    def _is_old(self, one: RevisionView) -> bool:
        return datetime.fromisoformat(one.created) + REVISION_AGE < self._state.clock.now()


def _key(metadata: dict[str, Any]) -> JobKey:
    return JobKey(metadata["namespace"], metadata["name"])
