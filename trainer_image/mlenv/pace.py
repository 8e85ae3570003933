"""When to look whether a checkpoint is due."""

from __future__ import annotations

from typing import Final

LOOK: Final = 5.0
"""Seconds between two looks at clock and signals, about."""
EARLY: Final = 0.1
"""The first checkpoint comes after this part of the interval: what is wrong with saving shows early."""


class Pace:
    """Rank 0's clock, read at steps on which all ranks agreed before. Pure: the time is given.

    A look costs the ranks one small message, so looks are some seconds apart, in steps at the rate since the
    last look, and at most twice as many steps as then: whatever the first steps take, and whatever rank 0's
    clock says, the next look is at a step that every rank knows.
    """

    def __init__(self, every: float | None, step: int, now: float) -> None:
        self._every = every
        self._apart = min(LOOK, LOOK if every is None else every * EARLY)
        self._due = now + (every or 0.0) * EARLY
        self._step, self._time = step, now

    def look(self, step: int, now: float) -> tuple[bool, int]:
        """Whether a checkpoint is due by the clock, and how many steps later to look again."""
        steps, seconds = step - self._step, now - self._time
        self._step, self._time = step, now
        due = self._every is not None and now + self._apart / 2 >= self._due
        if due:
            self._due = now + (self._every or 0.0)
        rate = steps / seconds if seconds > 0 else float(steps)
        return due, max(1, min(2 * steps, int(rate * self._apart)))
