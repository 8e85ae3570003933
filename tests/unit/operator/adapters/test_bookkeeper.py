"""What the ledger is told of what the operator sees, and whose pod may go when."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from worlds import raw_job, raw_pod, raw_status, stamp

from mlenv_api.protocol import Beat, LauncherPhase, Progress, Spent
from mlenv_operator.adapters.bookkeeper import Bookkeeper
from mlenv_operator.core.converge import release
from mlenv_operator.core.project import parse_job, project_node, project_pod
from mlenv_operator.core.world import BeatView, JobKey, World
from mlenv_operator.cost.facts import SECOND, Attributed, Mark, Node, NodeMark, NodeUse, Pod
from mlenv_operator.cost.moments import micros
from mlenv_operator.cost.observe_spent import Metered
from mlenv_operator.ledger.ledger import open_ledger
from mlenv_operator.ledger.remembered import Remembered
from mlenv_operator.ledger.writer import Writer
from mlenv_operator.runtime.clock import FakeClock
from mlenv_operator.runtime.reflector import Change, ChangeType, ObjectKey, WatchEvent

from .api import empty_state

if TYPE_CHECKING:
    from pathlib import Path

    from mlenv_operator.core.world import PodView

Told = Any


class Stored:
    """A ledger that stores when it is told to, and may be full."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.stored: set[Told] = set()
        self.full = False

    def offer(self, fact: Told) -> bool:
        if not self.full:
            self.told.append(fact)
        return not self.full

    def durable(self, pod: Pod) -> bool:
        return pod.released is not None and pod in self.stored

    def of(self, kind: type) -> list[Told]:
        return [one for one in self.told if isinstance(one, kind)]


class Desk:
    """A bookkeeper, and what it sees."""

    def __init__(self, *, alone: bool = False) -> None:
        self.clock = FakeClock()
        self.state = empty_state(self.clock)
        self.ledger = Stored()
        self.looked: list[JobKey] = []
        self.keeper = Bookkeeper(self.ledger, self.state, self.looked.append, alone=alone)
        self.state.caches.nodes.on_change(self.keeper.node_changed)
        self.state.caches.pods.on_change(self.keeper.pod_changed)

    def at(self, seconds: float) -> str:
        return stamp(self.clock.now() + timedelta(seconds=seconds))

    def node(self, uid: str = "node-1") -> None:
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": self.at(-90)}
        raw = {
            "metadata": {"name": "n1", "uid": uid, "creationTimestamp": self.at(-100)},
            "status": {"conditions": [ready], "capacity": {"nvidia.com/gpu": "8"}},
        }
        self.state.caches.nodes._feed(WatchEvent("ADDED", raw))

    def pod(self, seconds: float | None = None) -> PodView:
        """A pod that got its node a minute ago; ended `seconds` from now where that is said."""
        state: Any = {"running": {"startedAt": self.at(-50)}}
        if seconds is not None:
            times = {"startedAt": self.at(-50), "finishedAt": self.at(seconds)}
            state = {"terminated": {"exitCode": 0, **times}}
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": self.at(-60)}
        raw = raw_pod(state=state, conditions=[scheduled])
        raw["metadata"]["finalizers"] = ["mlenv.io/accounted"]
        raw["spec"]["nodeName"] = "n1"
        raw["status"]["phase"] = "Running" if seconds is None else "Succeeded"
        view = project_pod(raw)
        assert view is not None
        self.state.caches.pods._feed(WatchEvent("ADDED", raw))
        return view

    def look(self, *pods: PodView, job: Any = None) -> World:
        key = JobKey(pods[0].namespace, pods[0].job_name)
        return self.keeper.looked(key, World(now=self.clock.now(), job=job, pods=pods))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def may_go(world: World) -> bool:
    return bool(release(world, world.pods))


def test_a_pod_goes_once_its_end_is_stored(desk: Desk) -> None:
    desk.node()
    desk.keeper.opened(Remembered())
    running, ended = desk.pod(), desk.pod(-1)
    assert not may_go(desk.look(running))
    assert not may_go(desk.look(ended))
    told = desk.ledger.of(Pod)[-1]
    assert (told.node_uid, told.released - told.scheduled) == ("node-1", 59 * SECOND)
    desk.ledger.stored.add(told)
    assert may_go(desk.look(ended))


YEARS = 10 * 365 * 24 * 3600


@pytest.mark.parametrize(("ahead", "held"), [(60, 120), (YEARS, 60)])
def test_a_pod_whose_kubelet_has_a_wrong_clock_does_not_hold_its_node_for_years(
    desk: Desk, ahead: int, held: int
) -> None:
    desk.node()
    desk.keeper.opened(Remembered())
    ended = desk.pod(ahead)
    assert not may_go(desk.look(ended))
    (told,) = desk.ledger.of(Pod)
    assert told.released - told.scheduled == held * SECOND
    desk.ledger.stored.add(told)
    desk.clock.jump(3600)
    assert may_go(desk.look(ended))
    assert desk.ledger.of(Pod) == [told]


def test_what_is_seen_twice_is_told_once(desk: Desk) -> None:
    desk.node()
    desk.keeper.opened(Remembered())
    job = parse_job(raw_job(status=raw_status("Running")))
    for _ in range(3):
        desk.look(desk.pod(), job=job)
    kinds = [type(fact) for fact in desk.ledger.told if not isinstance(fact, Mark)]
    assert kinds == [Node, NodeMark, Attributed, Pod]
    assert len(desk.ledger.of(Mark)) == len(set(desk.ledger.of(Mark)))


