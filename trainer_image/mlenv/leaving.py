"""The end of a program that used gloo: its threads let go of Python's objects while there is a Python.

A thread of gloo drops the tensors of an operation some time after the operation is known to be done. For a
tensor that Python knows, it needs the interpreter's lock for that; asked for while the interpreter ends, the
lock ends the thread, in the middle of a destructor, and so the whole process with SIGABRT ("terminate called
without an active exception"). A busy machine makes "some time" long enough. Destroying the groups does not
help where something else, such as DDP, still holds one.
"""

from __future__ import annotations

import atexit
import contextlib
import time
from pathlib import Path
from typing import Final, NamedTuple

_THREADS: Final = Path("/proc/self/task")
_WORKER: Final = "pt_gloo_runloop"
_PAUSE: Final = 0.001
_QUIET: Final = 3
"""Looks in a row that must find nobody at work: one could fall between a thread's wait and its wake-up."""


_asked: Final[list[bool]] = []
"""Not empty once this process will settle."""


def at_exit() -> None:
    """Have this process `settle` when it ends: once, however many ask for it."""
    if not _asked:
        _asked.append(True)
        atexit.register(settle)


def settle(patience: float = 5.0) -> None:
    """Return once no gloo thread of this process is at work, or after `patience` seconds.

    At once where there is none. To be called after the last collective, and before the interpreter ends. A
    thread that waits for a peer is not at work.
    """
    deadline = time.monotonic() + patience
    quiet, before = 0, _looks()
    while before and quiet < _QUIET and time.monotonic() < deadline:
        # Without the interpreter's lock: whoever waits for it gets it now, and is seen to have run.
        time.sleep(_PAUSE)
        now = _looks()
        asleep = all(look.state == "S" for look in now)
        quiet = quiet + 1 if asleep and now == before else 0
        before = now


class _Look(NamedTuple):
    """One thread, as the kernel sees it: S is asleep, R has or wants a core."""

    thread: str
    state: str
    switches: str


def _looks() -> list[_Look]:
    """All gloo threads of this process; none where there is no /proc."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for thread in _THREADS.iterdir():
            with contextlib.suppress(OSError):  # it has just ended
                lines = (thread / "status").read_text().splitlines()
                facts = dict(line.split(":\t", 1) for line in lines)
                if facts["Name"] == _WORKER:
                    switches = facts["voluntary_ctxt_switches"] + "+" + facts["nonvoluntary_ctxt_switches"]
                    found.append(_Look(thread.name, facts["State"][0], switches))
    return found
