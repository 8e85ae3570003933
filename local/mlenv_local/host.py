"""The host's side of a cluster: its one network link, one firewall table, forwarding, and facts about it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv_local import cgroups
from mlenv_local.configs import COVERED, HostFacts
from mlenv_local.errors import LocalError
from mlenv_local.layout import CGROUP_ROOT
from mlenv_local.network import egress_rules, resolvers, used_networks
from mlenv_local.shell import SYSTEM_PATH, run, succeeds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Network

    from mlenv_local.layout import Layout

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_LOCKS = Path("/run/lock")


def facts() -> HostFacts:
    """Look at what configuration files depend on."""
    confs = [Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")]
    texts = [conf.read_text() for conf in confs if conf.exists()]
    lower = subprocess.run(
        ["sh", "-c", "echo -1 > /proc/self/oom_score_adj"], capture_output=True, check=False
    )
    return HostFacts(resolvers=resolvers(*texts), can_lower_oom_score=lower.returncode == 0)


def networks_in_use() -> list[IPv4Network]:
    """Every IPv4 destination that the host has a route for."""
    return used_networks(run(["ip", "-4", "-json", "route", "show", "table", "all"]))


def link_exists(layout: Layout) -> bool:
    """Whether the cluster's cable is plugged into the host."""
    return Path(f"/sys/class/net/{layout.link}").exists()


def open_egress(layout: Layout) -> None:
    """Masquerade the cluster, and let the host forward; remembers whether it did before."""
    run(["nft", "-f", "-"], stdin=egress_rules(layout))
    memory = layout.state / "ip_forward.before"
    if _FORWARDING.read_text().strip() == "0":
        memory.write_text("0\n")
        _FORWARDING.write_text("1\n")


def remove_network(layout: Layout) -> None:
    """Remove link and firewall table, whatever is left of them."""
    if link_exists(layout):
        succeeds(["ip", "link", "delete", layout.link])
    if table_exists(layout):
        run(["nft", "delete", "table", "ip", layout.nft_table])


def table_exists(layout: Layout) -> bool:
    """Whether the cluster's firewall table is there."""
    if shutil.which("nft", path=SYSTEM_PATH) is None:
        return False
    return f"table ip {layout.nft_table}" in run(["nft", "list", "tables"]).splitlines()


def require_root() -> None:
    """Raise a sentence unless this is root."""
    if os.geteuid() != 0:
        raise LocalError("A local cluster is root's: run the command with sudo.")


def give_to_caller(path: Path) -> None:
    """Under sudo, let whoever typed it own the file."""
    user, group = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if user and group:
        os.chown(path, int(user), int(group))


def make_covered_folders() -> None:
    """Make the folders that machines cover by their own."""
    for path in COVERED:
        Path(path).mkdir(parents=True, exist_ok=True)


def forget_last_cluster(state: Path) -> None:
    """Undo what clusters share, if none is left: forwarding, and folders that were made for mounts."""
    if any(entry.is_dir() for entry in state.glob("*")):
        return
    memory = state / "ip_forward.before"
    if memory.exists():
        _FORWARDING.write_text(memory.read_text())
        memory.unlink()
    cgroups.remove_if_empty(CGROUP_ROOT)
    for path in ("/var/lib/cni", "/var/lib/kubelet", str(state)):
        with contextlib.suppress(OSError):
            Path(path).rmdir()


def mounts_below(folder: Path) -> list[Path]:
    """Mount points of the host at or below the folder, deepest first."""
    points = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((p for p in points if p == folder or folder in p.parents), reverse=True)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of that name; the kernel releases it whatever becomes of this process."""
    _LOCKS.mkdir(parents=True, exist_ok=True)
    path = _LOCKS / f"mlenv-{name}.lock"
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_same_file(file.fileno(), path):
                continue  # its last holder removed it while we waited
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_same_file(descriptor: int, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
