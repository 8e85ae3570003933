"""A finished job is deleted some time after its end, if it says so."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from mlenv_operator.core.actions import DeleteJob
from mlenv_operator.core.classify import TERMINAL

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_operator.core.classify import Scene


def expires_at(scene: Scene) -> datetime | None:
    """When the job is to be deleted; null when it stays."""
    seconds, finished = scene.spec.ttl_seconds_after_finished, scene.status.completion_time
    if scene.state not in TERMINAL or seconds is None or finished is None:
        return None
    return finished + timedelta(seconds=seconds)


def expire(scene: Scene) -> tuple[DeleteJob, ...]:
    """The deletion, once it is time."""
    at = expires_at(scene)
    if at is None or at > scene.now:
        return ()
    return (DeleteJob(scene.job.key.namespace, scene.job.key.name, scene.job.uid),)
