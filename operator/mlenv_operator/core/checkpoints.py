"""What is known of a job's checkpoints: the record that alone says what a world may run from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlenv_api.checkpoints import MAX_CHECK, MAX_REASON, CheckpointRef, DoubtedRef, FailedCheck
from mlenv_api.checkpointspec import ResumePolicy
from mlenv_api.conditions import Reason
from mlenv_api.protocol import Checkpoint
from mlenv_api.tracking import UploadedRef
from mlenv_api.trainingjob import AttemptState, CheckpointStatus
from mlenv_operator.core.classify import TERMINAL, speaks
from mlenv_operator.core.requests import served
from mlenv_operator.core.text import clip, quote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from mlenv_api.protocol import Judged, Origin, Uploaded
    from mlenv_api.trainingjob import TrainingJobStatus
    from mlenv_operator.core.classify import Scene
    from mlenv_operator.core.world import BeatView

HEARD: Final = frozenset({AttemptState.RUNNING, AttemptState.SUSPENDING})
"""States in which ranks may seal: also while they are told to save and end."""
START_OVER: Final = frozenset({ResumePolicy.NEVER, ResumePolicy.FROM})


def known(status: TrainingJobStatus) -> CheckpointStatus:
    """The stored record; an empty one when there is none."""
    return status.checkpoint or CheckpointStatus()


def stored(record: CheckpointStatus) -> CheckpointStatus | None:
    """A record as it is stored: one that says nothing is left out."""
    return None if record == CheckpointStatus() else record


def drained(record: CheckpointStatus) -> bool:
    """Whether a finished job's last checkpoint was carried by a Job: that names no version of it."""
    return record.uploaded is not None and not record.uploaded.artifact


def heard_of(scene: Scene) -> CheckpointStatus:
    """The record, with the newest checkpoint that launchers of the current attempt tell of."""
    return _judged(scene, _sealed(scene, carried(scene, known(scene.status))))


def _sealed(scene: Scene, record: CheckpointStatus) -> CheckpointStatus:
    newest = max(_told(scene, record), key=lambda one: _age(one[0]), default=None)
    if newest is None or (record.sealed is not None and _age(newest[0]) <= _age(record.sealed)):
        return record
    sealed, ceiling = newest[0], record.ceiling_step
    # What was abandoned may lie above this one: the ceiling rises with what is sealed, and is never lifted.
    if ceiling is not None and sealed.step > ceiling:
        ceiling = sealed.step
    made = record.model_copy(update={"sealed": reference(sealed, newest[1]), "ceiling_step": ceiling})
    own = scene.attempt is not None and sealed.attempt == scene.attempt.number
    return served(made, reference(sealed, newest[1])) if own else made


def _judged(scene: Scene, record: CheckpointStatus) -> CheckpointStatus:
    """The record, with what armed checks say of the newest checkpoint that they looked at.

    A beat tells of it together with what is sealed, so a sane one costs no write of its own.
    """
    said = max(_verdicts(scene), key=lambda one: one[0].checkpoint.step, default=None)
    if said is not None and _is_next(record, said[0].checkpoint):
        judged, ref = said[0], reference(said[0].checkpoint, said[1])
        if judged.failed:
            record = record.model_copy(update={"insane": _doubted(ref, judged.failed)})
        elif up_to(ref, record.sealed):
            record = record.model_copy(update={"sane": ref})
    return _outdone(record)


def _outdone(record: CheckpointStatus) -> CheckpointStatus:
    """Without the doubted one, once a newer one counts: it is sane, or checks are not armed any more."""
    newest, doubted = record.sealed, record.insane
    if newest is None or doubted is None or _turn(newest) <= _turn(doubted):
        return record
    return record.model_copy(update={"insane": None})


def _doubted(ref: CheckpointRef, failed: tuple[FailedCheck, ...]) -> DoubtedRef:
    """As status keeps it: reasons are words of a program."""
    said = tuple(
        FailedCheck(check=clip(quote(one.check), MAX_CHECK), message=clip(quote(one.message), MAX_REASON))
        for one in failed
    )
    return DoubtedRef(**ref.model_dump(), failed=said)


