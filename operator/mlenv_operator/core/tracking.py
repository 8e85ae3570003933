"""The job's run, as the first pod's courier tells of it: it alone writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_api.tracking import TrackingStatus
from mlenv_operator.core.checkpoints import HEARD
from mlenv_operator.core.classify import TERMINAL, speaks
from mlenv_operator.core.converge import snapshot

if TYPE_CHECKING:
    from mlenv_api.protocol import Tracking
    from mlenv_api.trainingjob import TrainingJobStatus
    from mlenv_operator.core.classify import Scene


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


def _said(scene: Scene) -> Tracking | None:
    """By the courier's last words, once its container has ended; until then by its launcher's beats."""
    first = scene.slots[0] if scene.slots else None
    if first is None or scene.state not in HEARD | TERMINAL:
        return None
    if first.pod is not None and first.pod.words is not None:
        return first.pod.words.tracking
    return first.heard.beat.tracking if first.heard is not None and speaks(first.heard) else None
