"""What can go wrong with the ledger. Every message says what happened and what to do."""

from __future__ import annotations


class LedgerError(Exception):
    """Any failure of the ledger."""


class LedgerUnavailable(LedgerError):
    """The database is away, full, slow or read-only. Nothing was written; the same call may succeed later."""


class LedgerRefused(LedgerError):
    """What was asked for would make the ledger say something untrue. Trying again does not help."""


class StaleWriter(LedgerRefused):
    """Another operator has taken the ledger over: this one must not write any more."""


class WrongSchema(LedgerRefused):
    """The database has a schema that this program does not know, or none."""


class BelowMark(LedgerRefused):
    """The ledger is older than what was exported from it: counters would go back."""


class MarksUnavailable(LedgerError):
    """The second place of exported counters is away: nothing newer is shown, all else goes on."""


class Imbalance(LedgerRefused):
    """A node-hour's rows do not add up to its price."""
