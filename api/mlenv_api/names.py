"""Every name that more than one part must agree on: kinds, labels, annotations, environment, ports."""

from __future__ import annotations

from typing import Final

GROUP: Final = "mlenv.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
TRAINING_JOB: Final = "TrainingJob"
TRAINING_JOBS: Final = "trainingjobs"
ENVIRONMENT: Final = "TrainingEnvironment"
ENVIRONMENTS: Final = "trainingenvironments"
CLUSTER_ENVIRONMENT: Final = "ClusterTrainingEnvironment"
CLUSTER_ENVIRONMENTS: Final = "clustertrainingenvironments"
PRICE_BOOK: Final = "PriceBook"
PRICE_BOOKS: Final = "pricebooks"
BUDGET: Final = "Budget"
BUDGETS: Final = "budgets"
MANAGED_BY: Final = "mlenv.io/operator"
"""Value of spec.managedBy that this operator obeys."""

FIELD_MANAGER: Final = "mlenv-operator"
ACCOUNTED_FINALIZER: Final = "mlenv.io/accounted"
"""On every pod, until its terminal facts are durable."""

# Labels on pods and Services. Attempt and index of a pod are annotations: Cilium mints an identity for
# every distinct set of labels.
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
"""On pods and Services of jobs: always mlenv-operator."""
LABEL_MANAGED_BY_VALUE: Final = "mlenv-operator"
LABEL_NAME: Final = "app.kubernetes.io/name"
"""On pods and Services of jobs: always trainingjob."""
LABEL_NAME_VALUE: Final = "trainingjob"
LABEL_JOB: Final = "mlenv.io/job-name"
"""On pods and Services: the name of the job. Watches and `kubectl logs -l` select by it."""
LABEL_JOB_UID: Final = "mlenv.io/job-uid"
"""On pods and Services: the UID of the job, which a later job of the same name does not share."""
LABEL_DRAINS: Final = "mlenv.io/drains"
"""On the Job that carries what a finished job's couriers could not, and on its pod: the name of the job."""
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Kueue's label for the queue of a job; its cost can be told by it. This version queues nothing by it."""
# Labels on TrainingJobs, yours to set: to whom their cost belongs, from the moment they are set or changed.
LABEL_TEAM: Final = "mlenv.io/team"
"""Yours to set on a TrainingJob: the team that its cost belongs to."""
LABEL_MODEL: Final = "mlenv.io/model"
"""Yours to set on a TrainingJob: the model that it trains, for its cost."""
LABEL_USE_CASE: Final = "mlenv.io/use-case"
"""Yours to set on a TrainingJob: what the model is for, for its cost."""
ANNOTATION_USER: Final = "mlenv.io/user"
"""Yours to set on a TrainingJob, as an annotation or a label: who runs it, for its cost."""
# What code a job runs, for the config of its W&B run: whoever submits from a git work tree may say so.
ANNOTATION_GIT_COMMIT: Final = "mlenv.io/git-commit"
"""Yours to set on a TrainingJob, as `mlenv submit` does: the commit of its code, for its W&B run."""
ANNOTATION_GIT_REMOTE: Final = "mlenv.io/git-remote"
"""The same: where that commit is from, as https://host/path or host:path, without user and password."""
ANNOTATION_GIT_BRANCH: Final = "mlenv.io/git-branch"
"""The same: the branch."""
ANNOTATION_GIT_DIRTY: Final = "mlenv.io/git-dirty"
"""The same: "true" when tracked files differed from the commit, or "false"."""
# Labels on nodes, yours to set where no cloud does.
LABEL_CAPACITY_TYPE: Final = "mlenv.io/capacity-type"
"""Yours to set on a node: on-demand, spot, reserved, savings-plan, capacity-block or on-prem."""
LABEL_RESERVATION: Final = "mlenv.io/reservation"
"""Yours to set on a node: the reservation that pays for it."""
ANNOTATION_INDEX: Final = "mlenv.io/index"
"""On pods: the slot of the gang, from 0."""
ANNOTATION_INCARNATION: Final = "mlenv.io/incarnation"
"""On pods: counts the pods that this slot has had, from 0."""
ANNOTATION_GENERATION: Final = "mlenv.io/job-generation"
"""On pods: the metadata.generation of the job that the pod was made from."""
ANNOTATION_CHECKPOINT: Final = "mlenv.io/checkpoint-requested-at"
"""Yours to set, on a TrainingJob: a time (RFC 3339). Another one orders another checkpoint."""
ANNOTATION_ADDRESS: Final = "mlenv.io/address"
"""On the Lease: the HTTP address of its holder."""

