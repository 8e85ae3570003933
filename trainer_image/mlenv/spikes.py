"""Loss and gradient norm against how they have been lately: a spike is noticed, and stops nothing. Pure.

Only values that a report has read from the device anyway are seen, so watching costs training nothing.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

WATCHED: Final = ("loss", "grad_norm")
"""Committed metrics of these names are watched."""
WINDOW: Final = 64
"""So many reported values are compared with."""
ENOUGH: Final = 16
"""Before there are so many, nothing is a spike."""
HIGH: Final = 6.0
_SIGMA: Final = 1.4826
"""A normal distribution's standard deviation, in median absolute deviations."""
_FLOOR: Final = 0.01
"""Of the median: values that hardly differ make no spike of a small change."""


class Spikes:
    """The last values of each watched metric, and how many stood out above them."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[float]] = {}
        self._last: dict[str, float] = {}
        self._count: dict[str, int] = {}
        self._step = 0

    def feed(self, step: int, values: Mapping[str, float]) -> list[str]:
        """Take what was reported at `step`; a sentence for each metric that has begun to stand out."""
        if step == self._step:
            return []
        self._step = step
        return [said for name in WATCHED if name in values and (said := self._one(name, values[name]))]

    def _one(self, name: str, value: float) -> str:
        seen = self._seen.setdefault(name, deque(maxlen=WINDOW))
        if not math.isfinite(value):
            return ""
        z, median = zscore(value, seen)
        before, self._last[name] = self._last.get(name, 0.0), z
        seen.append(value)
        if z <= HIGH:
            return ""
        self._count[name] = self._count.get(name, 0) + 1
        told = before <= HIGH
        return f"{name} {value:.4g} at step {self._step} is a spike (median {median:.4g}, z {z:.1f})" * told

    @property
    def counts(self) -> dict[str, float]:
        """Reported values that stood out so far, of each metric that had any."""
        return {f"{name}_spikes": float(count) for name, count in self._count.items()}

    @property
    def facts(self) -> dict[str, float]:
        """What a checkpoint keeps: of each metric its median, the last value's z, and the spikes."""
        found = dict(self.counts)
        for name, seen in self._seen.items():
            if len(seen) >= ENOUGH:
                found |= {f"{name}_median": statistics.median(seen), f"{name}_z": self._last[name]}
        return found


def zscore(value: float, seen: deque[float]) -> tuple[float, float]:
    """How far `value` is above the median of those before, in robust standard deviations; and that median."""
    if len(seen) < ENOUGH:
        return 0.0, value
    median = statistics.median(seen)
    spread = _SIGMA * statistics.median(abs(one - median) for one in seen)
    spread = max(spread, _FLOOR * abs(median))
    return ((value - median) / spread if spread else 0.0), median
