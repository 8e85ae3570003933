"""What launchers are told: from the stored status, never from what is about to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlenv_api.protocol import Answer, LauncherPhase, Order, Origin, World, supported
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.checkpoints import known, message
from mlenv_operator.core.classify import TERMINAL
from mlenv_operator.core.diagnose import unsupported
from mlenv_operator.core.faults import our_time
from mlenv_operator.core.requests import standing
from mlenv_operator.core.world import CoreSettings

if TYPE_CHECKING:
    from mlenv_api.protocol import Beat, Evidence
    from mlenv_api.trainingjob import Attempt, TrainingJobStatus
    from mlenv_operator.core.world import BeatView, JobView, PodView

UNSUPPORTED_BEAT_S: Final = 60.0
IDLE_BEAT_S: Final = 5.0
_RUNS: Final = frozenset({Order.RUN, Order.CHECKPOINT})
_ORDERS: Final = {
    AttemptState.QUEUED: Order.STOP,
    AttemptState.ASSEMBLING: Order.RUN,
    AttemptState.RUNNING: Order.RUN,
    AttemptState.SUSPENDING: Order.DRAIN,
    AttemptState.SUSPENDED: Order.DRAIN,
    AttemptState.COMPLETE: Order.STOP,
    AttemptState.FAILED: Order.STOP,
}


def answer(
    job: JobView,
    pod: PodView,
    heard: BeatView,
    term: int,
    *,
    fleet_pods: int = 0,
    settings: CoreSettings | None = None,
) -> Answer:
    """The answer to one beat of ``pod``, which belongs to ``job``.

    ``job`` holds the status as it is stored; ``term`` is that of the Lease under which this is said.
    """
    settings, beat = settings or CoreSettings(), heard.beat
    if not supported(beat.protocol):
        return _unsupported(beat, term)
    attempt = job.status.attempt
    if attempt is None:
        return Answer(term=term, attempt=0, next_beat_seconds=IDLE_BEAT_S)
    order, record = _order(job, pod, attempt), known(job.status)
    wanted = standing(record) if order is Order.CHECKPOINT else None
    return Answer(
        term=term,
        attempt=attempt.number,
        order=order,
        world=_world(job.status, pod, attempt) if order in _RUNS else None,
        past=message(record.sealed) if record.sealed else None,
        ceiling_step=record.ceiling_step,
        since_attempt=record.since_attempt,
        origin=_origin(attempt),
        next_beat_seconds=next_beat_s(attempt, beat, fleet_pods, settings),
        stored_evidence=_stored(attempt, heard),
        image=pod.image if pod.index == 0 else "",
        ordered=wanted.requested_at if wanted else "",
    )


def matters(old: BeatView | None, new: Beat) -> bool:
    """Whether a beat says something that may move the job: look at it at once."""
    if old is None:
        return True
    return _news(old.beat) != _news(new)


def undecided(pod: PodView, beat: Beat, given: Answer) -> bool:
    """Whether what this beat calls for is still to be decided: this answer tells its launcher nothing."""
    if given.order not in _RUNS or given.attempt != beat.attempt:
        return False
    if beat.phase is LauncherPhase.WAITING:
        # The first one will have more to say: where its store listens.
        return given.world is None and (pod.index != 0 or beat.port is not None)
    if beat.phase is LauncherPhase.RUNNING:
        # Its ranks wait to be told that they may run from there.
        proposes = pod.index == 0 and beat.origin is not None
        return proposes and given.world is not None and given.origin is None
    return beat.phase in (LauncherPhase.FAILED, LauncherPhase.SUCCEEDED)


def next_beat_s(attempt: Attempt, beat: Beat, fleet_pods: int, settings: CoreSettings) -> float:
    """Often where something is awaited, else so that all launchers together stay within bounds."""
    fair = fleet_pods / settings.beats_per_second
    awaited = attempt.state is AttemptState.ASSEMBLING or beat.phase is LauncherPhase.WAITING
    return min(300.0, max(settings.beat_assembling_s if awaited else settings.beat_running_s, fair))


def _news(beat: Beat) -> tuple[object, ...]:
    return (
        beat.protocol,
        beat.attempt,
        beat.phase,
        beat.port,
        beat.sealed,
        beat.judged,
        beat.origin,
        beat.tracking and (beat.tracking.url, beat.tracking.trouble and beat.tracking.trouble.reason),
        _last(beat),
    )


def _origin(attempt: Attempt) -> Origin | None:
    if attempt.origin is None:
        return None
    chosen = attempt.origin.checkpoint
    return Origin(checkpoint=message(chosen) if chosen else None)


def _order(job: JobView, pod: PodView, attempt: Attempt) -> Order:
    if job.deleting or not _is_current(job.status, pod):
        return Order.STOP
    order = _ORDERS[attempt.state]
    if order is Order.RUN and pod.deleting:
        return Order.DRAIN  # its kubelet has told it to end already: what is left to do is to save
    saves = attempt.state is AttemptState.RUNNING and standing(job.status.checkpoint)
    return Order.CHECKPOINT if saves else order


def _is_current(status: TrainingJobStatus, pod: PodView) -> bool:
    wanted = status.incarnations[pod.index : pod.index + 1] if pod.index >= 0 else ()
    return wanted == (pod.incarnation,)


def _world(status: TrainingJobStatus, pod: PodView, attempt: Attempt) -> World | None:
    if attempt.state is not AttemptState.RUNNING or attempt.rendezvous is None:
        return None
    return World(
        num_nodes=len(status.incarnations),
        node_rank=pod.index,
        num_proc_per_node=pod.num_proc,
        master_addr=attempt.rendezvous.address,
        master_port=attempt.rendezvous.port,
    )


def _unsupported(beat: Beat, term: int) -> Answer:
    message = f"this launcher {unsupported(beat.protocol)}"
    return Answer(term=term, attempt=0, next_beat_seconds=UNSUPPORTED_BEAT_S, message=message)


def _stored(attempt: Attempt, heard: BeatView) -> int:
    """Evidence of attempts whose end is in the ledger need not be repeated."""
    kept = 0
    for evidence in sorted(heard.beat.evidence, key=lambda one: one.sequence):
        if not _is_over(attempt, heard, evidence):
            break
        kept = evidence.sequence
    return kept


def _is_over(attempt: Attempt, heard: BeatView, evidence: Evidence) -> bool:
    if attempt.state in TERMINAL:
        return True
    if evidence.attempt:
        return evidence.attempt < attempt.number
    return our_time(heard, evidence) < attempt.since


def _last(beat: Beat) -> int:
    return max((evidence.sequence for evidence in beat.evidence), default=0)