LEASE_NAME: Final = "mlenv-operator"
TOKEN_AUDIENCE: Final = "mlenv-operator"  # noqa: S105  (a name, not a secret)
COST_AUDIENCE: Final = "mlenv-costs"
"""Of the tokens of those who ask for costs: such a token is good for nothing else."""
COST_RESOURCE: Final = "costs"
"""In the group mlenv.io, for RBAC alone: whoever may `get` it in a namespace may see what that cost."""
COST_ACCOUNT: Final = "mlenv-costs"
"""The service account in whose name `mlenv cost` asks unless told otherwise."""
COST_HEADER: Final = "X-Mlenv-Token"
"""Carries that token where Authorization is taken away on the way, as the API server's proxy does."""
TOKEN_DIR: Final = "/var/run/secrets/mlenv.io"  # noqa: S105
TOKEN_FILE: Final = f"{TOKEN_DIR}/token"
RUN_DIR: Final = "/var/run/mlenv"
"""Writable folder that the launcher and its ranks share (an emptyDir of the pod)."""
SPOOL_DIR: Final = "/var/spool/mlenv"
"""Where the volume of spec.checkpoint.spool is mounted."""
OFFLINE_DIR: Final = "offline"
"""Beside the checkpoints: where a program's own wandb calls leave their runs, for the courier to send."""
TRAINER_CONTAINER: Final = "trainer"
COURIER_CONTAINER: Final = "courier"
"""The sidecar that carries checkpoints to the store of spec.tracking."""
WANDB_KEY_DIR: Final = "/var/run/secrets/mlenv-wandb"
"""Where the courier, and it alone, has the API key as a file."""
OPERATOR_PORT: Final = 8080
COST_PORT: Final = 8081
COST_PATH: Final = "/v1/costs"
MAX_ESTIMATED_JOB: Final = 7_000
"""Characters of a job whose cost is asked for: it comes in the address, of which a server takes 8 KiB."""
MASTER_PORT: Final = 29500
"""Port promised to programs of ``launcher: None`` jobs; our launcher binds a free one and reports it."""

