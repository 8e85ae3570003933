"""When each gang of a burst was submitted, created, running and done; pure, in seconds since the epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from crowd.writes import Moments

STARTED = frozenset({"Running", "Succeeded", "Failed"})


@dataclass(slots=True)
class Gang:
    """One job; a moment that has not come is null."""

    submitted: float
    present: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)
    created: float | None = None
    running: float | None = None
    done: float | None = None


class Timeline:
    """All gangs of a burst, told what is seen of them."""

    def __init__(self, pods: int) -> None:
        self.pods = pods
        self.gangs: dict[str, Gang] = {}
        self.failed: dict[str, str] = {}
        self.lags: list[float] = []
        self.created = self.running = self.done = 0

    def submit(self, job: str, now: float) -> None:
        """The job is being sent to the API server."""
        self.gangs[job] = Gang(now)

    def saw_pod(self, job: str, pod: str, phase: str, now: float) -> None:
        """A pod of the job exists, in this phase."""
        gang = self.gangs.get(job)
        if gang is None:
            return
        gang.present.add(pod)
        if phase in STARTED:
            gang.started.add(pod)
        if gang.created is None and len(gang.present) >= self.pods:
            gang.created = now
            self.created += 1
        if gang.running is None and len(gang.started) >= self.pods:
            gang.running = now
            self.running += 1

    def saw_end(self, job: str, now: float, failure: str = "") -> None:
        """The job says that it has come to its end."""
        gang = self.gangs.get(job)
        if gang is None or gang.done is not None:
            return
        gang.done = now
        self.done += 1
        if failure:
            self.failed[job] = failure

    def correct(self, moments: Mapping[str, Moments]) -> None:
        """Take the server's word for when gangs were created and ran, and keep how late the watch was."""
        for job, gang in self.gangs.items():
            found = moments.get(job)
            if found is None:
                continue
            if gang.created is not None:
                self.lags.append(gang.created - found.created)
            gang.created, gang.running = found.created, found.running or gang.running

    def missing(self, what: str) -> list[str]:
        """Jobs that have not come to "created", "running" or "done"."""
        return [job for job, gang in self.gangs.items() if getattr(gang, what) is None]

    def waits(self, what: str) -> list[float]:
        """Seconds from submission to that moment, of the gangs that have come to it."""
        pairs = ((getattr(gang, what), gang.submitted) for gang in self.gangs.values())
        return [moment - submitted for moment, submitted in pairs if moment is not None]

    def per_second(self, what: str) -> float:
        """Gangs over the time from the first submission to the last such moment."""
        moments = [m for gang in self.gangs.values() if (m := getattr(gang, what)) is not None]
        first = min((gang.submitted for gang in self.gangs.values()), default=0.0)
        took = max(moments, default=0.0) - first
        return len(moments) / took if took > 0 else 0.0


def quantile(values: Iterable[float], q: float) -> float:
    """The nearest rank; NaN of nothing."""
    ordered: Sequence[float] = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else math.nan


def waits(timeline: Timeline, what: str) -> dict[str, float]:
    """Median and 99th percentile, as figures of a report."""
    found = timeline.waits(what)
    return {f"{what}_p50_s": round(quantile(found, 0.5), 2), f"{what}_p99_s": round(quantile(found, 0.99), 2)}
