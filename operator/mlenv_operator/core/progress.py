"""How far the training is, as the first launcher last said."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

from mlenv_api.trainingjob import JobProgress, Metric

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mlenv_api.protocol import Progress
    from mlenv_operator.core.classify import Scene

MAX_ETA_S = 10 * 365 * 86400


def progress(scene: Scene) -> JobProgress | None:
    """Of the first slot's last beat in this attempt; what is stored, when there is none."""
    stored, attempt = scene.status.progress, scene.attempt
    heard = scene.slots[0].heard if scene.slots else None
    if heard is None or attempt is None or heard.beat.attempt != attempt.number:
        return stored
    said = heard.beat.progress
    if said is None or (stored and _known(stored, said, heard.received)):
        return stored
    return JobProgress(
        step=said.step,
        total_steps=said.total_steps,
        samples=said.samples,
        steps_per_second=None if said.steps_per_second is None else f"{said.steps_per_second:.4g}",
        estimated_completion_time=_eta(said, heard.received),
        metrics=_metrics(said.metrics),
        last_update_time=_time(said, heard.received),
    )


def gone_back(stored: JobProgress | None, step: int) -> JobProgress | None:
    """Progress of an attempt that runs from this step, until its first commit tells more."""
    if stored is None:
        return None
    # Its time stays: by it a launcher's words about the attempt before are known as old ones.
    return JobProgress(
        step=step,
        total_steps=stored.total_steps,
        samples=stored.samples * min(step, stored.step) // max(1, stored.step),
        last_update_time=stored.last_update_time,
    )


def _known(stored: JobProgress, said: Progress, received: datetime) -> bool:
    """Whether this was said before; many steps fit into one second, the finest time of a status."""
    return stored.last_update_time == _time(said, received) and said.step <= stored.step


def _time(said: Progress, received: datetime) -> datetime:
    return (said.time or received).replace(microsecond=0)


def _eta(said: Progress, received: datetime) -> datetime | None:
    if said.total_steps is None or not said.steps_per_second or said.step >= said.total_steps:
        return None
    seconds = (said.total_steps - said.step) / said.steps_per_second
    return _time(said, received) + timedelta(seconds=round(seconds)) if seconds < MAX_ETA_S else None


def _metrics(values: Mapping[str, float]) -> tuple[Metric, ...]:
    return tuple(Metric(name=name, value=decimal(value)) for name, value in sorted(values.items()))


def decimal(value: float) -> str:
    """A number as status keeps it; what is not finite is news too."""
    if math.isfinite(value):
        return f"{value:.6g}"
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
