"""The messages between launchers and the operator: ``POST /v1/beat``.

A launcher speaks for its own pod only; which pod that is, its projected token says, not the message.
Both sides ignore fields they do not know. Launchers live in images a year old: ``PROTOCOL`` is raised only
when an old launcher could do harm, and recorded messages of every version stay as contract tests.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import AwareDatetime, Field

from mlenv_api.base import Model
from mlenv_api.checkpoints import MAX_FAILED, FailedCheck

PROTOCOL: Final = 1
OLDEST_PROTOCOL: Final = 1
"""Launchers that speak an older one, or one newer than ours, are treated as none, with a condition."""
BEAT_PATH: Final = "/v1/beat"
MAX_BEAT_BYTES: Final = 64 * 1024

Text = Annotated[str, Field(max_length=1024)]
Name = Annotated[str, Field(max_length=256)]
Span = Annotated[int, Field(ge=0, le=2**53)]


def supported(protocol: int) -> bool:
    """Whether a launcher of this protocol is understood."""
    return OLDEST_PROTOCOL <= protocol <= PROTOCOL


class LauncherPhase(StrEnum):
    """What the launcher of one pod is doing, for the attempt it names."""

    WAITING = "Waiting"
    """No rank runs: waiting for a world (or for a newer attempt)."""
    RUNNING = "Running"
    """Ranks run."""
    STOPPING = "Stopping"
    """Ranks are being ended."""
    SUCCEEDED = "Succeeded"
    """All ranks of this attempt exited 0."""
    FAILED = "Failed"
    """A rank of this attempt failed; the evidence says which."""


class Order(StrEnum):
    """What the operator wants of a launcher."""

    RUN = "run"
    """Be in the named attempt: run it once the world is given, until then hold no rank of an older one."""
    CHECKPOINT = "checkpoint"
    """As run; and save at the next boundary."""
    DRAIN = "drain"
    """Save if possible, end the ranks, exit 76."""
    STOP = "stop"
    """End: exit with the code of what happened here (0 when all ranks succeeded)."""


class Evidence(Model):
    """Why a process ended, seen by the launcher that held it. Repeated until stored."""

    sequence: int = Field(ge=1, description="Counts up within one launcher's life.")
    attempt: int = Field(ge=0)
    rank: int = Field(ge=-1, description="Global rank; -1 is the launcher itself.")
    local_rank: int = Field(ge=-1)
    exit_code: int | None = Field(default=None, ge=0, le=255)
    signal: Name | None = None
    """Name of the signal that ended it, as SIGKILL."""
    own: bool = True
    """False when the launcher itself ended the process (our own signal is never a root cause)."""
    reason: Name = ""
    """A Reason when the launcher knows better than the exit code (CommandNotFound)."""
    message: Text = ""
    """Last line of the traceback or of standard error, secrets removed."""
    time: AwareDatetime


class Progress(Model):
    """How far the training is, as node 0's ranks last committed it."""

    step: int = Field(default=0, ge=0)
    total_steps: int | None = Field(default=None, ge=0)
    samples: int = Field(default=0, ge=0)
    steps_per_second: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    metrics: dict[Annotated[str, Field(max_length=63)], float] = Field(default_factory=dict, max_length=16)
    """Last committed values, such as loss; non-finite ones are allowed: they are news."""
    time: AwareDatetime | None = None
    """When the step was committed."""


class Spent(Model):
    """What the time of this attempt went to so far, on the node's first rank: microseconds since it began.

    Categories that a rank cannot know (recovery, lost work, drain) are told apart by the operator.
    """

    init: Span = 0
    """Until the first step: imports, rendezvous, compilation."""
    productive: Span = 0
    """Making steps, and whatever the program does beside them."""
    data_wait: Span = 0
    """Waiting for the next batch."""
    checkpoint_save: Span = 0
    """Standing still while a checkpoint is taken."""
    checkpoint_restore: Span = 0
    """Looking for a checkpoint, and putting it back."""
    eval: Span = 0
    """Looking at held-out data."""
    time: AwareDatetime
    """When this was read, by the pod's clock: the sum was reached then."""


