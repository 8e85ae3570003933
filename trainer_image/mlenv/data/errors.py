"""What can go wrong with data; every message says what, where, and what to do."""

from __future__ import annotations


class DataError(RuntimeError):
    """Something is wrong with the data or with how it is asked for."""


class Unreadable(DataError):
    """A file is missing, broken, or could not be read for too long; the message names it."""


class SchemaMismatch(DataError):
    """A column is not what the first file or the options say; the message names file and column."""


class StateRefused(DataError):
    """A state belongs to other data, another order or another rank; the message says what differs."""


class Exhausted(DataError):
    """All epochs that were asked for are consumed."""
