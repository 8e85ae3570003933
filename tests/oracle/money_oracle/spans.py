"""What one pod was doing when, for whom: rules 1 and 2, with the letters of "To the letter"."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from money_oracle.trace import Mark, Owner, Pod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from money_oracle.trace import Sorted


@dataclass(frozen=True, slots=True)
class Span:
    t0: int
    t1: int
    attempt: int
    category: str
    owner: Sorted


def life(pod: Pod, marks: list[Mark], begin: int, end: int) -> tuple[int, int] | None:
    """When the pod held its share, within the node's [begin, end); None: nobody ever said when it began."""
    told = [pod.started, marks[0].at if marks else None, pod.finished]
    scheduled = pod.scheduled or next((time for time in told if time is not None), 0)
    if not scheduled:
        return None
    t0 = min(max(scheduled, begin), end)
    released = end if pod.released is None else pod.released
    return t0, min(max(released, t0), end)


def phases(pod: Pod, marks: list[Mark], t0: int, t1: int) -> list[tuple[int, int, str]]:
    """(from, attempt, category), in order, beginning at t0; a later entry of the same moment stands."""
    finished = t1 if pod.finished is None else min(max(pod.finished, t0), t1)
    first = marks[0].at if marks else None
    said = pod.started if pod.started is not None else first
    started = finished if said is None else min(max(said, t0), finished)
    found = [(t0, 0, "startup")]
    if pod.started is not None:
        found.append((started, 0, "init" if pod.telemetry else "productive"))
    attempt = 0
    for mark in marks:
        attempt = mark.attempt
        found.append((min(max(mark.at, started), finished), attempt, mark.category))
    if pod.finished is not None:
        found.append((finished, attempt, "drain"))
    return found


def owner_changes(pod: Pod, owners: Mapping[int, Owner]) -> tuple[list[int], list[Sorted]]:
    """Moments of change, and who owns from each on; the first owner also has the time before it."""
    if not pod.job_uid or not owners:
        return [0], [Owner(namespace=pod.namespace, job_uid=pod.job_uid).sorted()]
    times = sorted(owners)
    return times, [owners[time].sorted() for time in times]


def spans(pod: Pod, marks: list[Mark], owners: Mapping[int, Owner], held: tuple[int, int]) -> list[Span]:
    """The pod's life without gaps; what has no length is left out."""
    t0, t1 = held
    told = phases(pod, marks, t0, t1)
    times, whose = owner_changes(pod, owners)
    cuts = sorted({t0, t1, *(at for at, _, _ in told), *(at for at in times if t0 < at < t1)})
    found, index = [], -1
    for start, end in itertools.pairwise(cuts):
        while index + 1 < len(told) and told[index + 1][0] <= start:
            index += 1
        _, attempt, category = told[index]
        owner = whose[max(0, bisect_right(times, start) - 1)]
        found.append(Span(start, end, attempt, category, owner))
    return found
