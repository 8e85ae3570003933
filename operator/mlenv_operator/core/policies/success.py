"""A job is complete when every slot has done its part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_api.conditions import Reason
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.actions import Event
from mlenv_operator.core.diagnose import Headline
from mlenv_operator.core.text import plural
from mlenv_operator.core.transition import Move, ended, enter

if TYPE_CHECKING:
    from mlenv_operator.core.classify import Scene


def success(scene: Scene) -> Move | None:
    """Running, and every slot succeeded."""
    if scene.state is not AttemptState.RUNNING or not all(slot.succeeded for slot in scene.slots):
        return None
    restarts = scene.status.restarts.total
    message = f"{plural(len(scene.slots), 'node')} finished with exit code 0"
    message += f" after {plural(restarts, 'restart')}" if restarts else ""
    status = enter(scene, AttemptState.COMPLETE, **ended(scene, Reason.COMPLETED, message))
    return Move(status, Headline(Reason.COMPLETED, message), events=(Event(Reason.COMPLETED, message),))
