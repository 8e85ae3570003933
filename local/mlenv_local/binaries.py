"""Building the cluster's programs from source, once per version; go/go.sum pins what they are made of.

Only the Go module proxy is needed, and Go itself, which comes from PyPI where it is missing or too old.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv_local.buildlog import BuildLog
from mlenv_local.errors import LocalError
from mlenv_local.toolchain import find_go
from mlenv_local.versions import KUBERNETES

if TYPE_CHECKING:
    from mlenv_local.progress import Progress, Reporter

SOURCES = Path(__file__).parent / "go"
# Main packages, by the name of the program.
PROGRAMS = {
    "pause": "./cmd/pause",
    "coredns": "./cmd/coredns",
    "etcd": "go.etcd.io/etcd/server/v3",
    "helm": "helm.sh/helm/v4/cmd/helm",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
}
# Go names the program after the last part of the path that is not a version.
_GO_NAMES = {"server": "etcd"}


def cache_folder() -> Path:
    """Where programs, images and the Go toolchain are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mlenv"


def ensure_binaries(reporter: Reporter) -> Path:
    """Return the folder of the programs, built on first use; of two callers at once, one waits."""
    target = programs_folder()
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        if not _try_lock(lock.fileno()):
            reporter.say(f"Waiting for another build of Kubernetes {KUBERNETES} to end …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(target, reporter)
    return target


def programs_folder() -> Path:
    """Where the programs of this version are, or will be."""
    return cache_folder() / "bin" / build_key()


def build_key() -> str:
    """Name what the programs are made of: sources, checksums, flags and processor."""
    digest = hashlib.sha256()
    for path in sorted(p for p in SOURCES.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(SOURCES)}\0".encode() + path.read_bytes())
    digest.update(repr((linker_flags(), sorted(PROGRAMS.items()), platform.machine())).encode())
    return digest.hexdigest()[:16]


def linker_flags() -> str:
    """Without a version number in it, kubectl rejects the server."""
    package = "k8s.io/component-base/version"
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    versions = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s", "-w", *(f"-X {package}.{key}={value}" for key, value in versions.items())])


def _build(target: Path, reporter: Reporter) -> None:
    go = find_go(cache_folder(), reporter)
    draft = target.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    title = f"Building Kubernetes {KUBERNETES} and its companions from source (once; minutes)"
    with reporter.progress(title) as progress:
        log = BuildLog(modules=_module_count(), programs=len(PROGRAMS))
        packages = _go(go, ["list", "-mod=readonly", "-deps", *PROGRAMS.values()], log, draft, progress)
        log.packages = len(set(packages))
        flags = ["-v", "-mod=readonly", "-trimpath", f"-ldflags={linker_flags()}", f"-o={draft}/"]
        _go(go, ["build", *flags, *PROGRAMS.values()], log, draft, progress)
    for built, name in _GO_NAMES.items():
        (draft / built).rename(draft / name)
    draft.rename(target)


def _module_count() -> int:
    lines = (SOURCES / "go.sum").read_text().splitlines()
    return sum(not line.split()[1].endswith("/go.mod") for line in lines)


def _go(go: Path, args: list[str], log: BuildLog, draft: Path, progress: Progress) -> list[str]:
    """Run Go, feed what it reports to the log, and return its standard output's lines."""
    # A file, because a pipe that nobody reads while the other one is read would fill up.
    output = draft.with_suffix(".out")
    with output.open("w") as out:
        process = subprocess.Popen(
            [str(go), *args], cwd=SOURCES, env=_environment(go), stdout=out, stderr=subprocess.PIPE, text=True
        )
        with process:
            assert process.stderr is not None
            for line in process.stderr:
                log.read(line, linked=len(list(draft.iterdir())))
                progress.advance(log.fraction, log.note)
    if process.returncode != 0:
        raise LocalError(f"`go {args[0]}` failed with code {process.returncode}:\n" + "\n".join(log.last))
    lines = output.read_text().splitlines()
    output.unlink()
    return lines


def _environment(go: Path) -> dict[str, str]:
    # Proxies, caches and checksum settings of the user hold; what would build something else does not.
    fixed = {"CGO_ENABLED": "0", "GOOS": "linux", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    inherited = {key: value for key, value in os.environ.items() if key not in ("GOROOT", "GOARCH")}
    return {**inherited, **fixed, "PATH": f"{go.parent}:{os.environ.get('PATH', '')}"}


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
