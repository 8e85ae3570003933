"""What this process's time goes to: the clock that a Session, checkpoints and data switch as they take turns.

A process of a rank lives for one attempt, so the sums are those of the attempt. A switch costs a look at the
clock and an addition; nothing is sent from here: the progress page takes the sums along.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import get_ident
from time import CLOCK_BOOTTIME, clock_gettime
from time import monotonic_ns as monotonic_ns  # noqa: PLC0414  (also for those who call `took`)
from typing import TYPE_CHECKING, Final

from mlenv_api.protocol import Spent

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES: Final = ("init", "productive", "data_wait", "checkpoint_save", "checkpoint_restore", "eval")
INIT, PRODUCTIVE, DATA_WAIT, CHECKPOINT_SAVE, CHECKPOINT_RESTORE, EVAL = range(len(NAMES))


class Clock:
    """Sums of time by what it was spent on. Only the thread that made it counts; others wait beside it."""

    __slots__ = ("_last", "_since", "_sums", "_thread", "doing")

    def __init__(self, *, age_ns: int = 0) -> None:
        """`age_ns` have gone by already, as init."""
        self.begin(age_ns)

    def begin(self, age_ns: int = 0) -> None:
        """Forget what was: this process begins, or began so long ago."""
        self._thread = get_ident()
        self._sums = [0] * len(NAMES)
        self.doing = INIT
        self._last = monotonic_ns()
        self._since = self._last - age_ns

    def switch(self, to: int) -> int:
        """From now on time goes to `to`; what it went to before."""
        if get_ident() != self._thread:
            return to
        now = monotonic_ns()
        before = self.doing
        self._sums[before] += now - self._since
        self._since = now
        self.doing = to
        self._last = now
        return before

    def took(self, what: int, since: int) -> None:
        """Since that reading of `monotonic_ns` time went to `what`, but for what was told apart meanwhile.

        The cheap way for what happens at every step.
        """
        if get_ident() == self._thread:
            now = monotonic_ns()
            passed = now - (max(self._last, since))
            self._sums[what] += passed
            self._since += passed
            self._last = now

    @contextmanager
    def on(self, what: int) -> Iterator[None]:
        """Within the block time goes to `what`."""
        before = self.switch(what)
        try:
            yield
        finally:
            self.switch(before)

    def read(self) -> Spent:
        """The sums until now."""
        self.switch(self.doing)
        micros = {name: total // 1000 for name, total in zip(NAMES, self._sums, strict=True)}
        return Spent(**micros, time=datetime.now(UTC))


def age_ns() -> int:
    """How long ago this process was started, to a hundredth of a second; 0 where the system does not say."""
    try:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123  (imported by every rank: no more than needed)
            started = int(file.read().rpartition(b")")[2].split()[19])
        return max(0, int((clock_gettime(CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")) * 1e9))
    except (OSError, ValueError, IndexError):
        return 0


clock: Final = Clock(age_ns=age_ns())
"""That of this process."""
os.register_at_fork(after_in_child=clock.begin)
