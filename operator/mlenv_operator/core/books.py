"""What the core is told of money: what the ledger published last, a fact like any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_operator.cost.facts import Nanos


@dataclass(frozen=True, slots=True)
class Spending:
    """What one job cost, in nanodollars."""

    cost: Nanos
    rate: Nanos
    """An hour, at that moment."""
    by_category: tuple[tuple[str, Nanos], ...] = ()
    unpriced: bool = False
    """Whether something that it held at that moment has no price."""
    lacking: bool = False
    """Whether any time that it held until then has no price: then the cost is not the whole."""
    holds: bool = True
    """Whether it held anything at that moment."""


@dataclass(frozen=True, slots=True)
class Books:
    """The ledger, as one job's decisions need it."""

    kept: bool = False
    """Whether this operator keeps a ledger at all."""
    as_of: datetime | None = None
    """Of which moment the last publication is; null when there was none since this operator leads."""
    problem: str = ""
    """Why the ledger may show nothing now, as it says itself."""
    job: Spending | None = None
    """Null of a job that held nothing in the last quarter of an hour."""


NO_BOOKS: Final = Books()
