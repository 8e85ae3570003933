"""What the ranks of a job wrote down (`programs/diary.py`), and what can be told from it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Diary:
    """All lines of one job, in the order in which they were written."""

    lines: tuple[dict[str, Any], ...] = field(default=())

    @classmethod
    def read(cls, folder: Path) -> Diary:
        """As far as it is written."""
        path = folder / "diary.jsonl"
        text = path.read_text() if path.exists() else ""
        return cls(tuple(json.loads(line) for line in text.splitlines()))

    @property
    def steps(self) -> list[dict[str, Any]]:
        """One line for every step that a rank committed, again for one that was done again."""
        return [one for one in self.lines if "step" in one]

    @property
    def end(self) -> dict[str, Any]:
        """What rank 0 ended with; empty while it has not."""
        return next((dict(one["end"]) for one in self.lines if "end" in one and one["rank"] == 0), {})

    def of(self, attempt: int) -> list[dict[str, Any]]:
        """The lines of one attempt."""
        return [one for one in self.lines if one["attempt"] == attempt]

    def losses(self) -> dict[tuple[int, int], str]:
        """The loss of each rank at each step, to the bit; as it was the last time."""
        return {(one["rank"], one["step"]): one["loss"] for one in self.steps}

    def redone(self) -> int:
        """How many steps rank 0 did more than once."""
        mine = [one["step"] for one in self.steps if one["rank"] == 0]
        return len(mine) - len(set(mine))

    def tail_loss(self, steps: int = 60) -> float:
        """The mean loss of all rows in the last steps, each as it was the last time."""
        last = self.end["step"] - steps
        found = [float.fromhex(loss) for (_, step), loss in self.losses().items() if step > last]
        return sum(found) / len(found)

    def back_at(self, when: float) -> float | None:
        """When rank 0 committed a step in a process that began after this moment; None: not yet."""
        began = {one["process"] for one in self.lines if "begins" in one and one["time"] > when}
        mine = (one for one in self.steps if one["rank"] == 0 and one["process"] in began)
        return next((one["time"] for one in mine), None)

    def contradictions(self) -> list[str]:
        """What cannot be, if an attempt is one world and training goes forward only."""
        return [*self._worlds(), *self._gaps()]

    def _worlds(self) -> Iterator[str]:
        """An attempt has one process for each rank, and one size."""
        seen: dict[tuple[int, int], set[str]] = {}
        sizes: dict[int, set[int]] = {}
        for one in self.lines:
            seen.setdefault((one["attempt"], one["rank"]), set()).add(one["process"])
            sizes.setdefault(one["attempt"], set()).add(one["world"])
        for (attempt, rank), processes in seen.items():
            if len(processes) > 1:
                yield f"attempt {attempt} had {len(processes)} processes that were rank {rank}"
        for attempt, found in sizes.items():
            if len(found) > 1:
                yield f"attempt {attempt} had worlds of {sorted(found)} ranks"

    def _gaps(self) -> Iterator[str]:
        """Within a process steps follow on each other, from where it began."""
        for process in {one["process"] for one in self.lines}:
            mine = [one for one in self.lines if one["process"] == process]
            numbers = [one.get("begins", one.get("step")) for one in mine if "end" not in one]
            if any(after != before + 1 for before, after in pairwise(numbers)):
                yield f"rank {mine[0]['rank']} of attempt {mine[0]['attempt']} went through {numbers}"
