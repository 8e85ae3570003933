"""Acts on the stored attempt: what must be made and removed so that the cluster is as it says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mlenv_api.conditions import Reason
from mlenv_api.names import revision_name
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.actions import (
    CreatePod,
    CreateRevision,
    CreateService,
    DeletePod,
    StripFinalizer,
)
from mlenv_operator.core.classify import ACTIVE, TERMINAL, node_lost_at, stopped
from mlenv_operator.core.diagnose import Headline
from mlenv_operator.core.policies.assembly import assembly_begins
from mlenv_operator.core.policies.ttl import expire
from mlenv_operator.core.render.effective import effective
from mlenv_operator.core.render.pod import render_pod
from mlenv_operator.core.render.revision import render_revision
from mlenv_operator.core.render.service import render_service

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from mlenv_api.podtemplate import EnvironmentSpec
    from mlenv_operator.core.actions import Action
    from mlenv_operator.core.classify import Scene
    from mlenv_operator.core.world import PodView, World


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The environment that the running generation was started with."""

    spec: EnvironmentSpec | None = None
    restore: CreateRevision | None = None
    """Puts back a lost ControllerRevision, while the environment is still the same."""
    lost: Headline | None = None


def act(scene: Scene) -> tuple[Action, ...]:
    """Everything to do now, in order."""
    return (*_removals(scene), *_creations(scene), *expire(scene))


def release(world: World, pods: Iterable[PodView]) -> tuple[StripFinalizer, ...]:
    """Let go of pods that have stopped and whose end is in the ledger, where there is one."""
    return tuple(
        StripFinalizer(pod.namespace, pod.name, pod.uid, pod.finalizer_at)
        for pod in pods
        if pod.finalizer_at >= 0 and stopped(world, pod) and pod.uid not in world.withheld
    )


def snapshot(scene: Scene) -> Snapshot:
    """Find it: in its ControllerRevision, else in the environment itself if that has not changed."""
    wanted, live = scene.status.environment, scene.world.environment
    if wanted is None:
        return Snapshot()
    if wanted.revision in scene.world.revisions:
        return Snapshot(scene.world.revisions[wanted.revision])
    if live is not None and live.spec and revision_name(live.uid, live.generation) == wanted.revision:
        manifest = render_revision(scene.job.key.namespace, live.uid, live.generation, live.spec)
        return Snapshot(live.spec, CreateRevision(manifest))
    message = (
        f"the snapshot {wanted.revision} of {wanted.kind} {wanted.name} is gone, and the environment has"
        " changed since. Suspend and resume the job to run it in the environment as it is now"
    )
    return Snapshot(lost=Headline(Reason.ENVIRONMENT_NOT_FOUND, message))


def stop_at(scene: Scene, pod: PodView) -> datetime | None:
    """When a pod that is still there after its job's end is deleted; null while the job is not finished.

    One whose program has ended has a minute: its kubelet is about to say so of the pod, and then it stays.
    """
    finished, settings = scene.status.completion_time, scene.world.settings
    if scene.state not in TERMINAL or finished is None:
        return None
    grace = settings.stop_grace_s if pod.terminated else 0.0
    if scene.mlenv:
        grace = settings.stop_grace_s if scene.state is AttemptState.FAILED else settings.complete_grace_s
    return finished + timedelta(seconds=grace)


def _removals(scene: Scene) -> Iterator[Action]:
    current = (
        {slot.pod.uid for slot in scene.slots if slot.pod} if scene.state in ACTIVE else frozenset[str]()
    )
    yield from release(scene.world, (pod for pod in scene.world.pods if pod.uid not in current))
    for pod in scene.world.pods:
        if not pod.deleting and _unwanted(scene, pod):
            yield DeletePod(pod.namespace, pod.name, pod.uid)


def _unwanted(scene: Scene, pod: PodView) -> bool:
    """Whether the pod is to go. Finished pods of a finished job stay, for their logs."""
    if scene.state is None:
        return False
    if pod in scene.stale:
        return True
    if scene.state in TERMINAL:
        at = stop_at(scene, pod)
        return not pod.finished and at is not None and at <= scene.now
    return scene.state not in ACTIVE


def _creations(scene: Scene) -> tuple[Action, ...]:
    """Service and pods that are missing; after a rejection one object only, to see whether it passes."""
    if scene.state is not AttemptState.ASSEMBLING or _must_wait(scene):
        return ()
    found = snapshot(scene)
    if found.lost is not None:
        return ()
    restore = (found.restore,) if found.restore else ()
    missing = (*_service(scene), *_pods(scene, found.spec))
    return (*restore, *(missing[:1] if scene.world.rejections else missing))


def _must_wait(scene: Scene) -> bool:
    if scene.now < assembly_begins(scene):
        return True
    if any(rejection.retry_at > scene.now for rejection in scene.world.rejections):
        return True
    # Without our launcher a new pod finds its master by name, and must not find the one before it.
    return not scene.mlenv and any(not _out_of_reach(scene.world, pod) for pod in scene.stale)


def _out_of_reach(world: World, pod: PodView) -> bool:
    lost_at = node_lost_at(world, pod, mlenv=False)
    node = world.nodes.get(pod.node)
    cut_off = node is not None and node.unreachable and pod.deleting
    return stopped(world, pod) or cut_off or (lost_at is not None and lost_at <= world.now)


def _service(scene: Scene) -> tuple[Action, ...]:
    return (CreateService(render_service(scene.job)),) if scene.lacks_service else ()


def _pods(scene: Scene, environment: EnvironmentSpec | None) -> tuple[Action, ...]:
    missing = [slot for slot in scene.slots if slot.pod is None]
    if not missing:
        return ()
    what = effective(scene.spec, environment)
    urls = scene.world.operator_urls
    return tuple(
        CreatePod(render_pod(scene.job, what, slot.index, slot.incarnation, urls), slot.index)
        for slot in missing
    )
