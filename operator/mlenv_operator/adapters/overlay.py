"""What we did and our caches have not seen yet: read your own writes, without waiting for the watch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from mlenv_operator.core import actions as act
from mlenv_operator.core.project import drain_state, parse_revision, project_pod
from mlenv_operator.core.world import DrainState, JobKey, PodView

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlenv_api.podtemplate import EnvironmentSpec
    from mlenv_operator.core.world import JobView
    from mlenv_operator.kube.executor import Done
    from mlenv_operator.runtime.clock import Clock

LIFETIME_S: Final = 30.0
"""A watch that is later than this has other troubles; then a write is repeated, which is harmless."""


class Overlay:
    """Effects of our own writes, each until the cache shows it or its time is over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pods: dict[JobKey, dict[str, tuple[float, PodView]]] = {}
        self._deleted: dict[str, float] = {}
        self._stripped: dict[str, float] = {}
        self._services: dict[str, float] = {}
        self._revisions: dict[tuple[str, str], tuple[float, EnvironmentSpec]] = {}
        self._jobs: dict[str, float] = {}
        self._drains: dict[JobKey, tuple[str, DrainState]] = {}

    def record(self, done: Iterable[Done]) -> None:
        """Remember what was carried out."""
        until = self._clock.monotonic() + LIFETIME_S
        for action, stored in done:
            match action:
                case act.CreatePod() if stored is not None:
                    self._record_pod(stored, until)
                case act.CreateService() if stored is not None:
                    self._services[stored["metadata"]["ownerReferences"][0]["uid"]] = until
                case act.Drain() if stored is not None:
                    self._record_drain(stored)
                case act.CreateRevision(manifest):
                    self._record_revision(manifest, until)
                case act.DeletePod(uid=uid):
                    self._deleted[uid] = until
                case act.StripFinalizer(uid=uid):
                    self._stripped[uid] = until
                case act.DeleteJob(uid=uid):
                    self._jobs[uid] = until

    def pods(self, key: JobKey, cached: list[PodView]) -> tuple[PodView, ...]:
        """The pods of a job, with what we did to them."""
        names = {pod.name for pod in cached}
        created = self._live_pods(key, names)
        return tuple(self._touch(pod) for pod in (*cached, *created))

    def seen(self, key: JobKey, name: str) -> None:
        """The cache has heard of this pod: the overlay is not needed any more."""
        pods = self._pods.get(key)
        if pods is not None and pods.pop(name, None) is not None and not pods:
            del self._pods[key]

    def has_service(self, job_uid: str) -> bool:
        """Whether we made the job's Service just now."""
        return self._services.get(job_uid, 0.0) > self._clock.monotonic()

    def revision(self, namespace: str, name: str) -> EnvironmentSpec | None:
        """The snapshot that we made just now."""
        until, spec = self._revisions.get((namespace, name), (0.0, None))
        return spec if until > self._clock.monotonic() else None

    def drain(self, job: JobView) -> DrainState | None:
        """How the Job that carries its last checkpoint fared when it was last looked at."""
        uid, state = self._drains.get(job.key, ("", None))
        return state if uid == job.uid else None

    def forget(self, key: JobKey) -> None:
        """The job is gone."""
        self._drains.pop(key, None)

    def job_deleted(self, uid: str) -> bool:
        """Whether we deleted this job just now."""
        return self._jobs.get(uid, 0.0) > self._clock.monotonic()

    def expire(self) -> None:
        """Forget what is over; called now and then."""
        now = self._clock.monotonic()
        for marks in (self._deleted, self._stripped, self._services, self._jobs):
            for uid in [uid for uid, until in marks.items() if until <= now]:
                del marks[uid]
        for name in [name for name, (until, _) in self._revisions.items() if until <= now]:
            del self._revisions[name]
        for key in list(self._pods):
            self._live_pods(key, set())

    def _record_pod(self, stored: dict[str, object], until: float) -> None:
        pod = project_pod(stored)
        if pod is not None:
            self._pods.setdefault(JobKey(pod.namespace, pod.job_name), {})[pod.name] = (until, pod)

    def _record_drain(self, stored: dict[str, Any]) -> None:
        meta = stored["metadata"]
        owner = meta["ownerReferences"][0]
        self._drains[JobKey(meta["namespace"], owner["name"])] = (owner["uid"], drain_state(stored))

    def _record_revision(self, manifest: dict[str, object], until: float) -> None:
        spec = parse_revision(manifest)
        metadata = manifest["metadata"]
        if spec is not None and isinstance(metadata, dict):
            self._revisions[metadata["namespace"], metadata["name"]] = (until, spec)

    def _live_pods(self, key: JobKey, known: set[str]) -> list[PodView]:
        now, pods = self._clock.monotonic(), self._pods.get(key, {})
        for name in [name for name, (until, _) in pods.items() if until <= now or name in known]:
            del pods[name]
        if not pods:
            self._pods.pop(key, None)
        return [pod for _, pod in pods.values()]

    def _touch(self, pod: PodView) -> PodView:
        now = self._clock.monotonic()
        if not pod.deleting and self._deleted.get(pod.uid, 0.0) > now:
            pod = replace(pod, deleted_at=self._clock.now())
        if pod.finalizer_at >= 0 and self._stripped.get(pod.uid, 0.0) > now:
            pod = replace(pod, finalizer_at=-1)
        return pod
