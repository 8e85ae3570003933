"""What the ranks of an attempt run from is settled once, before they do: the first proposal is the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlenv_api.conditions import ConditionType, Reason
from mlenv_api.protocol import LauncherPhase
from mlenv_api.trainingjob import AttemptOrigin, AttemptState
from mlenv_operator.core.actions import Event
from mlenv_operator.core.checkpoints import foreign, known, reference, settled, stored
from mlenv_operator.core.classify import speaks
from mlenv_operator.core.diagnose import Headline
from mlenv_operator.core.progress import gone_back
from mlenv_operator.core.text import plural
from mlenv_operator.core.transition import Move
from mlenv_operator.core.words import said

if TYPE_CHECKING:
    from mlenv_api.protocol import Origin
    from mlenv_api.trainingjob import Attempt, AttemptRecord
    from mlenv_operator.core.classify import Scene
    from mlenv_operator.core.world import BeatView


def record(scene: Scene) -> Move | None:
    """Store what the first launcher of the running attempt proposes, if nothing is stored."""
    attempt, heard = scene.attempt, _proposal(scene)
    if attempt is None or heard is None or heard.beat.origin is None:
        return None
    origin = heard.beat.origin
    chosen = reference(origin.checkpoint, heard.received) if origin.checkpoint else None
    lost = _lost_steps(scene, attempt, origin)
    changes: dict[str, Any] = {
        "attempt": attempt.model_copy(update={"origin": AttemptOrigin(checkpoint=chosen)}),
        "checkpoint": stored(settled(scene, origin, heard.received)),
        "attempts": _ledger(scene, lost),
        "progress": gone_back(scene.status.progress, chosen.step if chosen else 0),
    }
    headline = said(scene.status, ConditionType.PODS_READY) or Headline(Reason.ALL_PODS_READY)
    events = _events(scene, attempt, origin, lost)
    return Move(scene.status.model_copy(update=changes), headline, events=events)


def _proposal(scene: Scene) -> BeatView | None:
    """The beat of the first slot's current pod, when it speaks of this attempt and nothing is settled."""
    attempt = scene.attempt
    if attempt is None or scene.state is not AttemptState.RUNNING or attempt.origin is not None:
        return None
    heard = scene.slots[0].heard if scene.slots and scene.mlenv else None
    if heard is None or not speaks(heard) or heard.beat.attempt != attempt.number:
        return None
    # While it waits for the world no rank of this attempt can have proposed anything.
    return heard if heard.beat.phase is LauncherPhase.RUNNING else None


def _before(scene: Scene, attempt: Attempt) -> AttemptRecord | None:
    """The end of the attempt before, if it is known."""
    newest = scene.status.attempts[0] if scene.status.attempts else None
    return newest if newest is not None and newest.number == attempt.number - 1 else None


def _asked(scene: Scene, attempt: Attempt) -> bool:
    """Whether the job's spec wanted this attempt to start over."""
    return attempt.number > 1 and known(scene.status).since_attempt == attempt.number


def _lost_steps(scene: Scene, attempt: Attempt, origin: Origin) -> int | None:
    """Committed steps that are made again; null when that is not known, or nobody wants them again."""
    before = _before(scene, attempt)
    if before is None or before.last_step is None or _asked(scene, attempt):
        return None
    return max(0, before.last_step - (origin.checkpoint.step if origin.checkpoint else 0))


def _ledger(scene: Scene, lost: int | None) -> tuple[AttemptRecord, ...]:
    records = scene.status.attempts
    if lost is None:
        return records
    return (records[0].model_copy(update={"lost_steps": lost}), *records[1:])


def _events(scene: Scene, attempt: Attempt, origin: Origin, lost: int | None) -> tuple[Event, ...]:
    number, chosen = attempt.number, origin.checkpoint
    if chosen is None:
        return _afresh(scene, attempt, origin, lost)
    if foreign(scene):
        where = scene.spec.checkpoint.resume.from_
        return (Event(Reason.RESUMED, f"attempt {number} starts at step {chosen.step}, from {where}"),)
    again = f"; {plural(lost, 'step')} {'is' if lost == 1 else 'are'} done again" if lost else ""
    message = f"attempt {number} goes on from step {chosen.step}, saved by attempt {chosen.attempt}{again}"
    unused = _unused(scene, chosen.step)
    if unused is None:
        return (Event(Reason.RESUMED, message),)
    why = f"{message}. The checkpoint of step {unused} could not be used: the log of pod 0 says why"
    return (Event(Reason.CHECKPOINTS_LOST, why, warning=True),)


def _unused(scene: Scene, step: int) -> int | None:
    """A newer checkpoint that was allowed and is known, and was not taken."""
    now = known(scene.status)
    if now.sealed is None or now.sealed.step <= step:
        return None
    barred = now.ceiling_step is not None and now.sealed.step > now.ceiling_step
    return None if barred else now.sealed.step


def _afresh(scene: Scene, attempt: Attempt, origin: Origin, lost: int | None) -> tuple[Event, ...]:
    if _asked(scene, attempt) or not (origin.lost or lost or known(scene.status).sealed):
        return ()
    steps = f", and {plural(lost, 'committed step')} {'is' if lost == 1 else 'are'} lost" if lost else ""
    doubted = known(scene.status).insane is not None and not origin.lost
    none = ": no checkpoint was sane" if doubted else ": there is no checkpoint"
    why = ": the checkpoints lived in pods that are gone" if origin.lost else none
    keep = "" if doubted or known(scene.status).spool else ". A volume in spec.checkpoint.spool keeps them"
    message = f"attempt {attempt.number} starts at step 0{steps}{why}{keep}"
    return (Event(Reason.CHECKPOINTS_LOST, message, warning=True),)
