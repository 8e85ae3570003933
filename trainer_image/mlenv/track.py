"""Where a run's numbers go: the console, a JSONL file, and the page for the launcher."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from mlenv import page, spent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from mlenv.job import Job
    from mlenv_api.protocol import Progress

FILE: Final = "metrics.jsonl"


class Tracker:
    """Writes one rank's numbers. The main rank logs and prints, the first of each node writes the page.

    A disk that takes nothing more stops no training: it is said once.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._file: TextIO | None = None
        self._complained = False

    def open(self) -> None:
        """Make the run's folder, and open the log if this rank has one to write."""
        if self._job.main or self._job.local_rank == 0:
            self._try(self._open)

    def close(self) -> None:
        """Close the log."""
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

    def publish(self, progress: Progress | None) -> None:
        """Replace the page that this node's launcher reads: how far it is, and what the time went to."""
        if self._job.local_rank == 0:
            took = spent.clock.read()
            self._try(lambda: page.write(self._job.run_dir, self._job.attempt, progress, took))

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
