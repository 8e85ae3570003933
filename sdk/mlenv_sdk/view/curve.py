"""The loss over the steps, in one line of text, with a mark where an attempt ended: pure.

Steps that were done again replace what they had said before, so the line goes on where training did.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from mlenv_sdk.resources import TrainingJob

NAME: Final = "loss"
WIDTH: Final = 60
FEWEST: Final = 3
"""Points; with fewer there is nothing to see."""
MOST: Final = 4096
_BLOCKS: Final = "▁▂▃▄▅▆▇█"


class Curve:
    """What a job has told of its loss, and where its attempts began."""

    def __init__(self) -> None:
        self._points: dict[int, float] = {}
        self._last = 0
        self._attempt = 0
        self._marks: dict[int, int] = {}
        """By attempt, the last step that the attempt before told."""

    def add(self, job: TrainingJob) -> None:
        """Take what the job tells now."""
        attempt, progress = job.status.attempt, job.status.progress
        if attempt is not None and attempt.number != self._attempt:
            if self._attempt and self._last:
                self._marks[attempt.number] = self._last
            self._attempt = attempt.number
        value = (
            next((float(one.value) for one in progress.metrics if one.name == NAME), None)
            if progress
            else None
        )
        if progress is None or value is None or not math.isfinite(value):
            return
        self._last = progress.step
        if len(self._points) < MOST:
            self._points[progress.step] = value

    def render(self, total: int | None = None) -> RenderableType | None:
        """The line, as wide as `total` steps need; None while there is too little to show."""
        if len(self._points) < FEWEST:
            return None
        steps = sorted(self._points)
        end = max(total or 0, steps[-1])
        cells = _cells(self._points, end)
        known = [cell for cell in cells if cell is not None]
        line = Text.assemble(
            (f"{NAME} ", "dim"), f"{known[0]:.4g} ", (_blocks(cells), "cyan"), f" {known[-1]:.4g}"
        )
        lead = len(f"{NAME} {known[0]:.4g} ")
        return Group(line, *(_mark(number, step, end, lead) for number, step in self._marks.items()))


def _cells(points: dict[int, float], end: int) -> list[float | None]:
    """The mean of what was told in each of WIDTH equal parts; gaps are filled from the left."""
    found: list[list[float]] = [[] for _ in range(WIDTH)]
    for step, value in points.items():
        found[_place(step, end)].append(value)
    last = max(place for place, values in enumerate(found) if values)
    cells: list[float | None] = []
    for place, values in enumerate(found):
        before = cells[-1] if cells else None
        cells.append(sum(values) / len(values) if values else before if place <= last else None)
    first = next(cell for cell in cells if cell is not None)
    return [first if cell is None and place <= last else cell for place, cell in enumerate(cells)]


def _place(step: int, end: int) -> int:
    return min(WIDTH - 1, step * WIDTH // max(1, end))


def _blocks(cells: Sequence[float | None]) -> str:
    known = [cell for cell in cells if cell is not None]
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    tops = len(_BLOCKS) - 1
    return "".join(" " if cell is None else _BLOCKS[round((cell - low) / span * tops)] for cell in cells)


def _mark(number: int, step: int, end: int, lead: int) -> Text:
    return Text(" " * (lead + _place(step, end)) + f"▲ attempt {number}, after step {step}", "yellow")
