"""All about one job, for people: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mlenv_sdk.view import tables, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from rich.console import RenderableType

    from mlenv_api.trainingjob import AttemptRecord, Condition
    from mlenv_sdk.resources import Event, Pod, TrainingJob


def report(job: TrainingJob, pods: Iterable[Pod], events: Iterable[Event], now: datetime) -> RenderableType:
    """What ``mlenv describe`` prints."""
    parts: list[RenderableType] = [_facts(job, now)]
    sections = (
        ("Conditions", _rows(_condition(one, now) for one in job.status.conditions)),
        ("Ended attempts", _rows(_attempt(one) for one in job.status.attempts)),
        ("Pods", tables.pods_table(pods, now)),
        ("Events", tables.events_table((one for one in events if one.concerns(job)), now)),
    )
    for title, table in sections:
        if table.row_count:
            parts += [Text(f"\n{title}", "bold"), table]
    return Group(*parts)


def ending(job: TrainingJob) -> str:
    """How the job ended, in a sentence or two."""
    name, status = job.metadata.name, job.status
    if job.failed:
        return f'The job "{name}" failed. {words.why(job)}'.strip()
    took = words.age(status.start_time, status.completion_time) if status.completion_time else ""
    last = ", ".join(f"{metric} {value}" for metric, value in words.metrics(job))
    sentence = f'The job "{name}" is complete' + (f" after {took}." if took else ".")
    return f"{sentence} Last values: {last}." if last else sentence


def _facts(job: TrainingJob, now: datetime) -> Table:
    table = _grid()
    for key, value in _pairs(job, now):
        table.add_row(Text(f"{key}:", "dim"), value)
    return table


def _pairs(job: TrainingJob, now: datetime) -> Iterator[tuple[str, str | Text]]:
    spec, status = job.spec, job.status
    yield "Name", Text(job.metadata.name, "bold")
    yield "Namespace", job.metadata.namespace or ""
    yield "Phase", Text(job.phase, words.style(job.phase))
    if message := words.why(job):
        yield "Why", message
    yield "Age", words.age(job.metadata.creation_timestamp, now)
    yield "Program", " ".join((*spec.trainer.command, *spec.trainer.args)) or "(the image's own)"
    if spec.environment_ref:
        yield "Environment", f"{spec.environment_ref.kind}/{spec.environment_ref.name}{_generation(job)}"
    if spec.trainer.image:
        yield "Image", spec.trainer.image
    if code := words.code(job):
        yield "Code", code
    yield "Nodes", words.nodes(job) if job.finished else f"{words.nodes(job)} ready"
    if status.attempt:
        yield "Attempt", f"{status.attempt.number} ({status.attempt.state})"
    limit = spec.failure_policy.max_restarts
    yield "Restarts", f"{status.restarts.total}, {status.restarts.counted} of {limit} charged"
    if status.progress:
        yield "Progress", f"step {words.step(job)}, {words.rate(job)} steps/s, ETA {words.eta(job, now)}"
        yield "Checkpoint", words.checkpoint(job, now)
        yield "Metrics", ", ".join(f"{name} {value}" for name, value in words.metrics(job))
    yield from _store(job)


def _store(job: TrainingJob) -> Iterator[tuple[str, str]]:
    """What is in the store, and the page of the run; nothing where couriers have told of nothing."""
    if (stored := words.stored(job)) != words.NOTHING:
        yield "In the store", stored
    if page := words.run_page(job):
        yield "Run", page


def _generation(job: TrainingJob) -> str:
    snapshot = job.status.environment
    return f", generation {snapshot.generation} in use" if snapshot else ""


def _condition(one: Condition, now: datetime) -> tuple[str, ...]:
    return one.type, one.status, words.age(one.last_transition_time, now), one.reason, one.message


def _attempt(one: AttemptRecord) -> tuple[str, ...]:
    took = words.age(one.start_time, one.end_time)
    charged = "charged" if one.counted else "not charged"
    return str(one.number), took, one.reason, charged, one.message


def _rows(rows: Iterable[tuple[str, ...]]) -> Table:
    table = _grid()
    for row in rows:
        table.add_row(*row)
    return table


def _grid() -> Table:
    return Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
