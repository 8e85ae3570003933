"""TrainingJob: what a user writes (spec) and what the operator tells (status)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from mlenv_api import cel
from mlenv_api.base import Model
from mlenv_api.checkpoints import CheckpointRef, CheckpointRequest, DoubtedRef
from mlenv_api.checkpointspec import CheckpointSpec
from mlenv_api.cost import CostSpec, CostStatus
from mlenv_api.fields import MAX_NODES, Image, Name253, Sentence, Text, keyed_by
from mlenv_api.names import CLUSTER_ENVIRONMENT, MANAGED_BY
from mlenv_api.podtemplate import EnvVar, PodTemplateOverrides, PullPolicy, ResourceRequirements
from mlenv_api.tracking import TrackingSpec, TrackingStatus, UploadedRef


class Launcher(StrEnum):
    """Who starts and watches the processes of the job."""

    MLENV = "MLEnv"
    """Our launcher is PID 1: restarts in place, progress, exact evidence."""
    NONE = "None"
    """Any image: pods are judged by their phase and exit code, and restarted as a gang."""


class EnvironmentRef(Model):
    """The environment that the job runs in."""

    kind: Literal["ClusterTrainingEnvironment", "TrainingEnvironment"] = CLUSTER_ENVIRONMENT
    """Cluster-wide, or of the job's namespace."""
    name: Name253
    """Name of the environment."""


class Trainer(Model):
    """The program and the shape of its world."""

    image: Image | None = None
    """Image of the trainer container; the environment's unless set."""
    image_pull_policy: PullPolicy | None = None
    """When to pull the image."""
    command: tuple[Text, ...] = Field(default=(), max_length=256)
    """The program. With our launcher, a first word that ends in .py, or -m, runs under Python."""
    args: tuple[Text, ...] = Field(default=(), max_length=1024)
    """Arguments of the program."""
    env: tuple[EnvVar, ...] = Field(default=(), max_length=256, json_schema_extra=keyed_by("name"))
    """Environment variables; the names of the platform and of torch.distributed are reserved."""
    num_nodes: int = Field(default=1, ge=1, le=MAX_NODES)
    """Pods in the gang."""
    num_proc_per_node: int | None = Field(default=None, ge=1, le=64)
    """Ranks per pod; unless set the environment's default, else the GPUs of one pod, else 1."""
    resources_per_node: ResourceRequirements | None = None
    """Resources of each pod; the environment's default unless set."""


class FailurePolicy(Model):
    """What happens when an attempt fails."""

    max_restarts: int = Field(default=3, ge=0, le=10000)
    """New attempts after faults of the program; disruptions are never counted."""


class Scheduling(Model):
    """How the gang comes together."""

    assembly_timeout_seconds: int = Field(default=1800, ge=5, le=604800)
    """All pods must be ready within this time, or all are released and the job backs off."""


class TrainingJobSpec(Model):
    """What to train, on what, and within which bounds."""

    model_config = ConfigDict(json_schema_extra=cel.TRAINING_JOB_SPEC)

    suspend: bool = False
    """True holds no pods; all but this, deadlines and the failure policy can be edited then."""
    managed_by: Annotated[str, Field(max_length=253, json_schema_extra=cel.MANAGED_BY_RULES)] = MANAGED_BY
    """Which controller obeys this job; immutable."""
    environment_ref: EnvironmentRef | None = None
    """The environment provided by the platform team. Without one, trainer.image is needed."""
    launcher: Launcher = Launcher.MLENV
    """MLEnv, or None for any image."""
    trainer: Trainer
    """The program and the shape of its world."""
    pod_template_overrides: PodTemplateOverrides = PodTemplateOverrides()
    """What to add to every pod."""
    failure_policy: FailurePolicy = FailurePolicy()
    """What happens when an attempt fails."""
    scheduling: Scheduling = Scheduling()
    """How the gang comes together."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """When the program's Session saves, where, and what it goes on from; what the program says wins."""
    tracking: TrackingSpec | None = None
    """Where checkpoints are carried besides; the environment's unless set."""
    active_deadline_seconds: int | None = Field(default=None, ge=1, le=315360000)
    """Fails the job once it has been active (holding pods, over all attempts) for so long."""
    cost: CostSpec | None = None
    """How much the job may cost, and what happens then; watched where the operator keeps a ledger."""
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=315360000)
    """Deletes the job so long after it finished; kept for ever unless set."""


