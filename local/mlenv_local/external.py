"""A Kubernetes that somebody else runs (kind, EKS, …), as far as it can be used like a local cluster."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlenv_local.errors import LocalError
from mlenv_local.kubectl import Kubectl


class ExternalCluster:
    """An existing cluster behind a kubeconfig; it is used, never started, stopped or broken."""

    def __init__(self, kubeconfig: Path) -> None:
        if not kubeconfig.is_file():
            raise LocalError(f"There is no kubeconfig at {kubeconfig}.")
        self.kubeconfig = kubeconfig

    @property
    def kubectl(self) -> Kubectl:
        """The client with that kubeconfig."""
        return Kubectl(self.kubeconfig)

    @property
    def helm(self) -> Path:
        """The PATH's helm; LocalError if there is none."""
        found = shutil.which("helm")
        if found is None:
            raise LocalError("helm is not on this machine: install Helm 3.14 or newer (https://helm.sh).")
        return Path(found)

    def load_image(self, archive: Path) -> None:
        """Refuse: an existing cluster pulls its images from a registry."""
        raise LocalError(
            f"{archive.name} cannot be loaded into an existing cluster: push the image to a registry "
            "that the cluster pulls from, and name it in the chart's values."
        )