def test_while_the_ledger_is_not_open_nobody_goes_and_nothing_is_told(desk: Desk) -> None:
    desk.node()
    ended = desk.pod(-1)
    assert not may_go(desk.look(ended, job=parse_job(raw_job())))
    assert desk.ledger.told == []
    desk.keeper.opened(Remembered())
    assert {type(fact) for fact in desk.ledger.told} == {Attributed, Node, NodeMark}


async def test_what_is_refused_is_told_when_it_is_looked_at_again(desk: Desk) -> None:
    desk.node()
    desk.keeper.opened(Remembered())
    desk.ledger.full = True
    ended = desk.pod(-1)
    assert not may_go(desk.look(ended))
    assert not desk.ledger.of(Pod)
    desk.ledger.full = False
    desk.look(ended)
    assert desk.ledger.of(Pod)


def test_a_mistake_in_the_books_keeps_the_pod_and_stops_no_job(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.node()
    desk.keeper.opened(Remembered())

    def offer(_: Told) -> bool:
        raise ZeroDivisionError

    desk.ledger.offer = offer  # type: ignore[method-assign]
    assert not may_go(desk.look(desk.pod(-1)))
    assert "a mistake in this program" in caplog.text


def test_a_pod_that_nobody_ended_has_ended_when_it_is_no_more(desk: Desk) -> None:
    desk.node()
    desk.keeper.opened(Remembered())
    running = desk.pod()
    desk.look(running)
    key = ObjectKey(running.namespace, running.name)
    desk.keeper.pod_changed(Change(ChangeType.DELETED, key, running, None))
    told = desk.ledger.of(Pod)[-1]
    assert told.released - told.scheduled == 60 * SECOND


def test_a_new_leader_finds_what_went_while_nobody_led(desk: Desk) -> None:
    raw = {"metadata": {"name": "n1", "uid": "old", "creationTimestamp": desk.at(-100)}}
    old = project_node(raw).machine
    assert old is not None
    pod = Pod("p", "team", "ranker-0-0", "u1", "old", scheduled=old.created)
    desk.keeper.opened(Remembered(nodes=(old,), pods=(pod,)))
    assert [fact.deleted is not None for fact in desk.ledger.of(Node)] == [True]
    assert [fact.released is not None for fact in desk.ledger.of(Pod)] == [True]


def test_what_no_job_holds_is_idle_only_where_nobody_else_may_hold_it(desk: Desk) -> None:
    desk.node()
    desk.keeper.opened(Remembered())
    (mark,) = desk.ledger.of(NodeMark)
    assert mark.use is NodeUse.UNATTRIBUTED
    alone = Desk(alone=True)
    alone.node()
    alone.keeper.opened(Remembered())
    assert (len(alone.ledger.of(Node)), alone.ledger.of(NodeMark)) == (1, [])
    # Who sets it later changes nothing that was: the mark is of now.
    later = Desk(alone=True)
    later.node()
    later.keeper.opened(Remembered(nodes=tuple(alone.ledger.of(Node)), node_marks=(mark,)))
    assert later.ledger.of(NodeMark) == [NodeMark(mark.node_uid, micros(later.clock.now()), None)]


def beat(desk: Desk, step: int, **seconds: int) -> BeatView:
    spent = Spent(**{name: value * SECOND for name, value in seconds.items()}, time=desk.clock.now())
    said = Beat(
        protocol=1,
        attempt=1,
        phase=LauncherPhase.RUNNING,
        progress=Progress(step=step),
        spent=spent,
        time=desk.clock.now(),
    )
    return BeatView(said, desk.clock.now())


def test_beats_write_nothing_but_when_marks_are_due_and_a_new_leader_goes_on(
    desk: Desk, tmp_path: Path
) -> None:
    desk.node()
    desk.keeper.opened(Remembered())
    raw = raw_status("Running", attempt={"number": 1, "since": desk.at(-45)})
    job, pod = parse_job(raw_job(status=raw)), desk.pod()
    for second in range(30):
        desk.keeper.heard(job, pod, beat(desk, second, init=10, productive=20))
    assert 1 <= len(desk.ledger.of(Metered)) <= 2

    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.begin(Writer(1, "one"))
    ledger.observe(desk.ledger.told)
    desk.look(pod, job=job)
    ledger.observe(desk.ledger.told)
    known = ledger.remembered([job.uid])
    assert known.meters == (desk.ledger.of(Metered)[-1].meter,)
    assert [one.uid for one in known.pods] == [pod.uid]
    assert known.attributed == tuple(desk.ledger.of(Attributed))

    successor = Desk()
    successor.node()
    successor.pod()
    successor.keeper.opened(known)
    told = len(successor.ledger.of(Metered))
    successor.keeper.heard(job, pod, beat(desk, 30, init=10, productive=20))
    assert len(successor.ledger.of(Metered)) == told

    ended = replace(known.pods[0], released=known.pods[0].scheduled + 60 * SECOND)
    ledger.observe([ended])
    assert ledger.remembered([]) == replace(known, pods=(), meters=(), attributed=())
    ledger.database.close()
