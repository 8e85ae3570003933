"""Named places at which tests make a process die, fail or wait. Inert unless a variable names one."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Final

VARIABLE: Final = "MLENV_FAILPOINTS"
"""``point=action[@rank]``, several separated by commas; actions: kill, raise, full, ``wait:FILE``."""
POINTS: Final = (
    "snapshot",
    "compare",
    "write",
    "seal",
    "rename",
    "sealed",
    "retain",
    "verify",
    "load",
)
"""In the order in which a save, and then a restore, comes by them."""
PATIENCE: Final = 120.0


def hit(point: str, rank: int = 0) -> None:
    """Do here what the variable says; raises OSError for ``raise`` and ``full``."""
    text = os.environ.get(VARIABLE)
    if text:
        for rule in text.split(","):
            name, _, action = rule.partition("=")
            action, _, only = action.partition("@")
            if name == point and (not only or int(only) == rank):
                _act(action, point)


def _act(action: str, point: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise OSError(errno.EIO, f"made to fail at {point}")
    elif action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif action.startswith("wait:"):
        _wait(Path(action.removeprefix("wait:")))
    else:
        raise ValueError(f"{VARIABLE}: {action!r} is no action")


def _wait(file: Path) -> None:
    """Go on once `file` exists."""
    deadline = time.monotonic() + PATIENCE
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{file} never came")
        time.sleep(0.005)
