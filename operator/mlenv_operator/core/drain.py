"""What a finished job's couriers could not carry: a Job does it from the volume, if there is one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from mlenv_api import names
from mlenv_api.conditions import Reason
from mlenv_api.tracking import UploadedRef
from mlenv_operator.core.actions import Drain
from mlenv_operator.core.checkpoints import carried, known
from mlenv_operator.core.classify import TERMINAL, stopped
from mlenv_operator.core.converge import snapshot
from mlenv_operator.core.diagnose import Headline, rejected
from mlenv_operator.core.render.drain import render_drain
from mlenv_operator.core.render.effective import effective
from mlenv_operator.core.world import DrainState

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_api.checkpoints import CheckpointRef
    from mlenv_api.trainingjob import CheckpointStatus
    from mlenv_operator.core.classify import Scene
    from mlenv_operator.core.render.effective import Effective


def record(scene: Scene) -> CheckpointStatus:
    """The record of a finished job: with what its courier said last, and what the Job has carried since."""
    heard = carried(scene, known(scene.status))
    last = _left(heard)
    if scene.state not in TERMINAL or scene.world.drain is not DrainState.COMPLETE or last is None:
        return heard
    return heard.model_copy(update={"uploaded": UploadedRef(**last.model_dump())})


def drain(scene: Scene) -> tuple[Drain, ...]:
    """The Job, once nobody else carries; looked at again until it has ended."""
    owed = _owed(scene)
    if owed is None or not _alone(scene):
        return ()
    last, what = owed
    refused = any(one.retry_at > scene.now for one in scene.world.rejections)
    if what.wandb is None or not what.spool or refused:
        return ()
    return (Drain(render_drain(scene.job, what, what.wandb, last)),)


def drain_at(scene: Scene) -> datetime | None:
    """When to look at the Job again. One that failed goes with its TTL, and another is made then."""
    if not drain(scene):
        retry = (one.retry_at for one in scene.world.rejections)
        return min(retry, default=None) if behind(scene) else None
    settings, failed = scene.world.settings, scene.world.drain is DrainState.FAILED
    return scene.now + timedelta(seconds=settings.environment_poll_s if failed else settings.drain_poll_s)


def behind(scene: Scene) -> tuple[str, Headline] | None:
    """Status and reason of CheckpointDegraded of a finished job; null: its last checkpoint is in the store.

    Unknown while its courier still carries, as it does at the end of every job.
    """
    owed = _owed(scene)
    if owed is None:
        return None
    last = owed[0]
    said = Headline(Reason.CHECKPOINT_NOT_STORED, f"the last checkpoint, of step {last.step}, {_fate(scene)}")
    return ("True" if _alone(scene) else "Unknown"), said


def _fate(scene: Scene) -> str:
    spool = known(scene.status).spool
    job = names.drain_name(scene.job.key.name, scene.job.uid)
    place = f"-n {scene.job.key.namespace}"
    if not _alone(scene):
        return "is being carried to the store for what is left of its pod's grace"
    if spool is None:
        return "did not reach the store, and went with its pod: a volume in spec.checkpoint.spool keeps it"
    if scene.world.drain is DrainState.FAILED:
        return (
            f"did not reach the store, and is on volume claim {spool}: see kubectl logs {place} job/{job}."
            f" It is tried again once that Job is gone: in an hour, or with kubectl delete {place} job/{job}"
        )
    refused = next(iter(scene.world.rejections), None)
    if refused is not None:
        return f"did not reach the store, and is on volume claim {spool}: {rejected(refused).message}"
    return f"is being carried to the store from volume claim {spool} by Job {job}"


def _left(found: CheckpointStatus) -> CheckpointRef | None:
    """What is sealed, and newer than what the store has."""
    sealed, there = found.sealed, found.uploaded
    if sealed is None or (there is not None and (there.step, there.attempt) >= (sealed.step, sealed.attempt)):
        return None
    return sealed


def _alone(scene: Scene) -> bool:
    """Whether the first pod's courier has ended: two would carry the same."""
    pod = scene.slots[0].pod if scene.slots else None
    if pod is None or pod.finished or pod.killed:
        return True
    return not pod.deleting and stopped(scene.world, pod)


def _owed(scene: Scene) -> tuple[CheckpointRef, Effective] | None:
    """What the store has not got of a finished job, and what its pods were made from, if they had couriers.

    What costs least is asked first: every look at every job comes by here.
    """
    if scene.state not in TERMINAL or not scene.mlenv or scene.status.checkpoint is None:
        return None
    last = _left(record(scene))
    if last is None:
        return None
    what = effective(scene.spec, snapshot(scene).spec)
    return (last, what) if what.wandb else None
