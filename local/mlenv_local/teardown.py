"""Taking a cluster down, whatever state it is in: by journal, by marker, by cgroup, by name; idempotent."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv_local import cgroups, host
from mlenv_local.errors import LocalError
from mlenv_local.journal import Journal, ProcessId, identify, marked
from mlenv_local.processes import signal_and_wait
from mlenv_local.shell import run, succeeds, wait_until

if TYPE_CHECKING:
    from mlenv_local.layout import Layout

CLEAN_SECONDS = 30
_HANDS = 16


def tear_down(layout: Layout) -> None:
    """Leave no process, mount, link, firewall table, cgroup or file of the cluster."""
    end_processes(layout)
    host.remove_network(layout)
    _remove_cgroups(layout)
    _remove_files(layout)


def end_processes(layout: Layout) -> None:
    """SIGKILL everything of the cluster; twice, as a process may have been starting another."""
    for _ in range(2):
        found = processes(layout)
        if not found:
            return
        signal_and_wait(found, signal.SIGKILL)


def processes(layout: Layout) -> list[ProcessId]:
    """Every live process of the cluster, by all three ways to know one."""
    journaled = [e.process for e in Journal(layout.journal).entries() if e.process]
    alive = {p for p in journaled if identify(p.pid) == p}
    others = {*marked(layout.root), *cgroups.pids(layout.cgroup)} - {os.getpid()}
    return sorted(alive | {p for p in map(identify, others) if p}, key=lambda p: p.pid)


def _remove_cgroups(layout: Layout) -> None:
    def gone() -> bool:
        cgroups.remove(layout.cgroup)
        return not cgroups.exists(layout.cgroup)

    if not wait_until(gone, seconds=CLEAN_SECONDS):
        raise LocalError(f"The cgroup {layout.cgroup!r} still has processes: {cgroups.pids(layout.cgroup)}.")


def _remove_files(layout: Layout) -> None:
    for point in host.mounts_below(layout.root):
        if not succeeds(["umount", str(point)]):
            run(["umount", "--lazy", str(point)])
    left = host.mounts_below(layout.root)
    if left:  # deleting through a mount would delete what is mounted
        raise LocalError(f"{left[0]} is still mounted; unmount it, then run `mlenv local down` again.")
    remove_tree(layout.root)


def remove_tree(root: Path) -> None:
    """Delete a folder by many hands: deletions wait for the disk's journal one by one, seven times longer."""
    levels: dict[int, list[str]] = {}
    for folder, _, _ in os.walk(root):
        levels.setdefault(folder.count("/"), []).append(folder)
    with ThreadPoolExecutor(max_workers=_HANDS) as pool:
        list(pool.map(_empty, (folder for level in levels.values() for folder in level)))
        for depth in sorted(levels, reverse=True):
            list(pool.map(os.rmdir, levels[depth]))


def _empty(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                Path(entry).unlink()


def leftovers(layout: Layout) -> list[str]:
    """What of the cluster is still on this machine, in words; empty after `tear_down`."""
    found = [f"process {p.pid}" for p in processes(layout)]
    found += [f"mount {point}" for point in host.mounts_below(layout.root)]
    found += [f"network link {layout.link}"] if host.link_exists(layout) else []
    found += [f"firewall table {layout.nft_table}"] if host.table_exists(layout) else []
    found += [f"cgroup {layout.cgroup}"] if cgroups.exists(layout.cgroup) else []
    return found + ([f"folder {layout.root}"] if layout.root.exists() else [])
