"""A real Kubernetes on one Linux machine, for development, demonstrations and tests."""

from mlenv_local.cluster import Cluster, Node
from mlenv_local.errors import LocalError
from mlenv_local.external import ExternalCluster

__all__ = ["Cluster", "ExternalCluster", "LocalError", "Node"]
