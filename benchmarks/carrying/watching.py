"""What is seen of a turn from outside: when checkpoints were sealed and stored, and who took the cores."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crowd.usage import TICK, busy

from carrying.parties import family
from mlenv.ckpt import names
from mlenv.courier import pages

if TYPE_CHECKING:
    from collections.abc import Mapping

COUNT_SECONDS: Final = 1.0


class Sights:
    """When steps were sealed, and when the courier knew them to be stored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.sealed: dict[int, float] = {}
        self.stored: dict[int, float] = {}
        self.megabytes = 0.0
        """Of the last checkpoint."""

    def look(self) -> int:
        """Now; the newest step that is stored, 0: none."""
        now = time.monotonic()
        with suppress(OSError):
            for one in (self._folder / "checkpoints").iterdir():
                step = names.parse_folder(one.name)
                if step and step[0] not in self.sealed:
                    self.sealed[step[0]] = now
                    self.megabytes = sum(file.stat().st_size for file in one.rglob("*")) / 1e6
        report = pages.read(self._folder / "courier", pages.REPORT, pages.Report)
        if report is not None and report.uploaded is not None:
            self.stored.setdefault(report.uploaded.step, now)
        return max(self.stored, default=0)

    @property
    def seconds(self) -> tuple[float, ...]:
        """Of each that was stored."""
        return tuple(self.stored[step] - self.sealed[step] for step in sorted(self.stored))


class Processors:
    """CPU seconds of some processes with all that they start, and of everybody else."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = roots
        self._first: dict[str, dict[str, float]] = {name: {} for name in roots}
        self._last: dict[str, dict[str, float]] = {name: {} for name in roots}
        self._began, self._busy = time.monotonic(), busy()
        self._due = 0.0

    def look(self) -> None:
        """Count, every now and then: what has ended by the next time keeps what it was last seen with."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + COUNT_SECONDS
        for name, root in self._roots.items():
            for pid in family(root):
                with suppress(OSError):
                    which, spent = _cpu(pid)
                    fresh = self._began <= _since(which)
                    self._first[name].setdefault(which, 0.0 if fresh else spent)
                    self._last[name][which] = spent

    def cores(self) -> dict[str, float]:
        """Of each, in the mean since the beginning; `elsewhere` is what nobody of them took."""
        self._due = 0.0
        self.look()
        took = time.monotonic() - self._began
        found = {name: self._spent(name) / took for name in self._roots}
        return {**found, "elsewhere": max(0.0, (busy() - self._busy) / took - sum(found.values()))}

    def _spent(self, name: str) -> float:
        first = self._first[name]
        return sum(spent - first[which] for which, spent in self._last[name].items())


def _cpu(pid: int) -> tuple[str, float]:
    """Which process a number stands for, and its CPU seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return f"{pid} {fields[19]}", (int(fields[11]) + int(fields[12])) / TICK


def _since(which: str) -> float:
    """When that was started, by the monotonic clock."""
    asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return int(which.partition(" ")[2]) / TICK - asleep


def machine() -> str:
    """What this runs on."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return f"{os.cpu_count()} processors ({model[0] if model else 'of unknown kind'})"
