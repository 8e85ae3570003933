"""Where the time of a benchmark goes."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Times:
    """Seconds, seconds of CPU, and how often, by what was done."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Add the seconds that this takes."""
        begin, busy = time.perf_counter(), time.process_time()
        yield
        self.seconds[what] += time.perf_counter() - begin
        self.cpu[what] += time.process_time() - busy
        self.calls[what] += 1
