"""Why an attempt must end: every reason that is seen, the root cause first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from mlenv_api.conditions import Reason
from mlenv_api.exitcodes import ExitCode
from mlenv_api.protocol import LauncherPhase
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.classify import ACTIVE, node_lost_at, speaks
from mlenv_operator.core.text import last_line, quote
from mlenv_operator.core.world import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from mlenv_api.protocol import Evidence
    from mlenv_api.trainingjob import Attempt
    from mlenv_operator.core.classify import Scene, Slot
    from mlenv_operator.core.world import BeatView, NodeView, PodView, Terminated

EVICTED: Final = frozenset(
    {
        "Evicted",
        "NodeAffinity",
        "NodeLost",
        "NodeShutdown",
        "Preempting",
        "Shutdown",
        "Terminated",
        "TopologyAffinityError",
        "UnexpectedAdmissionError",
    }
)
"""Pod reasons by which a kubelet ends or refuses a pod; besides OutOfcpu and its like."""
_CANNOT_START: Final = ("StartError", "ContainerCannotRun")
_NOT_FOUND: Final = re.compile(r"(?i)executable file not found|no such file or directory|permission denied")
_RUNTIME: Final = re.compile(r"^.*unable to start container process: |: unknown$")
"""What container runtimes put around the words that matter."""
_PEER: Final = re.compile(
    r"(?i)connection (reset|closed|refused)|closed by peer|broken pipe|nccl"
    r"|gloo.*(timed? ?out|closed)|socket timeout"
)
_ABORT: Final = ("SIGABRT", "SIGPIPE")
_SIGNALS: Final = {6: "SIGABRT", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM"}


class Kind(IntEnum):
    """A root cause comes before its consequences."""

    ROOT = 0
    PEER = 1
    """Looks like the loss of a peer: another rank, or its node, is the cause."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason to end the attempt."""

    kind: Kind
    time: datetime
    """By our clock, as well as it is known."""
    index: int
    reason: Reason
    message: str
    node: str = ""
    exit_code: int | None = None
    counted: bool = True
    """Charged to failurePolicy.maxRestarts: a fault of the program, not of the cluster."""
    fatal: bool = False
    """No retry mends it."""


def faults(scene: Scene) -> tuple[Fault, ...]:
    """All of them, the root cause first; none unless the attempt is assembling or running."""
    if scene.state not in ACTIVE:
        return ()
    found = [fault for slot in scene.slots if not slot.succeeded for fault in _of_slot(scene, slot)]
    return tuple(sorted(found, key=lambda fault: (fault.kind, fault.time, fault.index)))


def settled_at(scene: Scene, fault: Fault) -> datetime:
    """When the root cause is surely this one: the loss of a peer may be seen before the peer's own end."""
    wait = scene.world.settings.peer_loss_wait_s if fault.kind is Kind.PEER else 0.0
    return fault.time + timedelta(seconds=wait)


def _of_slot(scene: Scene, slot: Slot) -> Iterator[Fault]:
    if slot.pod is None:
        if scene.state is AttemptState.RUNNING:
            yield _missing(scene, slot)
        return
    if slot.heard is not None and speaks(slot.heard):
        yield from _of_launcher(scene, slot.pod, slot.heard)
    if slot.lost:
        yield _of_pod(scene, slot.pod)


def _missing(scene: Scene, slot: Slot) -> Fault:
    name = f"{scene.job.key.name}-{slot.index}-{slot.incarnation}"
    return Fault(Kind.ROOT, EPOCH, slot.index, Reason.POD_LOST, f"pod {name} is gone", counted=False)


# ---- what a launcher says -------------------------------------------------------------------------------


def _of_launcher(scene: Scene, pod: PodView, heard: BeatView) -> Iterator[Fault]:
    beat, attempt = heard.beat, scene.attempt
    if attempt is None:
        return
    own = [one for one in beat.evidence if one.own and _concerns(attempt, heard, one)]
    for evidence in own:
        yield _of_evidence(pod, evidence, our_time(heard, evidence))
    if not own and beat.phase is LauncherPhase.FAILED and beat.attempt == attempt.number:
        message = f"a rank in {_where(pod)} failed; its launcher did not say why. {_logs(pod)}"
        yield _fault(pod, Reason.PROGRAM_FAILED, message, heard.received)


