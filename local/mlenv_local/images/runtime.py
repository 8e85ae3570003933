"""An almost empty image for pods that use this machine's own Python.

Interpreter, environment and system libraries are mounted read-only. Nothing is built or copied, so changed
code runs at once.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlenv_local.images.oci import Entry, ImageSpec, write_archive

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RUNTIME_IMAGE = "mlenv.io/local-runtime:2"
USER = 65532
_LIBRARY_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_SYSTEM = ("/usr", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/ld.so.cache", "/etc/alternatives")


@dataclass(frozen=True, slots=True)
class HostRuntime:
    """What a pod template needs to run this machine's Python, in Kubernetes' own words."""

    python: str
    volumes: tuple[dict[str, Any], ...]
    volume_mounts: tuple[dict[str, Any], ...]
    env: tuple[dict[str, str], ...] = field(default=())


def host_runtime(extra: Sequence[Path] = ()) -> HostRuntime:
    """Describe the runtime of the Python that runs this, its environment and its editable installs.

    Args:
        extra: More folders of this machine to mount read-only at their own path.
    """
    prefix = Path(sys.prefix)
    return describe(mounted_paths(prefix, Path(sys.base_prefix), extra), prefix)


def describe(paths: Sequence[Path], prefix: Path) -> HostRuntime:
    """Return the runtime that mounts these paths, each at its own place."""
    volumes = tuple({"name": f"host-{i}", "hostPath": {"path": str(p)}} for i, p in enumerate(paths))
    mounts = tuple({"name": f"host-{i}", "mountPath": str(p), "readOnly": True} for i, p in enumerate(paths))
    env = {
        "PATH": f"{prefix}/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/home/mlenv",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return HostRuntime(
        python=f"{prefix}/bin/python",
        volumes=volumes,
        volume_mounts=mounts,
        env=tuple({"name": name, "value": value} for name, value in env.items()),
    )


def mounted_paths(prefix: Path, base: Path, extra: Iterable[Path]) -> list[Path]:
    """The folders and files to mount: the system's, Python's, and what editable installs point to."""
    python = [prefix, base, base.resolve(), (prefix / "bin" / "python").resolve().parent.parent]
    wanted = [*map(Path, _SYSTEM), *python, *editable_roots(prefix), *extra]
    return outermost(path for path in wanted if path.exists())


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Drop what lies below another of the paths; keep the order."""
    unique = list(dict.fromkeys(paths))
    return [p for p in unique if not any(other in p.parents for other in unique)]


def editable_roots(prefix: Path) -> list[Path]:
    """Folders that `.pth` files of the environment add to the import path."""
    lines = [
        line.strip()
        for file in sorted(prefix.glob("lib/python*/site-packages/*.pth"))
        for line in file.read_text().splitlines()
    ]
    return [Path(line) for line in lines if line.startswith("/") and Path(line).is_dir()]


def runtime_archive(folder: Path) -> Path:
    """Return the OCI archive of the image in `folder`, written on first use."""
    archive = folder / "local-runtime-2.oci.tar"
    if not archive.exists():
        write_archive(ImageSpec(RUNTIME_IMAGE, tuple(_entries()), user=f"{USER}:{USER}"), archive)
    return archive


def _entries() -> Iterable[Entry]:
    for folder in ("usr", "etc", "proc", "sys", "dev", "run", "var", "opt", "root", "home"):
        yield Entry(folder)
    yield Entry("home/mlenv", owner=USER)
    for folder in ("tmp", "var/tmp"):
        yield Entry(folder, mode=0o1777)
    for name in _LIBRARY_LINKS:
        yield Entry(name, link=f"usr/{name}", mode=0o777)
    passwd = f"root:x:0:0::/root:/bin/sh\nmlenv:x:{USER}:{USER}::/home/mlenv:/bin/sh\n"
    for path, text in {
        "etc/passwd": passwd,
        "etc/group": f"root:x:0:\nmlenv:x:{USER}:\n",
        "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }.items():
        yield Entry(path, text.encode(), mode=0o644)
