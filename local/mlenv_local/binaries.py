"""Building the cluster's programs from source, once per version; go.sum files pin what they are made of.

Only the Go module proxy is needed, and Go itself, which comes from PyPI where it is missing or too old.
KWOK is a Go module of its own, because it is released against other versions of the Kubernetes libraries, and
is built only when a cluster wants fake nodes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mlenv_local.buildlog import BuildLog
from mlenv_local.errors import LocalError
from mlenv_local.toolchain import find_go
from mlenv_local.versions import KUBERNETES, KWOK

if TYPE_CHECKING:
    from mlenv_local.progress import Progress, Reporter

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Build:
    """Programs that are built together, from one Go module."""

    title: str
    sources: Path
    programs: dict[str, str]
    """Main packages, by the name of the program."""
    go_names: dict[str, str]
    """Programs that Go names otherwise: after the last part of the path that is not a version."""

    def key(self) -> str:
        """Name what the programs are made of: sources, checksums, flags and processor."""
        digest = hashlib.sha256()
        for path in sorted(p for p in self.sources.rglob("*") if p.is_file()):
            digest.update(f"{path.relative_to(self.sources)}\0".encode() + path.read_bytes())
        flags = (linker_flags(), sorted(self.programs.items()), platform.machine())
        digest.update(repr(flags).encode())
        return digest.hexdigest()[:16]

    def folder(self) -> Path:
        """Where the programs of this version are, or will be."""
        return cache_folder() / "bin" / self.key()

    def modules(self) -> int:
        """How many modules they are made of at most."""
        lines = (self.sources / "go.sum").read_text().splitlines()
        return sum(not line.split()[1].endswith("/go.mod") for line in lines)


CLUSTER = Build(
    title=f"Kubernetes {KUBERNETES} and its companions",
    sources=_HERE / "go",
    programs={
        "pause": "./cmd/pause",
        "coredns": "./cmd/coredns",
        "etcd": "go.etcd.io/etcd/server/v3",
        "helm": "helm.sh/helm/v4/cmd/helm",
        "kubelet": "k8s.io/kubernetes/cmd/kubelet",
        "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
        "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
        "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    },
    go_names={"server": "etcd"},
)
FAKE_NODES = Build(
    title=f"KWOK {KWOK} for fake nodes",
    sources=_HERE / "go-kwok",
    programs={"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
    go_names={},
)


def cache_folder() -> Path:
    """Where programs, images and the Go toolchain are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mlenv"


def ensure_binaries(reporter: Reporter, build: Build = CLUSTER) -> Path:
    """Return the folder of the programs, built on first use; of two callers at once, one waits."""
    target = build.folder()
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        if not _try_lock(lock.fileno()):
            reporter.say(f"Waiting for another build of {build.title} to end …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(build, target, reporter)
    return target


def programs_folder() -> Path:
    """Where the programs that every cluster needs are, or will be."""
    return CLUSTER.folder()


def beside(binaries: Path, build: Build) -> Path:
    """The folder of another build in the same cache."""
    return binaries.with_name(build.key())


def linker_flags() -> str:
    """Without a version number in it, kubectl rejects the server."""
    package = "k8s.io/component-base/version"
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    versions = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s", "-w", *(f"-X {package}.{key}={value}" for key, value in versions.items())])


def _build(build: Build, target: Path, reporter: Reporter) -> None:
    go = find_go(cache_folder(), reporter)
    draft = target.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    packages = tuple(build.programs.values())
    with reporter.progress(f"Building {build.title} from source (once; minutes)") as progress:
        log = BuildLog(modules=build.modules(), programs=len(packages))
        run = _Go(go, build.sources, log, draft, progress)
        log.packages = len(set(run("list", "-mod=readonly", "-deps", *packages)))
        flags = ("-v", "-mod=readonly", "-trimpath", f"-ldflags={linker_flags()}", f"-o={draft}/")
        run("build", *flags, *packages)
    for built, name in build.go_names.items():
        (draft / built).rename(draft / name)
    draft.rename(target)


@dataclass(frozen=True)
class _Go:
    """Go, run in the folder of a module; what it reports goes to the log."""

    program: Path
    sources: Path
    log: BuildLog
    draft: Path
    progress: Progress

    def __call__(self, *args: str) -> list[str]:
        """Run it and return its standard output's lines."""
        # A file, because a pipe that nobody reads while the other one is read would fill up.
        output = self.draft.with_suffix(".out")
        argv, environment = [str(self.program), *args], _environment(self.program)
        with output.open("w") as out:
            process = subprocess.Popen(
                argv, cwd=self.sources, env=environment, stdout=out, stderr=subprocess.PIPE, text=True
            )
            with process:
                self._follow(process.stderr)
        if process.returncode != 0:
            last = "\n".join(self.log.last)
            raise LocalError(f"`go {args[0]}` failed with code {process.returncode}:\n{last}")
        lines = output.read_text().splitlines()
        output.unlink()
        return lines

    def _follow(self, said: IO[str] | None) -> None:
        for line in said or ():
            self.log.read(line, linked=len(list(self.draft.iterdir())))
            self.progress.advance(self.log.fraction, self.log.note)


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
