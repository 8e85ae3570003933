"""Where a run's numbers go: the console, a JSONL file, and the page for the launcher."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from mlenv import introduce, page, rules, spent
from mlenv.ckpt.errors import Misconfigured
from mlenv.history import NEVER, History
from mlenv.rows import FOLDER, Head

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import TextIO

    from mlenv.job import Job
    from mlenv.values import Metric
    from mlenv_api.protocol import Progress

FILE: Final = "metrics.jsonl"
_begun: Final[set[tuple[Path, int]]] = set()
"""Histories that this process has begun."""


def _rules() -> rules.Rules | None:
    try:
        return rules.read(os.environ)
    except Misconfigured:
        return None  # who saves or resumes says so


class Tracker:
    """Writes one rank's numbers. The main rank logs and prints, the first of each node writes the page.

    A disk that takes nothing more stops no training: it is said once.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._file: TextIO | None = None
        self._complained = False
        self.history: History | None = None
        """What the job's W&B run gets, where a courier logs it."""

    @property
    def due(self) -> int:
        """The next step whose row the history wants."""
        return self.history.due if self.history else NEVER

    def remember(self, start: int) -> None:
        """Begin the history behind `start`, on the main rank, where there is a courier to log it.

        An attempt has one: that of its first Session, as steps of another would count from the start.
        """
        job, found = self._job, _rules()
        if not job.main or found is None or found.courier is None:
            return
        folder = found.courier.parent / FOLDER
        if (folder, job.attempt) not in _begun:
            _begun.add((folder, job.attempt))
            self.history = History(folder, Head(job.uid, job.attempt, start, found.since))
            self._try(lambda: introduce.write(folder, job))

    def row(self, step: int, metrics: Mapping[str, Metric], samples: int, epoch: int) -> None:
        """What belongs to a committed step."""
        if self.history:
            self.history.add(step, metrics, samples, epoch)

    def settle(self) -> None:
        """Have the history written: up to a checkpoint that is about to be sealed."""
        if self.history:
            self.history.flush()

    def open(self) -> None:
        """Make the run's folder, and open the log if this rank has one to write."""
        if self._job.main or self._job.local_rank == 0:
            self._try(self._open)

    def close(self, code: int | None = None) -> None:
        """Close the log; `code` is what the program ends with, where that is known."""
        if self.history:
            self.history.close(code)
        if self._file:
            self._file.close()
        self._file = None

    def log(self, step: int, metrics: Mapping[str, float], **more: Any) -> None:
        """Append one line to metrics.jsonl; non-finite numbers as strings, since JSON has none."""
        if self._file is None:
            return
        row = {
            "step": step,
            "time": datetime.now(UTC).isoformat(),
            "attempt": self._job.attempt,
            **more,
            **metrics,
        }
        line = json.dumps(page.finite(row), allow_nan=False) + "\n"
        file = self._file
        self._try(lambda: file.write(line))

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Values that came after the step's commit."""
        self.log(step, values)
        if self.history:
            self.history.note(step, values)

    def publish(self, progress: Progress | None) -> None:
        """Replace the page that this node's launcher reads: how far it is, and what the time went to."""
        if self._job.local_rank == 0:
            took = spent.clock.read()
            self._try(lambda: page.write(self._job.run_dir, self._job.attempt, progress, took))
            if self.history:
                self.history.spend(took)

    def say(self, text: str) -> None:
        """Print a line, on the main rank only."""
        if self._job.main:
            print(text, flush=True)  # noqa: T201  (the console is where people look)

    def _open(self) -> None:
        self._job.run_dir.mkdir(parents=True, exist_ok=True)
        if self._job.main:
            self._file = (self._job.run_dir / FILE).open("a", buffering=1)

    def _try(self, action: Any) -> None:
        try:
            action()
        except OSError as error:
            if not self._complained:
                sys.stderr.write(
                    f"mlenv: cannot write to {self._job.run_dir} ({error}): no metrics from here on\n"
                )
            self._complained = True