class Checkpoint(Model):
    """The identity of one sealed checkpoint."""

    attempt: int = Field(ge=1)
    """The attempt that saved it."""
    step: int = Field(ge=0)
    """Committed optimizer steps that it holds."""
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of its seal, which covers every file."""


class Judged(Model):
    """What armed sanity checks say of one sealed checkpoint."""

    checkpoint: Checkpoint
    failed: tuple[FailedCheck, ...] = Field(default=(), max_length=MAX_FAILED)
    """What speaks against going on from it; nothing: it is sane."""


class Uploaded(Checkpoint):
    """A checkpoint of which a store has every byte: it was read back."""

    artifact: Name = ""
    """Name and version in the store, as ``team/project/ranker-…-ckpt:v7``."""
    url: Text = ""
    """Page of the run that logged it."""


class Degraded(Model):
    """Checkpoints, or history, do not get into the store, or not in time, or not as they should."""

    reason: Annotated[str, Field(pattern="^[A-Z][A-Za-z]{0,63}$")]
    message: Text


class Tracking(Model):
    """The job's run, as the courier that writes it knows."""

    url: Annotated[str, Field(max_length=1024, pattern="^(https?://[!-~]+)?$")] = ""
    """Its page; empty while it is not there."""
    trouble: Degraded | None = None
    """What keeps history out of it, or speaks against what is in it; None: nothing."""


class LastWords(Model):
    """What a courier's container leaves in its termination message, for when no launcher beats any more."""

    uploaded: Uploaded | None = None
    tracking: Tracking | None = None


class Origin(Model):
    """What the ranks of one attempt run from."""

    checkpoint: Checkpoint | None = None
    """None: a fresh start."""
    lost: bool = False
    """Checkpoints of this job were known, lived in pods only, and are gone."""


class Beat(Model):
    """One heartbeat of one launcher."""

    protocol: int = Field(ge=0)
    launcher: Name = ""
    """Version of the launcher, for people."""
    term: int = Field(default=0, ge=0)
    """Highest term seen in an answer."""
    attempt: int = Field(default=0, ge=0)
    """The attempt that phase speaks of; 0 before the first answer."""
    phase: LauncherPhase = LauncherPhase.WAITING
    port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the store that this launcher hosts (index 0 only)."""
    nudge_port: int | None = Field(default=None, ge=1, le=65535)
    """UDP port on the pod's address; an empty datagram to it makes this launcher ask now."""
    progress: Progress | None = None
    spent: Spent | None = None
    """What the time of `attempt` went to; None when its program does not tell."""
    sealed: Checkpoint | None = None
    """The newest checkpoint that this node's ranks know to be sealed, while `attempt` runs."""
    judged: Judged | None = None
    """The newest checkpoint that armed checks looked at, sane or not; None: no check is armed."""
    uploaded: Uploaded | None = None
    """The newest checkpoint that the store has whole, as this pod's courier knows (index 0 only)."""
    degraded: Degraded | None = None
    """What keeps this pod's courier from carrying checkpoints; None: nothing."""
    tracking: Tracking | None = None
    """The job's run (index 0 only); None: nobody knows, as in an image that does not tell."""
    origin: Origin | None = None
    """What rank 0 would run from; it waits until the answer says that this is stored (index 0 only)."""
    evidence: tuple[Evidence, ...] = Field(default=(), max_length=64)
    time: AwareDatetime
    """The launcher's clock when it sent this: corrects times in evidence."""


class World(Model):
    """One torch.distributed world, as one node sees it."""

    num_nodes: int = Field(ge=1)
    node_rank: int = Field(ge=0)
    num_proc_per_node: int = Field(ge=1)
    master_addr: Name
    """IP address of the pod that hosts the store."""
    master_port: int = Field(ge=1, le=65535)


class Answer(Model):
    """The operator's answer to a beat, always from stored state."""

    protocol: int = PROTOCOL
    term: int = Field(ge=0)
    """leaseTransitions of the Lease under which this was said; launchers refuse a smaller (term, attempt)."""
    attempt: int = Field(ge=0)
    order: Order = Order.RUN
    world: World | None = None
    """None while the attempt is assembling."""
    past: Checkpoint | None = None
    """The newest checkpoint of this job that is known: what a fresh start would forget."""
    ceiling_step: int | None = Field(default=None, ge=0)
    """After a rollback: nothing newer may be resumed from."""
    since_attempt: int = Field(default=1, ge=1)
    """Checkpoints of older attempts are not resumed from: somebody asked for a new start."""
    origin: Origin | None = None
    """What the ranks of this attempt run from, as stored. Whoever proposed something else must not run."""
    next_beat_seconds: float = Field(default=5.0, gt=0, le=300)
    stored_evidence: int = Field(default=0, ge=0)
    """Evidence up to this sequence is stored, and need not be repeated."""
    image: Text = ""
    """What the pod's image was resolved to, as its node says (index 0 only); empty: nobody knows yet."""
    ordered: Name = ""
    """With the order `checkpoint`: which one this is. Another text is another order."""
    message: Text = ""
    """A sentence for the log of the pod, when something is wrong."""


class Misdirected(Model):
    """Body of a 421: this replica does not lead."""

    leader: Name | None = None
    """Base URL of the leader, as http://10.0.0.7:8080; None when there is none now."""
