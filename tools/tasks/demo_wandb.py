"""Where the demo's job is tracked: a W&B server of this machine, or with WANDB_API_KEY the real service."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mlenv_local.journal import Entry, Journal
from mlenv_local.wandb_server import running
from mlenv_local.wandb_server.settings import Settings
from tasks.process import TaskError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlenv_local.cluster import Cluster

PROJECT: Final = "mlenv-demo"
USER: Final = "local"
SECRET: Final = "wandb"  # noqa: S105  (its name)
SECRET_KEY: Final = "api-key"  # noqa: S105  (the name of its key)
SERVICE: Final = "https://api.wandb.ai"
PAGES: Final = "https://wandb.ai"
"""Where people look at what the service's API was sent."""


@dataclass(frozen=True)
class Tracking:
    """A project of a W&B server, and the key to it."""

    entity: str
    project: str
    base_url: str
    """Of the API; empty: the public service."""
    key: str = field(repr=False)

    @property
    def page(self) -> str:
        """Where people look at the project."""
        return f"{self.base_url or PAGES}/{self.entity}/{self.project}"

    def environment(self) -> dict[str, Any]:
        """What the environment of jobs says of it. The key is not in it."""
        wandb = {
            "entity": self.entity,
            "project": self.project,
            "apiKeySecretRef": {"name": SECRET, "key": SECRET_KEY},
            **({"baseURL": self.base_url} if self.base_url else {}),
        }
        return {"tracking": {"wandb": wandb}}

    def secret(self, namespace: str) -> dict[str, Any]:
        """The Secret that holds the key, for jobs of that namespace."""
        meta = {"name": SECRET, "namespace": namespace}
        data = {SECRET_KEY: base64.b64encode(self.key.encode()).decode()}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data}


def theirs(environ: Mapping[str, str]) -> Tracking | None:
    """The service whose WANDB_API_KEY is in the environment; null without one.

    WANDB_BASE_URL, WANDB_ENTITY and WANDB_PROJECT mean what they always do.
    """
    key = environ.get("WANDB_API_KEY", "").strip()
    if not key:
        return None
    base_url = environ.get("WANDB_BASE_URL", "").rstrip("/")
    base_url = "" if base_url == SERVICE else base_url
    entity = environ.get("WANDB_ENTITY", "") or _entity(base_url or SERVICE, key)
    return Tracking(entity, environ.get("WANDB_PROJECT", "") or PROJECT, base_url, key)


def ours(cluster: Cluster) -> Tracking:
    """A server of this machine, started unless it runs.

    It is in the cluster's folder and journal: what takes the cluster down takes it along.
    """
    with cluster.reporter.step("W&B server"):
        data, host = _folder(cluster), str(cluster.layout.host_address)
        server = running.start(Settings(data=data, host=host, port=0))
        Journal(cluster.layout.journal).write(Entry("wandb", (), server.process))
        known = USER in running.ask(data, "GET", "/admin/users")
        made = running.ask(data, "POST", "/admin/keys" if known else "/admin/users", {"username": USER})
    return Tracking(USER, PROJECT, server.url, str(made["key"]))


def kept(cluster: Cluster) -> tuple[str, str]:
    """The page of the server of this machine, and the command that prints a key to it; empty without one."""
    found = running.find(_folder(cluster))
    if found is None:
        return "", ""
    return f"{found.url}/{USER}/{PROJECT}", f"mlenv local wandb key {USER} --data {_folder(cluster)}"


def _folder(cluster: Cluster) -> Path:
    return cluster.layout.root / "wandb"


def _entity(base_url: str, key: str) -> str:
    """The entity in which the owner of the key works, as the server says."""
    known = base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(  # noqa: S310  (the user's own WANDB_BASE_URL)
        f"{base_url}/graphql",
        data=json.dumps({"query": "query Viewer { viewer { entity } }"}).encode(),
        headers={"Authorization": f"Basic {known}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        raise TaskError(f"{base_url} does not take what is in WANDB_API_KEY (HTTP {error.code}).") from None
    except (OSError, ValueError) as error:
        raise TaskError(
            f"WANDB_API_KEY is set, and {base_url} cannot be asked whose it is: {error}."
        ) from None
    viewer = (told.get("data") or {}).get("viewer") or {}
    if not viewer.get("entity"):
        raise TaskError(f"{base_url} does not know the key in WANDB_API_KEY: correct it, or unset it.")
    return str(viewer["entity"])
