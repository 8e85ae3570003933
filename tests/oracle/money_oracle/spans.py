"""What one pod was doing when, for whom: rules 1 and 2, with what a rule alone does not decide."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from money_oracle.trace import Mark, Owner, Pod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from money_oracle.trace import Pairs


NEVER = 10**30
"""A moment after all others."""


@dataclass(frozen=True, slots=True)
class Span:
    t0: int
    t1: int
    attempt: int
    category: str
    owner: Pairs


class Life(NamedTuple):
    """scheduled <= started <= finished <= released."""

    scheduled: int
    started: int
    finished: int
    released: int


def life(pod: Pod, marks: list[Mark]) -> Life:
    """The times of a pod, each moved to the nearest moment that fits those before it; `released` first.

    The first mark stands for a start that nobody told, but gives way to all that was told.
    """
    begin = pod.scheduled
    released = NEVER if pod.released is None else max(begin, pod.released)
    if pod.started is not None:
        started = _within(begin, pod.started, released)
        finished = released if pod.finished is None else _within(started, pod.finished, released)
        return Life(begin, started, finished, released)
    finished = released if pod.finished is None else _within(begin, pod.finished, released)
    started = _within(begin, marks[0].at, finished) if marks else finished
    return Life(begin, started, finished, released)


def _within(low: int, at: int, high: int) -> int:
    return min(max(low, at), high)


def holding(marks: list[Mark]) -> list[Mark]:
    """Attempts only go up: a mark of an older attempt than one before it is passed over."""
    found, newest = [], 0
    for mark in marks:
        if mark.attempt >= newest:
            found.append(mark)
            newest = mark.attempt
    return found


def owner_changes(pod: Pod, owners: Mapping[int, Owner]) -> tuple[list[int], list[Pairs]]:
    """Moments of change, and who owns from each on; the first owner also has the time before it."""
    if not pod.job_uid or not owners:
        return [0], [Owner(namespace=pod.namespace, job_uid=pod.job_uid).pairs()]
    times = sorted(owners)
    return times, [owners[time].pairs() for time in times]


def spans(pod: Pod, marks: list[Mark], owners: Mapping[int, Owner], begin: int, end: int) -> list[Span]:
    """The pod's life within [begin, end) without gaps; what has no length is left out."""
    times, said = life(pod, marks), holding(marks)
    since, whose = owner_changes(pod, owners)
    marked = [mark.at for mark in said]
    t0, t1 = max(begin, times.scheduled), min(end, times.released)
    cuts = {t0, t1, *(at for at in (times.started, times.finished, *marked, *since) if t0 < at < t1)}
    found = []
    for start, stop in itertools.pairwise(sorted(cuts)) if t0 < t1 else ():
        until_then = bisect_right(marked, start)
        last = said[until_then - 1] if until_then else None
        category = _category(pod, times, last, start)
        owner = whose[max(0, bisect_right(since, start) - 1)]
        found.append(Span(start, stop, last.attempt if last else 0, category, owner))
    return found


def _category(pod: Pod, times: Life, last: Mark | None, at: int) -> str:
    if at >= times.finished:
        return "drain"
    if at < times.started:
        return "startup"
    if last is not None:
        return last.category
    return "init" if pod.telemetry else "productive"
