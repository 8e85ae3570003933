"""SIGKILL for the processes of a real cluster, seen from the machine beneath it. Needs root."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

STORE = "mlenv.store"
SERVER = "mlenv: fork server"


@dataclass(frozen=True)
class Process:
    """One process of a pod."""

    pid: int
    """Here."""
    parent: int
    own: int
    """The number that it knows itself by."""
    title: str

    def kill(self) -> bool:
        """SIGKILL; whether it was there."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def of_pod(uid: str) -> list[Process]:
    """All processes in the cgroups of a pod, the one that holds its sandbox included."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):  # it has just ended
            if f"pod{uid}" in (entry / "cgroup").read_text():
                found.append(_read(entry))
    return found


def launcher(found: Iterable[Process]) -> Process | None:
    """PID 1 of the trainer container: with it goes all that runs there."""
    return next((one for one in found if one.own == 1 and "mlenv.launch" in one.title), None)


def ranks(found: Iterable[Process]) -> list[Process]:
    """The processes that train."""
    known = list(found)
    first = launcher(known)
    if first is None:
        return []
    other = (STORE, SERVER)
    mine = [one for one in known if one.parent == first.pid and one.title]
    return [one for one in mine if not any(words in one.title for words in other) and "python" in one.title]


def store(found: Iterable[Process]) -> Process | None:
    """The process where the ranks of a gang meet; the first pod has one."""
    return next((one for one in found if STORE in one.title), None)


def main_of(found: Iterable[Process]) -> Process | None:
    """PID 1 of the one container that is no sandbox."""
    return next((one for one in found if one.own == 1 and "pause" not in one.title), None)


def _read(entry: Path) -> Process:
    lines = (entry / "status").read_text().splitlines()
    words = {line.partition(":")[0]: line.split()[1:] for line in lines}
    title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return Process(int(entry.name), int(words["PPid"][0]), int(words["NSpid"][-1]), title)
