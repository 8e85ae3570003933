"""The courier of one pod: a native sidecar that starts before the trainer and ends after it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from mlenv_api import names
from mlenv_operator.core.render.effective import mount_path

if TYPE_CHECKING:
    from mlenv_api.tracking import WandbSpec
    from mlenv_operator.core.render.effective import Effective
    from mlenv_operator.core.world import JobView

KEY_VOLUME: Final = "mlenv-wandb-key"
TMP_VOLUME: Final = "mlenv-courier-tmp"
GRACE_SECONDS: Final = 60
"""What the pod's grace is longer by, so that the last checkpoint has time to be carried."""
ALONE_GRACE_SECONDS: Final = 300
"""The same where it lies in the pod alone, and goes with it: an outage of minutes should cost nothing. Longer
would hold accelerators, and whoever deletes the pod, for a store that nobody knows to come back."""
OWN_PATHS: Final = frozenset({names.SPOOL_DIR, names.RUN_DIR, "/tmp"})  # noqa: S108
RESOURCES: Final = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
"""Its own: what it takes is not the trainer's, and running out of memory ends it alone."""
_KEY: Final = "api-key"
_PASSED_ON: Final = frozenset(
    {
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "PATH",
        "PYTHONPATH",
        "LD_LIBRARY_PATH",
    }
)
"""Variables of the job or its environment that say how the store is reached, and where Python is."""


def folder(job: JobView, what: Effective) -> str:
    """Where ranks and courier leave each other word: beside the checkpoints."""
    home = f"{names.SPOOL_DIR}/{job.uid}" if what.spool else names.RUN_DIR
    return f"{home}/courier"


def grace(what: Effective) -> int:
    """What the pod's grace is longer by. A courier that has nothing left to carry ends at once."""
    return GRACE_SECONDS if what.spool else ALONE_GRACE_SECONDS


def container(job: JobView, what: Effective, wandb: WandbSpec, index: int) -> dict[str, Any]:
    """The sidecar. It alone has the key."""
    made: dict[str, Any] = {
        "name": names.COURIER_CONTAINER,
        "image": what.image,
        "imagePullPolicy": what.image_pull_policy,
        "command": list(what.courier),
        "restartPolicy": "Always",
        "env": _environment(job, what, wandb, index),
        "resources": RESOURCES,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(what),
    }
    return {name: value for name, value in made.items() if value}


def volumes(wandb: WandbSpec) -> list[dict[str, Any]]:
    """Its own. A missing Secret keeps checkpoints out of the store, and no pod from starting."""
    secret = wandb.api_key_secret_ref
    items = [{"key": secret.key, "path": _KEY}]
    return [
        {"name": KEY_VOLUME, "secret": {"secretName": secret.name, "items": items, "optional": True}},
        {"name": TMP_VOLUME, "emptyDir": {}},
    ]


def own_calls(job: JobView, what: Effective, wandb: WandbSpec) -> list[dict[str, Any]]:
    """What a program's own calls of wandb see: the key, or a folder that the courier sends from."""
    secret = wandb.api_key_secret_ref
    values = {"WANDB_ENTITY": wandb.entity, "WANDB_PROJECT": wandb.project, "WANDB_RUN_GROUP": job.uid}
    if wandb.base_url:
        values["WANDB_BASE_URL"] = wandb.base_url
    if not wandb.expose_key_to_trainer:
        # A program without a key would ask a terminal for it, or end.
        values |= {
            "WANDB_MODE": "offline",
            "WANDB_DIR": folder(job, what).removesuffix("courier") + names.OFFLINE_DIR,
        }
    plain = [{"name": name, "value": value} for name, value in values.items()]
    if not wandb.expose_key_to_trainer:
        return plain
    ref = {"name": secret.name, "key": secret.key, "optional": True}
    return [{"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": ref}}, *plain]


def _environment(job: JobView, what: Effective, wandb: WandbSpec, index: int) -> list[dict[str, Any]]:
    secret = wandb.api_key_secret_ref
    where = {"entity": wandb.entity, "project": wandb.project, "secret": secret.name, "key": secret.key}
    if wandb.base_url:
        where["baseURL"] = wandb.base_url
    values = {
        "HOME": "/tmp",  # noqa: S108  (a mount of its own)
        names.ENV_JOB_NAME: job.key.name,
        names.ENV_JOB_NAMESPACE: job.key.namespace,
        names.ENV_JOB_UID: job.uid,
        names.ENV_IMAGE: what.image,
        names.ENV_NODE_INDEX: str(index),
        names.ENV_TERMINATION_GRACE_SECONDS: str(what.grace_seconds + grace(what)),
        names.ENV_COURIER: folder(job, what),
        names.ENV_WANDB: json.dumps(where, separators=(",", ":"), sort_keys=True),
        names.ENV_WANDB_KEY_FILE: f"{names.WANDB_KEY_DIR}/{_KEY}",
    }
    if said := job.code.config:
        values[names.ENV_CODE] = json.dumps(said, separators=(",", ":"), sort_keys=True)
    if what.spool:
        values[names.ENV_SPOOL] = f"{names.SPOOL_DIR}/{job.uid}"
    pod = {"name": names.ENV_POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    passed = [one.wire() for one in what.env if one.name.upper() in _PASSED_ON]
    return [*passed, pod, *({"name": name, "value": value} for name, value in values.items())]


def _mounts(what: Effective) -> list[dict[str, Any]]:
    shared = ("mlenv-spool", names.SPOOL_DIR) if what.spool else ("mlenv-run", names.RUN_DIR)
    own = (shared, (TMP_VOLUME, "/tmp"))  # noqa: S108
    mounts: list[dict[str, Any]] = [{"name": name, "mountPath": path} for name, path in own]
    key = {"name": KEY_VOLUME, "mountPath": names.WANDB_KEY_DIR, "readOnly": True}
    return [*mounts, key, *_inherited(what, {path for _, path in own})]


def _inherited(what: Effective, taken: set[str]) -> list[dict[str, Any]]:
    """The trainer's own volumes, to be read: certificates, and images whose Python lies on a volume."""
    return [{**one, "readOnly": True} for one in what.mounts if mount_path(one) not in taken]
