"""Cgroups of a cluster: a folder under every hierarchy of version 1 and under that of version 2."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def hierarchies(mountinfo: str) -> list[Path]:
    """Where cgroup folders are made, from the text of /proc/self/mountinfo.

    A hybrid machine has both versions, and runc makes folders in both.
    """
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[:1] in (["cgroup"], ["cgroup2"]):
            found.append(Path(left.split()[4]))
    return found


def mounted() -> list[Path]:
    """The hierarchies of this machine."""
    return hierarchies(Path("/proc/self/mountinfo").read_text())


def create(cgroup: str) -> None:
    """Make the folder everywhere; on version 2 hand all controllers down to it."""
    for top in mounted():
        here = top
        for part in Path(cgroup).parts:
            _delegate(here)
            here /= part
            here.mkdir(exist_ok=True)
        _delegate(here)


def _delegate(folder: Path) -> None:
    available = folder / "cgroup.controllers"
    for controller in available.read_text().split() if available.exists() else ():
        with contextlib.suppress(OSError):  # some cannot be handed down; the kubelet names those it misses
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def remove(cgroup: str) -> None:
    """Remove the folder and all below it everywhere; a folder with live processes stays."""
    for folder in list(_folders(cgroup)):
        with contextlib.suppress(OSError):
            folder.rmdir()


def remove_if_empty(cgroup: str) -> None:
    """Remove the folder where nothing is below it."""
    for top in mounted():
        with contextlib.suppress(OSError):
            (top / cgroup).rmdir()


def pids(cgroup: str) -> list[int]:
    """Every process at or below the folder, in any hierarchy."""
    found: set[int] = set()
    for folder in _folders(cgroup):
        with contextlib.suppress(OSError):
            found.update(int(pid) for pid in (folder / "cgroup.procs").read_text().split())
    return sorted(found - {0})


def exists(cgroup: str) -> bool:
    """Whether any hierarchy has the folder."""
    return any((top / cgroup).exists() for top in mounted())


def _folders(cgroup: str) -> Iterator[Path]:
    for top in mounted():
        for folder, _, _ in os.walk(top / cgroup, topdown=False):
            yield Path(folder)
