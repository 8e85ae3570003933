"""What checkpoints cost, and what became of them, on one rank."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

LOUD: Final = 5
"""From so many saves in a row without a checkpoint on, it is said what a failure would cost now."""


@dataclass(slots=True)
class Stats:
    """What checkpoints cost so far, on this rank."""

    saved: int = 0
    failed: int = 0
    failed_in_a_row: int = 0
    refused: int = 0
    """Snapshots that were not written because they held what is not finite."""
    refused_in_a_row: int = 0
    spoilt: int = 0
    """Of these in a row, those in which the state itself was not finite, or not sane."""
    insane: bool = False
    """Whether the last one was sealed, and an armed check speaks against going on from it."""
    stalled: float = 0.0
    """Seconds that training stood still: waiting for the save before, and copying."""
    waited: float = 0.0
    """Of these, seconds of waiting for the save before."""
    writing: float = 0.0
    """Seconds of writing beside training."""
    cpu: float = 0.0
    """Of a core, in these seconds: what training may have missed."""
    newest: float = field(default_factory=time.monotonic)
    """When the newest was copied, or the run began, by the monotonic clock."""
    errors: list[str] = field(default_factory=list)
    """The last few, as sentences."""

    @property
    def missed(self) -> int:
        """Saves in a row that made no checkpoint."""
        return self.failed_in_a_row + self.refused_in_a_row

    def succeed(self, copied: float) -> None:
        """One is sealed, of the state as it was at `copied`."""
        self.saved += 1
        self.failed_in_a_row = self.refused_in_a_row = self.spoilt = 0
        self.insane = False
        self.newest = copied

    def fail(self, why: str) -> None:
        """One could not be written."""
        self.failed += 1
        self.failed_in_a_row += 1
        self._note(why)

    def refuse(self, why: str, *, state: bool) -> None:
        """One was not to be written."""
        self.refused += 1
        self.refused_in_a_row += 1
        self.spoilt = self.spoilt + 1 if state else 0
        self.insane = False
        self._note(why)

    def doubt(self, why: str) -> None:
        """One is sealed, and not to be gone on from."""
        self.refuse(why, state=True)
        self.insane = True

    def warning(self, now: float) -> str:
        """What it means by now that there is no newer checkpoint; nothing at first."""
        if self.missed < LOUD:
            return ""
        minutes = (now - self.newest) / 60
        return f"WARNING, {self.missed} in a row: a failure now costs {minutes:.0f} minutes of training. "

    def _note(self, why: str) -> None:
        self.errors = [*self.errors[-4:], why]
