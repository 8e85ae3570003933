"""A suspended job holds no pods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_api.conditions import Reason
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.actions import Event
from mlenv_operator.core.checkpoints import released, stored
from mlenv_operator.core.classify import LIVE
from mlenv_operator.core.diagnose import Headline
from mlenv_operator.core.policies.costlimit import held
from mlenv_operator.core.transition import Move, ended, enter

if TYPE_CHECKING:
    from mlenv_api.trainingjob import CheckpointStatus
    from mlenv_operator.core.classify import Scene


def suspend(scene: Scene) -> Move | None:
    """Release the pods of a live job, then say that they are released."""
    if scene.state in LIVE and (why := _why(scene)):
        status = enter(
            scene, AttemptState.SUSPENDING, attempt={"timeouts": 0}, **ended(scene, Reason.SUSPENDED, why)
        )
        return Move(status, Headline(Reason.SUSPENDING, f"{why}: pods are being released"))
    if scene.state is AttemptState.SUSPENDING and not scene.world.pods:
        message = f"no pods are held. {_hint(scene)}"
        record, lost = released(scene)
        status = enter(scene, AttemptState.SUSPENDED, checkpoint=stored(record))
        events = (Event(Reason.SUSPENDED, message), *went_with_pods(lost, record))
        return Move(status, Headline(Reason.SUSPENDED, message), events=events)
    return None


def went_with_pods(step: int | None, record: CheckpointStatus) -> tuple[Event, ...]:
    """Says that checkpoints up to this step are gone; nothing when none are."""
    if step is None:
        return ()
    left = record.sealed
    where = f"goes on from step {left.step}, which the store has" if left else "will start at step 0"
    message = (
        f"the checkpoints up to step {step} lived in the pods, and went with them: the job {where}."
        " A volume in spec.checkpoint.spool keeps them"
    )
    return (Event(Reason.CHECKPOINTS_LOST, message, warning=True),)


def _why(scene: Scene) -> str:
    """Why the pods of a live job are to go; empty when they are not."""
    if scene.spec.suspend:
        return "spec.suspend is true"
    if held(scene):
        return "the cost limit (spec.cost.limit) is reached"
    return "the job was edited while it was suspended" if _edited(scene) else ""


def _hint(scene: Scene) -> str:
    if scene.spec.suspend:
        return "Set spec.suspend to false to resume"
    if held(scene):
        return "The cost limit is reached: raise spec.cost.limit, or remove spec.cost, to resume"
    return "It resumes now"


def _edited(scene: Scene) -> bool:
    """Suspended, edited and resumed faster than anybody looked: the pods are of a spec that is no more."""
    return bool(scene.status.run_digest) and scene.job.digest != scene.status.run_digest
