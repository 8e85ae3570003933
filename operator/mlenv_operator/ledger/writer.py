"""Who writes to the ledger."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes: the term of the lease, and the name of its holder in that term."""

    term: int
    holder: str
