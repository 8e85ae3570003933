"""One pod of the gang."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlenv_api import names
from mlenv_operator.core.quantity import quantity
from mlenv_operator.core.render import courier
from mlenv_operator.core.render.effective import mount_path
from mlenv_operator.core.render.meta import job_labels, owner_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlenv_operator.core.render.effective import Effective
    from mlenv_operator.core.world import JobView

USER: Final = 65532
TMP: Final = "/tmp"  # noqa: S108  (a mount of the pod, not a file of ours)
SHM: Final = "/dev/shm"  # noqa: S108  (the same)
LOOPBACK: Final = "127.0.0.1"
_TOKEN_SECONDS: Final = 3600


def render_pod(
    job: JobView, what: Effective, index: int, incarnation: int, operator_urls: Sequence[str]
) -> dict[str, Any]:
    """The manifest of the pod in slot ``index``."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(job, what, index, incarnation),
        "spec": _spec(job, what, index, operator_urls),
    }


def _metadata(job: JobView, what: Effective, index: int, incarnation: int) -> dict[str, Any]:
    return {
        "name": names.pod_name(job.key.name, index, incarnation),
        "namespace": job.key.namespace,
        "labels": {**what.labels, **job_labels(job)},
        "annotations": {
            **what.annotations,
            names.ANNOTATION_INDEX: str(index),
            names.ANNOTATION_INCARNATION: str(incarnation),
            names.ANNOTATION_GENERATION: str(job.status.run_generation),
        },
        "ownerReferences": [owner_reference(job)],
        "finalizers": [names.ACCOUNTED_FINALIZER],
    }


def _spec(job: JobView, what: Effective, index: int, operator_urls: Sequence[str]) -> dict[str, Any]:
    volumes, mounts = _volumes(what)
    return {
        **what.pod,
        "hostname": names.host_name(job.key.name, index),
        "subdomain": job.key.name,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        # The variables of every Service in the namespace would join the program's environment.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": what.grace_seconds + (courier.grace(what) if what.wandb else 0),
        "securityContext": pod_security(what),
        "volumes": [*volumes, *(courier.volumes(what.wandb) if what.wandb else ())],
        # A native sidecar: there before the program, and still there when that has ended.
        **({"initContainers": [courier.container(job, what, what.wandb, index)]} if what.wandb else {}),
        "containers": [_container(job, what, index, operator_urls, mounts)],
    }


