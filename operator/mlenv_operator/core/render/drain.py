"""The Job that carries a finished job's last checkpoint from its volume, when its couriers had no time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlenv_api import names
from mlenv_operator.core.render import courier
from mlenv_operator.core.render.effective import mount_path
from mlenv_operator.core.render.meta import owner_reference
from mlenv_operator.core.render.pod import pod_security

if TYPE_CHECKING:
    from mlenv_api.checkpoints import CheckpointRef
    from mlenv_api.tracking import WandbSpec
    from mlenv_operator.core.render.effective import Effective
    from mlenv_operator.core.world import JobView

TRIES: Final = 2
"""Pods, should they be evicted or out of memory; a store that is away is waited for in one of them."""
PATIENCE_SECONDS: Final = 86_400
TTL_SECONDS: Final = 3600
_SAME_AS_PODS: Final = frozenset({"imagePullSecrets", "nodeSelector", "serviceAccountName", "tolerations"})
"""What lets the image be pulled and run where it did; nothing that gives it rank or accelerators."""


def render_drain(job: JobView, what: Effective, wandb: WandbSpec, last: CheckpointRef) -> dict[str, Any]:
    """The manifest: one courier, without trainer, token or rights, until the store has this checkpoint."""
    labels = {
        names.LABEL_DRAINS: job.key.name,
        names.LABEL_NAME: "drain",
        "app.kubernetes.io/part-of": "mlenv",
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.drain_name(job.key.name, job.uid),
            "namespace": job.key.namespace,
            "labels": labels,
            "ownerReferences": [owner_reference(job)],
        },
        "spec": {
            "backoffLimit": TRIES,
            "activeDeadlineSeconds": PATIENCE_SECONDS + 600,
            "ttlSecondsAfterFinished": TTL_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": _pod(job, what, wandb, last)},
        },
    }


def _pod(job: JobView, what: Effective, wandb: WandbSpec, last: CheckpointRef) -> dict[str, Any]:
    made = courier.container(job, what, wandb, 0)
    del made["restartPolicy"]
    asked = ["--once", f"--patience={PATIENCE_SECONDS}", f"--expect={last.digest}"]
    claim = {"name": "mlenv-spool", "persistentVolumeClaim": {"claimName": what.spool}}
    return {
        **{name: value for name, value in what.pod.items() if name in _SAME_AS_PODS},
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": pod_security(what),
        "volumes": [*_mounted(what), claim, *courier.volumes(wandb)],
        "containers": [{**made, "command": [*what.courier, *asked]}],
    }


def _mounted(what: Effective) -> list[dict[str, Any]]:
    """Only what the courier mounts: a volume that nobody asks for may not be there any more."""
    named = {one.get("name") for one in what.mounts if mount_path(one) not in courier.OWN_PATHS}
    return [one for one in what.volumes if one.get("name") in named]
