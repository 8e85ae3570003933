"""Figures of rounds: ratios are taken within a round, so that what else goes on meets both. Pure."""

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


Round = dict[str, Turn]


def order(number: int) -> list[str]:
    """The turns of a round, the first first: each state comes in each place, and `dead` in its two forms."""
    states = [ALONE, HEALTHY, SLOW, DEAD[number % 2]]
    at = number % len(states)
    return states[at:] + states[:at]


def ratios(rounds: Sequence[Round], state: str) -> list[float]:
    """Steps a second against training alone, of each round that has such a turn."""
    found = [(turns[ALONE], turns[name]) for turns in rounds for name in STATES[state] if name in turns]
    return [alone.per_step / other.per_step for alone, other in found]


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


def commits(rounds: Sequence[Round]) -> list[float]:
    """All that were seen while W&B was well."""
    return [one for turns in rounds for one in turns[HEALTHY].commits]


def mean(rounds: Sequence[Round], name: str, what: str) -> float:
    """Of one of a turn's numbers, over the rounds."""
    return statistics.fmean(getattr(turns[name], what) for turns in rounds if name in turns)


def figures(
    rounds: Sequence[Round], small: Stored, large: Stored, rows: float
) -> dict[str, float | dict[str, float]]:
    """The last line; `rows` of history a second."""
    return {
        "artifact_commit_s_10mb": round(statistics.median(small.seconds), 2),
        "artifact_mb_per_s": round(large.megabytes / statistics.median(large.seconds), 1),
        "training_throughput_ratio": {
            state: round(statistics.median(ratios(rounds, state)), 4) for state in STATES
        },
        "history_rows_per_s": round(rows, 1),
    }