def _is_next(record: CheckpointStatus, one: Checkpoint) -> bool:
    """Whether it was saved after those of which checks have said something."""
    return all(_turn(one) > _turn(before) for before in (record.sane, record.insane) if before)


def up_to(sane: CheckpointRef | None, sealed: CheckpointRef | None) -> CheckpointRef | None:
    """The sane one, unless it is beyond what the record goes on from."""
    return sane if sane and sealed and _age(sane) <= _age(sealed) else None


def carried(scene: Scene, record: CheckpointStatus) -> CheckpointStatus:
    """The record, with the checkpoint that the first pod's courier says the store has whole.

    Also when it is an older one than was said before: newer ones may have been deleted there.
    """
    told, when = _courier_says(scene)
    if told is None or told.attempt < record.since_attempt:
        return record
    if record.uploaded is not None and record.uploaded.digest == told.digest:
        return record
    if scene.state in TERMINAL and drained(record):
        return record  # the courier had ended before
    ref = reference(told, when)
    return record.model_copy(
        update={"uploaded": UploadedRef(**ref.model_dump(), artifact=told.artifact, url=told.url)}
    )


def _courier_says(scene: Scene) -> tuple[Uploaded | None, datetime]:
    """By its last words, once its container has ended; until then by its launcher's beats."""
    if not scene.slots or not scene.mlenv:
        return None, scene.now
    first = scene.slots[0]
    last = first.pod.words.uploaded if first.pod and first.pod.words else None
    if first.pod is not None and last is not None and scene.state in HEARD | TERMINAL:
        return last, first.pod.finished_at or scene.now
    if first.heard is None or not speaks(first.heard) or scene.state not in HEARD:
        return None, scene.now
    return first.heard.beat.uploaded, first.heard.received


def progressed(scene: Scene, record: CheckpointStatus) -> bool:
    """Whether the current attempt sealed a checkpoint that refills the budget.

    After a rollback only one beyond the step where the run was found bad does: or a program that goes bad
    there each time would seal the same steps again, and never come to an end.
    """
    attempt, sealed = scene.attempt, record.sealed
    if attempt is None or sealed is None or sealed.attempt != attempt.number:
        return False
    bad = (
        one.last_step or 0
        for one in scene.status.attempts
        if one.reason == Reason.ROLLED_BACK and one.number >= record.since_attempt
    )
    return sealed.step > max(bad, default=-1)


def begun(scene: Scene, number: int) -> CheckpointStatus:
    """The record when pods are made from the current spec, for the attempt of this number."""
    spec, record = scene.spec.checkpoint, known(scene.status)
    spool = spec.spool.volume_claim_name if spec.spool else None
    if starts_over(scene):
        return CheckpointStatus(since_attempt=number, spool=spool, request=record.request)
    return record.model_copy(update={"spool": spool})


def starts_over(scene: Scene) -> bool:
    """Whether a start now obeys resume.policy Never or From: once for each spec that says so."""
    anew = scene.job.digest != scene.status.run_digest
    return scene.mlenv and anew and scene.spec.checkpoint.resume.policy in START_OVER


def settled(scene: Scene, origin: Origin, heard: datetime) -> CheckpointStatus:
    """The record once an attempt runs from `origin`: the newest that is good is this one.

    Newer ones that could not be used are not counted on again, nor what a rollback barred.
    """
    record, chosen = known(scene.status), origin.checkpoint
    if chosen is None:
        ceiling = None if origin.lost else record.ceiling_step
        return record.model_copy(update={"sealed": None, "sane": None, "ceiling_step": ceiling})
    if foreign(scene) or (record.sealed is not None and record.sealed.digest == chosen.digest):
        return record
    ref = reference(chosen, heard)
    return _outdone(record.model_copy(update={"sealed": ref, "sane": up_to(record.sane, ref)}))


def foreign(scene: Scene) -> bool:
    """Whether the origin of this attempt is what resume.from names: the job has none of its own yet."""
    return scene.spec.checkpoint.resume.from_ is not None and known(scene.status).sealed is None


