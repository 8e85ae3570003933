"""Where this machine's CPU time went: the control plane's programs, the benchmark itself, everybody else.

Figures of a burst mean little on a machine that does something else as well; so that is measured, too.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crowd.usage import WRAPPERS, busy, cpu_s, program
from mlenv_local.teardown import processes

if TYPE_CHECKING:
    from collections.abc import Collection

    from mlenv_local import Cluster

ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Look:
    """CPU seconds so far."""

    at: float
    busy: float
    """Of all processors of the machine, whatever they did."""
    programs: dict[str, float]


def look(cluster: Cluster, operator: Collection[int]) -> Look:
    """Now."""
    programs: defaultdict[str, float] = defaultdict(float)
    pids = {one.pid for one in processes(cluster.layout)} | set(operator) | {os.getpid()}
    for pid in pids:
        name = _name(pid, operator)
        if name not in WRAPPERS:
            programs[name] += cpu_s(pid)
    return Look(time.monotonic(), busy(), dict(programs))


def spent(before: Look, after: Look, processors: int) -> dict[str, float]:
    """Shares of all processors' time between two looks, the largest first; the kernel's own is elsewhere."""
    whole = max(1e-9, (after.at - before.at) * processors)
    shares = {name: cpu - before.programs.get(name, 0.0) for name, cpu in after.programs.items()}
    shares[ELSEWHERE] = max(0.0, after.busy - before.busy - sum(shares.values()))
    found = {name: round(cpu / whole, 3) for name, cpu in shares.items()}
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def _name(pid: int, operator: Collection[int]) -> str:
    if pid in operator:
        return "operator"
    return "benchmark" if pid == os.getpid() else program(pid)
