"""activeDeadlineSeconds bounds the time that a job holds pods, over all attempts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from mlenv_api.conditions import Reason
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.actions import Event
from mlenv_operator.core.classify import LIVE
from mlenv_operator.core.diagnose import Headline
from mlenv_operator.core.transition import Move, active_seconds, ended, enter

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_operator.core.classify import Scene


def deadline(scene: Scene) -> Move | None:
    """Fail a live job whose time is used up."""
    left = _seconds_left(scene)
    if scene.state not in LIVE or left is None or left > 0:
        return None
    message = (
        f"the job has held pods for {scene.spec.active_deadline_seconds} s, its activeDeadlineSeconds."
        " Create it anew with a longer one to go on"
    )
    status = enter(scene, AttemptState.FAILED, **ended(scene, Reason.DEADLINE_EXCEEDED, message))
    return Move(
        status,
        Headline(Reason.DEADLINE_EXCEEDED, message),
        events=(Event(Reason.DEADLINE_EXCEEDED, message, warning=True),),
    )


def deadline_at(scene: Scene) -> datetime | None:
    """When the time will be used up; null without a deadline, or while no pods are held."""
    left = _seconds_left(scene)
    if left is None or scene.status.active_since is None:
        return None
    return scene.now + timedelta(seconds=left)


def _seconds_left(scene: Scene) -> float | None:
    limit = scene.spec.active_deadline_seconds
    return None if limit is None else limit - active_seconds(scene)
