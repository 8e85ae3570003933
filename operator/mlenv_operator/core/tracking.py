"""The job's run, as the first pod's courier tells of it: it alone writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlenv_api.conditions import ConditionType, Reason
from mlenv_api.tracking import TrackingStatus
from mlenv_operator.core.checkpoints import HEARD, drained, known
from mlenv_operator.core.classify import TERMINAL, speaks
from mlenv_operator.core.converge import snapshot
from mlenv_operator.core.diagnose import REASONS, Headline
from mlenv_operator.core.text import quote
from mlenv_operator.core.words import said as told_before
from mlenv_operator.core.words import stored

if TYPE_CHECKING:
    from mlenv_api.protocol import Tracking
    from mlenv_api.trainingjob import TrainingJobStatus
    from mlenv_operator.core.classify import Scene


OF_RANKS: Final = frozenset({Reason.HISTORY_DRIFT, Reason.HISTORY_STOPPED})
"""What no courier mends."""


def tracked(scene: Scene) -> bool:
    """Whether the pods have couriers."""
    tracking = scene.spec.tracking
    if tracking is None and scene.status.environment is not None:
        environment = snapshot(scene).spec
        tracking = environment.tracking if environment else None
    return scene.mlenv and tracking is not None and tracking.wandb is not None


def told(scene: Scene, status: TrainingJobStatus) -> TrackingStatus | None:
    """What status says of the run: a page stays, whoever is silent about it now."""
    said = _said(scene)
    if said is None or not said.url or not tracked(scene):
        return status.tracking
    return TrackingStatus(url=said.url)


def degraded(scene: Scene, status: TrainingJobStatus) -> tuple[str, Headline] | None:
    """Status and reason of TrackingDegraded; null where there is no courier, or none that tells.

    Whoever is silent mends nothing. The Job that carries what is left at the end brings the rows along.
    """
    if not tracked(scene):
        return None
    found = _told(scene)
    over = scene.state in TERMINAL and drained(known(status))
    if over and found is not None and found[1].reason not in OF_RANKS:
        return "False", Headline(Reason.HISTORY_LOGGED)
    return found


def _told(scene: Scene) -> tuple[str, Headline] | None:
    said = _said(scene)
    if said is None:
        before = stored(scene.status, ConditionType.TRACKING_DEGRADED)
        words = told_before(scene.status, ConditionType.TRACKING_DEGRADED)
        return (before.status, words) if before and words else None
    if said.trouble is None:
        return "False", Headline(Reason.HISTORY_LOGGED)
    reason = REASONS.get(said.trouble.reason, Reason.HISTORY_NOT_LOGGED)
    return "True", Headline(reason, quote(said.trouble.message))


def _said(scene: Scene) -> Tracking | None:
    """By the courier's last words, once its container has ended; until then by its launcher's beats."""
    first = scene.slots[0] if scene.slots else None
    if first is None or scene.state not in HEARD | TERMINAL:
        return None
    if first.pod is not None and first.pod.words is not None:
        return first.pod.words.tracking
    return first.heard.beat.tracking if first.heard is not None and speaks(first.heard) else None
