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
STALE_S: Final = 900.0
"""A ledger that has said nothing for so long watches nothing."""


def silence(books: Books, now: datetime) -> str:
    """Why the ledger tells nobody what things cost now; empty when it does."""
    if not books.kept:
        return "the operator keeps no ledger. Ask the platform team to set ledger.type in its chart"
    if books.problem:
        return f"the ledger shows nothing: {books.problem}. Ask the platform team"
    if books.as_of is None:
        return "the ledger has not been read yet"
    if (now - books.as_of).total_seconds() > STALE_S:
        return (
            f"the ledger has said nothing since {books.as_of:%Y-%m-%d %H:%M} UTC. Ask the platform team to"
            " look at the operator's log"
        )
    return ""
