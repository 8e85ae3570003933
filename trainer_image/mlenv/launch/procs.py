"""Processes as the kernel knows them: groups, descendants, zombies. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
CLEAR_SECONDS: Final = 10.0
"""How long to wait for killed processes; one that hangs in the kernel longer is left to the kernel."""
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  (not a temporary file: the thing to clear)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, as PID 1 is by nature."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def signal_group(pid: int, number: int) -> None:
    """Send a signal to the process group that `pid` leads; nothing happens when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def ended() -> Iterator[tuple[int, int]]:
    """Reap all dead children: (pid, exit code or negative signal).

    A group is killed while its dead leader still holds the group's number, so that no stranger is hit.
    """
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None:
            return
        if os.getpgid(found.si_pid) == found.si_pid:
            signal_group(found.si_pid, signal.SIGKILL)
        _, status = os.waitpid(found.si_pid, 0)
        yield found.si_pid, os.waitstatus_to_exitcode(status)


def descendants(spared: frozenset[int] = frozenset()) -> set[int]:
    """Processes below this one, without those in `spared` and below them."""
    children = _children_by_parent()
    found: set[int] = set()
    todo = [os.getpid()]
    while todo:
        new = children.get(todo.pop(), set()) - spared - found
        found |= new
        todo += new
    return found


def _children_by_parent() -> dict[int, set[int]]:
    tree: dict[int, set[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name in parentheses may hold anything, so count from its end.
                after = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
                tree.setdefault(int(after[1]), set()).add(int(entry.name))
    return tree


def kill_descendants(spared: frozenset[int]) -> dict[int, int]:
    """Kill and reap everything below this process except `spared`: the exit codes of its own children."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + CLEAR_SECONDS
    while time.monotonic() < deadline:
        left = descendants(spared)
        if not left:
            break
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        codes.update(ended())
        time.sleep(0.005)
    codes.update(ended())
    return codes


def clear_shared_memory(folder: Path = SHARED_MEMORY) -> int:
    """Delete this user's files in `folder`; how many there were.

    A killed rank leaves its shared-memory segments behind, and they count against the pod's memory.
    """
    count = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            if entry.stat(follow_symlinks=False).st_uid == os.getuid() and not entry.is_dir(
                follow_symlinks=False
            ):
                Path(entry.path).unlink()
                count += 1
    return count
