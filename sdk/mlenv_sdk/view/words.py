"""Numbers, times and states as short words: pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlenv_api.conditions import ConditionType
from mlenv_api.gitcode import Code
from mlenv_api.trainingjob import Phase

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_sdk.resources import TrainingJob

SHOWN_METRICS = 4
NOTHING = "-"
NOT_BAD = frozenset({"Running", "Complete", "Succeeded"})
BAD = frozenset({"Failed", "Stalled"})


def duration(seconds: float) -> str:
    """A duration in its two largest units: ``42 s``, ``3 min 5 s``, ``2 h 10 min``, ``4 d 3 h``."""
    whole = max(0, round(seconds))
    for size, unit, rest, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            more = whole % size // rest
            return f"{whole // size} {unit}" + (f" {more} {small}" if more else "")
    return f"{whole} s"


def age(then: datetime | None, now: datetime) -> str:
    """Time since ``then``."""
    return duration((now - then).total_seconds()) if then else NOTHING


def number(text: str) -> str:
    """A decimal number in four significant digits; NaN and infinities as they are."""
    value = float(text)
    return f"{value:.4g}" if math.isfinite(value) else text


def step(job: TrainingJob) -> str:
    """``120/1000``, or as much of it as is known."""
    progress = job.status.progress
    if progress is None:
        return NOTHING
    return f"{progress.step}/{progress.total_steps}" if progress.total_steps else str(progress.step)


def rate(job: TrainingJob) -> str:
    """Steps per second."""
    progress = job.status.progress
    return number(progress.steps_per_second) if progress and progress.steps_per_second else NOTHING


def eta(job: TrainingJob, now: datetime) -> str:
    """Time left at the recent rate; nothing is known of it while nothing runs."""
    progress = job.status.progress
    if (
        job.status.phase is not Phase.RUNNING
        or progress is None
        or progress.estimated_completion_time is None
    ):
        return NOTHING
    return duration((progress.estimated_completion_time - now).total_seconds())


def metrics(job: TrainingJob) -> tuple[tuple[str, str], ...]:
    """Last values of the program, the loss first, then by name; those of checkpoints are told elsewhere."""
    if job.status.progress is None:
        return ()
    own = (one for one in job.status.progress.metrics if not one.name.startswith("checkpoint"))
    found = sorted(own, key=lambda one: (one.name != "loss", one.name))
    return tuple((one.name, number(one.value)) for one in found)


def checkpoint(job: TrainingJob, now: datetime) -> str:
    """The newest checkpoint, as ``step 4100, by attempt 2, 40 s ago``; and a newer one that is not sane."""
    record = job.status.checkpoint
    sealed, doubted = (record.sealed, record.insane) if record else (None, None)
    said = NOTHING
    if sealed is not None:
        said = f"step {sealed.step}, by attempt {sealed.attempt}, {age(sealed.time, now)} ago"
    return f"{said}; that of step {doubted.step} is not sane" if doubted else said


def stored(job: TrainingJob) -> str:
    """The newest checkpoint in the store, as ``step 4100, by attempt 2, as ads/ranker/ctr-77aa-ckpt:v7``."""
    found = job.status.checkpoint.uploaded if job.status.checkpoint else None
    if found is None:
        return NOTHING
    name = f", as {found.artifact}" if found.artifact else ""
    return f"step {found.step}, by attempt {found.attempt}{name}"


def run_page(job: TrainingJob) -> str:
    """The page of the job's run, once it is there; else empty."""
    found = job.status.checkpoint.uploaded if job.status.checkpoint else None
    told = job.status.tracking.url if job.status.tracking else ""
    return told or (found.url if found else "")


def code(job: TrainingJob) -> str:
    """The commit that its annotations name; empty where they name none."""
    said = Code.of(job.metadata.annotations)
    where = f" of {said.remote}" if said.remote else ""
    branch = f", branch {said.branch}" if said.branch else ""
    changed = ", and changes that were not committed" if said.dirty else ""
    return f"{said.commit[:12]}{where}{branch}{changed}" if said.commit else ""


def nodes(job: TrainingJob) -> str:
    """``1/2``: pods that run, of those wanted; of an ended job only how many it had."""
    desired = job.status.nodes.desired or job.spec.trainer.num_nodes
    return str(desired) if job.finished else f"{job.status.nodes.ready}/{desired}"


def run_time(job: TrainingJob, now: datetime) -> str:
    """From the first pods to the end, or until now."""
    return age(job.status.start_time, job.status.completion_time or now)


def why(job: TrainingJob) -> str:
    """The one sentence that explains the present state; empty when nothing needs explaining."""
    order = (
        ConditionType.FAILED,
        ConditionType.STALLED,
        ConditionType.COMPLETE,
        ConditionType.SUSPENDED,
        ConditionType.RESTARTING,
        ConditionType.RECONCILING,
    )
    told = (job.condition(kind) for kind in order)
    return next((one.message for one in told if one and one.status == "True" and one.message), "")


def style(phase: str) -> str:
    """The colour of a phase of a job or a pod."""
    if phase in BAD or "Err" in phase or "BackOff" in phase:
        return "bold red"
    return "green" if phase in NOT_BAD else "yellow"
