"""Sorts what is known about a job's pods: slots of the gang, and pods that are no longer wanted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mlenv_api.protocol import LauncherPhase, supported
from mlenv_api.trainingjob import AttemptState, Launcher

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_api.trainingjob import Attempt, TrainingJobSpec, TrainingJobStatus
    from mlenv_operator.core.world import BeatView, CoreSettings, JobView, PodView, World

ACTIVE = frozenset({AttemptState.ASSEMBLING, AttemptState.RUNNING})
"""States that want pods."""
LIVE = ACTIVE | {AttemptState.QUEUED}
TERMINAL = frozenset({AttemptState.COMPLETE, AttemptState.FAILED})


@dataclass(frozen=True, slots=True)
class Slot:
    """One place in the gang, with the pod of its current incarnation."""

    index: int
    incarnation: int
    pod: PodView | None = None
    heard: BeatView | None = None
    """Last beat of that pod, whatever it says."""
    joined: bool = False
    """Ready to be part of the world."""
    succeeded: bool = False
    """Its part of the attempt is done."""
    lost: bool = False
    """Its pod has ended, is being ended, or is out of reach: it cannot be part of another world."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A job whose spec and status can be read, with its pods sorted: what policies decide on."""

    world: World
    job: JobView
    spec: TrainingJobSpec
    slots: tuple[Slot, ...]
    stale: tuple[PodView, ...]
    """Pods of older incarnations."""
    attempt: Attempt | None
    """The stored attempt; null before the first reconcile that could start."""
    state: AttemptState | None
    """Where it stands."""
    silence: timedelta
    """After how long a launcher counts as not heard."""

    @property
    def now(self) -> datetime:
        """This moment."""
        return self.world.now

    @property
    def status(self) -> TrainingJobStatus:
        """The stored status."""
        return self.job.status

    @property
    def mlenv(self) -> bool:
        """Whether our launcher is PID 1 of the pods."""
        return self.spec.launcher is Launcher.MLENV

    @property
    def lacks_service(self) -> bool:
        """Whether the Service is missing that gives pods their names.

        Launchers are told addresses, and a pod alone needs no other. A Service is no trifle: for every change
        of a pod the controllers of endpoints, and for every new pod the scheduler, go through all Services of
        its namespace.
        """
        return len(self.slots) > 1 and not (self.mlenv or self.world.has_service)


def sort_pods(world: World, job: JobView, spec: TrainingJobSpec) -> Scene:
    """Pods by slot; those of no slot are stale."""
    current = dict(enumerate(job.status.incarnations))
    found = {pod.index: pod for pod in world.pods if current.get(pod.index) == pod.incarnation}
    stale = tuple(pod for pod in world.pods if found.get(pod.index) is not pod)
    mlenv, attempt = spec.launcher is Launcher.MLENV, job.status.attempt
    silence = beat_timeout(world)
    slots = tuple(
        _slot(world, attempt, Slot(index, incarnation, found.get(index)), silence, mlenv=mlenv)
        for index, incarnation in current.items()
    )
    return Scene(world, job, spec, slots, stale, attempt, attempt.state if attempt else None, silence)


def beat_timeout(world: World) -> timedelta:
    """After what silence a launcher counts as not heard."""
    return silence(world.fleet_pods, world.settings)


def silence(fleet_pods: int, settings: CoreSettings) -> timedelta:
    """The same: launchers beat the more rarely the more there are, so that all stay within bounds."""
    interval = max(settings.beat_running_s, fleet_pods / settings.beats_per_second)
    return timedelta(seconds=max(settings.heartbeat_timeout_s, 3 * interval))


def speaks(heard: BeatView | None) -> bool:
    """Whether a launcher that we understand has spoken."""
    return heard is not None and supported(heard.beat.protocol)


def node_lost_at(world: World, pod: PodView, *, mlenv: bool) -> datetime | None:
    """From when on the pod's node counts as lost; null while nothing is wrong with it.

    An unreachable node is no proof: a launcher that still beats lives. Without our launcher the cluster
    decides, by evicting the pod.
    """
    node = world.nodes.get(pod.node)
    if node is None or not (node.gone or node.unreachable):
        return None
    since = node.since or world.now
    if node.gone:
        return since + timedelta(seconds=world.settings.node_gone_grace_s)
    if not mlenv:
        return None
    heard = world.beats.get(pod.uid)
    last = heard.received if heard else max(since, world.listening_since)
    return last + beat_timeout(world)


def stopped(world: World, pod: PodView) -> bool:
    """Whether no container of the pod runs or will run again."""
    if pod.finished:
        return True
    node = world.nodes.get(pod.node)
    if node is not None and node.gone:
        lost_at = node_lost_at(world, pod, mlenv=False)
        return lost_at is not None and lost_at <= world.now
    ended = pod.terminated is not None and pod.running_since is None
    return pod.deleting and (pod.killed or not pod.node or ended)


def _slot(world: World, attempt: Attempt | None, slot: Slot, silence: timedelta, *, mlenv: bool) -> Slot:
    pod = slot.pod
    if pod is None or attempt is None:
        return slot
    heard = world.beats.get(pod.uid)
    succeeded = _succeeded(attempt, pod, heard, mlenv=mlenv)
    lost_at = node_lost_at(world, pod, mlenv=mlenv)
    ended = pod.finished or _has_failed(pod)
    unusable = ended or pod.deleting or (lost_at is not None and lost_at <= world.now)
    lost = unusable and not succeeded
    joined = not lost and (_waits(attempt, slot, pod, heard) if mlenv else _runs(pod))
    if joined and mlenv and heard is not None:
        joined = world.now - heard.received <= silence
    return Slot(slot.index, slot.incarnation, pod, heard, joined, succeeded, lost)


def _has_failed(pod: PodView) -> bool:
    """Its program has ended badly, for good: kubelets tell of the pod's phase a second later."""
    return pod.terminated is not None and pod.terminated.exit_code != 0


def _runs(pod: PodView) -> bool:
    return pod.phase in ("Running", "Succeeded")


def _succeeded(attempt: Attempt, pod: PodView, heard: BeatView | None, *, mlenv: bool) -> bool:
    """Under our launcher only in a world that was formed: before, no rank has run."""
    if mlenv and attempt.state is not AttemptState.RUNNING:
        return False
    if pod.phase == "Succeeded":
        return not _ended_by_deletion(pod)
    if heard is None or not speaks(heard):
        return False
    return heard.beat.phase is LauncherPhase.SUCCEEDED and heard.beat.attempt == attempt.number


def _ended_by_deletion(pod: PodView) -> bool:
    """A program that ends with 0 because it was told to has not finished its work."""
    if pod.deleted_at is None:
        return False
    finished_at = pod.terminated.finished_at if pod.terminated else None
    return finished_at is None or finished_at >= pod.deleted_at


def _waits(attempt: Attempt, slot: Slot, pod: PodView, heard: BeatView | None) -> bool:
    """The launcher waits for the world of this attempt, and holds no rank of another."""
    if heard is None or heard.beat.phase is not LauncherPhase.WAITING or pod.phase != "Running":
        return False
    beat = heard.beat
    # A launcher that knows no attempt yet is new; what it said before this attempt began proves nothing.
    knows = beat.attempt == attempt.number or (beat.attempt == 0 and heard.received >= attempt.since)
    meets = slot.index != 0 or (beat.port is not None and bool(pod.pod_ip))
    return knows and meets and speaks(heard)
