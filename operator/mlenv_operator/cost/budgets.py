"""What teams and use cases spent in a month so far, and what that comes to by its end: pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from mlenv_operator.cost.facts import HOUR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlenv_operator.cost.facts import Micros, Nanos

RECENT_DAYS: Final = 7
"""The rate of a forecast is that of so many days, and of today so far."""
_DAY: Final = 24 * HOUR

Whose: TypeAlias = "tuple[str | None, str | None]"
"""A team and a use case, as jobs had them; None: any."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What somebody's jobs cost in a month so far."""

    cost: Nanos = 0
    """Booked in the month, and floors of its open hours. Corrections of closed months may take it below 0."""
    recent: Nanos = 0
    """Used in the window from which the rate comes, in whichever month it is booked."""
    unpriced: Micros = 0
    """Time of pods in the month of which nobody knows the price: its cost is in no sum."""


NOTHING: Final = Spent()


@dataclass(frozen=True, slots=True)
class MonthToDate:
    """All that was spent in the current month, of one moment."""

    month: str
    """As 2026-11."""
    as_of: Micros
    until: Micros
    """The end of the month."""
    window: Micros
    """How long the time is that `recent` is of; never 0."""
    spent: Mapping[Whose, Spent] = field(default_factory=dict)
    """By team and use case, by team, and by use case."""

    def of(self, team: str | None, use_case: str | None) -> Spent:
        """What they spent; nothing, when the ledger knows of no such job in this month or the last days."""
        return self.spent.get((team, use_case), NOTHING)

    def forecast(self, spent: Spent) -> Nanos:
        """What it comes to by the end of the month."""
        return forecast(spent.cost, spent.recent, self.window, self.until - self.as_of)


class Window(NamedTuple):
    """The time from which a rate comes."""

    day: int
    """The first day, counted from 1970."""
    length: Micros


def window(now: Micros, since: Micros) -> Window:
    """The last days and today so far, as far as the ledger goes back, and never less than an hour."""
    day = now // _DAY - RECENT_DAYS
    return Window(day, max(now - max(day * _DAY, since), HOUR))


def forecast(cost: Nanos, recent: Nanos, over: Micros, left: Micros) -> Nanos:
    """The cost so far, and for the time that is left what was spent lately in as much time.

    It is the cost itself when nothing is left, and grows with either sum. What corrections took away lately
    is not expected to be taken away again.
    """
    return cost + max(recent, 0) * max(left, 0) // max(over, HOUR)
