"""The facts that money is made of, as they were seen. Facts are kept; everything else is derived from them.

Times are integers, microseconds since the epoch in UTC; money is integers, nanodollars. Spans are half-open.
Facts are idempotent by their key: the same fact seen twice, late, or in another order changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

Micros: TypeAlias = int
Nanos: TypeAlias = int

SECOND: Micros = 1_000_000
HOUR: Micros = 3600 * SECOND
DOLLAR: Nanos = 1_000_000_000


class Category(StrEnum):
    """What held time of a pod was spent on. A closed set: dashboards and contracts name its members."""

    STARTUP = "startup"
    """Scheduled, and no container runs yet: the image is pulled, volumes are mounted."""
    INIT = "init"
    """The program starts: imports, rendezvous, compilation, until the first step."""
    PRODUCTIVE = "productive"
    """Steps that were never made before. Without telemetry of steps, all time between init and drain."""
    DATA_WAIT = "data_wait"
    CHECKPOINT_SAVE = "checkpoint_save"
    CHECKPOINT_RESTORE = "checkpoint_restore"
    EVAL = "eval"
    LOST_WORK = "lost_work"
    """Steps made again: at or below the highest step that an earlier attempt had committed."""
    RECOVERY = "recovery"
    """Between attempts, while the pod and its devices are held."""
    HANG = "hang"
    DRAIN = "drain"
    """The program has ended, and the pod still holds its devices."""
    UNKNOWN = "unknown"


class NodeUse(StrEnum):
    """What time of a node, or of a part of it, was when no pod held it."""

    IDLE = "idle"
    """No pod held any device (or, without devices, anything) of the node."""
    FRAGMENTED = "fragmented"
    """What was left of a node of which pods held a part."""
    BOOTING = "booting"
    DRAINING = "draining"
    UNHEALTHY = "unhealthy"
    RESERVATION_UNUSED = "reservation_unused"
    UNATTRIBUTED = "unattributed"
    """Not ours to tell: pods of others may hold it, and the platform does not meter them."""


@dataclass(frozen=True, slots=True, order=True)
class Attribution:
    """To whom a cost belongs. Frozen: a later rename moves nothing that was spent before it."""

    namespace: str = ""
    job: str = ""
    job_uid: str = ""
    team: str = ""
    model: str = ""
    use_case: str = ""
    user: str = ""
    queue: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted by key."""


@dataclass(frozen=True, slots=True)
class Attributed:
    """From `since` on, what the job spends belongs to `to`. Key: (job_uid, since)."""

    job_uid: str
    since: Micros
    to: Attribution


@dataclass(frozen=True, slots=True)
class Node:
    """One life of one machine. Key: uid. A later fact may add `deleted`, and changes nothing else."""

    uid: str
    name: str
    provider: str
    region: str
    zone: str
    instance_type: str
    capacity_type: str
    """on-demand, spot, reserved, savings-plan, capacity-block, on-prem."""
    reservation: str = ""
    gpus: int = 0
    gpu_model: str = ""
    cpu_milli: int = 0
    memory_bytes: int = 0
    created: Micros = 0
    deleted: Micros | None = None


@dataclass(frozen=True, slots=True)
class NodeMark:
    """From `at` on, the unheld part of the node is `use`; None: idle or fragmented. Key: (node_uid, at)."""

    node_uid: str
    at: Micros
    use: NodeUse | None


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. Key: uid. It holds its share of the node in [scheduled, released)."""

    uid: str
    namespace: str
    name: str
    job_uid: str
    """Empty for pods of others."""
    node_uid: str
    gpus: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0
    scheduled: Micros = 0
    """lastTransitionTime of PodScheduled."""
    started: Micros | None = None
    """startedAt of the trainer container."""
    finished: Micros | None = None
    """finishedAt of the last container."""
    released: Micros | None = None
    """When the node's scheduler may give the devices away: finished, or the end of the node or the pod."""
    telemetry: bool = False
    """Whether steps are told: without them time between init and drain counts as productive."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """From `at` on, the pod does `category`, within `attempt`. Key: (pod_uid, at, sequence)."""

    pod_uid: str
    at: Micros
    sequence: int
    attempt: int
    category: Category


Fact: TypeAlias = Attributed | Node | NodeMark | Pod | Mark
