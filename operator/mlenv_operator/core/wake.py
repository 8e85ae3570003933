"""When to look at a job again even if nothing is observed, and what is awaited."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core import spending
from mlenv_operator.core.classify import ACTIVE, TERMINAL, node_lost_at
from mlenv_operator.core.converge import stop_at
from mlenv_operator.core.diagnose import silence_at, slow_at
from mlenv_operator.core.drain import drain_at
from mlenv_operator.core.policies import costlimit
from mlenv_operator.core.policies.assembly import assembly_begins, assembly_ends
from mlenv_operator.core.policies.deadline import deadline_at
from mlenv_operator.core.policies.failure import decided_at
from mlenv_operator.core.policies.queue import blocker
from mlenv_operator.core.policies.start import obstacle
from mlenv_operator.core.policies.ttl import expires_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from mlenv_operator.core.classify import Scene
    from mlenv_operator.core.world import PodView, World

_AWAITED: Final = {
    None: "a correction of the job or its environment",
    AttemptState.QUEUED: "the end of its pods, and its turn",
    AttemptState.ASSEMBLING: "pods and launchers",
    AttemptState.RUNNING: "the end of the program",
    AttemptState.SUSPENDING: "the end of its pods",
    AttemptState.SUSPENDED: "spec.suspend to become false, or a higher cost limit",
    AttemptState.COMPLETE: "",
    AttemptState.FAILED: "",
}


def waits_for(scene: Scene) -> str:
    """What observation would move this job."""
    return _AWAITED[scene.state]


def wake_at(scene: Scene) -> datetime | None:
    """The first moment at which time alone changes what is to be done."""
    return _next(
        scene.now, (*_of_state(scene), *node_times(scene.world, scene.world.pods, mlenv=scene.mlenv))
    )


def release_wake_at(world: World) -> datetime | None:
    """The same for the pods of a job that is gone."""
    return _next(world.now, node_times(world, world.pods, mlenv=False))


def node_times(world: World, pods: Iterable[PodView], *, mlenv: bool) -> Iterator[datetime | None]:
    """When nodes in trouble count as lost."""
    for pod in pods:
        yield node_lost_at(world, pod, mlenv=mlenv)


def _next(now: datetime, times: Iterable[datetime | None]) -> datetime | None:
    return min((time for time in times if time is not None and time > now), default=None)


def _of_state(scene: Scene) -> Iterator[datetime | None]:
    yield deadline_at(scene)
    yield costlimit.watch_at(scene)
    yield spending.look_at(scene)
    if scene.state in ACTIVE:
        yield decided_at(scene)
        yield silence_at(scene) if scene.mlenv else None
    if scene.state is AttemptState.ASSEMBLING:
        yield assembly_begins(scene)
        yield assembly_ends(scene)
        yield slow_at(scene)
        yield from (rejection.retry_at for rejection in scene.world.rejections)
    elif scene.state is AttemptState.QUEUED:
        yield scene.attempt.not_before if scene.attempt else None
        yield _turn(scene)
    elif scene.state in TERMINAL:
        yield from (stop_at(scene, pod) for pod in scene.world.pods if not pod.finished)
        yield expires_at(scene)
        yield drain_at(scene)
    elif _could_start(scene) and obstacle(scene):
        yield scene.now + timedelta(seconds=scene.world.settings.environment_poll_s)
        yield from (rejection.retry_at for rejection in scene.world.rejections)


def _could_start(scene: Scene) -> bool:
    waits = scene.state in (None, AttemptState.SUSPENDED)
    return waits and not scene.spec.suspend and not costlimit.held(scene)


def _turn(scene: Scene) -> datetime | None:
    """Others' moves are observed, but one that was missed must not hold the line for ever."""
    if blocker(scene) is None:
        return None
    return scene.now + timedelta(seconds=scene.world.settings.queue_poll_s)
