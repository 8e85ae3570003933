"""The kinds that the operator reads and writes, and their paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from mlenv_api import names


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind as the API server serves it."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Path of the collection, of one object, or of its subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


PODS: Final = Resource("", "v1", "pods")
NODES: Final = Resource("", "v1", "nodes", namespaced=False)
SERVICES: Final = Resource("", "v1", "services")
CONTROLLER_REVISIONS: Final = Resource("apps", "v1", "controllerrevisions")
JOBS: Final = Resource("batch", "v1", "jobs")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps")
EVENTS: Final = Resource("events.k8s.io", "v1", "events")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases")
TOKEN_REVIEWS: Final = Resource("authentication.k8s.io", "v1", "tokenreviews", namespaced=False)
ACCESS_REVIEWS: Final = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", namespaced=False)
TRAINING_JOBS: Final = Resource(names.GROUP, names.VERSION, names.TRAINING_JOBS)
ENVIRONMENTS: Final = Resource(names.GROUP, names.VERSION, names.ENVIRONMENTS)
CLUSTER_ENVIRONMENTS: Final = Resource(
    names.GROUP, names.VERSION, names.CLUSTER_ENVIRONMENTS, namespaced=False
)
PRICE_BOOKS: Final = Resource(names.GROUP, names.VERSION, names.PRICE_BOOKS, namespaced=False)
BUDGETS: Final = Resource(names.GROUP, names.VERSION, names.BUDGETS, namespaced=False)