# Environment that the operator sets in the trainer container.
ENV_OPERATOR_URLS: Final = "MLENV_OPERATOR_URLS"
"""Base URLs of the operator, comma separated, to try in turn."""
ENV_TOKEN_FILE: Final = "MLENV_TOKEN_FILE"  # noqa: S105
"""File with the token that says which pod speaks."""
ENV_RUN_DIR: Final = "MLENV_RUN_DIR"
"""Writable folder that the launcher and its ranks share."""
ENV_JOB_NAME: Final = "MLENV_JOB_NAME"
"""Name of the job."""
ENV_JOB_NAMESPACE: Final = "MLENV_JOB_NAMESPACE"
"""Namespace of the job."""
ENV_JOB_UID: Final = "MLENV_JOB_UID"
"""UID of the job."""
ENV_POD_NAME: Final = "MLENV_POD_NAME"
"""Name of the pod."""
ENV_POD_UID: Final = "MLENV_POD_UID"
"""UID of the pod."""
ENV_POD_IP: Final = "MLENV_POD_IP"
"""IP address of the pod."""
ENV_NODE_NAME: Final = "MLENV_NODE_NAME"
"""Kubernetes node that the pod runs on."""
ENV_NODE_INDEX: Final = "MLENV_NODE_INDEX"
"""Slot of the pod in the gang, from 0. After an elastic change it may differ from the node rank."""
ENV_NUM_NODES: Final = "MLENV_NUM_NODES"
"""Pods in the gang."""
ENV_NUM_PROC_PER_NODE: Final = "MLENV_NUM_PROC_PER_NODE"
"""Ranks per pod."""
ENV_TERMINATION_GRACE_SECONDS: Final = "MLENV_TERMINATION_GRACE_SECONDS"
"""Seconds between SIGTERM and SIGKILL of the pod."""
ENV_CHECKPOINT: Final = "MLENV_CHECKPOINT"
"""spec.checkpoint of the job as JSON: when its Session saves, and what it goes on from."""
ENV_SPOOL: Final = "MLENV_SPOOL"
"""Folder on the shared volume of spec.checkpoint.spool, this job's own; not set without one."""
ENV_COURIER: Final = "MLENV_COURIER"
"""Folder in which this pod's ranks and its courier leave each other word; not set without a courier."""
# Environment that the operator sets in the courier's container alone.
ENV_WANDB: Final = "MLENV_WANDB"
"""spec.tracking.wandb of the job as JSON: where the courier carries checkpoints."""
ENV_IMAGE: Final = "MLENV_IMAGE"
"""Image of the trainer, for the run's config."""
ENV_CODE: Final = "MLENV_CODE"
"""JSON: what the job's annotations say of its code (commit, remote, branch, dirty); not set without any."""
ENV_WANDB_KEY_FILE: Final = "MLENV_WANDB_KEY_FILE"
"""File with the API key; no other container sees it."""
# Environment that a job may set, to tell its launcher how to work.
ENV_FORK_SERVER: Final = "MLENV_FORK_SERVER"
"""Yours to set: 0 has every rank started as a new Python, and none forked from one with torch imported."""
# Environment that the launcher adds for its ranks, beside torchrun's own (RANK, WORLD_SIZE, ...).
ENV_ATTEMPT: Final = "MLENV_ATTEMPT"
"""Number of the attempt, from 1; only ranks have it."""
ENV_RESUME: Final = "MLENV_RESUME"
"""JSON: past, ceilingStep and sinceAttempt of the answer that gave the attempt its world."""

RESERVED_ENV: Final = frozenset(
    {
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "GROUP_WORLD_SIZE",
        "NODE_RANK",
        "NNODES",
        "MASTER_ADDR",
        "MASTER_PORT",
    }
)
"""Names that a job may not set, because the platform does."""
RESERVED_ENV_PREFIXES: Final = ("MLENV_", "PET_", "TORCHELASTIC_")
"""No job may set a variable that begins so, but those in OPEN_ENV."""
OPEN_ENV: Final = frozenset({ENV_FORK_SERVER})
"""Names that a job may set all the same."""

MAX_JOB_NAME: Final = 52
"""A pod is named ``<job>-<index>-<incarnation>`` and a host name has at most 63 characters."""


def pod_name(job: str, index: int, incarnation: int) -> str:
    """The name of the pod in slot ``index``; a replacement has the next incarnation."""
    return f"{job}-{index}-{incarnation}"


def drain_name(job: str, job_uid: str) -> str:
    """The Job that carries what a finished job's couriers could not."""
    return f"{job[:45]}-drain-{job_uid[:8]}"


def host_name(job: str, index: int) -> str:
    """The stable host name of slot ``index``, resolvable as ``<host>.<job>`` in the job's namespace."""
    return f"{job}-{index}"


def revision_name(environment_uid: str, generation: int) -> str:
    """The ControllerRevision that keeps one generation of an environment as jobs saw it."""
    return f"mlenv-env-{environment_uid}-{generation}"
