"""What the operator keeps in memory. All of it can be lost: it is read, told or found again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlenv_operator.adapters.beatstore import BeatStore
    from mlenv_operator.adapters.caches import Caches
    from mlenv_operator.adapters.jobs import JobCache
    from mlenv_operator.adapters.neighbours import Neighbours
    from mlenv_operator.adapters.overlay import Overlay
    from mlenv_operator.adapters.pace import Pace
    from mlenv_operator.adapters.rejections import Rejections
    from mlenv_operator.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class State:
    """The memory, and the clock that it goes by."""

    clock: Clock
    jobs: JobCache
    caches: Caches
    beats: BeatStore
    overlay: Overlay
    rejections: Rejections
    neighbours: Neighbours
    pace: Pace
