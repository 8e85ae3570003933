"""Marks from what launchers say their time went to: exact amounts, about a dozen stretches an hour.

A rank adds up its time by what it was for; nobody tells when each wait was. So what came together between two
tellings is laid into that stretch of time: first the steps, then the rest in a fixed order, at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mlenv_api.protocol import LauncherPhase
from mlenv_operator.cost.facts import HOUR, SECOND, Category, Mark, Micros
from mlenv_operator.cost.moments import micros

if TYPE_CHECKING:
    from mlenv_api.protocol import Spent
    from mlenv_operator.core.world import BeatView

WINDOW: Final = HOUR // 3
"""Told at the first word in each such part of an hour: a row of an hour holds what was spent in it."""
SKEW: Final = 60 * SECOND
"""A process that lags behind our clock by more was stopped meanwhile."""
FIRST_SEQUENCE: Final = 10
"""Above those of stored status: what a rank says of its time is more than that it runs."""
ORDER: Final = (
    Category.INIT,
    Category.CHECKPOINT_RESTORE,
    Category.LOST_WORK,
    Category.PRODUCTIVE,
    Category.DATA_WAIT,
    Category.EVAL,
    Category.CHECKPOINT_SAVE,
)
_AFTER: Final = {LauncherPhase.SUCCEEDED: Category.DRAIN, LauncherPhase.FAILED: Category.RECOVERY}
"""What a pod does whose ranks have ended, until stored status says what comes."""
_LOST_WORK, _PRODUCTIVE = ORDER.index(Category.LOST_WORK), ORDER.index(Category.PRODUCTIVE)

Amounts = tuple[Micros, ...]
"""By ORDER."""


class Meter(NamedTuple):
    """What is known of one pod in one attempt, and until when it was told."""

    pod_uid: str
    attempt: int
    begun: Micros
    """When its process began, by our clock; later where it was stopped for a while."""
    at: Micros
    """Marks tell of the time until here."""
    told: Amounts
    heard: Amounts
    """Everything since the process began; `told` is the part of it that marks tell of."""
    step: int = 0
    """Last committed step that was heard of."""
    doing: Category | None = None
    """What the last mark says; null before the first."""
    marks: int = 0
    """How many there were."""


class Metered(NamedTuple):
    """A meter and the marks that brought it there: stored together, lest a new leader tells them twice."""

    meter: Meter
    marks: tuple[Mark, ...]


def hear(
    meter: Meter | None, pod_uid: str, view: BeatView, *, since: Micros, highest: int
) -> tuple[Meter | None, tuple[Mark, ...]]:
    """The meter after a beat, and the marks that are due. `since`: when the attempt's world was formed.

    `highest`: the step up to which earlier attempts had come; time for steps up to there is lost work.
    """
    beat, spent = view.beat, view.beat.spent
    if spent is None or beat.attempt < 1 or (meter is not None and beat.attempt < meter.attempt):
        return meter, ()
    now = micros(spent.time + (view.received - beat.time))
    if meter is None or beat.attempt > meter.attempt:
        meter = _begin(pod_uid, beat.attempt, now - _total(spent), since)
    step = max(beat.progress.step if beat.progress else 0, meter.step)
    meter = _add(meter, spent, step, now, highest)
    goes_on = _AFTER.get(beat.phase) or _doing(meter, highest)
    due = goes_on is not meter.doing or _end(meter) // WINDOW > meter.at // WINDOW
    return _tell(meter, goes_on) if due else (meter, ())


def _begin(pod_uid: str, attempt: int, begun: Micros, since: Micros) -> Meter:
    nothing = (0,) * len(ORDER)
    return Meter(pod_uid, attempt, max(begun, since), since, nothing, nothing)


def _add(meter: Meter, spent: Spent, step: int, now: Micros, highest: int) -> Meter:
    """With what was spent since the last word; words that overtook each other change nothing.

    At every beat of every launcher: without loops.
    """
    init, restore, lost, productive, wait, looked, save = meter.heard
    steps = max(spent.productive - productive - lost, 0)
    again = _lost(steps, meter.step, step, highest)
    heard = (
        max(spent.init, init),
        max(spent.checkpoint_restore, restore),
        lost + again,
        productive + steps - again,
        max(spent.data_wait, wait),
        max(spent.eval, looked),
        max(spent.checkpoint_save, save),
    )
    behind = now - meter.begun - sum(heard)
    begun = meter.begun + (behind if behind > SKEW else 0)
    return meter._replace(heard=heard, step=step, begun=begun)


def _lost(micros_: Micros, before: int, after: int, highest: int) -> Micros:
    """The part of the time for the steps from `before` to `after` that went to those up to `highest`."""
    if before >= highest:
        return 0
    if after <= highest:
        return micros_
    return micros_ * (highest - before) // (after - before)


def _end(meter: Meter) -> Micros:
    return meter.begun + sum(meter.heard)


def _doing(meter: Meter, highest: int) -> Category:
    """What it does after what was heard, unless something else is said."""
    if not (meter.step or meter.heard[_LOST_WORK] or meter.heard[_PRODUCTIVE]):
        return Category.INIT
    return Category.LOST_WORK if meter.step < highest else Category.PRODUCTIVE


def tell(meter: Meter, highest: int, until: Micros) -> tuple[Meter, tuple[Mark, ...]]:
    """The marks of all that was heard and not told, when the attempt is over: none at or after `until`."""
    return _tell(meter, _doing(meter, highest), until)


def _tell(meter: Meter, goes_on: Category, until: Micros | None = None) -> tuple[Meter, tuple[Mark, ...]]:
    end = _end(meter)
    amounts = [new - old for new, old in zip(meter.heard, meter.told, strict=True)]
    at = meter.at if meter.told[0] == 0 and amounts[0] else max(meter.at, end - sum(amounts))
    found: list[tuple[Micros, Category]] = []
    left = sum(amounts)
    for category, amount in zip(ORDER, amounts, strict=True):
        if amount:
            found.append((at, category))
            left -= amount
            at = max(at, end - left)
    found.append((end, goes_on))
    marks = _marks(meter, [one for one in found if until is None or one[0] < until])
    count = meter.marks + len(marks)
    return meter._replace(at=max(end, meter.at), told=meter.heard, doing=goes_on, marks=count), marks


def _marks(meter: Meter, found: list[tuple[Micros, Category]]) -> tuple[Mark, ...]:
    """Without those that say what holds already."""
    marks: list[Mark] = []
    doing = meter.doing
    for at, category in found:
        if category is not doing:
            sequence = FIRST_SEQUENCE + meter.marks + len(marks)
            marks.append(Mark(meter.pod_uid, at, sequence, meter.attempt, category))
        doing = category
    return tuple(marks)


def _total(spent: Spent) -> Micros:
    steps = spent.init + spent.productive
    return steps + spent.data_wait + spent.checkpoint_save + spent.checkpoint_restore + spent.eval
