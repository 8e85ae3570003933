"""Running system commands, with errors that name the command and what it said."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from mlenv_local.errors import CommandError, LocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> str:
    """Run a command and return its standard output; raise CommandError on any other exit code than 0."""
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, env=env, timeout=timeout, check=False
        )
    except FileNotFoundError as error:
        raise LocalError(f"The command {argv[0]!r} is not on this machine.") from error
    except subprocess.TimeoutExpired as error:
        raise LocalError(f"`{' '.join(argv[:6])}` did not end within {timeout:.0f} s.") from error
    if done.returncode != 0:
        raise CommandError(argv, done.returncode, done.stderr + done.stdout)
    return done.stdout


def succeeds(argv: Sequence[str], *, timeout: float = 30) -> bool:
    """Whether the command exists and ends with 0."""
    try:
        run(argv, timeout=timeout)
    except LocalError:
        return False
    return True


def wait_until(ready: Callable[[], bool], *, seconds: float, interval: float = 0.1) -> bool:
    """Look until `ready` or until the time is over; return what it said last."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True
