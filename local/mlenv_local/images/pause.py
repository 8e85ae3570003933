"""The image of every pod's sandbox: the `pause` program and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_local.images.oci import Entry, ImageSpec, write_archive
from mlenv_local.versions import PAUSE_IMAGE

if TYPE_CHECKING:
    from pathlib import Path


def pause_archive(binaries: Path) -> Path:
    """Return the OCI archive beside the binaries, written on first use."""
    archive = binaries / "pause.oci.tar"
    if not archive.exists():
        entry = Entry("pause", (binaries / "pause").read_bytes())
        write_archive(ImageSpec(PAUSE_IMAGE, (entry,), ("/pause",), user="65535:65535"), archive)
    return archive
