"""Everything that a decision may depend on, as frozen values. Time is one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from mlenv_api.gitcode import NO_CODE
from mlenv_operator.core.books import NO_BOOKS
from mlenv_operator.cost.allocation import NOBODY
from mlenv_operator.cost.observe_nodes import UNSAID, Use
from mlenv_operator.cost.resources import NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlenv_api.conditions import Reason
    from mlenv_api.gitcode import Code
    from mlenv_api.podtemplate import EnvironmentSpec
    from mlenv_api.protocol import Beat, LastWords
    from mlenv_api.trainingjob import TrainingJobSpec, TrainingJobStatus
    from mlenv_operator.core.books import Books
    from mlenv_operator.cost.facts import Attribution, Node
    from mlenv_operator.cost.resources import Held

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """Waiting times of the core, in seconds, and what pods are told. Tests shrink them."""

    heartbeat_timeout_s: float = 60.0
    """A launcher that has not been heard for so long is spoken of in LauncherConnected."""
    stop_grace_s: float = 60.0
    """Pods of a failed job get so long to obey ``stop``."""
    complete_grace_s: float = 660.0
    """Pods of a complete job get so long: a launcher that cannot reach us ends by itself in ten minutes."""
    queue_backoff_first_s: float = 30.0
    queue_backoff_max_s: float = 1800.0
    queue_poll_s: float = 15.0
    """How often a job whose turn has not come looks again, should it miss the move of the one before it."""
    quick_attempt_s: float = 60.0
    """An attempt that ended sooner, or never formed its world, was a quick one."""
    quick_attempts_free: int = 2
    """So many quick attempts in a row are followed by the next one at once."""
    quick_backoff_first_s: float = 10.0
    quick_backoff_max_s: float = 1280.0
    peer_loss_wait_s: float = 5.0
    """How long a failure that looks like the loss of a peer waits for the report of that peer."""
    node_gone_grace_s: float = 10.0
    """A node must be missing for so long: watches of pods and nodes are not in step."""
    environment_poll_s: float = 300.0
    account_retry_first_s: float = 1.0
    rejection_retry_first_s: float = 10.0
    rejection_retry_s: float = 300.0
    """Time between two tries of an object that the API server has rejected often."""
    slow_start_s: float = 60.0
    """A pod that its node has been preparing for so long is spoken of."""
    beats_per_second: float = 500.0
    """All launchers together should beat no more often; half of what one event loop is asked to hold."""
    cost_poll_s: float = 30.0
    """How often a job is looked at whose cost is awaited: the ledger publishes as often."""
    drain_poll_s: float = 30.0
    """How often the Job is looked at that carries a finished job's last checkpoint."""
    beat_assembling_s: float = 0.5
    beat_running_s: float = 2.0


