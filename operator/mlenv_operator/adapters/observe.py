"""Gathers what is known about a job into a World."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_api import names
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.validate import environment_problems
from mlenv_operator.core.world import CoreSettings, JobKey, NodeView, World

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_api.podtemplate import EnvironmentSpec
    from mlenv_operator.adapters.state import State
    from mlenv_operator.core.world import EnvironmentView, JobView, PodView
    from mlenv_operator.runtime.reflector import Change

EnvironmentKey = tuple[str, str, str]
"""Kind, namespace (empty for a cluster's) and name."""


class Observer:
    """Reads the caches; asks nobody."""

    def __init__(
        self, state: State, *, operator_urls: tuple[str, ...], settings: CoreSettings | None = None
    ) -> None:
        self._state = state
        self._urls = operator_urls
        self._settings = settings or CoreSettings()
        self._missing_nodes: dict[str, datetime] = {}
        self._awaited: dict[EnvironmentKey, set[JobKey]] = {}
        self.listening_since = state.clock.now()

    def lead(self) -> None:
        """From now on launchers are answered here."""
        self.listening_since = self._state.clock.now()

    def observe(self, key: JobKey) -> World:
        """The world of one job, now."""
        job = self._state.jobs.get(key)
        if job is not None and self._state.overlay.job_deleted(job.uid):
            job = None
        pods = self._state.overlay.pods(key, self._state.caches.pods.by_owner(key))
        return World(
            now=self._state.clock.now(),
            job=job,
            pods=pods if job is None else tuple(pod for pod in pods if pod.job_uid == job.uid),
            has_service=job is not None and self._has_service(job),
            environment=None if job is None else self._environment(job),
            revisions={} if job is None else self._revisions(job),
            beats=self._state.beats.of(pods),
            nodes=self._nodes(pods),
            rejections=self._state.rejections.of(key),
            drain=None if job is None else self._state.overlay.drain(job),
            neighbours=self._state.neighbours.of(key),
            listening_since=self.listening_since,
            operator_urls=self._urls,
            fleet_pods=len(self._state.caches.pods),
            settings=self._settings,
        )

    def strangers(self, key: JobKey) -> World | None:
        """The world of what earlier jobs of this name left behind; null when they left nothing."""
        job = self._state.jobs.get(key)
        pods = self._state.overlay.pods(key, self._state.caches.pods.by_owner(key))
        left = tuple(pod for pod in pods if job is None or pod.job_uid != job.uid)
        if job is None or not left:
            return None
        return World(
            now=self._state.clock.now(), job=None, pods=left, nodes=self._nodes(left), settings=self._settings
        )

    def awaiting(self, kind: str, namespace: str, name: str) -> set[JobKey]:
        """Jobs that looked for this environment in vain, or could not start in it; each call forgets them."""
        return self._awaited.pop((kind, namespace, name), set())

    def node_changed(self, change: Change[NodeView]) -> None:
        """Remember since when a node is missing."""
        if change.new is None:
            self._missing_nodes.setdefault(change.key.name, self._state.clock.now())
        else:
            self._missing_nodes.pop(change.key.name, None)

    def _has_service(self, job: JobView) -> bool:
        service = self._state.caches.services.get(*job.key)
        return (service is not None and service.owner == job.uid) or self._state.overlay.has_service(job.uid)

    def _environment(self, job: JobView) -> EnvironmentView | None:
        reference = job.spec.environment_ref if job.spec is not None else None
        if reference is None:
            return None
        is_cluster = reference.kind == names.CLUSTER_ENVIRONMENT
        namespace = "" if is_cluster else job.key.namespace
        cache = self._state.caches.cluster_environments if is_cluster else self._state.caches.environments
        found = cache.get(namespace, reference.name)
        if found is None or _is_in_the_way(job, found):
            self._awaited.setdefault((reference.kind, namespace, reference.name), set()).add(job.key)
        return found

    def _revisions(self, job: JobView) -> dict[str, EnvironmentSpec]:
        """The snapshots that this job may need: the one it uses, and the one it would use next."""
        wanted = {job.status.environment.revision} if job.status.environment is not None else set()
        environment = self._environment(job)
        if environment is not None:
            wanted.add(names.revision_name(environment.uid, environment.generation))
        found = {name: self._revision(job.key.namespace, name) for name in wanted}
        return {name: spec for name, spec in found.items() if spec is not None}

    def _revision(self, namespace: str, name: str) -> EnvironmentSpec | None:
        cached = self._state.caches.revisions.get(namespace, name)
        return cached.spec if cached is not None else self._state.overlay.revision(namespace, name)

    def _nodes(self, pods: tuple[PodView, ...]) -> dict[str, NodeView]:
        return {pod.node: self._node(pod.node) for pod in pods if pod.node}

    def _node(self, name: str) -> NodeView:
        node = self._state.caches.nodes.get("", name)
        if node is not None:
            return node
        since = self._missing_nodes.setdefault(name, self._state.clock.now())
        return NodeView(name=name, ready=False, gone=True, since=since)


def _is_in_the_way(job: JobView, environment: EnvironmentView) -> bool:
    """Whether the job cannot start because of its environment: it waits for a correction."""
    attempt, spec = job.status.attempt, job.spec
    if spec is None or (attempt is not None and attempt.state is not AttemptState.SUSPENDED):
        return False
    return bool(environment.problems or environment_problems(spec, environment.spec))