def rolled_back(scene: Scene, record: CheckpointStatus) -> tuple[CheckpointStatus, str]:
    """The record after exit code 77, and where the next attempt goes on, as a sentence.

    The newest checkpoint is finite; if an attempt ran from it and sealed nothing newer, it leads nowhere.
    """
    attempt, sealed = scene.attempt, record.sealed
    if attempt is None or sealed is None:
        return record, "No checkpoint is known that could be gone back to"
    origin = attempt.origin.checkpoint if attempt.origin else None
    if sealed.attempt == attempt.number or origin is None:
        said = f"It is rolled back to step {sealed.step}, the newest checkpoint"
        return record.model_copy(update={"ceiling_step": sealed.step}), said
    ceiling = max(0, origin.step - 1)
    said = f"It ran from step {origin.step} and sealed nothing newer: it goes back to an older checkpoint"
    return record.model_copy(update={"ceiling_step": ceiling}), said


def released(scene: Scene) -> tuple[CheckpointStatus, int | None]:
    """The record when all pods go, and up to which step checkpoints go with them; null when none do."""
    record = known(scene.status)
    if record.sealed is None or record.spool is not None:
        return record, None
    stored_too = record.uploaded
    if stored_too is not None and not _barred(record, stored_too):
        kept = CheckpointRef(**stored_too.model_dump(include=set(CheckpointRef.model_fields)))
        gone = record.sealed.step if record.sealed.step > kept.step else None
        return record.model_copy(update={"sealed": kept, "sane": up_to(record.sane, kept)}), gone
    gone = record.sealed.step
    return record.model_copy(update={"sealed": None, "sane": None, "ceiling_step": None}), gone


def _barred(record: CheckpointStatus, one: CheckpointRef) -> bool:
    """Whether nothing may run from it."""
    above = record.ceiling_step is not None and one.step > record.ceiling_step
    return above or one.attempt < record.since_attempt


def reference(one: Checkpoint, heard: datetime) -> CheckpointRef:
    """A checkpoint of a message, as status keeps it."""
    time = heard.replace(microsecond=0)
    return CheckpointRef(step=one.step, attempt=one.attempt, digest=one.digest, time=time)


def message(one: CheckpointRef) -> Checkpoint:
    """A checkpoint of the status, as messages carry it."""
    return Checkpoint(attempt=one.attempt, step=one.step, digest=one.digest)


def _told(scene: Scene, record: CheckpointStatus) -> Iterator[tuple[Checkpoint, datetime]]:
    for heard in _beats(scene):
        sealed = heard.beat.sealed
        if sealed is not None and _counts(scene, record, sealed):
            yield sealed, heard.received


def _verdicts(scene: Scene) -> Iterator[tuple[Judged, datetime]]:
    """Of what the current attempt saved."""
    for heard in _beats(scene):
        judged = heard.beat.judged
        if judged is not None and judged.checkpoint.attempt == heard.beat.attempt:
            yield judged, heard.received


def _beats(scene: Scene) -> Iterator[BeatView]:
    """What launchers of the current attempt say while ranks may seal."""
    if scene.attempt is None or scene.state not in HEARD:
        return
    for slot in scene.slots:
        heard = slot.heard
        if heard is not None and speaks(heard) and heard.beat.attempt == scene.attempt.number:
            yield heard


def _counts(scene: Scene, record: CheckpointStatus, sealed: Checkpoint) -> bool:
    """Saved by the current attempt; or by an older one, as long as it is open what this one runs from."""
    attempt = scene.attempt
    if attempt is None or sealed.attempt == attempt.number:
        return attempt is not None
    if scene.state is not AttemptState.RUNNING or attempt.origin is not None or foreign(scene):
        return False
    allowed = record.ceiling_step is None or sealed.step <= record.ceiling_step
    return allowed and record.since_attempt <= sealed.attempt < attempt.number


def _age(one: Checkpoint | CheckpointRef) -> tuple[int, int]:
    return one.step, one.attempt


def _turn(one: Checkpoint | CheckpointRef) -> tuple[int, int]:
    """Which was saved before which: a later attempt may begin at an earlier step."""
    return one.attempt, one.step
