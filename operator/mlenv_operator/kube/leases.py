"""The Lease of the operator's election, in the API server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlenv_operator.kube.errors import NotFound
from mlenv_operator.kube.resources import LEASES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlenv_operator.kube.client import Client


class KubeLeaseStore:
    """One named Lease, through a client of its own."""

    def __init__(self, client: Client, namespace: str, name: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name

    async def read(self) -> dict[str, Any] | None:
        """The Lease, or None."""
        try:
            return await self._client.get(LEASES, self._namespace, self._name)
        except NotFound:
            return None

    async def create(self, spec: dict[str, Any], annotations: Mapping[str, str]) -> dict[str, Any]:
        """Make it."""
        metadata = {"namespace": self._namespace, "name": self._name, "annotations": dict(annotations)}
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }
        return await self._client.create(LEASES, body)

    async def update(self, lease: dict[str, Any]) -> dict[str, Any]:
        """Write it back, if nobody else has meanwhile."""
        return await self._client.update(LEASES, lease)
