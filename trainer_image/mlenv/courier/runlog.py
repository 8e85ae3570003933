"""What of the history goes to the job's run next, given what is in the spool and what the run has. Pure.

A run's history is append-only, and its `_step` only grows. While attempts crash and replay, `_step` follows
the training step, and what is there already is compared and not logged again. Where training was rolled back,
or begun anew, rows that do not count any more stay, and the new ones come behind them as another branch: the
same `step`, a greater `_step`, and the branch's number beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from mlenv import rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

STEP: Final = "step"
SAMPLES: Final = "samples"
EPOCH: Final = "epoch"
BRANCH: Final = "mlenv/rollbacks"
SINCE: Final = "mlenv/rolled_back_by_attempt"
DRIFT: Final = "mlenv/replay_drift"
OWN: Final = frozenset({STEP, SAMPLES, EPOCH, BRANCH, SINCE, DRIFT})
ROLL_BACK: Final = 77
HALF_A_MILLISECOND: Final = 0.0005
"""Rows have their time in whole milliseconds."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a run's history goes, as its last row says."""

    row: int = 0
    """Its `_step`: the same as `step`, until training is rolled back."""
    step: int = 0
    """The training step of that row; 0: there is none."""
    branch: int = 0
    """How often was rolled back before it."""
    since: int = 0
    """The attempt that rolled back last; 0: none."""


@dataclass(frozen=True, slots=True)
class Told:
    """One attempt, as its files say."""

    head: rows.Head
    code: int | None = None
    """What its Session ended with, where it could say so."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What to do about some rows of one attempt."""

    log: tuple[tuple[int, float, dict[str, Any]], ...] = ()
    """(`_step`, time, values), in order."""
    replayed: tuple[rows.Row, ...] = ()
    """What the run should have already."""
    place: Place = Place()
    """Where the run's history ends once that is logged."""


def place(last: Mapping[str, Any] | None) -> Place:
    """From the last row of a run; nothing of one that is not of this kind."""
    if not last:
        return Place()
    numbers = [_count(last.get(key, 0)) for key in ("_step", STEP, BRANCH, SINCE)]
    return Place(*numbers)


def batch(attempts: Sequence[Told], attempt: int, found: Iterable[rows.Row], there: Place) -> Batch:
    """What becomes of rows that `attempt` wrote, in order, when the run's history ends `there`."""
    by = branched_by(attempts, attempt)
    if by < there.since:
        return Batch(place=there)  # of a branch that was left
    at = there if by == there.since else _branch(attempts, by, there)
    ceiling = min((one.head.start for one in attempts if one.head.attempt > attempt), default=rows.MAX_STEP)
    counted = [one for one in found if one.step <= ceiling]
    fresh = [one for one in counted if one.step > at.step]
    log = tuple((at.row + one.step - at.step, one.time, _values(one, at)) for one in fresh)
    last = replace(at, row=log[-1][0], step=fresh[-1].step) if log else there
    replayed = tuple(one for one in counted if one.step <= at.step) if by == there.since else ()
    return Batch(log, replayed, last)


def branched_by(attempts: Sequence[Told], attempt: int) -> int:
    """The newest attempt up to `attempt` that did not go on where the one before it was; 0: none."""
    found, before = 0, None
    for one in attempts:
        if one.head.attempt > attempt:
            break
        if before is not None and (before.code == ROLL_BACK or one.head.since > before.head.since):
            found = one.head.attempt
        before = one
    return found


def _branch(attempts: Sequence[Told], by: int, there: Place) -> Place:
    """Where the branch begins that attempt `by` opens: its rows come behind all there are."""
    start = next(one.head.start for one in attempts if one.head.attempt == by)
    if start >= there.step:
        return replace(there, since=by)  # nothing that was left is there
    return Place(there.row, start, there.branch + 1, by)


def _values(one: rows.Row, at: Place) -> dict[str, Any]:
    own: dict[str, Any] = {STEP: one.step}
    if one.samples is not None:
        own |= {SAMPLES: one.samples, EPOCH: one.epoch or 0}
    if at.since:
        own |= {BRANCH: at.branch, SINCE: at.since}
    return {**{key: value for key, value in one.metrics.items() if key not in OWN}, **own}


@dataclass(frozen=True, slots=True)
class Drift:
    """How replayed steps compare with what was recorded."""

    compared: int = 0
    differ: int = 0
    worst: float = 0.0
    """The greatest relative difference."""
    first: int = 0
    """The first step that differs."""
    name: str = ""
    """Its metric."""

    @property
    def sentence(self) -> str:
        """For people; empty where nothing differs."""
        if not self.differ:
            return ""
        return (
            f"replay differs from what was recorded at {self.differ} of {self.compared} steps, first in "
            f"{self.name} at step {self.first}, by {self.worst:.2g} of its size at most. Without "
            "deterministic kernels this is to be expected; with them, data or code have changed"
        )


@dataclass(frozen=True, slots=True)
class Bar:
    """What of a replay counts."""

    within: float = 0.0
    """Relative differences up to this are none."""
    losses: bool = False
    """Whether losses alone are looked at: what a program measures of time differs every time."""

    def takes(self, name: str) -> bool:
        """Whether a metric of this name counts."""
        return name not in OWN and (not self.losses or "loss" in name.lower())


ALL: Final = Bar()


def compare(
    replayed: Iterable[rows.Row], recorded: Iterable[Mapping[str, Any]], before: Drift, bar: Bar = ALL
) -> Drift:
    """`before`, with these rows; what the run does not have is not compared, nor a row with itself."""
    stored = {_count(one.get(STEP)): one for one in recorded}
    found = before
    for row in replayed:
        if row.step in stored and not _same(row, stored[row.step]):
            found = _compared(found, row, stored[row.step], bar)
    return found


def _same(row: rows.Row, stored: Mapping[str, Any]) -> bool:
    """Whether the run has this very row: it was logged before, and is read again."""
    when = rows.value(stored.get("_timestamp"))
    return when is not None and abs(when - row.time) < HALF_A_MILLISECOND


def _compared(found: Drift, row: rows.Row, stored: Mapping[str, Any], bar: Bar) -> Drift:
    both = {key: rows.value(stored[key]) for key in row.metrics if key in stored and bar.takes(key)}
    apart = {key: _apart(row.metrics[key], value) for key, value in both.items() if value is not None}
    worst = max(apart.values(), default=0.0)
    if bar.losses and not apart:
        return found
    found = replace(found, compared=found.compared + 1)
    if worst <= bar.within:
        return found
    first = (
        found if found.differ else replace(found, first=row.step, name=max(apart, key=lambda key: apart[key]))
    )
    return replace(first, differ=found.differ + 1, worst=max(found.worst, worst))


def _apart(new: float, old: float) -> float:
    """How far apart, of the greater one's size; 0: the same."""
    if new == old or (math.isnan(new) and math.isnan(old)):
        return 0.0
    if not (math.isfinite(new) and math.isfinite(old)):
        return math.inf
    return abs(new - old) / max(abs(new), abs(old))


def _count(said: object) -> int:
    return (
        int(said)
        if isinstance(said, int | float) and not isinstance(said, bool) and math.isfinite(said)
        else 0
    )
