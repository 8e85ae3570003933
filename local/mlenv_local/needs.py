"""What the machine must offer, as a pure judgement of facts; with consent, getting what Debian can give."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv_local import cgroups
from mlenv_local.binaries import cache_folder
from mlenv_local.errors import LocalError, NeedsError
from mlenv_local.shell import SYSTEM_PATH, run

if TYPE_CHECKING:
    from mlenv_local.progress import Reporter

# Programs by the Debian package that brings them.
CLUSTER_TOOLS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
IMAGE_TOOLS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}
CNI_PACKAGE = "containernetworking-plugins"
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
CNI_PLUGINS = ("bridge", "host-local", "loopback")
POSTGRESQL_PACKAGE = "postgresql"
POSTGRESQL_FOLDER = Path("/usr/lib/postgresql")
CHROMIUM_PACKAGE = "chromium"
PROMETHEUS_PACKAGE = "prometheus"
PROMETHEUS_TOOLS = ("prometheus", "promtool")
FREE_BYTES = 10 * 2**30
INSTALL_SECONDS = 900

# What the kernel must be able to do, by the word that the probe prints when it can.
KERNEL = {
    "namespaces": "new network, mount, pid, uts and ipc namespaces (is this an unprivileged container?)",
    "overlay": "the overlay file system (CONFIG_OVERLAY_FS; try `modprobe overlay`)",
    "bridge": "network bridges (CONFIG_BRIDGE; try `modprobe bridge`)",
    "veth": "virtual network cables (CONFIG_VETH; try `modprobe veth`)",
    "nat": "nftables with address translation (CONFIG_NFT_NAT, CONFIG_NFT_MASQ; try `modprobe nft_masq`)",
    "kmsg": "the device /dev/kmsg, which the kubelet watches for killed processes",
    "cgroups": "a mounted cgroup hierarchy under /sys/fs/cgroup",
}
# Lacking this costs something, but not the cluster.
OPTIONAL_KERNEL = {
    "br_netfilter": "This kernel has no br_netfilter: a pod cannot reach itself or a pod of its own node "
    "through a ClusterIP (headless services work)."
}
_MODULES = ("overlay", "bridge", "veth", "br_netfilter", "nf_tables", "nft_masq", "nft_nat", "nft_ct")
_PROBE = """
echo namespaces
ip link add mlp0 type bridge && echo bridge
ip link add mlp1 type veth peer name mlp2 && echo veth
nft 'add table ip p; add chain ip p c { type nat hook postrouting priority 100; }
  add rule ip p c masquerade' && echo nat
[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] && echo br_netfilter
grep -qw overlay /proc/filesystems && echo overlay
[ -c /dev/kmsg ] && echo kmsg
true
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen of the machine."""

    linux: bool
    root: bool
    tools: frozenset[str]
    cni: Path | None
    kernel: frozenset[str]
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Missing:
    """One need that is not met: a sentence, and the Debian package that would help, if one would."""

    sentence: str
    package: str | None = None


def judge(facts: Facts, *, images: bool = False) -> list[Missing]:
    """Compare the facts with what is needed; missing Linux or root decides alone and hides the rest."""
    if not facts.linux:
        return [Missing("A local cluster needs Linux: use an existing cluster with --kubeconfig.")]
    if not facts.root:
        return [
            Missing("A local cluster needs root: run it with sudo, or use an existing one with --kubeconfig.")
        ]
    return [*_missing_tools(facts, images=images), *_missing_kernel(facts), *_missing_space(facts)]


def _missing_tools(facts: Facts, *, images: bool) -> list[Missing]:
    wanted = {**CLUSTER_TOOLS, **(IMAGE_TOOLS if images else {})}
    found = [
        Missing(f"The program {tool} is missing: install the Debian package {package}.", package)
        for tool, package in wanted.items()
        if tool not in facts.tools
    ]
    if facts.cni is None:
        folders = ", ".join(map(str, CNI_FOLDERS))
        sentence = f"The CNI plugins are in none of {folders}: install the Debian package {CNI_PACKAGE}."
        found.append(Missing(sentence, CNI_PACKAGE))
    return found


def _missing_kernel(facts: Facts) -> list[Missing]:
    # Without the tools that look, nothing is known about the kernel yet.
    if not {"ip", "nft", "unshare"} <= facts.tools:
        return []
    return [Missing(f"The kernel lacks {what}.") for word, what in KERNEL.items() if word not in facts.kernel]


def _missing_space(facts: Facts) -> list[Missing]:
    if facts.free_bytes >= FREE_BYTES:
        return []
    free, wanted = facts.free_bytes / 2**30, FREE_BYTES / 2**30
    return [Missing(f"/var/lib has {free:.1f} GiB free and a local cluster needs {wanted:.0f}: make room.")]


def look() -> Facts:
    """See what this machine offers; loads kernel modules where that is possible."""
    path = f"{SYSTEM_PATH}:{os.environ.get('PATH', '')}"
    tools = frozenset(t for t in {**CLUSTER_TOOLS, **IMAGE_TOOLS} if shutil.which(t, path=path))
    root = os.geteuid() == 0 if hasattr(os, "geteuid") else False
    return Facts(
        linux=sys.platform == "linux",
        root=root,
        tools=tools,
        cni=next((f for f in CNI_FOLDERS if all((f / p).exists() for p in CNI_PLUGINS)), None),
        kernel=_look_at_kernel() if root and "unshare" in tools else frozenset(),
        free_bytes=shutil.disk_usage("/var/lib").free if Path("/var/lib").exists() else 0,
    )


def _look_at_kernel() -> frozenset[str]:
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "--all", "--quiet", *_MODULES], capture_output=True, check=False)
    argv = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "sh", "-c", _PROBE]
    seen = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()
    return frozenset([*seen, *(["cgroups"] if cgroups.mounted() else [])])


def postgresql() -> Path | None:
    """Folder of the newest PostgreSQL's programs, which Debian keeps out of PATH; None: not installed."""
    found = [path.parent for path in POSTGRESQL_FOLDER.glob("*/bin/initdb")]
    if elsewhere := shutil.which("initdb"):
        found.append(Path(elsewhere).resolve().parent)
    return max(found, key=lambda path: (path.parent.name.isdigit(), path.parent.name.zfill(4)), default=None)


