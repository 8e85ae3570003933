"""Following a job in the terminal, or line by line where there is none."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.live import Live

from mlenv_sdk.view import tables, words
from mlenv_sdk.view.curve import Curve
from mlenv_sdk.view.snapshot import Snapshot, snapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from mlenv_sdk.client import Client
    from mlenv_sdk.resources import TrainingJob

PROGRESS_EVERY = 5.0


def follow(
    client: Client, name: str, console: Console, *, each: Callable[[TrainingJob], object] | None = None
) -> TrainingJob:
    """Shows the job until it ends, and gives it as it then is; `each` is called with every state on the way.

    Raises NotFound when it is deleted meanwhile, and Unreachable when the API server stays away for a minute.
    """
    source = snapshots(client, name, wall=_now, monotonic=time.monotonic, sleep=time.sleep)
    told = _telling(source, each) if each else source
    return _in_terminal(told, console) if console.is_terminal else _in_lines(told, console)


def _telling(source: Iterator[Snapshot], each: Callable[[TrainingJob], object]) -> Iterator[Snapshot]:
    for snapshot in source:
        each(snapshot.job)
        yield snapshot


def _in_terminal(source: Iterator[Snapshot], console: Console) -> TrainingJob:
    last, curve = next(source), Curve()
    with Live(tables.frame(last), console=console, refresh_per_second=4) as live:
        for last in source:
            curve.add(last.job)
            live.update(tables.frame(last, curve))
    return last.job


def _in_lines(source: Iterator[Snapshot], console: Console) -> TrainingJob:
    """Prints what is new: each event and change of phase once, progress now and then; the loss at the end."""
    lines, curve = Lines(), Curve()
    job: TrainingJob | None = None
    for snapshot in source:
        job = snapshot.job
        curve.add(job)
        for line in lines.new(snapshot):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    assert job is not None
    if (shown := curve.render(_total(job))) is not None:
        console.print(shown, soft_wrap=True)
    return job


def _total(job: TrainingJob) -> int | None:
    return job.status.progress.total_steps if job.status.progress else None


class Lines:
    """Remembers what was said, so that everything is said once."""

    def __init__(self) -> None:
        self._events: dict[str, int] = {}
        self._state: tuple[str, ...] = ()
        self._step = ""
        self._stored = self._page = ""
        self._artifacts: dict[str, str] = {}
        """By digest, how the store calls the checkpoints that were seen there."""
        self._resumed = 0
        self._told: datetime | None = None

    def new(self, snapshot: Snapshot) -> list[str]:
        """The lines to print for this snapshot."""
        return [*self._new_events(snapshot), *self._new_stored(snapshot), *self._new_state(snapshot)]

    def _new_events(self, snapshot: Snapshot) -> Iterator[str]:
        for event in snapshot.events:
            if self._events.get(event.uid) != event.count:
                self._events[event.uid] = event.count
                yield f"{_clock(event.time or snapshot.now)}  {event.reason}: {event.message}"

    def _new_stored(self, snapshot: Snapshot) -> Iterator[str]:
        """Checkpoints that reached the store; and the name there of the one that an attempt goes on from."""
        job, clock = snapshot.job, _clock(snapshot.now)
        if (page := words.run_page(job)) and page != self._page:
            self._page = page
            yield f"{clock}  Run: {page}"
        if (stored := words.stored(job)) not in {words.NOTHING, self._stored}:
            self._stored = stored
            yield f"{clock}  Stored: {stored}"
        known, attempt = job.status.checkpoint, job.status.attempt
        if known is not None and known.uploaded is not None:
            self._artifacts[known.uploaded.digest] = known.uploaded.artifact
        origin = attempt.origin.checkpoint if attempt and attempt.origin else None
        if attempt and origin and attempt.number > self._resumed and self._artifacts.get(origin.digest):
            self._resumed = attempt.number
            yield f"{clock}  Attempt {attempt.number} goes on from {self._artifacts[origin.digest]}"

    def _new_state(self, snapshot: Snapshot) -> Iterator[str]:
        job = snapshot.job
        state = (job.phase, words.nodes(job), words.why(job), snapshot.trouble)
        step = words.step(job)
        due = self._told is None or (snapshot.now - self._told).total_seconds() >= PROGRESS_EVERY
        if state == self._state and not (due and step != self._step):
            return
        told_why = state[2:] if state[2:] != self._state[2:] else ()
        self._state, self._step, self._told = state, step, snapshot.now
        yield f"{_clock(snapshot.now)}  {status_line(snapshot)}"
        yield from (f"          {text}" for text in told_why if text)


def status_line(snapshot: Snapshot) -> str:
    """``Running  nodes 2/2  step 120/1000  steps/s 35.1  loss 0.53  ETA 25 s``."""
    job = snapshot.job
    parts = [job.phase, f"nodes {words.nodes(job)}"]
    if job.status.progress is not None:
        parts += [f"step {words.step(job)}", f"steps/s {words.rate(job)}"]
        parts += [f"{name} {value}" for name, value in words.metrics(job)[: words.SHOWN_METRICS]]
        if (left := words.eta(job, snapshot.now)) != words.NOTHING:
            parts.append(f"ETA {left}")
    return "  ".join(parts)


def _clock(then: datetime) -> str:
    return then.astimezone().strftime("%H:%M:%S")


def _now() -> datetime:
    return datetime.now(UTC)
