"""Bringing image archives into a node's containerd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_local.shell import run

if TYPE_CHECKING:
    from pathlib import Path

IMPORT_SECONDS = 600


def import_archive(socket: Path, archive: Path) -> None:
    """Import and unpack an OCI archive into the namespace that the kubelet uses."""
    argv = ["ctr", f"--address={socket}", "--namespace=k8s.io", "images", "import", str(archive)]
    run(argv, timeout=IMPORT_SECONDS)
