"""A suspended job holds no pods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_api.conditions import Reason
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.actions import Event
from mlenv_operator.core.classify import LIVE
from mlenv_operator.core.diagnose import Headline
from mlenv_operator.core.transition import Move, ended, enter

if TYPE_CHECKING:
    from mlenv_operator.core.classify import Scene


def suspend(scene: Scene) -> Move | None:
    """Release the pods of a live job, then say that they are released."""
    if scene.state in LIVE and (scene.spec.suspend or _edited(scene)):
        why = "spec.suspend is true" if scene.spec.suspend else "the job was edited while it was suspended"
        status = enter(
            scene, AttemptState.SUSPENDING, attempt={"timeouts": 0}, **ended(scene, Reason.SUSPENDED, why)
        )
        return Move(status, Headline(Reason.SUSPENDING, f"{why}: pods are being released"))
    if scene.state is AttemptState.SUSPENDING and not scene.world.pods:
        hint = "Set spec.suspend to false to resume" if scene.spec.suspend else "It resumes now"
        message = f"no pods are held. {hint}"
        status = enter(scene, AttemptState.SUSPENDED)
        return Move(status, Headline(Reason.SUSPENDED, message), events=(Event(Reason.SUSPENDED, message),))
    return None


def _edited(scene: Scene) -> bool:
    """Suspended, edited and resumed faster than anybody looked: the pods are of a spec that is no more."""
    return bool(scene.status.run_digest) and scene.job.digest != scene.status.run_digest
