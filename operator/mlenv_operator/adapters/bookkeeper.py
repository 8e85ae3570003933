"""Feeds the ledger with what the operator sees anyway: nodes, pods, jobs, attempts, and what launchers say.

Nothing here waits. The same sight gives the same facts, so what is told twice, after a restart or a refusal,
changes nothing. A fact that is refused, as too many wait, is told again when its job or node is looked at.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from mlenv_operator.adapters.machines import Machines
from mlenv_operator.core.books import Books
from mlenv_operator.core.world import JobKey
from mlenv_operator.cost.facts import SECOND, Category
from mlenv_operator.cost.merge import merged
from mlenv_operator.cost.moments import micros
from mlenv_operator.cost.observe_attempts import attempt_marks, highest_step, turns, world_formed
from mlenv_operator.cost.observe_jobs import attributed
from mlenv_operator.cost.observe_pods import not_to_come, pod_fact
from mlenv_operator.cost.observe_spent import Metered, hear, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mlenv_operator.adapters.state import State
    from mlenv_operator.core.world import BeatView, JobView, NodeView, PodView, World
    from mlenv_operator.cost.facts import Attributed, Fact, Micros, Pod
    from mlenv_operator.cost.observe_attempts import Turn
    from mlenv_operator.cost.observe_spent import Meter
    from mlenv_operator.ledger.remembered import Remembered
    from mlenv_operator.runtime.reflector import Change

log = logging.getLogger(__name__)
AGAIN_S: Final = 5.0
"""What was refused, or came too early, is looked at again after so long."""
NODE_WITHIN: Final = 60 * SECOND
"""A pod may be seen before its node, by so much at most."""


class Accounts(Protocol):
    """Who keeps the books."""

    def looked(self, key: JobKey, world: World) -> World:
        """Tell the ledger what is seen; the world, with the pods that must not go yet."""

    def heard(self, job: JobView, pod: PodView, beat: BeatView) -> None:
        """Meter what a beat says of its time."""


class NoAccounts:
    """There is no ledger: nobody is held back."""

    def looked(self, _key: JobKey, world: World) -> World:
        """Nothing to tell."""
        return world

    def heard(self, _job: JobView, _pod: PodView, _beat: BeatView) -> None:
        """Nothing to meter."""


NO_ACCOUNTS: Final = NoAccounts()


class Ledger(Protocol):
    """The accountant, as far as it is needed here."""

    def offer(self, fact: Fact | Metered) -> bool:
        """Take a fact; False when too many wait."""

    def durable(self, pod: Pod) -> bool:
        """Whether the pod's end is stored."""