def _concerns(attempt: Attempt, heard: BeatView, evidence: Evidence) -> bool:
    """Whether this happened in the current attempt; a launcher that knew none yet can only tell when."""
    if evidence.attempt:
        return evidence.attempt == attempt.number
    return our_time(heard, evidence) >= attempt.since


def our_time(heard: BeatView, evidence: Evidence) -> datetime:
    """When it happened, by our clock."""
    return evidence.time + (heard.received - heard.beat.time)


def _of_evidence(pod: PodView, evidence: Evidence, time: datetime) -> Fault:
    who = f"rank {evidence.rank} in {_where(pod)}" if evidence.rank >= 0 else f"the launcher of {_where(pod)}"
    said, code = quote(evidence.message), evidence.exit_code
    if evidence.reason == Reason.COMMAND_NOT_FOUND:
        return _not_found(pod, said, time, code)
    if evidence.reason == Reason.OUT_OF_MEMORY:
        return _fault(pod, Reason.OUT_OF_MEMORY, _out_of_memory(who), time, exit_code=code)
    kind = Kind.PEER if evidence.signal in _ABORT or _PEER.search(said) else Kind.ROOT
    how = f"was killed by {evidence.signal}" if evidence.signal else f"ended with exit code {code}"
    return _of_code(pod, f"{who} {how}{_said(said)}. {_logs(pod)}", time, kind=kind, code=code)


# ---- what Kubernetes says -------------------------------------------------------------------------------


def _of_pod(scene: Scene, pod: PodView) -> Fault:
    """Why the pod of a lost slot ended; the cluster's doing comes before the program's."""
    ended = pod.terminated
    disrupted = _disruption(scene, pod)
    if disrupted is not None:
        return disrupted
    if ended is None:
        message = f"{_where(pod)} ended: {quote(pod.message or pod.reason) or 'no reason is known'}"
        return _fault(pod, Reason.POD_LOST, message, EPOCH, counted=False)
    return _of_container(scene, pod, ended)


def _disruption(scene: Scene, pod: PodView) -> Fault | None:
    time = pod.deleted_at or (pod.terminated.finished_at if pod.terminated else None) or EPOCH
    if pod.disruption is not None:
        preempted = pod.disruption.reason.startswith("Preempt")
        reason = Reason.PREEMPTED if preempted else Reason.POD_EVICTED
        message = f"{_where(pod)} was evicted: {quote(pod.disruption.message or pod.disruption.reason)}"
        return _fault(pod, reason, message, time, counted=False)
    lost_at = node_lost_at(scene.world, pod, mlenv=scene.mlenv)
    if lost_at is not None and lost_at <= scene.now:
        return _node_lost(pod, scene.world.nodes[pod.node])
    if pod.reason in EVICTED or pod.reason.startswith("OutOf"):
        message = f"{_where(pod)} was ended by its node: {quote(pod.message or pod.reason)}"
        return _fault(pod, Reason.POD_EVICTED, message, time, counted=False)
    if pod.deleting:
        message = f"{_where(pod)} was deleted by somebody else"
        return _fault(pod, Reason.POD_LOST, message, time, counted=False)
    return None


def _node_lost(pod: PodView, node: NodeView) -> Fault:
    how = "is gone" if node.gone else "does not answer, and its launcher is silent"
    message = f"node {pod.node} of pod {pod.name} {how}"
    return _fault(pod, Reason.NODE_LOST, message, node.since or EPOCH, counted=False)


