"""What the demo's job would have cost: nodes that pass for an instance type, a ledger, and the bill."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlenv_api import names
from mlenv_local import platform
from mlenv_local.shell import wait_until
from tasks.process import ROOT, TaskError

if TYPE_CHECKING:
    from mlenv_local.cluster import Cluster

RESTRICTED_USER: Final = 65532
"""Whom pods run as."""
LEDGER: Final = "ledger"
ENDS_SECONDS: Final = 240
"""For couriers to carry the last checkpoint, and for the last charges to be stored."""
SHIPPED: Final = ROOT / "operator" / "mlenv_operator" / "cost" / "data"
GPUS: Final = 4
"""Of that instance type, and as many as a node of the local cluster makes up."""


@dataclass(frozen=True)
class Instance:
    """A machine of a cloud, as its nodes say what they are."""

    provider: str
    region: str
    zone: str
    instance_type: str

    def of_node(self, name: str) -> dict[str, Any]:
        """What the node of such a machine has, that one of this machine has not."""
        labels = {
            "node.kubernetes.io/instance-type": self.instance_type,
            "topology.kubernetes.io/region": self.region,
            "topology.kubernetes.io/zone": self.zone,
        }
        provider_id = f"{self.provider}:///{self.zone}/{name}"
        return {"metadata": {"labels": labels}, "spec": {"providerID": provider_id}}


PRETENDED: Final = Instance("aws", "us-east-1", "us-east-1a", "g5.12xlarge")


def pretend(cluster: Cluster) -> None:
    """Have the nodes say that they are of that instance type; the shipped price book knows what it costs."""
    for node in cluster.layout.nodes:
        patch = json.dumps(PRETENDED.of_node(node.name))
        cluster.kubectl("patch", "node", node.name, "--type=merge", f"--patch={patch}")


def ledger(cluster: Cluster) -> dict[str, Any]:
    """The chart's values for a ledger in the cluster's own folder; makes its volume."""
    folder = cluster.layout.root / LEDGER
    folder.mkdir(exist_ok=True)
    os.chown(folder, RESTRICTED_USER, RESTRICTED_USER)
    same = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    held = {**same, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}}
    wish = {**same, "volumeName": LEDGER, "resources": {"requests": {"storage": "1Gi"}}}
    meta = {"name": LEDGER, "namespace": platform.NAMESPACE}
    cluster.kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": platform.NAMESPACE}},
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": LEDGER}, "spec": held},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": wish},
    )
    return {"replicas": 1, "ledger": {"type": "sqlite", "sqlite": {"existingClaim": LEDGER}}}


def account(namespace: str) -> tuple[dict[str, Any], ...]:
    """The account in whose name costs are asked for, with the right to see those of its namespace."""
    meta = {"name": names.COST_ACCOUNT, "namespace": namespace}
    rbac = "rbac.authorization.k8s.io"
    role = {"apiGroup": rbac, "kind": "ClusterRole", "name": f"{platform.RELEASE}-costs"}
    subjects = [{"kind": "ServiceAccount", **meta}]
    return (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": role,
            "subjects": subjects,
        },
    )


def settled(cluster: Cluster, namespace: str, job: str) -> bool:
    """Wait until every pod of the job has ended and all of its charges are stored; whether they are."""
    select = f"--selector={names.LABEL_JOB}={job}"

    def free() -> bool:
        pods = cluster.kubectl.get("pods", f"--namespace={namespace}", select)["items"]
        return not any(pod["metadata"].get("finalizers") for pod in pods)

    return wait_until(free, seconds=ENDS_SECONDS, interval=0.5)


def price() -> dict[str, str]:
    """The row of the shipped price book that the nodes have, as its file says it."""
    wanted = {
        "provider": PRETENDED.provider,
        "region": PRETENDED.region,
        "instance_type": PRETENDED.instance_type,
        "capacity_type": "on-demand",
    }
    for file in sorted(SHIPPED.glob(f"{PRETENDED.provider}-*.csv"), reverse=True):
        with file.open(newline="", encoding="utf-8") as text:
            for row in csv.DictReader(text):
                if wanted.items() <= row.items():
                    return row
    raise TaskError(f"{SHIPPED} has no price of {PRETENDED.instance_type} in {PRETENDED.region}.")


def terms() -> str:
    """At what price the bill is made, in a sentence."""
    row = price()
    return (
        f"The nodes of this machine pass for {PRETENDED.instance_type} of {PRETENDED.provider} in "
        f"{PRETENDED.region}, at ${float(row['effective_usd_per_hour']):.3f} an hour {row['capacity_type']} "
        f"(the shipped prices of {row['from']}); each pod held one of its {GPUS} GPUs."
    )