class Phase(StrEnum):
    """A word for the printer, derived from the conditions. Programs read the conditions."""

    QUEUED = "Queued"
    """Holds no pods and waits to assemble."""
    ASSEMBLING = "Assembling"
    """Pods are being gathered for the first attempt."""
    RUNNING = "Running"
    """The world is formed."""
    RESTARTING = "Restarting"
    """An attempt failed and the next one is being formed."""
    SUSPENDING = "Suspending"
    """Pods are being released."""
    SUSPENDED = "Suspended"
    """Holds no pods until spec.suspend is false, or the limit in spec.cost is raised."""
    COMPLETE = "Complete"
    """Ended with success."""
    FAILED = "Failed"
    """Ended without success."""
    STALLED = "Stalled"
    """Needs a human: see the message of the condition Stalled."""


class Condition(Model):
    """metav1.Condition."""

    type: Annotated[str, Field(min_length=1, max_length=63)]
    """CamelCase."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: int = Field(default=0, ge=0)
    """The metadata.generation that this was said of."""
    last_transition_time: AwareDatetime
    """When status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=63)]
    """A constant for programs."""
    message: Sentence = ""
    """A sentence for people."""


class AttemptState(StrEnum):
    """Where the stored attempt stands. The operator moves it or acts on it, never both at once."""

    QUEUED = "Queued"
    """No pods wanted: waiting to assemble (again)."""
    ASSEMBLING = "Assembling"
    """Pods of all slots wanted; the world is not formed yet."""
    RUNNING = "Running"
    """The world is formed: launchers are told it."""
    SUSPENDING = "Suspending"
    """Pods are being released because spec.suspend is true, or spec.cost says so."""
    SUSPENDED = "Suspended"
    """No pods."""
    COMPLETE = "Complete"
    """Terminal."""
    FAILED = "Failed"
    """Terminal."""


class Rendezvous(Model):
    """Where the ranks of the running attempt meet."""

    address: Annotated[str, Field(max_length=64)]
    """IP address of the pod in slot 0."""
    port: int = Field(ge=1, le=65535)
    """Port that its launcher bound and reported."""


class CheckpointStatus(Model):
    """What checkpoints the job has; the only authority on what to run from."""

    sealed: CheckpointRef | None = None
    """The newest one that is whole and safe from the end of its processes."""
    uploaded: UploadedRef | None = None
    """The newest one of which a store has every byte; what is sealed beyond it a lost node may cost."""
    sane: CheckpointRef | None = None
    """The newest one that armed sanity checks found nothing against; null: no check is armed, or none was."""
    insane: DoubtedRef | None = None
    """The newest one, where armed checks speak against it: it is kept for people, and not gone on from."""
    ceiling_step: int | None = Field(default=None, ge=0)
    """After a rollback nothing newer is resumed from."""
    since_attempt: int = Field(default=1, ge=1)
    """Nothing that an older attempt saved is resumed from: resume.policy asked for a new start."""
    spool: Name253 | None = None
    """The claim that holds them, as the pods mount it; null: they live in the pods, and go with them."""
    request: CheckpointRequest | None = None
    """The last order to take one, and what came of it."""


class AttemptOrigin(Model):
    """What the ranks of an attempt run from, recorded before they do."""

    checkpoint: CheckpointRef | None = None
    """Null is a fresh start."""


class Attempt(Model):
    """The current attempt: one world, one rendezvous."""

    number: int = Field(ge=1)
    """Counts up over the life of the job."""
    state: AttemptState
    """Where it stands."""
    since: AwareDatetime
    """When it came to this state."""
    rendezvous: Rendezvous | None = None
    """Set while running under our launcher."""
    not_before: AwareDatetime | None = None
    """With Queued, and with Assembling after quick failures: not before then."""
    origin: AttemptOrigin | None = None
    """What its ranks run from; null until they have said so, and for programs without checkpoints."""
    timeouts: int = Field(default=0, ge=0)
    """Assemblies in a row that ran out of time."""


class AttemptRecord(Model):
    """How one attempt ended."""

    number: int = Field(ge=1)
    """The attempt."""
    start_time: AwareDatetime | None = None
    """When its world formed; null when it never did."""
    end_time: AwareDatetime
    """When its end was decided."""
    reason: Annotated[str, Field(max_length=63)]
    """The root cause, a constant."""
    message: Sentence = ""
    """The root cause, a sentence."""
    index: int | None = Field(default=None, ge=0)
    """Slot of the root cause."""
    node: Annotated[str, Field(max_length=253)] | None = None
    """Node of the root cause."""
    exit_code: int | None = None
    """Exit code of the root cause."""
    counted: bool = False
    """Whether it was charged to failurePolicy.maxRestarts."""
    last_step: int | None = Field(default=None, ge=0)
    """Last committed step that was reported."""
    resumed_from: int | None = Field(default=None, ge=0)
    """Step of the checkpoint that it ran from; 0 is a fresh start, null is not known."""
    lost_steps: int | None = Field(default=None, ge=0)
    """Committed steps that the next attempt had to do again."""


