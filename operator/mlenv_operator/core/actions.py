"""What a plan can ask for: a closed union of values. The shell carries them out in order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_api.conditions import Reason
    from mlenv_api.trainingjob import TrainingJobStatus


@dataclass(frozen=True, slots=True)
class CreateRevision:
    """POST a ControllerRevision. 409 is success: the name says the content."""

    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CreateService:
    """POST the job's Service. 409 is success only if its controller is the job."""

    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CreatePod:
    """POST a pod. 409 is success only if its controller is the job.

    After a rejection, the rest of the plan's pods are not tried.
    """

    manifest: dict[str, Any]
    index: int


@dataclass(frozen=True, slots=True)
class Drain:
    """See to it that this Job is there: GET, and POST where it is not. Its outcome is looked at, too."""

    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeletePod:
    """DELETE with the UID as precondition; 404 and 409 are success."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class StripFinalizer:
    """JSON patch with tests: remove our finalizer, at this position, from the pod of this UID.

    404 and a failed test are success: the next look shows what is left to do.
    """

    namespace: str
    name: str
    uid: str
    position: int


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """DELETE the TrainingJob in the background, with the UID as precondition."""

    namespace: str
    name: str
    uid: str


Action: TypeAlias = (
    CreateRevision | CreateService | CreatePod | Drain | DeletePod | StripFinalizer | DeleteJob
)


@dataclass(frozen=True, slots=True)
class Event:
    """An event about the job, written only after the status it speaks of is stored."""

    reason: Reason
    message: str
    warning: bool = False


class Urgency(IntEnum):
    """How soon a status must be written."""

    NONE = 0
    """It says what is stored."""
    PROGRESS = 1
    """Numbers and wording: may wait and be joined with the next."""
    CONDITION = 2
    """A condition came, went, or has another reason."""
    MOVE = 3
    """The attempt moves: nothing else happens before this is stored."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What should happen next.

    ``move``: carry out ``actions`` (at most a CreateRevision), write ``status`` with the job's
    resourceVersion, emit ``events``, and plan again at once; on 409 start over. Else: carry out ``actions``,
    then write ``status`` when its urgency says so, then emit ``events``.
    """

    actions: tuple[Action, ...] = ()
    status: TrainingJobStatus | None = None
    """The full status; null when it would say what is stored."""
    move: bool = False
    status_urgency: Urgency = Urgency.NONE
    events: tuple[Event, ...] = ()
    requeue_at: datetime | None = None
    """When to look again even if nothing is observed."""
    waits_for: str = ""
    """What observation is awaited, for logs; set whenever the job is not finished."""
