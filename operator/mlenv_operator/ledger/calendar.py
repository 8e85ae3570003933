"""Hours, days and months as numbers, all in UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Final

from mlenv_operator.cost.facts import HOUR, SECOND

if TYPE_CHECKING:
    from mlenv_operator.cost.facts import Micros

DAY: Final = 24
"""Hours."""
EPOCH: Final = date(1970, 1, 1).toordinal()


def month_of(hour: int) -> int:
    """The month of an hour, as 202511."""
    day = date.fromordinal(EPOCH + hour // DAY)
    return day.year * 100 + day.month


def month_at(at: Micros) -> int:
    """The month of a moment, as 202511."""
    return month_of(at // HOUR)


def next_month(month: int) -> int:
    """The one after."""
    return month + 1 if month % 100 < 12 else month + 89


def hours_of(month: int) -> tuple[int, int]:
    """The first hour of a month, and of the next one."""
    return _first_hour(month), _first_hour(next_month(month))


def _first_hour(month: int) -> int:
    return (date(*divmod(month, 100), 1).toordinal() - EPOCH) * DAY


def parse_month(text: str) -> int:
    """The month that `2025-11` names."""
    found = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    return found.year * 100 + found.month


def show_month(month: int) -> str:
    """As `2025-11`."""
    return f"{month // 100:04d}-{month % 100:02d}"


def show_hour(hour: int) -> str:
    """As `2025-11-30T23:00Z`."""
    return datetime.fromtimestamp(hour * HOUR // SECOND, UTC).strftime("%Y-%m-%dT%H:%MZ")
