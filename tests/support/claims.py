"""Volumes that all nodes of a local cluster can mount, for checkpoints that outlive their pods."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from live import Namespace


@contextmanager
def claim(ns: Namespace) -> Iterator[str]:
    """The name of a claim in this namespace, on a folder of this machine."""
    folder = Path(tempfile.mkdtemp(prefix="mlenv-spool-"))
    folder.chmod(0o777)
    name = f"spool-{secrets.token_hex(3)}"
    same = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {**same, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}}
    wish = {**same, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}}
    apply = ns.cluster.kubectl.apply
    apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume})
    meta = {"name": name, "namespace": ns.name}
    apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": wish})
    try:
        yield name
    finally:
        ns.cluster.kubectl("delete", "pvc", name, "-n", ns.name, "--wait=false")
        ns.cluster.kubectl("delete", "pv", name, "--wait=false")
        shutil.rmtree(folder)
