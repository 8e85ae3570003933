"""Processes of containers, as the machine beneath them sees them. Needs root."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PROC = Path("/proc")


def of_container(container: str, root: Path = PROC) -> dict[int, int]:
    """The processes whose cgroup names this container: their number here, and the one that they know."""
    found = {}
    for entry in root.iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            number = int(entry.name)
            if container in (entry / "cgroup").read_text(encoding="utf-8"):
                found[number] = own_number((entry / "status").read_text(encoding="utf-8"))
    return found


def own_number(status: str) -> int:
    """A process's number in its innermost namespace, from /proc/PID/status."""
    line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])


def outer_number(processes: dict[int, int], inner: int) -> int:
    """The number here of the process that knows itself by `inner`."""
    found = [outer for outer, own in processes.items() if own == inner]
    if len(found) != 1:
        raise SystemExit(f"process {inner} of the container was looked for, and {len(found)} were found")
    return found[0]


def cpu_groups(beside: Path, count: int, mount: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """New cgroups next to those of a cluster's nodes: what runs there gets as much of busy cores as a node.

    Elsewhere each session is a group of its own (autogroup), and would get as much as the whole cluster.
    """
    root = mount / "cpu" if (mount / "cpu").is_dir() else mount
    made = [root / beside / f"bench-{number}" for number in range(count)]
    for folder in made:
        folder.mkdir(exist_ok=True)
    return made


def kill(numbers: Iterable[int]) -> None:
    """SIGKILL; who is gone already is fine."""
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
