"""What armed sanity checks say of a job's newest checkpoint, as its condition and events tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_api.conditions import Reason
from mlenv_operator.core.actions import Event
from mlenv_operator.core.diagnose import Headline

if TYPE_CHECKING:
    from mlenv_api.checkpoints import DoubtedRef
    from mlenv_api.trainingjob import CheckpointStatus, TrainingJobStatus

PASSED = "armed checks found nothing against the newest checkpoint"


def condition(record: CheckpointStatus | None) -> tuple[str, Headline] | None:
    """Status and reason of CheckpointSane; null where no check is armed, or nothing was looked at yet."""
    if record is None:
        return None
    if record.insane is not None:
        return "False", Headline(Reason.SANITY_CHECK_FAILED, _doubt(record, record.insane))
    return ("True", Headline(Reason.SANITY_CHECKS_PASSED, PASSED)) if _is_sane(record) else None


def news(old: TrainingJobStatus, new: TrainingJobStatus) -> tuple[Event, ...]:
    """What people should hear when one status follows on another: that checks fail, and that they pass."""
    record = new.checkpoint
    if record is None or gist(old) == gist(new):
        return ()
    if record.insane is not None:
        return (Event(Reason.SANITY_CHECK_FAILED, _doubt(record, record.insane), warning=True),)
    sane = record.sane
    if sane is None or not _is_sane(record):
        return ()
    which = f"the checkpoint of step {sane.step}, saved by attempt {sane.attempt}"
    return (Event(Reason.SANITY_CHECKS_PASSED, f"{which}, is sane again: {PASSED}"),)


def gist(status: TrainingJobStatus) -> object:
    """What of it is news: which attempt's checkpoint failed which checks; null while none did."""
    doubted = status.checkpoint.insane if status.checkpoint else None
    return doubted and (doubted.attempt, {one.check for one in doubted.failed})


def _is_sane(record: CheckpointStatus) -> bool:
    """Whether checks looked at the newest one: an earlier program may have armed some."""
    return (
        record.sane is not None and record.sealed is not None and record.sane.digest == record.sealed.digest
    )


def _doubt(record: CheckpointStatus, doubted: DoubtedRef) -> str:
    found = "; ".join(f"{one.check}: {one.message}" for one in doubted.failed)
    good = (
        f"the newest good one is that of step {record.sealed.step}" if record.sealed else "there is no other"
    )
    return (
        f"the checkpoint of step {doubted.step}, saved by attempt {doubted.attempt}, is not sane: {found}. "
        f"Nothing goes on from it, and {good}. Look at what it learnt from last, or disarm the check"
    )
