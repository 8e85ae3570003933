"""What was written for each job, by whom and when, from the API server's audit log; pure.

The log has the server's own time of every write, to the microsecond. A watch tells of it later, in a burst
much later: what is slow then is the server's telling, not the operator.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlenv_local import fakenodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from mlenv_local.audit import Write


@dataclass(frozen=True)
class Bill:
    """Writes of one operator in a burst, and of everybody else beside it; per job, shared ones included."""

    until_created: float
    until_done: float
    kinds: dict[str, float]
    """By verb and resource."""
    others: dict[str, float]
    """By user."""


@dataclass(frozen=True)
class Moments:
    """When the server had done the last of a gang's writes, in seconds since the epoch."""

    created: float
    running: float | None


def moments(writes: Iterable[Write], pods: int, job_of: Callable[[Write], str | None]) -> dict[str, Moments]:
    """Of every gang that was created in full; it runs once KWOK has written the state of its last pod."""
    created: dict[str, dict[str, float]] = {}
    started: dict[str, dict[str, float]] = {}
    for write in writes:
        job, time = job_of(write), write.time.timestamp()
        if job and _is(write, "create", "pods", 201):
            created.setdefault(job, {})[write.name] = time
        elif job and write.user == fakenodes.USER and _is(write, "patch", "pods/status", 200):
            started.setdefault(job, {}).setdefault(write.name, time)
    return {
        job: Moments(max(times.values()), _last(started.get(job, {}), pods))
        for job, times in created.items()
        if len(times) >= pods
    }


def _last(times: dict[str, float], pods: int) -> float | None:
    return max(times.values()) if len(times) >= pods else None


def _is(write: Write, verb: str, resource: str, code: int) -> bool:
    return (write.verb, write.resource, write.code) == (verb, resource, code)


def bill(
    writes: Iterable[Write],
    jobs: int,
    is_operator: Callable[[Write], bool],
    job_of: Callable[[Write], str | None],
) -> Bill:
    """Until created: up to and with the last pod of the job that was created; the log itself says when."""
    everything = list(writes)
    created = _created(everything, job_of)
    last = max(created.values(), default=None)
    before = kept = 0
    kinds: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for write in everything:
        if not is_operator(write):
            others[write.user] += 1
            continue
        kept += 1
        kinds[f"{write.verb} {write.resource}"] += 1
        limit = created.get(job_of(write) or "", last)
        before += limit is not None and write.time <= limit
    return Bill(before / jobs, kept / jobs, _per(kinds, jobs), _per(others, jobs))


def _created(writes: Iterable[Write], job_of: Callable[[Write], str | None]) -> dict[str, datetime]:
    """When the last pod of each job was created, whoever did it."""
    found: dict[str, datetime] = {}
    for write in writes:
        job = job_of(write)
        if job and _is(write, "create", "pods", 201):
            found[job] = max(write.time, found.get(job, write.time))
    return found


def _per(counter: Counter[str], jobs: int) -> dict[str, float]:
    return {name: round(count / jobs, 2) for name, count in counter.most_common()}
