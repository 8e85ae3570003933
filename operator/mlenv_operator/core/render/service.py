"""The headless Service that gives the pods of a job without our launcher their DNS names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlenv_api import names
from mlenv_operator.core.render.meta import job_labels, owner_reference

if TYPE_CHECKING:
    from mlenv_operator.core.world import JobView


def render_service(job: JobView) -> dict[str, Any]:
    """The manifest. Names resolve before pods are ready: ranks look for each other while they start."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": job.key.name,
            "namespace": job.key.namespace,
            "labels": job_labels(job),
            "ownerReferences": [owner_reference(job)],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.LABEL_JOB_UID: job.uid},
            "ports": [{"name": "rendezvous", "port": names.MASTER_PORT, "protocol": "TCP"}],
        },
    }