def _of_container(scene: Scene, pod: PodView, ended: Terminated) -> Fault:
    time, code = ended.finished_at or EPOCH, ended.exit_code
    if ended.reason in _CANNOT_START:
        return _cannot_start(pod, _RUNTIME.sub("", quote(ended.message)), time, code, mlenv=scene.mlenv)
    if ended.reason == "OOMKilled":
        return _fault(pod, Reason.OUT_OF_MEMORY, _out_of_memory(_where(pod)), time, exit_code=code)
    said = last_line(ended.message)
    if scene.mlenv and scene.state is AttemptState.ASSEMBLING:
        what = f"the launcher of {_where(pod)} {_how(ended)} before the world was formed"
        message = f"{what}{_said(said)}. {_logs(pod)}"
        return _fault(pod, Reason.LAUNCHER_FAILED, message, time, exit_code=code)
    kind = Kind.PEER if _signal(ended) in (6, 13) or _PEER.search(said) else Kind.ROOT
    return _of_code(
        pod, f"{_where(pod)} {_how(ended)}{_said(said)}. {_logs(pod)}", time, kind=kind, code=code
    )


def _cannot_start(pod: PodView, said: str, time: datetime, code: int, *, mlenv: bool) -> Fault:
    if _NOT_FOUND.search(said):
        return _no_launcher(pod, said, time, code) if mlenv else _not_found(pod, said, time, code)
    message = f"the container of {_where(pod)} cannot be started: {said}"
    return _fault(pod, Reason.LAUNCHER_FAILED, message, time, exit_code=code)


def _signal(ended: Terminated) -> int:
    """The signal that ended it; by convention also an exit code of 128 and the signal."""
    return ended.signal or (ended.exit_code - 128 if ended.exit_code - 128 in _SIGNALS else 0)


def _how(ended: Terminated) -> str:
    signal = _signal(ended)
    if signal:
        return f"was killed by {_SIGNALS.get(signal, f'signal {signal}')}"
    hint = " (in a shell: a command was not found)" if ended.exit_code == 127 else ""
    return f"ended with exit code {ended.exit_code}{hint}"


# ---- sentences ------------------------------------------------------------------------------------------


def _of_code(pod: PodView, message: str, time: datetime, *, kind: Kind, code: int | None) -> Fault:
    """Exit codes with a meaning, and all others."""
    if code == ExitCode.DO_NOT_RETRY:
        return _fault(pod, Reason.DO_NOT_RETRY, message, time, exit_code=code, fatal=True)
    if code == ExitCode.PREEMPTED:
        return _fault(pod, Reason.PREEMPTED, message, time, exit_code=code, counted=False)
    if code == ExitCode.ROLL_BACK:
        return _fault(pod, Reason.ROLLED_BACK, message, time, exit_code=code)
    return _fault(pod, Reason.PROGRAM_FAILED, message, time, kind=kind, exit_code=code)


def _not_found(pod: PodView, said: str, time: datetime, code: int | None) -> Fault:
    message = (
        f"the program cannot be started in {_where(pod)}: {said or 'it is not in the image'}."
        " Check spec.trainer.command, and that the image contains it"
    )
    return _fault(pod, Reason.COMMAND_NOT_FOUND, message, time, exit_code=code, fatal=True)


def _no_launcher(pod: PodView, said: str, time: datetime, code: int) -> Fault:
    message = (
        f"the launcher cannot be started in {_where(pod)}: {said}. Use an image that contains Python and"
        " mlenv, correct launcherCommand of the environment, or use launcher: None"
    )
    return _fault(pod, Reason.COMMAND_NOT_FOUND, message, time, exit_code=code, fatal=True)


def _out_of_memory(who: str) -> str:
    return f"{who} ran out of memory. Raise limits.memory in spec.trainer.resourcesPerNode, or use less"


def _said(text: str) -> str:
    return f": {text}" if text else ""


def _where(pod: PodView) -> str:
    return f"pod {pod.name} on node {pod.node}" if pod.node else f"pod {pod.name}"


def _logs(pod: PodView) -> str:
    return f"See: kubectl logs -n {pod.namespace} {pod.name}"


def _fault(
    pod: PodView,
    reason: Reason,
    message: str,
    time: datetime,
    *,
    kind: Kind = Kind.ROOT,
    exit_code: int | None = None,
    counted: bool = True,
    fatal: bool = False,
) -> Fault:
    return Fault(kind, time, pod.index, reason, message, pod.node, exit_code, counted, fatal)
