"""CPU time and memory of an operator's processes, from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv_local.teardown import processes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlenv_local import Cluster

TICK = os.sysconf("SC_CLK_TCK")
WRAPPERS = ("nsenter", "unshare", "env", "containerd-shim-runc-v2")


@dataclass(frozen=True)
class Usage:
    """Of some processes together."""

    cpu_s: float = 0.0
    rss_mb: float = 0.0
    peak_mb: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        """Together."""
        return Usage(self.cpu_s + other.cpu_s, self.rss_mb + other.rss_mb, self.peak_mb + other.peak_mb)


def usage(pids: Iterable[int]) -> Usage:
    """What they have used so far, have now, and had at most."""
    return sum((_of(pid) for pid in pids), Usage())


def find(cluster: Cluster, words: str) -> list[int]:
    """Processes of the cluster, in pods too, whose command line has these words in it."""
    found = [one.pid for one in processes(cluster.layout) if words in _command(one.pid)]
    return [pid for pid in found if program(pid) not in WRAPPERS]


def program(pid: int) -> str:
    """The name of the program that a process runs; empty if it is gone."""
    return Path(_command(pid).partition(" ")[0]).name


def cpu_s(pid: int) -> float:
    """CPU time of a process so far; 0 if it is gone."""
    with suppress(OSError):
        return _cpu_s(pid)
    return 0.0


def _of(pid: int) -> Usage:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return Usage(_cpu_s(pid), _mb(status, "VmRSS"), _mb(status, "VmHWM"))


def _cpu_s(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / TICK


def _mb(status: str, name: str) -> float:
    return int(status.partition(f"{name}:")[2].split()[0]) / 1000


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def busy() -> float:
    """CPU seconds of all processors, whatever they did."""
    fields = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / TICK