def pod_security(what: Effective) -> dict[str, Any]:
    """Nobody's rights, in the group that owns the volumes."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
        # A spool holds many files of many jobs: its group is set once, not file by file for every pod.
        **({"fsGroupChangePolicy": "OnRootMismatch"} if what.spool else {}),
        **what.security_context,
    }


def _container(
    job: JobView, what: Effective, index: int, operator_urls: Sequence[str], mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": names.TRAINER_CONTAINER,
        "image": what.image,
        "imagePullPolicy": what.image_pull_policy,
        "command": list(what.command),
        "args": list(what.args),
        "env": _environment(job, what, index, operator_urls),
        "resources": {name: value for name, value in what.resources.wire().items() if value},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        # What a program prints last explains its end, also where nobody kept its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    return {name: value for name, value in container.items() if value}


def _environment(
    job: JobView, what: Effective, index: int, operator_urls: Sequence[str]
) -> list[dict[str, Any]]:
    """HOME may be replaced; what the platform says comes last, and cannot."""
    own = [one.wire() for one in what.env]
    home = [] if any(one["name"] == "HOME" for one in own) else [_plain("HOME", TMP)]
    values = _platform_values(job, what, index, operator_urls)
    if not what.mlenv:
        values |= _torch_values(job, what, index)
    if what.wandb:
        taken = {one["name"] for one in own}
        own += [one for one in courier.own_calls(job, what, what.wandb) if one["name"] not in taken]
    return [*home, *own, *_downward(), *(_plain(name, value) for name, value in values.items())]


def _platform_values(
    job: JobView, what: Effective, index: int, operator_urls: Sequence[str]
) -> dict[str, str]:
    values = {
        names.ENV_JOB_NAME: job.key.name,
        names.ENV_JOB_NAMESPACE: job.key.namespace,
        names.ENV_JOB_UID: job.uid,
        names.ENV_NODE_INDEX: str(index),
        names.ENV_NUM_NODES: str(what.num_nodes),
        names.ENV_NUM_PROC_PER_NODE: str(what.num_proc),
        names.ENV_RUN_DIR: names.RUN_DIR,
        names.ENV_TERMINATION_GRACE_SECONDS: str(what.grace_seconds),
    }
    if what.spool:
        values[names.ENV_SPOOL] = f"{names.SPOOL_DIR}/{job.uid}"
    if what.checkpoint:
        values[names.ENV_CHECKPOINT] = what.checkpoint
    if what.wandb:
        values[names.ENV_COURIER] = courier.folder(job, what)
    if what.mlenv:
        values[names.ENV_OPERATOR_URLS] = ",".join(operator_urls)
        values[names.ENV_TOKEN_FILE] = names.TOKEN_FILE
    return values


def _torch_values(job: JobView, what: Effective, index: int) -> dict[str, str]:
    """What a program without our launcher needs to meet its peers, also through torchrun (PET_*)."""
    name = f"{names.host_name(job.key.name, 0)}.{job.key.name}.{job.key.namespace}.svc"
    master = name if what.num_nodes > 1 else LOOPBACK  # one pod has no Service, so nobody knows its name
    port = str(names.MASTER_PORT)
    return {
        "MASTER_ADDR": master,
        "MASTER_PORT": port,
        "NNODES": str(what.num_nodes),
        "NODE_RANK": str(index),
        "PET_NNODES": str(what.num_nodes),
        "PET_NPROC_PER_NODE": str(what.num_proc),
        "PET_NODE_RANK": str(index),
        "PET_MASTER_ADDR": master,
        "PET_MASTER_PORT": port,
    }


def _downward() -> list[dict[str, Any]]:
    fields = {
        names.ENV_POD_NAME: "metadata.name",
        names.ENV_POD_UID: "metadata.uid",
        names.ENV_POD_IP: "status.podIP",
        names.ENV_NODE_NAME: "spec.nodeName",
    }
    return [
        {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
        for name, path in fields.items()
    ]


def _volumes(what: Effective) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes and mounts: the platform's, except where the user has put something of their own."""
    taken = {mount_path(mount) for mount in what.mounts}
    volumes, mounts = [*what.volumes], [*what.mounts]
    for name, path, source in _platform_volumes(what):
        if path not in taken and all(volume.get("name") != name for volume in what.volumes):
            volumes.append({"name": name, **source})
            mounts.append({"name": name, "mountPath": path, **({"readOnly": True} if name == _TOKEN else {})})
    return volumes, mounts


_TOKEN: Final = "mlenv-token"  # noqa: S105  (a name, not a secret)


def _platform_volumes(what: Effective) -> list[tuple[str, str, dict[str, Any]]]:
    found: list[tuple[str, str, dict[str, Any]]] = [
        ("mlenv-run", names.RUN_DIR, {"emptyDir": {}}),
        ("mlenv-tmp", TMP, {"emptyDir": {}}),
        ("dshm", SHM, {"emptyDir": _shared_memory(what)}),
    ]
    if what.spool:
        claim = {"persistentVolumeClaim": {"claimName": what.spool}}
        found.append(("mlenv-spool", names.SPOOL_DIR, claim))
    if what.mlenv:
        found.append((_TOKEN, names.TOKEN_DIR, {"projected": {"sources": [_token_source()]}}))
    return found


def _token_source() -> dict[str, Any]:
    return {
        "serviceAccountToken": {
            "audience": names.TOKEN_AUDIENCE,
            "expirationSeconds": _TOKEN_SECONDS,
            "path": names.TOKEN_FILE.removeprefix(f"{names.TOKEN_DIR}/"),
        }
    }


def _shared_memory(what: Effective) -> dict[str, Any]:
    """Memory-backed; it counts against the container's limit, so it may take half of that."""
    limit = quantity(what.resources.limits.get("memory", 0)) or 0
    return {"medium": "Memory", **({"sizeLimit": str(limit // 2)} if limit else {})}


def _plain(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": value}
