"""Which checkpoints to keep, and which go first when room is short. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Kept:
    """One sealed checkpoint, as retention sees it."""

    name: str
    digest: str
    step: int
    attempt: int
    size: int
    """Bytes."""
    time: datetime
    good: bool = False
    """Whether it passed the gate."""
    score: float | None = None
    """What `Policy.best` compares; higher is better."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep."""

    newest: int = 2
    """So many of the newest, and so many of the newest good ones."""
    hours: int = 0
    """The newest of each of so many hours back."""
    best: bool = True
    """The one with the highest score, where `metric` says what counts."""
    metric: str | None = None
    """The committed or logged metric that scores a checkpoint, as ``auc``; with a minus, as ``-loss``, less
    is more."""
    budget: int | None = None
    """Bytes for all together."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes, the first first, and what nothing can be done about."""

    delete: tuple[str, ...]
    over: int
    """Bytes by which the budget is exceeded even so: what is left may not go."""


def score(metrics: Mapping[str, float | str], metric: str | None) -> float | None:
    """What `Policy.best` compares, of a checkpoint with these metrics; None: it has nothing to compare."""
    try:
        found = float(metrics[metric.removeprefix("-")]) if metric else math.nan
    except (KeyError, TypeError, ValueError):
        return None
    if not math.isfinite(found):
        return None
    return -found if metric and metric.startswith("-") else found


def plan(kept: Sequence[Kept], policy: Policy, *, running_from: str | None = None) -> Plan:
    """What to delete. Never the newest, the newest good one, or the one we run from (its digest)."""
    ordered = sorted(kept, key=lambda one: (one.step, one.attempt), reverse=True)
    sacred = _sacred(ordered, running_from)
    wanted = sacred | _wanted(ordered, policy)
    gone = [one for one in reversed(ordered) if one.digest not in wanted]
    left = sum(one.size for one in ordered) - sum(one.size for one in gone)
    if policy.budget is not None:
        for one in _by_worth(ordered, wanted - sacred):
            if left <= policy.budget:
                break
            gone.append(one)
            left -= one.size
    over = max(0, left - policy.budget) if policy.budget is not None else 0
    return Plan(tuple(one.name for one in gone), over)


def room(
    kept: Sequence[Kept], policy: Policy, *, coming: int, short: int = 0, running_from: str | None = None
) -> Plan:
    """What goes before one more of about `coming` bytes is written, for a disk that is `short` bytes.

    The budget holds with the new one in it, so it is never exceeded, unless what may not go (as in `plan`)
    leaves no room for one more: the Plan says by how much, and the new one is written all the same.
    """
    ordered = sorted(kept, key=lambda one: (one.step, one.attempt), reverse=True)
    sacred = _sacred(ordered, running_from)
    budget = policy.budget
    left = sum(one.size for one in ordered) + max(coming, ordered[0].size if ordered else 0)
    gone: list[Kept] = []
    for one in _by_worth(ordered, {one.digest for one in ordered} - sacred):
        if short <= 0 and (budget is None or left <= budget):
            break
        gone.append(one)
        left, short = left - one.size, short - one.size
    return Plan(tuple(one.name for one in gone), max(0, left - budget) if budget is not None else 0)


def _sacred(ordered: Sequence[Kept], running_from: str | None) -> set[str]:
    newest = ordered[:1]
    good = [one for one in ordered if one.good][:1]
    return {one.digest for one in (*newest, *good)} | ({running_from} if running_from else set())


def _wanted(ordered: Sequence[Kept], policy: Policy) -> set[str]:
    good = [one for one in ordered if one.good]
    lately = (*ordered[: policy.newest], *good[: policy.newest], *_hourly(ordered, policy))
    wanted = {one.digest for one in lately}
    best = _best(ordered)
    return wanted | ({best.digest} if policy.best and best else set())


def _best(ordered: Iterable[Kept]) -> Kept | None:
    scored = [one for one in ordered if one.score is not None]
    return max(scored, key=lambda one: (one.score, one.step), default=None)


def _hourly(ordered: Sequence[Kept], policy: Policy) -> list[Kept]:
    by_hour: dict[int, Kept] = {}
    for one in ordered:
        by_hour.setdefault(int(one.time.timestamp()) // 3600, one)
    newest = max(by_hour, default=0)
    return [one for hour, one in by_hour.items() if newest - hour < policy.hours]


def _by_worth(ordered: Sequence[Kept], digests: set[str]) -> list[Kept]:
    """What goes first under a budget: the oldest, and the best last."""
    best = _best(ordered)
    found = [one for one in reversed(ordered) if one.digest in digests]
    return sorted(found, key=lambda one: best is not None and one.digest == best.digest)