class Bookkeeper:
    """Between informers and ledger. Until the ledger is open it tells nothing, and no pod goes."""

    def __init__(
        self,
        ledger: Ledger,
        state: State,
        look: Callable[[JobKey], None],
        shown: Callable[[str], Books] = lambda _: Books(kept=True),
        *,
        alone: bool = False,
    ) -> None:
        """`look`: has a job looked at. `shown`: what was published of the job of a UID.

        `alone`: pods of others hold nothing of the nodes.
        """
        self._shown = shown
        self._ledger = ledger
        self._state = state
        self._look = look
        self._open = False
        self._machines = Machines(ledger.offer, self._now, alone=alone)
        self._attributed: dict[str, Attributed] = {}
        self._jobs: dict[JobKey, str] = {}
        self._told: dict[str, Pod] = {}
        self._marks: dict[str, int] = {}
        self._meters: dict[str, Meter] = {}
        self._again: set[JobKey] = set()
        self._vanished: dict[str, Pod] = {}

    # ---- the ledger's news --------------------------------------------------------------------------

    def opened(self, known: Remembered) -> None:
        """The ledger is open: go on where whoever kept it before was."""
        if self._open:
            return
        self._open = True
        self._take_jobs(known)
        self._told = {pod.uid: pod for pod in known.pods}
        self._meters = {meter.pod_uid: meter for meter in known.meters}
        self._machines.opened(known, self._state.caches.nodes.views())
        there = {pod.uid for pod in self._state.caches.pods.views()}
        for uid in [uid for uid in self._told if uid not in there]:
            self._vanish(uid)
        for key in {*self._state.jobs.keys(), *self._state.caches.pods.owners()}:
            if isinstance(key, JobKey):
                self._look(key)

    def _take_jobs(self, known: Remembered) -> None:
        """What was seen of jobs while the ledger was not open is told now, of those that it does not know."""
        before = {one.job_uid: one for one in known.attributed}
        for uid, one in self._attributed.items():
            if uid not in before and not self._ledger.offer(one):
                log.warning("the ledger is full: whose job %s is will be told when it is seen again", uid)
        self._attributed |= before

    def durable(self, pod: Pod) -> None:
        """The pod's end is stored: it may go."""
        view = self._state.caches.pods.get(pod.namespace, pod.name)
        if view is not None and view.uid == pod.uid and view.finalizer_at >= 0:
            self._look(JobKey(view.namespace, view.job_name))

    async def run(self) -> None:
        """Look again at what could not be told, until cancelled."""
        while True:
            await self._state.clock.sleep(AGAIN_S)
            again, self._again = self._again, set()
            for key in again:
                self._look(key)
            for uid in list(self._vanished):
                self._vanish(uid)
            if self._open:
                self._machines.retry()

    # ---- what is seen -------------------------------------------------------------------------------

    def node_changed(self, change: Change[NodeView]) -> None:
        """A node came, changed or went."""
        with _mistakes_are_told("node", change.key.name):
            if not self._open:
                return
            if change.new is not None:
                self._machines.seen(change.new)
            elif change.old is not None and change.old.machine is not None:
                self._machines.gone(change.old.machine.uid)

    def pod_changed(self, change: Change[PodView]) -> None:
        """Of a pod that is no object any more nobody else tells."""
        with _mistakes_are_told("pod", change.key.name):
            if change.new is None and change.old is not None and self._open:
                self._vanish(change.old.uid)

    def looked(self, key: JobKey, world: World) -> World:
        """Tell the ledger what is seen; the world, with the pods that must not go yet, and what it costs."""
        with _mistakes_are_told("job", f"{key.namespace}/{key.name}"):
            if world.job is not None:
                world = replace(world, books=self._shown(world.job.uid))
            return self._looked(key, world)
        return replace(world, withheld=frozenset(pod.uid for pod in world.pods))

    def _looked(self, key: JobKey, world: World) -> World:
        job = world.job
        if job is not None:
            self._job(key, job)
        elif not world.pods:
            self._attributed.pop(self._jobs.pop(key, ""), None)
        if not self._open:
            return replace(world, withheld=frozenset(pod.uid for pod in world.pods))
        history = turns(job.status) if job is not None else []
        highest = _highest(job)
        held = [pod.uid for pod in world.pods if not self._pod(world, pod, history, highest)]
        return replace(world, withheld=frozenset(held))

    def heard(self, job: JobView, pod: PodView, beat: BeatView) -> None:
        """Meter what a beat says of its time. Marks come a few times an hour, and the meter with them."""
        with _mistakes_are_told("pod", pod.name):
            self._heard(job, pod, beat)

    def _heard(self, job: JobView, pod: PodView, beat: BeatView) -> None:
        attempt, since = job.status.attempt, world_formed(job.status)
        if not self._open or since is None or attempt is None or beat.beat.attempt != attempt.number:
            return
        known = self._meters.get(pod.uid)
        if known is not None and known.attempt < attempt.number:
            if not self._tell(pod.uid, None, turns(job.status), _highest(job)):
                return
            known = self._meters[pod.uid]
        highest = highest_step(job.status, attempt.number)
        meter, marks = hear(known, pod.uid, beat, since=since, highest=highest)
        if meter is not None and (not marks or self._ledger.offer(Metered(meter, marks))):
            self._meters[pod.uid] = meter

    # ---- facts --------------------------------------------------------------------------------------

    def _job(self, key: JobKey, job: JobView) -> None:
        before = self._attributed.get(job.uid)
        fact = attributed(job.attribution, micros(job.created), self._now(), before)
        if fact is None:
            return
        if not self._open:
            self._attributed.setdefault(job.uid, fact)
        elif self._ledger.offer(fact):
            self._attributed[job.uid] = fact
        else:
            self._again.add(key)
            return
        before_uid = self._jobs.get(key, job.uid)
        if before_uid != job.uid:
            self._attributed.pop(before_uid, None)
        self._jobs[key] = job.uid

    def _pod(self, world: World, view: PodView, history: Sequence[Turn], highest: int) -> bool:
        """Tell what is new; whether the pod may go, because its end is stored, or it holds nothing."""
        fact = self._fact(view)
        if fact is None:
            if early := self._may_come(world, view):
                self._again.add(JobKey(view.namespace, view.job_name))
            return not early
        known = self._told.get(view.uid)
        full = fact if known is None else merged(known, fact)
        if self._ledger.durable(full):
            self._told[view.uid] = full
            return True
        if full != known or (full.released is not None and view.finalizer_at >= 0):
            self._end(view, full, history, highest)
        else:
            self._tell_marks(view, history)
            self._tell(view.uid, full, history, highest)
        return False

    def _end(self, view: PodView, pod: Pod, history: Sequence[Turn], highest: int) -> None:
        """Marks come before what is said of the pod, so that they are stored no later than its end."""
        marked = self._tell_marks(view, history) and self._tell(view.uid, pod, history, highest)
        if marked and self._ledger.offer(pod):
            self._told[view.uid] = pod
        else:
            self._again.add(JobKey(view.namespace, view.job_name))

    def _fact(self, view: PodView) -> Pod | None:
        known = self._told.get(view.uid)
        scheduled = None if view.scheduled_at is None else micros(view.scheduled_at)
        life = self._machines.of(view.node, known.node_uid if known else "", scheduled)
        gone = None if life is None else life.deleted
        if gone is None and view.finished and view.finished_at is None and not view.deleting:
            gone = self._now()  # it has ended, and nobody said when
        telemetry = view.uid in self._meters or (known is not None and known.telemetry)
        fact = pod_fact(view, "" if life is None else life.uid, gone=gone, telemetry=telemetry)
        return None if fact is None else not_to_come(fact, self._now())

    def _may_come(self, world: World, view: PodView) -> bool:
        """Whether the node of a pod that held something may only not have been seen yet."""
        node = world.nodes.get(view.node)
        if view.scheduled_at is None or node is None or node.since is None:
            return False
        return micros(world.now) < micros(node.since) + NODE_WITHIN

    def _tell_marks(self, view: PodView, history: Sequence[Turn]) -> bool:
        """Of attempts, if there are others than were told; whether they were taken."""
        marks = attempt_marks(view, history) if history else ()
        if not marks or self._marks.get(view.uid) == hash(marks):
            return True
        if not all(self._ledger.offer(mark) for mark in marks):
            return False
        self._marks[view.uid] = hash(marks)
        return True

    def _tell(self, uid: str, pod: Pod | None, history: Sequence[Turn], highest: int) -> bool:
        """What was metered of an attempt that is over and not told yet; whether it was taken."""
        meter = self._meters.get(uid)
        until = None if meter is None else _over(meter, pod, history)
        if meter is None or until is None:
            return True
        told, marks = tell(meter, highest, until)
        if marks and not self._ledger.offer(Metered(told, marks)):
            return False
        self._meters[uid] = told
        return True

    def _vanish(self, uid: str) -> None:
        """The pod is no object any more, whoever let go of it."""
        known = self._told.pop(uid, None)
        if known is not None and known.released is None:
            at = self._now() if known.finished is None else known.finished
            self._vanished[uid] = replace(known, released=at)
        ended = self._vanished.pop(uid, None)
        if ended is not None and not (self._tell(uid, ended, [], 0) and self._ledger.offer(ended)):
            self._vanished[uid] = ended
            return
        self._marks.pop(uid, None)
        self._meters.pop(uid, None)

    def _now(self) -> Micros:
        return micros(self._state.clock.now())


@contextmanager
def _mistakes_are_told(kind: str, name: str) -> Iterator[None]:
    """Jobs go on whatever the books do: a pod without an account keeps its finalizer, that is all."""
    try:
        yield
    except Exception:
        log.exception("the books of %s %s: a mistake in this program", kind, name)


def _highest(job: JobView | None) -> int:
    if job is None or job.status.attempt is None:
        return 0
    return highest_step(job.status, job.status.attempt.number)


def _over(meter: Meter, pod: Pod | None, history: Sequence[Turn]) -> Micros | None:
    """When the meter's attempt, or its pod, came to its end; null while it goes on."""
    ends = [
        turn.at
        for turn in history
        if turn.attempt > meter.attempt
        or (turn.attempt == meter.attempt and turn.category is Category.DRAIN and turn.at > meter.begun)
    ]
    if pod is not None:
        ends += [at for at in (pod.finished, pod.released) if at is not None]
    return min(ends, default=None)
