"""Checkpoints that users order by an annotation: which order stands, and what served it.

An order is stored before launchers are told it, and stands, over restarts and suspensions, until a checkpoint
is sealed that was not known when it was stored. So no clock but the reader's own has a say in it.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final

from mlenv_api.checkpoints import CheckpointRequest
from mlenv_api.conditions import Reason
from mlenv_api.names import ANNOTATION_CHECKPOINT
from mlenv_operator.core.actions import Event
from mlenv_operator.core.classify import TERMINAL
from mlenv_operator.core.text import clip, quote

if TYPE_CHECKING:
    from mlenv_api.checkpoints import CheckpointRef
    from mlenv_api.trainingjob import CheckpointStatus, TrainingJobStatus
    from mlenv_operator.core.classify import Scene

MAX_TEXT: Final = 64
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_NOBODY: Final = (
    "launcher: None: nobody in its pods would hear of an order. Its program alone says when it saves"
)


def standing(record: CheckpointStatus | None) -> CheckpointRequest | None:
    """The order that launchers are to obey, as stored."""
    found = record.request if record else None
    return found if found is not None and found.sealed is None and not found.message else None


def served(record: CheckpointStatus, sealed: CheckpointRef) -> CheckpointStatus:
    """The record when a checkpoint is first heard of, which the attempt that was ordered to made."""
    order = standing(record)
    if order is None:
        return record
    return record.model_copy(update={"request": order.model_copy(update={"sealed": sealed})})


def noted(scene: Scene, record: CheckpointStatus) -> CheckpointStatus:
    """The record with what the annotation says now: another text is another order, none takes it back."""
    if scene.state in TERMINAL:
        return record
    said, known = scene.job.checkpoint_requested, record.request
    if said is None:
        return record.model_copy(update={"request": None}) if known else record
    order = CheckpointRequest(requested_at=clip(said, MAX_TEXT), message=_refusal(scene, said))
    same = known is not None and known.requested_at == order.requested_at
    if known is not None and same and (known.sealed is not None or known.message == order.message):
        return record
    return record.model_copy(update={"request": order})


def news(old: TrainingJobStatus, new: TrainingJobStatus) -> tuple[Event, ...]:
    """What people should hear of orders, when one status follows on another."""
    before, now = _request(old), _request(new)
    if now is None or now == before:
        return ()
    if now.message:
        return (Event(Reason.INVALID_REQUEST, now.message, warning=True),)
    if now.sealed is None:
        return ()
    which = f"that of step {now.sealed.step}, sealed by attempt {now.sealed.attempt}"
    return (Event(Reason.CHECKPOINT_SEALED, f"the checkpoint ordered at {now.requested_at} is {which}"),)


def _request(status: TrainingJobStatus) -> CheckpointRequest | None:
    return status.checkpoint.request if status.checkpoint else None


def _refusal(scene: Scene, said: str) -> str:
    """Why nobody can obey; empty when somebody can."""
    if not _is_time(said):
        return (
            f"annotation {ANNOTATION_CHECKPOINT} is {quote(clip(said, MAX_TEXT))!r}, which is no time: no "
            "checkpoint is ordered. Set it to one such as 2026-01-31T12:00:00Z, or use mlenv checkpoint"
        )
    return "" if scene.mlenv else _NOBODY


def _is_time(said: str) -> bool:
    if not _RFC_3339.fullmatch(said):
        return False
    try:
        datetime.fromisoformat(said[:19])
    except ValueError:
        return False
    return True