def chromium() -> Path | None:
    """The browser that tests drive; None: not installed."""
    found = shutil.which("chromium", path=f"{SYSTEM_PATH}:{os.environ.get('PATH', '')}")
    return Path(found) if found else None


def prometheus() -> Path | None:
    """Folder of `prometheus` and `promtool`, installed or unpacked; None: neither."""
    path = f"{_unpacked(PROMETHEUS_PACKAGE) / 'usr' / 'bin'}:{SYSTEM_PATH}:{os.environ.get('PATH', '')}"
    found = [shutil.which(tool, path=path) for tool in PROMETHEUS_TOOLS]
    return Path(found[0]).parent if found[0] and all(found) else None


def _unpacked(package: str) -> Path:
    return cache_folder() / "debian" / package


def unpack(package: str) -> None:
    """Unpack a Debian package into the cache, without installing it: so no service of its own is started."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    target = _unpacked(package)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        run(["apt-get", "update", "-q"], env=environment, timeout=INSTALL_SECONDS)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            # apt-get downloads into the folder that it is started in.
            fetch = ["sh", "-c", 'cd "$0" && apt-get download -q "$1"', folder, package]
            run(fetch, env=environment, timeout=INSTALL_SECONDS)
            (archive,) = Path(folder).glob("*.deb")
            run(["dpkg-deb", "--extract", str(archive), f"{folder}/new"], timeout=INSTALL_SECONDS)
            shutil.rmtree(target, ignore_errors=True)
            Path(folder, "new").replace(target)
    except (LocalError, OSError) as error:
        raise NeedsError(f"Unpacking {package} failed: {error}") from error


def cni_folder() -> Path:
    """Where the CNI plugins are."""
    return look().cni or CNI_FOLDERS[0]


def require_needs(reporter: Reporter, *, consent: bool = False, images: bool = False) -> Facts:
    """Raise NeedsError unless the machine offers everything; with consent, install Debian packages first.

    Args:
        reporter: Told about installations and about optional features that are missing.
        consent: Whether Debian packages may be installed.
        images: Whether images are to be built, too.
    """
    facts = look()
    missing = judge(facts, images=images)
    packages = sorted({m.package for m in missing if m.package})
    if packages and consent and shutil.which("apt-get"):
        with reporter.step(f"Installing Debian packages: {' '.join(packages)}"):
            install(packages)
        facts = look()
        missing = judge(facts, images=images)
    if missing:
        raise NeedsError(explain(missing))
    for word, sentence in OPTIONAL_KERNEL.items():
        if word not in facts.kernel:
            reporter.say(sentence)
    return facts


def explain(missing: list[Missing]) -> str:
    """All that is missing, one sentence a line, and the command that gets the packages."""
    packages = sorted({m.package for m in missing if m.package})
    lines = [m.sentence for m in missing]
    if packages:
        lines.append(f"`--yes` installs them for you: apt-get install {' '.join(packages)}")
    return "\n".join(lines)


def install(packages: list[str]) -> None:
    """Install Debian packages, with a fresh index."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(["apt-get", "update", "-q"], env=environment, timeout=INSTALL_SECONDS)
        flags = ["-q", "--yes", "--no-install-recommends"]
        run(["apt-get", "install", *flags, *packages], env=environment, timeout=INSTALL_SECONDS)
    except LocalError as error:
        raise NeedsError(f"Installing {' '.join(packages)} failed: {error}") from error