class Metric(Model):
    """A last committed value."""

    name: Annotated[str, Field(max_length=63)]
    """As loss."""
    value: Annotated[str, Field(max_length=32)]
    """A decimal number; NaN, Infinity and -Infinity are possible."""


class JobProgress(Model):
    """How far the training is; written at most every few seconds."""

    step: int = Field(default=0, ge=0)
    """Last committed optimizer step."""
    total_steps: int | None = Field(default=None, ge=0)
    """Steps in all, when the program knows."""
    samples: int = Field(default=0, ge=0)
    """Samples consumed over all ranks."""
    steps_per_second: Annotated[str, Field(max_length=32)] | None = None
    """Recent rate, a decimal number."""
    estimated_completion_time: AwareDatetime | None = None
    """At the recent rate."""
    metrics: tuple[Metric, ...] = Field(default=(), max_length=16)
    """Last committed values."""
    last_update_time: AwareDatetime | None = None
    """When the step was committed."""


class Nodes(Model):
    """Pods of the gang."""

    desired: int = Field(default=0, ge=0)
    """spec.trainer.numNodes of the generation being run."""
    ready: int = Field(default=0, ge=0)
    """Pods that run."""
    names: tuple[Annotated[str, Field(max_length=253)], ...] = Field(default=(), max_length=MAX_NODES)
    """Kubernetes nodes by slot; empty where a pod has none."""


class Restarts(Model):
    """New attempts after the first one."""

    total: int = Field(default=0, ge=0)
    """All of them."""
    counted: int = Field(default=0, ge=0)
    """Those charged to failurePolicy.maxRestarts since the last attempt that sealed a newer checkpoint."""
    without_progress: int = Field(default=0, ge=0)
    """The last ones in a row whose attempts sealed no newer checkpoint."""


class EnvironmentSnapshot(Model):
    """The environment as the running pods got it; edits reach the job after suspend and resume."""

    kind: Annotated[str, Field(max_length=63)]
    """Kind of the environment."""
    name: Name253
    """Name of the environment."""
    uid: Annotated[str, Field(max_length=64)]
    """UID of the environment."""
    generation: int = Field(ge=0)
    """Its generation."""
    revision: Name253
    """The ControllerRevision that keeps it."""


class TrainingJobStatus(Model):
    """What the operator observed and decided. Conditions are the truth; phase is for the printer."""

    observed_generation: int = -1
    """The metadata.generation that this status speaks of; -1 before the first reconcile."""
    phase: Phase | None = None
    """Derived from the conditions."""
    conditions: tuple[Condition, ...] = Field(default=(), max_length=16, json_schema_extra=keyed_by("type"))
    """Conditions, by type."""
    attempt: Attempt | None = None
    """The current attempt."""
    run_generation: int = Field(default=0, ge=0)
    """The metadata.generation whose spec the pods were made from."""
    run_digest: Annotated[str, Field(max_length=64)] = ""
    """Digest of the parts of that spec that only a suspended job may change."""
    incarnations: tuple[int, ...] = Field(default=(), max_length=MAX_NODES)
    """Incarnation of the pod in each slot; a replaced pod has the next number."""
    attempts: tuple[AttemptRecord, ...] = Field(default=(), max_length=10)
    """The last attempts that ended, newest first."""
    restarts: Restarts = Restarts()
    """New attempts after the first one."""
    environment: EnvironmentSnapshot | None = None
    """The environment in use."""
    nodes: Nodes = Nodes()
    """Pods of the gang."""
    progress: JobProgress | None = None
    """How far the training is."""
    checkpoint: CheckpointStatus | None = None
    """What checkpoints the job has."""
    tracking: TrackingStatus | None = None
    """The job's run, once it is there; absent without spec.tracking."""
    cost: CostStatus | None = None
    """What the job cost so far; absent before it holds anything, and where the operator keeps no ledger."""
    start_time: AwareDatetime | None = None
    """When the first pods were wanted."""
    completion_time: AwareDatetime | None = None
    """When the job ended."""
    active_seconds: int = Field(default=0, ge=0)
    """Active time up to activeSince, counted against activeDeadlineSeconds."""
    active_since: AwareDatetime | None = None
    """Since when the job holds pods; null while it holds none."""