class JobKey(NamedTuple):
    """The identity by which jobs are queued."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Terminated:
    """How the trainer container ended."""

    exit_code: int
    reason: str = ""
    signal: int = 0
    message: str = ""
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why the trainer container does not run yet."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Disruption:
    """The cluster ends, or has ended, this pod (condition DisruptionTarget or TerminationTarget)."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class PodView:
    """The slim view of one of our pods."""

    namespace: str
    name: str
    uid: str
    job_uid: str
    """UID of the controlling TrainingJob; by label when the owner reference is gone."""
    job_name: str
    index: int
    incarnation: int
    phase: str = "Pending"
    reason: str = ""
    """status.reason, as Evicted."""
    message: str = ""
    node: str = ""
    pod_ip: str = ""
    num_proc: int = 1
    """Ranks that the pod was made for."""
    image: str = ""
    """What the trainer's image was resolved to, as its node says: with a digest."""
    running_since: datetime | None = None
    """Since when the trainer container runs; null while it does not."""
    started_at: datetime | None = None
    """When the trainer container began, also of one that has ended."""
    finished_at: datetime | None = None
    """When the last container ended, of a pod that has ended."""
    held: Held = NOTHING
    """What the scheduler sets aside for it."""
    terminated: Terminated | None = None
    waiting: Waiting | None = None
    words: LastWords | None = None
    """What its courier said when it ended."""
    disruption: Disruption | None = None
    unscheduled: str = ""
    """The scheduler's message while it finds no node."""
    scheduled_at: datetime | None = None
    """When it got its node."""
    deleted_at: datetime | None = None
    """When its deletion was asked for; null while it was not."""
    killed: bool = False
    """Deletion with no grace left: the kubelet has let go of it."""
    finalizer_at: int = -1
    """Position of our finalizer in metadata.finalizers; -1 when it is not there."""

    @property
    def deleting(self) -> bool:
        """Whether its deletion was asked for."""
        return self.deleted_at is not None

    @property
    def finished(self) -> bool:
        """Whether all its containers have ended for good."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class NodeView:
    """The slim view of a node."""

    name: str
    ready: bool = True
    unreachable: bool = False
    """Tainted as unreachable or out of service: its kubelet is not heard."""
    gone: bool = False
    """Not an object of the API any more."""
    since: datetime | None = None
    """Since when it is not ready, or gone."""
    machine: Node | None = None
    """What it costs by; null of one that is gone."""
    use: Use = UNSAID
    """What the part of it is that no pod holds."""


@dataclass(frozen=True, slots=True)
class EnvironmentView:
    """A TrainingEnvironment or ClusterTrainingEnvironment."""

    kind: str
    name: str
    uid: str
    generation: int
    spec: EnvironmentSpec | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BeatView:
    """The last beat of one pod, and when it came by our clock."""

    beat: Beat
    received: datetime


@dataclass(frozen=True, slots=True)
class Rejection:
    """The API server would not create an object of this job; remembered until it does."""

    reason: Reason
    what: str
    """The object, as ``Pod ranker-0-0``."""
    message: str
    """What the API server said."""
    retry_at: datetime
    times: int = 1


class DrainState(StrEnum):
    """Where the Job stands that carries a finished job's last checkpoint."""

    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another job of the same shape that could not get its pods together."""

    key: JobKey
    uid: str
    created: datetime
    not_before: datetime | None
    """Null while it is assembling."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A TrainingJob, parsed once per resourceVersion."""

    key: JobKey
    uid: str
    generation: int
    resource_version: str
    created: datetime
    spec: TrainingJobSpec | None
    """Null when it cannot be read; ``problems`` says why."""
    problems: tuple[str, ...]
    status: TrainingJobStatus
    """As stored."""
    status_problem: str = ""
    """Why the stored status cannot be read; nothing is done to such a job."""
    digest: str = ""
    """Of the parts of the spec that only a suspended job may change."""
    checkpoint_requested: str | None = None
    """The annotation by which somebody orders a checkpoint, whatever it says."""
    code: Code = NO_CODE
    """What annotations say of its code."""
    deleting: bool = False
    managed: bool = True
    """Whether spec.managedBy names us."""
    attribution: Attribution = NOBODY
    """To whom its cost belongs, by its labels now."""


@dataclass(frozen=True, slots=True)
class World:
    """All that is known about one job at one moment."""

    now: datetime
    job: JobView | None
    """Null when the job is gone."""
    pods: tuple[PodView, ...] = ()
    """All pods that carry the job's UID, whatever their incarnation."""
    has_service: bool = False
    """Whether the job's Service exists and is its own."""
    environment: EnvironmentView | None = None
    """What spec.environmentRef names now."""
    revisions: Mapping[str, EnvironmentSpec] = field(default_factory=dict)
    """Known snapshots of environments in the job's namespace, by name of their ControllerRevision."""
    beats: Mapping[str, BeatView] = field(default_factory=dict)
    """The last beat, by pod UID."""
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    """Nodes of the pods; of one that is not listed nothing is concluded."""
    rejections: tuple[Rejection, ...] = ()
    drain: DrainState | None = None
    """As last seen; null before this process has looked."""
    neighbours: tuple[Neighbour, ...] = ()
    """Other jobs of the same shape that are queued, or assemble again after a time-out."""
    withheld: frozenset[str] = frozenset()
    """UIDs of pods whose end the ledger does not have yet: they keep our finalizer."""
    books: Books = NO_BOOKS
    """What is known of money, and what of this job's."""
    listening_since: datetime = EPOCH
    """Since when this process answers launchers: silence before says nothing."""
    operator_urls: tuple[str, ...] = ()
    """Where launchers find the operator, best first."""
    fleet_pods: int = 0
    """Pods with a launcher in all jobs together: sets how often each beats."""
    settings: CoreSettings = CoreSettings()
