"""What the conditions of a job that is not finished say, from what is seen and what was said before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_api.conditions import ConditionType, Reason
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.diagnose import NEEDS_HUMAN, REJECTIONS, Headline, rejected, waiting

if TYPE_CHECKING:
    from mlenv_api.trainingjob import Condition, TrainingJobStatus
    from mlenv_operator.core.classify import Scene


def stored(status: TrainingJobStatus, type_: ConditionType) -> Condition | None:
    """The stored condition of a type."""
    return next((one for one in status.conditions if one.type == type_), None)


def said(status: TrainingJobStatus, type_: ConditionType) -> Headline | None:
    """What the stored condition says; null when it does not, or says something that we do not know."""
    condition = stored(status, type_)
    try:
        return Headline(Reason(condition.reason), condition.message) if condition else None
    except ValueError:
        return None


def pods_ready(scene: Scene) -> Headline:
    """Why the pods of an assembling attempt are not ready."""
    if scene.world.rejections:
        return rejected(scene.world.rejections[0])
    before = said(scene.status, ConditionType.PODS_READY)
    if before and before.reason in REJECTIONS and _untried(scene):
        return before
    now = waiting(scene)
    # Between two tries the kubelet only says that it backs off; what went wrong is still true.
    vague = now.reason is Reason.IMAGE_PULL_FAILED and "cannot be pulled." in now.message
    return before if vague and before and before.reason is now.reason else now


def stalled(scene: Scene) -> Headline | None:
    """Why a live job needs a human; null when it does not."""
    for rejection in scene.world.rejections:
        if rejection.reason in NEEDS_HUMAN:
            return rejected(rejection)
    before = said(scene.status, ConditionType.STALLED)
    if scene.world.rejections or before is None or before.reason not in NEEDS_HUMAN:
        return None
    return before if scene.state is AttemptState.QUEUED or _untried(scene) else None


def _untried(scene: Scene) -> bool:
    """Objects are still missing, and this process has not been refused yet: what was said stands."""
    assembling = scene.state is AttemptState.ASSEMBLING
    return assembling and (scene.lacks_service or any(slot.pod is None for slot in scene.slots))
