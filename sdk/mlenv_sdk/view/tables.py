"""Tables and the live view's frame, as rich renderables: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mlenv_sdk.view import words

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from rich.console import RenderableType

    from mlenv_sdk.resources import Event, Pod, TrainingJob
    from mlenv_sdk.view.curve import Curve
    from mlenv_sdk.view.snapshot import Snapshot

SHOWN_EVENTS = 6
SHOWN_PODS = 16


def jobs_table(jobs: Iterable[TrainingJob], now: datetime, *, namespaces: bool) -> Table:
    """One line for each job."""
    table = _plain("NAMESPACE" if namespaces else "", "NAME", "PHASE", "NODES", "ATTEMPT", "STEP", "AGE")
    for job in jobs:
        attempt = str(job.status.attempt.number) if job.status.attempt else words.NOTHING
        cells: list[str | Text] = [job.metadata.namespace or ""] if namespaces else []
        cells += [job.metadata.name, _phase(job.phase), words.nodes(job), attempt, words.step(job)]
        table.add_row(*cells, words.age(job.metadata.creation_timestamp, now))
    return table


def pods_table(pods: Iterable[Pod], now: datetime) -> Table:
    """One line for each pod."""
    table = _plain("POD", "PHASE", "NODE", "AGE", "")
    for pod in pods:
        age = words.age(pod.created, now)
        table.add_row(pod.name, _phase(pod.phase), pod.node or words.NOTHING, age, Text(pod.message, "dim"))
    return table


def events_table(events: Iterable[Event], now: datetime) -> Table:
    """One line for each event."""
    table = _plain("EVENT", "AGE", "")
    for event in events:
        colour = "yellow" if event.type == "Warning" else ""
        times = f" ({event.count} times)" if event.count > 1 else ""
        table.add_row(
            Text(event.reason, colour), words.age(event.time, now), Text(event.message + times, colour)
        )
    return table


def frame(snapshot: Snapshot, curve: Curve | None = None) -> RenderableType:
    """The whole live view of one job."""
    parts: list[RenderableType] = [headline(snapshot), _numbers(snapshot)]
    progress = snapshot.job.status.progress
    if progress and progress.total_steps:
        parts.append(_bar(snapshot))
    if curve and progress and (shown := curve.render(progress.total_steps)) is not None:
        parts.append(shown)
    if message := words.why(snapshot.job):
        parts.append(Text(message, words.style(snapshot.job.phase)))
    parts += _store(snapshot.job)
    parts += [Text(), pods_table(snapshot.pods[:SHOWN_PODS], snapshot.now)]
    if len(snapshot.pods) > SHOWN_PODS:
        parts.append(Text(f"… and {len(snapshot.pods) - SHOWN_PODS} more pods", "dim"))
    parts += [Text(), events_table(snapshot.events[-SHOWN_EVENTS:], snapshot.now)]
    if snapshot.trouble:
        parts.append(Text(snapshot.trouble, "bold yellow"))
    return Group(*parts)


def _store(job: TrainingJob) -> list[Text]:
    """What is in the store and where its page is, each whole, so that it can be copied."""
    stored, page = words.stored(job), words.run_page(job)
    told = [] if stored == words.NOTHING else [Text.assemble(("in the store ", "dim"), stored)]
    return [*told, Text.assemble(("run ", "dim"), page)] if page else told


def headline(snapshot: Snapshot) -> Text:
    """Name, phase, attempt, nodes and time."""
    job = snapshot.job
    line = Text.assemble((job.metadata.name, "bold"), "  ", (job.phase, words.style(job.phase)))
    if job.status.attempt:
        line.append(f"  attempt {job.status.attempt.number}")
    return line.append(f"  nodes {words.nodes(job)}  {words.run_time(job, snapshot.now)}")


def _numbers(snapshot: Snapshot) -> Text:
    job = snapshot.job
    if job.status.progress is None:
        return Text("no step yet", "dim")
    cells = [("step", words.step(job)), ("steps/s", words.rate(job))]
    cells += [*words.metrics(job)[: words.SHOWN_METRICS], ("ETA", words.eta(job, snapshot.now))]
    line = Text()
    for name, value in cells:
        line.append(f"{name} ", "dim").append(f"{value}   ", "bold")
    return line


def _bar(snapshot: Snapshot) -> Table:
    progress = snapshot.job.status.progress
    assert progress is not None
    table = Table.grid()  # a bar by itself does not end its line
    table.add_row(ProgressBar(total=progress.total_steps, completed=progress.step, width=60))
    return table


def _phase(phase: str) -> Text:
    return Text(phase, words.style(phase))


def _plain(*columns: str) -> Table:
    """A table without lines, as kubectl prints it; a first column without a name is left out."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for place, column in enumerate(columns):
        if column or place:
            table.add_column(column, no_wrap=bool(column), overflow="fold")
    return table
