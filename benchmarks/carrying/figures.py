"""Figures of turns: each is compared with those before and after it: what else goes on meets both. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loops.figures import Middle, middle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALONE: Final = "alone"
HEALTHY: Final = "healthy"
SLOW: Final = "slow"
REFUSED: Final = "dead: refused"
FAILING: Final = "dead: 503"
DEAD: Final = (REFUSED, FAILING)
"""They take turns."""
STATES: Final[Mapping[str, tuple[str, ...]]] = {"healthy": (HEALTHY,), "slow": (SLOW,), "dead": DEAD}
"""What W&B does, and the turns that show it."""


@dataclass(frozen=True)
class Turn:
    """So many steps of training, with W&B in one state."""

    per_step: float
    """Seconds."""
    cpu: float = 0.0
    """CPU seconds of the thread that trains, a step: what does not depend on who else is running."""
    commits: tuple[float, ...] = ()
    """Seconds from each seal until the courier knew that every byte of it had come back."""
    courier: float = 0.0
    """Cores that the courier and its client took meanwhile."""
    server: float = 0.0
    elsewhere: float = 0.0
    """Cores that were taken by nobody of ours."""


@dataclass(frozen=True)
class Seen:
    """A turn with W&B in some state, and the turns without on both sides of it."""

    state: str
    turn: Turn
    alone: tuple[Turn, Turn]

    @property
    def ratio(self) -> float:
        """Steps a second, against training alone: a machine that becomes faster or slower meets both."""
        return statistics.fmean(one.per_step for one in self.alone) / self.turn.per_step


def states(rounds: int) -> list[str]:
    """Of all turns but those without, in order: each comes in each place, and `dead` in its two forms."""
    found: list[str] = []
    for number in range(rounds):
        these = [HEALTHY, SLOW, DEAD[number % 2]]
        at = number % len(these)
        found += these[at:] + these[:at]
    return found


def ratios(seen: Sequence[Seen], state: str) -> list[float]:
    """Of each turn that shows what W&B does."""
    return [one.ratio for one in seen if one.state in STATES[state]]


def spread(values: Sequence[float]) -> Middle:
    """Median and middle half, of one value too."""
    return middle(values) if len(values) > 1 else Middle(values[0], values[0], values[0])


@dataclass(frozen=True)
class Stored:
    """Checkpoints that were carried with nothing else to do."""

    megabytes: float
    """Of each."""
    seconds: tuple[float, ...]
    """From each seal until every byte had come back."""


def commits(seen: Sequence[Seen]) -> list[float]:
    """All that were seen while W&B was well."""
    return [one for turns in seen if turns.state == HEALTHY for one in turns.turn.commits]


def figures(
    seen: Sequence[Seen], small: Stored, large: Stored, rows: float
) -> dict[str, float | dict[str, float]]:
    """The last line; `rows` of history a second."""
    return {
        "artifact_commit_s_10mb": round(statistics.median(small.seconds), 2),
        "artifact_mb_per_s": round(large.megabytes / statistics.median(large.seconds), 1),
        "training_throughput_ratio": {
            state: round(statistics.median(ratios(seen, state)), 4) for state in STATES
        },
        "history_rows_per_s": round(rows, 1),
    }
