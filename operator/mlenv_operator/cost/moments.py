"""Times of the API server as microseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlenv_operator.cost.facts import Micros

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)


def micros(time: datetime) -> Micros:
    """The moment, exactly."""
    return (time - _EPOCH) // _MICRO


def moment(time: Micros) -> datetime:
    """The same, the other way round."""
    return _EPOCH + time * _MICRO


def parsed(text: str | None) -> Micros | None:
    """The moment that a time of the API server names; null when there is none."""
    return micros(datetime.fromisoformat(text)) if text else None
