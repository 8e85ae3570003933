"""What a pod's time was: spans without gaps, each of one attempt, category and attribution."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from mlenv_operator.cost.facts import Attribution, Category

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlenv_operator.cost.facts import Attributed, Mark, Micros, Pod

FOREVER: Final = 1 << 62
"""A moment after all others: the end of what has not ended."""

_mark_order = attrgetter("at", "sequence", "attempt", "category")


class Life(NamedTuple):
    """The times of a pod in order: scheduled <= started <= finished <= released."""

    scheduled: Micros
    started: Micros
    finished: Micros
    released: Micros
    moved: tuple[Micros, ...] = ()
    """For each time that had to be clamped, a moment within the life at which to count it."""


class State(NamedTuple):
    """From `at` on, until the next state."""

    at: Micros
    attempt: int
    category: Category


class Span(NamedTuple):
    """A stretch of a pod's life, [t0, t1)."""

    t0: Micros
    t1: Micros
    attempt: int
    category: Category
    attribution: Attribution


def life(pod: Pod, marks: Sequence[Mark] = ()) -> Life:
    """The pod's times, clamped into order.

    Where `started` is not known, the first mark stands for it, and gives way to `finished`: else a mark of a
    later hour would change what an hour before it was.
    """
    moved: list[Micros] = []
    released = _clamp(pod.released, pod.scheduled, FOREVER, moved)
    started = pod.scheduled if pod.started is None else _clamp(pod.started, pod.scheduled, released, moved)
    finished = _clamp(pod.finished, started, released, moved)
    if pod.started is None:
        started = min(max(marks[0].at, started), finished) if marks else finished
    if marks and (marks[0].at < pod.scheduled or marks[-1].at > released):
        for at, _ in sorted({(mark.at, mark.sequence) for mark in marks}):
            _clamp(at, pod.scheduled, released, moved)
    return Life(pod.scheduled, started, finished, released, tuple(moved))


def _clamp(at: Micros | None, low: Micros, high: Micros, moved: list[Micros]) -> Micros:
    """The time within [low, high]; the latest possible when nothing was told."""
    if at is None:
        return high
    if at < low:
        moved.append(low)
        return low
    if at > high:
        moved.append(high - 1)
        return high
    return at


def sort_marks(marks: Iterable[Mark]) -> list[Mark]:
    """Marks of one pod in the order in which they hold. Of those of one moment only the last matters."""
    return sorted(marks, key=_mark_order)


def states(pod: Pod, marks: Sequence[Mark], times: Life) -> list[State]:
    """What the pod did, from its scheduling on; `marks` in order.

    Before it started that is startup, from its end on drain, whatever marks say; the attempt is always that
    of the last mark until then, and 0 before the first. Attempts only go up: what is said
    of an older one than the last mark's was said before, by a clock that is ahead, and does not hold.
    """
    first = Category.INIT if pod.telemetry else Category.PRODUCTIVE
    said = [State(times.scheduled, 0, first)]
    for mark in marks:
        if mark.at >= times.released:
            break
        if mark.attempt < said[-1].attempt:
            continue
        said.append(State(max(mark.at, times.scheduled), mark.attempt, mark.category))
    said = _override(said, times.scheduled, times.started, Category.STARTUP)
    return _override(said, times.finished, times.released, Category.DRAIN)


def _override(points: list[State], start: Micros, end: Micros, category: Category) -> list[State]:
    """The same, but within [start, end) always this category."""
    if start >= end:
        return points
    before, within, after = [], [], []
    last = points[0]
    for one in points:
        if one.at < start:
            before.append(one)
        elif one.at < end:
            within.append(State(one.at, one.attempt, category))
        else:
            after.append(one)
        if one.at <= end:
            last = one
    attempt = before[-1].attempt if before else 0
    if end < FOREVER:
        after.insert(0, State(end, last.attempt, last.category))
    return [*before, State(start, attempt, category), *within, *after]


class Owners(NamedTuple):
    """To whom a job's time belongs: `to[i]` from `since[i]` on; equal ones are one object."""

    since: tuple[Micros, ...]
    to: tuple[Attribution, ...]


def owners(pod: Pod, attributed: Iterable[Attributed]) -> Owners:
    """Who pays for the pod; `attributed` tells of its job only, in any order.

    Before the first one was told, that one holds. Where none was told, namespace and job are what is known.
    """
    facts = sorted({one.since: one for one in sorted(attributed, key=_told)}.values(), key=_told)
    if not facts:
        return Owners((0,), (Attribution(namespace=pod.namespace, job_uid=pod.job_uid),))
    same: dict[Attribution, Attribution] = {}
    return Owners(tuple(one.since for one in facts), tuple(same.setdefault(one.to, one.to) for one in facts))


def _told(one: Attributed) -> tuple[Micros, Attribution]:
    return (one.since, one.to)


def spans(points: Sequence[State], who: Owners, start: Micros, end: Micros) -> list[Span]:
    """The states within [start, end), each cut where its owner changes; none of them is empty."""
    found: list[Span] = []
    for place, one in enumerate(points):
        t0 = max(one.at, start)
        t1 = min(points[place + 1].at, end) if place + 1 < len(points) else end
        if t0 >= t1:
            continue
        if len(who.to) == 1:
            found.append(Span(t0, t1, one.attempt, one.category, who.to[0]))
        else:
            found.extend(_cut(Span(t0, t1, one.attempt, one.category, who.to[0]), who))
    return found


def _cut(span: Span, who: Owners) -> Iterable[Span]:
    for place, to in enumerate(who.to):
        t0 = max(span.t0, who.since[place]) if place else span.t0
        t1 = min(span.t1, who.since[place + 1]) if place + 1 < len(who.to) else span.t1
        if t0 < t1:
            yield span._replace(t0=t0, t1=t1, attribution=to)
