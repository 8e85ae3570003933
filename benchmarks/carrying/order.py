"""What the benchmark asks the training program to do next, and what that tells afterwards."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from loops.setup import Size

if TYPE_CHECKING:
    from pathlib import Path

ORDER = "order-{}.json"
TOLD = "told-{}.json"
LOOK_SECONDS = 0.02
"""Between two looks at whether a file is there."""
WINDOW = "window"
"""In a turn's folder: there once the timed steps begin."""


@dataclass(frozen=True)
class Order:
    """One turn: a Session in a folder of its own."""

    folder: str
    size: Size
    tracked: bool
    """Whether there is a courier."""
    every: int
    """Steps from checkpoint to checkpoint; 0: none."""
    warm: int
    """Steps before those that are timed."""
    steps: int
    """All together."""


@dataclass(frozen=True)
class Told:
    """How that went."""

    seconds: float
    """Of the timed steps: saving is in it, waiting for the last seal is not."""
    steps: int
    cpu: float = 0.0
    """CPU seconds of the thread that trains, for them."""

    @property
    def per_step(self) -> float:
        """Seconds."""
        return self.seconds / self.steps


def write(path: Path, what: Order | Told) -> None:
    """In one rename."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(what)))
    draft.rename(path)


def order(path: Path) -> Order:
    """As it was written."""
    raw = json.loads(path.read_text())
    return Order(**{**raw, "size": Size(**raw["size"])})


def told(path: Path) -> Told:
    """As it was written."""
    return Told(**json.loads(path.read_text()))
